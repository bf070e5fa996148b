"""Pairs of pictures as the methods mix them, and what networks see in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pretrain.inspect.class_activation import class_activation_maps
from pretrain.inspect.contact_sheet import PatchBox, rows_of
from pretrain.inspect.pairs import LabelledPicture
from pretrain.inspect.pretrained import Pretrained
from pretrain.learner import Preparation


class Pair(NamedTuple):
    """Two pictures and what a method makes of them: ``uint8 (3, S, S)``, ``share`` of its label being the target's."""

    source: LabelledPicture
    target: LabelledPicture
    mixed: Tensor
    share: float
    box: PatchBox | None  # where the target was replaced; None where nowhere, or where all of it is blended


class Seen(NamedTuple):
    """What a network sees in a mixed picture: the maps of both classes, ``(h, w)``, and every class's probability."""

    source_map: Tensor
    target_map: Tensor
    probabilities: Tensor  # (num_classes,)


class View(NamedTuple):
    """What one network sees in every pair as one method mixes it: a column of a sheet."""

    network: str
    method: str
    pairs: Sequence[Pair]
    seen: Sequence[Seen]  # one for each pair


def mix_pairs(
    pairs: Sequence[tuple[LabelledPicture, LabelledPicture]], method: str, *, seed: int, share: float | None = None
) -> list[Pair]:
    """Mix each (source, target) by ``method``, one of ``PAIR_METHODS``; ``share`` as for ``contact_sheet.rows_of``.

    ``baseline`` leaves the target as it is, ``cutout`` makes a hole in it; the source has no part in either.
    """
    if method == "baseline":
        return [Pair(source, target, target.image, 1.0, None) for source, target in pairs]
    images = torch.stack([picture.image for pair in pairs for picture in pair])
    rows = rows_of(method, images, seed=seed, share=share)[1::2]  # a row's source is the picture before it
    return [
        Pair(source, target, row.mixed, row.weights[row.target], row.target_box)
        for (source, target), row in zip(pairs, rows, strict=True)
    ]


@torch.no_grad()
def look(model: nn.Module, pairs: Sequence[Pair], prepare: Callable[[Tensor], Tensor]) -> list[Seen]:
    """Return what ``model``, in evaluation mode, sees in every mixed picture; all on the CPU."""
    images = prepare(torch.stack([pair.mixed for pair in pairs]))
    sources, targets = (
        torch.tensor(labels) for labels in zip(*((pair.source.label, pair.target.label) for pair in pairs), strict=True)
    )
    maps = [class_activation_maps(model, images, classes).cpu() for classes in (sources, targets)]
    probabilities = model(images).float().softmax(dim=1).cpu()
    return [Seen(*seen) for seen in zip(*maps, probabilities, strict=True)]


def look_with_each(
    networks: Mapping[str, Pretrained],
    mixed: Mapping[str, Sequence[Pair]],
    classes: Sequence[str],
    device: torch.device,
) -> list[View]:
    """Return the view of each network on the pairs of each method of ``mixed``, computed on ``device``.

    Only one network is loaded at a time.

    Raises:
        ValueError: a network does not know ``classes``, or its weights do not fit its config.
    """
    views = []
    for name, pretrained in networks.items():
        model, prepare = pretrained.network(device, list(classes)), Preparation(pretrained.cfg, device)
        views += [View(name, method, pairs, look(model, pairs, prepare)) for method, pairs in mixed.items()]
    return views
