"""A part of the training pictures that is kept from training, to choose by: never by the pictures of the test."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detection.datasets.types import AnnotatedPicture, DetectionDataset


def hold_out(
    datasets: Sequence[DetectionDataset], share: float, seed: int
) -> tuple[list[DetectionDataset], list[DetectionDataset]]:
    """Return ``datasets`` without the pictures that are held out, and the same with nothing else.

    ``share`` of all pictures, between 0 and 1, is held out, to the next whole picture; a file that several of the data
    sets have is held out of all or of none. It is drawn by ``seed`` and by the pictures' ids alone, whatever their
    order, and stratified: a picture counts for the rarest class in it, and of each class's pictures the share is held
    out, give or take one.
    """
    pictures = {picture.path: picture for dataset in datasets for picture in dataset.pictures}
    counts = Counter(name for picture in pictures.values() for name in _classes(picture))

    def rank(picture: AnnotatedPicture) -> tuple[int, str, str, str]:
        count, name = min(((counts[name], name) for name in _classes(picture)), default=(0, ""))
        drawn = hashlib.sha256(f"{seed} {picture.image_id}".encode()).hexdigest()
        return count, name, drawn, str(picture.path)

    ordered = sorted(pictures.values(), key=rank)
    held = {
        picture.path for place, picture in enumerate(ordered) if int((place + 1) * share) > int(place * share)
    }  # every so many of the list, in which the pictures of a class stand together
    return [_only(one, held, False) for one in datasets], [_only(one, held, True) for one in datasets]


def _classes(picture: AnnotatedPicture) -> set[str]:
    return {item.name for item in picture.objects}


def _only(dataset: DetectionDataset, held: set[Path], is_held: bool) -> DetectionDataset:
    return replace(dataset, pictures=tuple(one for one in dataset.pictures if (one.path in held) == is_held))
