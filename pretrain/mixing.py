"""Augmentations that mix the pictures of a batch, all called as torchvision's ``transforms.v2.CutMix`` is::

    mix = SaliencyMix(num_classes=1000)
    images, soft_labels = mix(images, labels)  # uint8 (B, 3, H, W), int64 (B,) -> uint8, float32 (B, num_classes)

SaliencyMix, Cutout and Manifold Mixup are here; CutMix and MixUp come from torchvision. ``make_mixing`` builds any by
name. All draws come from PyTorch's default CPU generator, whatever the device of the batch: a seed repeats everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from pretrain.config import METHODS
from pretrain.saliency import make_saliency
from pretrain.saliency.batches import check_pictures

# Paper, section 3.4: where the patch is cut from, and where it is pasted.
STYLES = {
    "salient_to_corresponding": ("salient", "corresponding"),
    "salient_to_salient": ("salient", "salient"),
    "salient_to_nonsalient": ("salient", "nonsalient"),
    "nonsalient_to_salient": ("nonsalient", "salient"),
    "nonsalient_to_nonsalient": ("nonsalient", "nonsalient"),
}
SCOPES = ("image", "batch")
PLACEMENTS = ("clip", "shift")


class Draws(NamedTuple):
    """All that is random about mixing one batch, on the CPU."""

    mix: bool  # False: the batch passes unmixed
    partners: Tensor  # int64 (B,): picture b receives its patch from picture partners[b]; a random permutation
    lam: Tensor  # float64 (B,) or (1,): the share of the host picture that is asked for, before rounding and clipping


class Patches(NamedTuple):
    """Where each patch is cut and pasted: ``int64 (B,)`` or ``(1,)`` tensors on the device of the batch.

    A patch has the rows [top, top + height) and the columns [left, left + width).
    """

    source_top: Tensor
    source_left: Tensor
    target_top: Tensor
    target_left: Tensor
    height: Tensor
    width: Tensor
    moved: bool  # False: the target place is the source place


class SaliencyMix(nn.Module):
    """Paste a patch around the most salient pixel of one picture into another; mix the labels by the pasted area.

    Uddin et al., "SaliencyMix" (2020). ``alpha``: the share of the host is drawn from Beta(alpha, alpha), and the patch
    has the sides ``int(side * sqrt(1 - share))``. ``p``: probability that a batch is mixed at all. ``saliency``: a name
    in ``pretrain.saliency.SALIENCY``, with keyword arguments ``saliency_options``, or a function of your own,
    ``uint8 (B, 3, H, W)`` -> ``(B, H, W)``. ``resolution``: compute the map at pictures reduced to that longer side.

    ``style``: a key of ``STYLES``. ``salient`` is the largest value of the map and ``nonsalient`` the smallest, the
    first in reading order among equals; ``corresponding`` pastes where the patch was cut. ``scope``: ``"image"``, a
    patch and share of its own for every picture, or ``"batch"``, one share and one place for all, taken from the first
    picture and its partner (what the authors' code does). ``placement``: ``"clip"`` centres the patch on the pixel and
    cuts it at the borders (the authors' code: half sides, so that odd sides lose a pixel; pixel falls on pixel where
    the patch moves), ``"shift"`` moves it inside and keeps it whole, which the paper's sentence allows too.

    Beside its result a call needs the memory of one chunk of the saliency function and, for a pixel of the batch, four
    bytes of saliency and one of mask. Nothing waits for a GPU.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        alpha: float = 1.0,
        p: float = 1.0,
        saliency: str | Callable[[Tensor], Tensor] = "fine_grained",
        saliency_options: Mapping[str, Any] | None = None,
        resolution: int | None = None,
        style: str = "salient_to_corresponding",
        scope: str = "image",
        placement: str = "clip",
    ):
        super().__init__()
        _check_alpha(alpha)
        _check_probability(p)
        _check_choice("style", style, STYLES)
        _check_choice("scope", scope, SCOPES)
        _check_choice("placement", placement, PLACEMENTS)
        self.num_classes, self.alpha, self.p = num_classes, float(alpha), float(p)
        self.style, self.scope, self.placement = style, scope, placement
        self.saliency_name = saliency if isinstance(saliency, str) else getattr(saliency, "__name__", repr(saliency))
        self.saliency = make_saliency(saliency, resolution=resolution, **(saliency_options or {}))

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed pictures and ``float32 (B, num_classes)`` labels; the input is left as it is.

        ``images`` is ``uint8 (B, 3, H, W)`` with B > 1, ``labels`` ``int64 (B,)`` or, with rows of probabilities,
        ``(B, num_classes)``.
        """
        _check_batch(images, labels)
        return self.mix_as(images, labels, self.draw(len(images)))

    def mix_as(self, images: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return what ``forward`` returns, with these ``draws``: nothing random is left in it."""
        soft_labels = to_soft_labels(labels, self.num_classes)
        if not draws.mix:
            return images, soft_labels
        patches = self.locate(images, draws)
        partners = draws.partners.to(images.device, non_blocking=True)
        kept = kept_share(patches, *images.shape[-2:])[:, None]
        return paste(images, partners, patches), soft_labels * kept + soft_labels[partners] * (1 - kept)

    def draw(self, count: int) -> Draws:
        """Draw what is random for a batch of ``count`` pictures."""
        mix = torch.rand(()).item() < self.p
        partners = torch.randperm(count)
        concentration = torch.tensor(self.alpha, dtype=torch.float64)
        shares = torch.distributions.Beta(concentration, concentration).sample((1 if self.scope == "batch" else count,))
        return Draws(mix, partners, shares)

    def locate(self, images: Tensor, draws: Draws) -> Patches:
        """Return the patches that ``draws`` asks for in ``images``."""
        height, width = images.shape[-2:]
        root = (1 - draws.lam).sqrt()
        sides = torch.stack([(height * root).long(), (width * root).long()]).to(images.device, non_blocking=True)
        partners = draws.partners.to(images.device, non_blocking=True)

        cut, pasted = STYLES[self.style]
        moved = pasted != "corresponding"
        if self.scope == "image":
            source_maps = target_maps = self.saliency(images)
        else:
            source_maps = self.saliency(images[partners[:1]])
            target_maps = self.saliency(images[:1]) if moved else source_maps
        source = extremes(source_maps, cut)
        if self.scope == "image":
            source = source[partners]
        target = extremes(target_maps, pasted) if moved else source

        place = _clipped if self.placement == "clip" else _shifted
        source_top, target_top, rows = place(source[:, 0], target[:, 0], sides[0], height)
        source_left, target_left, cols = place(source[:, 1], target[:, 1], sides[1], width)
        return Patches(source_top, source_left, target_top, target_left, rows, cols, moved)

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, alpha={self.alpha}, p={self.p}, saliency={self.saliency_name}, "
            f"style={self.style}, scope={self.scope}, placement={self.placement}"
        )


