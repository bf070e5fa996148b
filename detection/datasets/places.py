"""Where in an annotation's file an object stands, for those who are to look at it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from detection.datasets.types import AnnotatedPicture
from detection.datasets.voc_xml import object_lines
from pretrain.run.text import read_json


def object_places(picture: AnnotatedPicture) -> list[str | None]:
    """Return, for each of the picture's objects, ``line 12`` of its XML, or ``annotations[12]`` of its COCO file.

    None where the file is not there any more, or has another number of objects.
    """
    try:
        if picture.annotation.suffix == ".json":
            places = [f"annotations[{place}]" for place in _entries(picture.annotation).get(picture.image_id, [])]
        else:
            places = [f"line {line}" for line in object_lines(picture.annotation)]
    except (OSError, ValueError):
        places = []
    return places if len(places) == len(picture.objects) else [None] * len(picture.objects)


@lru_cache(maxsize=1)
def _entries(path: Path) -> dict[str, list[int]]:
    """Return image id -> places of its annotations in a COCO file that was read without a defect."""
    found: dict[str, list[int]] = {}
    for place, annotation in enumerate(read_json(path)["annotations"]):
        found.setdefault(str(annotation["image_id"]), []).append(place)
    return found
