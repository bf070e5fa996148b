"""A patch of one picture, pasted into another: SaliencyMix (Uddin et al. 2020), and what differs in patch or label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pretrain.mixing.labels import check_alpha, check_batch, check_choice, check_probability, to_soft_labels
from pretrain.mixing.patches import Patches, clipped, extremes, kept_share, paste, shifted
from pretrain.mixing.shares import kept_by_saliency
from pretrain.names import LABELS, PATCHES, PLACEMENTS, SCOPES, STYLES
from pretrain.saliency import make_saliency


class Draws(NamedTuple):
    """All that is random about mixing one batch, on the CPU."""

    mix: bool  # False: the batch passes unmixed
    partners: Tensor  # int64 (B,): picture b receives its patch from picture partners[b]; a random permutation
    lam: Tensor  # float64 (B,) or (1,): the share of the host picture that is asked for, before rounding and clipping
    centres: Tensor | None = None  # float64 (B, 2) or (1, 2), in [0, 1): of patches at no salient place, in sides


SCALES = (0.1, 0.8)  # of a shrunk picture's sides: "alpha" and "beta" in every config of ResizeMix's authors


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

    ``patch``: one of ``PATCHES``, where the patch comes from; ``style`` where it is None. ``uniform`` is CutMix's, a
    place that is drawn. ``resized`` is ResizeMix's (Qin et al. 2020, as their code has it): the whole picture, its
    sides scaled by one factor a batch, uniform in ``SCALES``, nearest neighbour; around a pixel that is drawn, and
    always shifted inside. Nothing depends on ``alpha`` then; ``scope`` says whether the place is one for all.
    ``label``: ``"area"``, or the shares of saliency ``"absolute"`` and ``"relative"`` (``kept_by_saliency``), of each
    picture by itself, whatever the ``scope``. ``relative`` has no meaning for ``resized``: all that is salient in the
    donor is seen, so that it had half of the label at least, however small it is.

    Beside its result a call needs the memory of one chunk of the saliency function and, for a pixel of the batch, four
    bytes of saliency and one of mask; for a label by saliency eight more. Nothing waits for a GPU.
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
        patch: str | None = None,
        label: str = "area",
    ):
        super().__init__()
        check_alpha(alpha)
        check_probability(p)
        check_choice("style", style, STYLES)
        check_choice("scope", scope, SCOPES)
        check_choice("placement", placement, PLACEMENTS)
        self.patch = style if patch is None else patch
        check_choice("patch", self.patch, PATCHES)
        check_choice("label", label, LABELS)
        if (self.patch, label) == ("resized", "relative"):
            raise ValueError("label 'relative' has no meaning for patch 'resized'; expected 'area' or 'absolute'")
        self.num_classes, self.alpha, self.p = num_classes, float(alpha), float(p)
        self.scope, self.label = scope, label
        self.placement = "shift" if self.patch == "resized" else placement
        self._area_labels = torch.zeros((), dtype=torch.int64)
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
        maps = None if self.label == "area" else self.saliency(images)
        patches = (patches or self.locate(images, draws, maps)).to(images.device)
        partners = draws.partners.to(images.device, non_blocking=True)
        if maps is None:
            kept = kept_share(patches, *images.shape[-2:])
        else:
            kept, by_area = kept_by_saliency(self.label, maps, partners, patches)
            self._area_labels = self._area_labels + by_area
        kept = kept[:, None]
        return paste(images, partners, patches), soft_labels * kept + soft_labels[partners] * (1 - kept)

    def take_area_labels(self) -> Tensor:
        """Return ``int64 ()``, how many labels were of the area for want of saliency, and count from nothing again."""
        counted, self._area_labels = self._area_labels, torch.zeros((), dtype=torch.int64)
        return counted

    def draw(self, count: int) -> Draws:
        """Draw what is random for a batch of ``count`` pictures."""
        mix = torch.rand(()).item() < self.p
        partners = torch.randperm(count)
        num_places = 1 if self.scope == "batch" else count
        if self.patch == "resized":
            low, high = SCALES
            shares = 1 - (low + (high - low) * torch.rand(1, dtype=torch.float64)) ** 2
        else:
            concentration = torch.tensor(self.alpha, dtype=torch.float64)
            shares = torch.distributions.Beta(concentration, concentration).sample((num_places,))
        centres = None if self.patch in STYLES else torch.rand(num_places, 2, dtype=torch.float64)
        return Draws(mix, partners, shares, centres)

    def locate(self, images: Tensor, draws: Draws, maps: Tensor | None = None) -> Patches:
        """Return the patches that ``draws`` asks for in ``images``: on their device, or on the CPU where no map is
        asked. ``maps``: the saliency of ``images`` where it is known.

        With scope ``"batch"`` one or two maps are all there is to do: cheaper before the batch goes to a GPU, where
        ``mix_as`` takes the patches.
        """
        height, width = images.shape[-2:]
        root = (1 - draws.lam).sqrt()
        sides = torch.stack([(height * root).long(), (width * root).long()])
        if self.patch in STYLES:
            sides = sides.to(images.device, non_blocking=True)
            source, target = self._anchors(images, draws, maps)
        else:
            sides = sides.expand(-1, len(draws.centres))
            source = target = (draws.centres * torch.tensor([height, width])).long()

        place = clipped if self.placement == "clip" else shifted
        source_top, target_top, rows = place(source[:, 0], target[:, 0], sides[0], height)
        source_left, target_left, cols = place(source[:, 1], target[:, 1], sides[1], width)
        if self.patch == "resized":
            nothing = torch.zeros_like(rows)
            return Patches(nothing, nothing, target_top, target_left, rows, cols, True, root.item())
        return Patches(source_top, source_left, target_top, target_left, rows, cols, target is not source)

    def _anchors(self, images: Tensor, draws: Draws, maps: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``int64 (B, 2)`` or ``(1, 2)``, the pixels that chose the places of cut and paste: one tensor where
        these are the same."""
        cut, pasted = STYLES[self.patch]
        partners = draws.partners.to(images.device, non_blocking=True)

        def of_maps(pictures: Tensor | slice) -> Tensor:
            return self.saliency(images[pictures]) if maps is None else maps[pictures]

        if self.scope == "batch":
            source = extremes(of_maps(partners[:1]), cut)
            return source, source if pasted == "corresponding" else extremes(of_maps(slice(1)), pasted)
        maps = of_maps(slice(None))
        pixels = extremes(maps, cut)
        source = pixels[partners]
        if pasted == "corresponding":
            return source, source
        return source, pixels if pasted == cut else extremes(maps, pasted)

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, alpha={self.alpha}, p={self.p}, saliency={self.saliency_name}, "
            f"patch={self.patch}, scope={self.scope}, placement={self.placement}, label={self.label}"
        )