def extremes(maps: Tensor, which: str) -> Tensor:
    """Return ``int64 (B, 2)``, row and column of the largest (``salient``) or smallest (``nonsalient``) value of each
    ``(B, H, W)`` map: the first in reading order among equals."""
    flat = maps.flatten(1)
    index = flat.argmax(1) if which == "salient" else flat.argmin(1)
    return torch.stack([index // maps.shape[2], index % maps.shape[2]], dim=1)


def _clipped(source: Tensor, target: Tensor, side: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return first source position, first target position and extent along an axis of ``length`` pixels: ``side // 2``
    pixels to both sides of the two anchors, as far as both pictures reach."""
    half = side // 2
    before = half.minimum(source).minimum(target)
    after = half.minimum(length - source).minimum(length - target)
    return source - before, target - before, before + after


def _shifted(source: Tensor, target: Tensor, side: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_clipped``, but all ``side`` pixels, moved inside where they would stick out."""
    last = length - side
    return (source - side // 2).clamp(min=0).minimum(last), (target - side // 2).clamp(min=0).minimum(last), side


def kept_share(patches: Patches, height: int, width: int) -> Tensor:
    """Return ``float32``, for each patch the share of its host picture that is left: from the pasted area, never the
    share that was drawn."""
    return (height * width - patches.height * patches.width).float() / (height * width)


def paste(images: Tensor, partners: Tensor, patches: Patches) -> Tensor:
    """Return ``images``, ``uint8 (B, C, H, W)``, with the patch of picture ``partners[b]`` pasted into picture b.

    The result is a new tensor.
    """
    count, channels, height, width = images.shape
    row = torch.arange(height, device=images.device) - patches.target_top[:, None]  # (B, H), counted in the patch
    col = torch.arange(width, device=images.device) - patches.target_left[:, None]  # (B, W)
    inside_rows = (row >= 0) & (row < patches.height[:, None])
    inside_cols = (col >= 0) & (col < patches.width[:, None])
    if patches.moved:
        source_row = (row + patches.source_top[:, None]).clamp_(0, height - 1).expand(count, -1)
        source_col = (col + patches.source_left[:, None]).clamp_(0, width - 1).expand(count, -1)
        plane = partners[:, None] * channels + torch.arange(channels, device=images.device)  # (B, C)
        rows = plane[:, :, None] * height + source_row[:, None]  # (B, C, H) into all rows of all pictures
        donors = images.reshape(-1, width).index_select(0, rows.flatten()).view_as(images)
        donors = donors.gather(3, source_col[:, None, None].expand(-1, channels, height, -1))
    else:
        donors = images.index_select(0, partners)
    # host ^ ((donor ^ host) & mask): on a CPU several times as fast as torch.where with a mask for all channels.
    mask = (inside_rows[:, None, :, None] & inside_cols[:, None, None, :]).to(torch.uint8).neg_()  # 0 or 255
    return donors.bitwise_xor_(images).bitwise_and_(mask).bitwise_xor_(images)


class Cutout(nn.Module):
    """Replace a square at a random place of every picture; the labels stay what they are.

    DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017): the centre is
    uniform over the picture and the square is cut at the borders. ``size`` is its side in pixels (the paper: 16 for
    CIFAR-10, 8 for CIFAR-100), half of the picture's shorter side where it is ``None``. ``fill`` is the RGB colour put
    there; ImageNet's mean colour is about the zero that the paper writes into normalised pictures.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        p: float = 1.0,
        size: int | None = None,
        fill: Sequence[int] = (124, 116, 104),
    ):
        super().__init__()
        _check_probability(p)
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1 pixel, but got {size} instead.")
        if len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
            raise ValueError(f"fill must be three values in 0..255, but got {fill} instead.")
        self.num_classes, self.p, self.size = num_classes, float(p), size
        self.register_buffer("fill", torch.tensor(fill, dtype=torch.uint8).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures with a hole and ``float32 (B, num_classes)`` labels; the input is left as it is."""
        _check_batch(images, labels, least=1)
        soft_labels = to_soft_labels(labels, self.num_classes)
        cut, centres = self.draw(len(images), *images.shape[-2:])
        if not cut:
            return images, soft_labels
        height, width = images.shape[-2:]
        size = self.size or min(height, width) // 2
        first = (centres - size // 2).to(images.device, non_blocking=True)
        row = torch.arange(height, device=images.device) - first[:, :1]
        col = torch.arange(width, device=images.device) - first[:, 1:]
        hole = ((row >= 0) & (row < size))[:, None, :, None] & ((col >= 0) & (col < size))[:, None, None, :]
        return torch.where(hole, self.fill.to(images.device, non_blocking=True), images), soft_labels

    def draw(self, count: int, height: int, width: int) -> tuple[bool, Tensor]:
        """Draw whether to cut at all, and ``int64 (count, 2)`` rows and columns of the centres."""
        cut = torch.rand(()).item() < self.p
        return cut, torch.stack([torch.randint(height, (count,)), torch.randint(width, (count,))], dim=1)


class ManifoldMixup(nn.Module):
    """Blend every picture with a partner at a random depth of the network (Verma et al., "Manifold Mixup", 2019).

    It acts inside the network, so the training step is written around it::

        with mix(model, labels) as soft_labels:
            loss = cross_entropy(model(images), soft_labels)

    ``layers``: names of submodules whose output may be blended, each as likely as the others; ``""`` is the network's
    input (which must be floating point, normalised). The default is the paper's for ResNets: the input and the first
    two stages. One share from Beta(alpha, alpha) and one permutation serve the whole batch, as in the paper.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        alpha: float = 1.0,
        p: float = 1.0,
        layers: Sequence[str] = ("", "layer1", "layer2"),
    ):
        super().__init__()
        _check_alpha(alpha)
        _check_probability(p)
        if not layers or isinstance(layers, str):
            raise ValueError(f"layers must name at least one submodule, but got {layers!r} instead.")
        self.num_classes, self.alpha, self.p, self.layers = num_classes, float(alpha), float(p), tuple(layers)

    def draw(self, count: int) -> tuple[str | None, Tensor, float]:
        """Draw the layer (``None``: do not mix), the permutation of partners and the share that a picture keeps."""
        layer = self.layers[int(torch.randint(len(self.layers), ()))]
        mix = torch.rand(()).item() < self.p
        concentration = torch.tensor(self.alpha, dtype=torch.float64)
        kept = torch.distributions.Beta(concentration, concentration).sample().item()
        return layer if mix else None, torch.randperm(count), kept

    @contextmanager
    def forward(self, model: nn.Module, labels: Tensor) -> Iterator[Tensor]:
        """Within the context, ``model`` blends the hidden values of a batch with these ``labels``; the value is the
        ``float32 (B, num_classes)`` labels that belong to it. Works on the module inside DistributedDataParallel too.
        """
        _check_labels(labels)
        if len(labels) < 2:
            raise ValueError(f"Expected a batch of at least 2 pictures to mix, but got {len(labels)} instead.")
        soft_labels = to_soft_labels(labels, self.num_classes)
        network = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        if hasattr(network, "_orig_mod"):  # torch.compile takes no notice of hooks that come later
            raise ValueError("Manifold Mixup acts on the layers of a network; it cannot be used on a compiled one")
        known = dict(network.named_modules())
        if unknown := [layer for layer in self.layers if layer not in known]:
            stages = ", ".join(name for name, _ in network.named_children())
            raise ValueError(f"the network has no layer {unknown[0]!r}; its stages are {stages}")
        layer, partners, kept = self.draw(len(labels))
        if layer is None:
            yield soft_labels
            return
        partners = partners.to(labels.device, non_blocking=True)

        def blend(values: Tensor) -> Tensor:
            return values * kept + values[partners] * (1 - kept)

        if layer == "":
            handle = network.register_forward_pre_hook(lambda _module, inputs: (blend(inputs[0]), *inputs[1:]))
        else:
            handle = known[layer].register_forward_hook(lambda _module, _inputs, output: blend(output))
        try:
            yield blend(soft_labels)
        finally:
            handle.remove()


class TorchvisionMixing(nn.Module):
    """torchvision's CutMix or MixUp with probability ``p``; unmixed batches get one-hot labels.

    MixUp blends, so its pictures come out as ``float32`` in 0..255, mixed or not; CutMix's stay ``uint8``. Both pair
    neighbours in the batch and take one share for all: shuffle before.
    """

    def __init__(self, transform: type[v2.CutMix] | type[v2.MixUp], num_classes: int, *, alpha: float, p: float):
        super().__init__()
        _check_alpha(alpha)
        _check_probability(p)
        self.transform = transform(alpha=alpha, num_classes=num_classes)
        self.num_classes, self.p, self.blends = num_classes, float(p), transform is v2.MixUp

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures and ``float32 (B, num_classes)`` labels; the input is left as it is."""
        _check_batch(images, labels)
        soft_labels = to_soft_labels(labels, self.num_classes)
        if self.blends:
            images = images.float()
        if torch.rand(()).item() >= self.p:
            return images, soft_labels
        return self.transform(images, soft_labels)


def make_mixing(
    method: str, *, num_classes: int, alpha: float = 1.0, p: float = 1.0, **options: Any
) -> nn.Module | None:
    """Return what mixes the batches of ``method``, one of ``METHODS``; ``None`` where the batch is left alone.

    Every result but Manifold Mixup's is called with ``uint8 (B, 3, H, W)`` and ``int64 (B,)`` and returns pictures and
    ``float32 (B, num_classes)`` labels. The pictures stay ``uint8``, except that ``mixup`` returns ``float32`` in
    0..255. ``manifold_mixup`` returns a ``ManifoldMixup``, which is used around the forward pass. ``baseline`` mixes
    nothing; ``dropblock`` and ``stochastic_depth`` are parts of the network. ``options`` go to ``SaliencyMix``,
    ``Cutout`` or ``ManifoldMixup``. ``alpha`` means nothing to ``cutout``.
    """
    _check_choice("method", method, METHODS)
    builders: dict[str, Callable[..., nn.Module]] = {
        "saliencymix": lambda: SaliencyMix(num_classes, alpha=alpha, p=p, **options),
        "cutout": lambda: Cutout(num_classes, p=p, **options),
        "manifold_mixup": lambda: ManifoldMixup(num_classes, alpha=alpha, p=p, **options),
        "mixup": lambda: TorchvisionMixing(v2.MixUp, num_classes, alpha=alpha, p=p, **options),
        "cutmix": lambda: TorchvisionMixing(v2.CutMix, num_classes, alpha=alpha, p=p, **options),
    }
    if method not in builders:
        if options:
            raise ValueError(f"method {method!r} takes no mixing options, but got {sorted(options)}")
        return None
    try:
        return builders[method]()
    except TypeError as error:
        raise ValueError(f"method {method!r}: {error}") from error


def to_soft_labels(labels: Tensor, num_classes: int | None) -> Tensor:
    """Return ``float32 (B, num_classes)``: one-hot rows for class numbers ``(B,)``; probabilities as they are."""
    _check_labels(labels)
    if labels.ndim == 2:
        if num_classes is not None and labels.shape[1] != num_classes:
            raise ValueError(
                f"When passing 2D labels, the number of elements in last dimension must match num_classes: "
                f"{labels.shape[1]} != {num_classes}. You can leave num_classes to None."
            )
        return labels.float()
    if num_classes is None:
        raise ValueError("num_classes must be passed if the labels are index-based (1D)")
    if labels.is_floating_point():
        raise ValueError(f"Expected class numbers of an integer type, but got {labels.dtype} instead.")
    if labels.device.type == "cpu" and len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        # On a GPU the look would stall the stream; there one_hot itself refuses.
        raise ValueError(f"Expected labels in 0..{num_classes - 1}, but got {labels.min()}..{labels.max()} instead.")
    return one_hot(labels.long(), num_classes).float()


def _check_labels(labels: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise ValueError(f"The labels must be a tensor, but got {type(labels)} instead.")
    if labels.ndim not in (1, 2):
        raise ValueError(
            f"labels should be index based with shape (batch_size,) or probability based with shape "
            f"(batch_size, num_classes), but got a tensor of shape {tuple(labels.shape)} instead."
        )


def _check_batch(images: Tensor, labels: Tensor, *, least: int = 2) -> None:
    check_pictures(images)
    _check_labels(labels)
    if len(images) != len(labels):
        raise ValueError(
            f"The batch size of the image or video does not match the batch size of the labels: "
            f"{len(images)} != {len(labels)}."
        )
    if len(images) < least:
        raise ValueError(f"Expected a batch of at least {least} pictures to mix, but got {len(images)} instead.")


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha must be greater than 0, but got {alpha} instead.")


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in 0..1, but got {p} instead.")


def _check_choice(name: str, value: str, known: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
