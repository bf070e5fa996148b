"""SaliencyMix (Uddin et al. 2020): a patch around the most salient pixel of one picture, pasted into another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pretrain.mixing.labels import check_alpha, check_batch, check_choice, check_probability, to_soft_labels
from pretrain.names import PLACEMENTS, SCOPES, STYLES
from pretrain.saliency import make_saliency
from pretrain.saliency.batches import constant


class Draws(NamedTuple):
    """All that is random about mixing one batch, on the CPU."""

    mix: bool  # False: the batch passes unmixed
    partners: Tensor  # int64 (B,): picture b receives its patch from picture partners[b]; a random permutation
    lam: Tensor  # float64 (B,) or (1,): the share of the host picture that is asked for, before rounding and clipping


class Patches(NamedTuple):
    """Where each patch is cut and pasted: ``int64 (B,)`` or ``(1,)`` tensors on one device.

    A patch has the rows [top, top + height) and the columns [left, left + width).
    """

    source_top: Tensor
    source_left: Tensor
    target_top: Tensor
    target_left: Tensor
    height: Tensor
    width: Tensor
    moved: bool  # False: the target place is the source place

    def to(self, device: torch.device) -> Patches:
        """Return the patches on ``device``, without waiting for it."""
        if self.height.device == device:
            return self
        return Patches(*torch.stack(self[:-1]).to(device, non_blocking=True), self.moved)


class SaliencyMix(nn.Module):
    """Paste a patch around the most salient pixel of one picture into another; mix the labels by the pasted area.

    Uddin et al., "SaliencyMix" (2020). ``alpha``: the share of the host is drawn from Beta(alpha, alpha), and the patch
    has the sides ``int(side * sqrt(1 - share))``. ``p``: probability that a batch is mixed at all. ``saliency``: a name
    in ``pretrain.names.SALIENCIES``, with keyword arguments ``saliency_options``, or a function of your own,
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
        check_alpha(alpha)
        check_probability(p)
        check_choice("style", style, STYLES)
        check_choice("scope", scope, SCOPES)
        check_choice("placement", placement, PLACEMENTS)
        self.num_classes, self.alpha, self.p = num_classes, float(alpha), float(p)
        self.style, self.scope, self.placement = style, scope, placement
        self.saliency_name = saliency if isinstance(saliency, str) else getattr(saliency, "__name__", repr(saliency))
        self.saliency = make_saliency(saliency, resolution=resolution, **(saliency_options or {}))

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed pictures and ``float32 (B, num_classes)`` labels; the input is left as it is.

        ``images`` is ``uint8 (B, 3, H, W)`` with B > 1, ``labels`` ``int64 (B,)`` or, with rows of probabilities,
        ``(B, num_classes)``.
        """
        check_batch(images, labels)
        return self.mix_as(images, labels, self.draw(len(images)))

    def mix_as(
        self, images: Tensor, labels: Tensor, draws: Draws, patches: Patches | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what ``forward`` returns, with these ``draws``: nothing random is left in it.

        ``patches``: what ``locate`` said of the same pictures and draws, on any device; it is asked here where none are
        given.
        """
        soft_labels = to_soft_labels(labels, self.num_classes)
        if not draws.mix:
            return images, soft_labels
        patches = (patches or self.locate(images, draws)).to(images.device)
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
        """Return the patches that ``draws`` asks for in ``images``, on their device.

        With scope ``"batch"`` one or two maps are all there is to do: cheaper before the batch goes to a GPU, where
        ``mix_as`` takes the patches.
        """
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
    left = (height * width - patches.height * patches.width).float()
    return left / constant(height * width, left.device)


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
