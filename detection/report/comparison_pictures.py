"""The pictures of a comparison: where two detectors differ most, side by side, and objects that every run misses.

Each stands in the page once, however often it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from detection.datasets.types import DetectionDataset
from detection.evaluation.comparison import Run
from detection.evaluation.diagnosis.confusion import score_thresholds
from detection.evaluation.matching import match_detections
from detection.report.illustrations import DrawnBox, draw_detections, draw_labels, thumbnail, warn_of_absent

NUM_MISSED = 12  # pictures shown with objects that every run misses


class Picture(NamedTuple):
    """A picture of the page, ``number`` of it; ``jpeg`` is None if there is no file."""

    number: int
    jpeg: bytes | None
    width: int
    height: int


class Pictures(NamedTuple):
    """All ``pictures`` by image id, and the boxes over them.

    ``detected`` has those of a run by its path and the image id, ``missed`` those of the first objects in
    ``missed_by_all``.
    """

    pictures: Mapping[str, Picture]
    detected: Mapping[str, Mapping[str, list[DrawnBox]]]
    missed: Sequence[list[DrawnBox]]


def draw_pictures(dataset: DetectionDataset, runs: Sequence[Run], comparison: Mapping[str, Any]) -> Pictures:
    """Return the pictures of ``comparison``, which is what ``compare_runs`` says of ``runs``."""
    place = {picture.image_id: index for index, picture in enumerate(dataset.pictures)}
    wanted: dict[str, list[str]] = {}
    for path, image_id in _shown_runs(comparison):
        wanted.setdefault(path, []).append(image_id)
    missed = comparison["missed_by_all"]["listed"][:NUM_MISSED]
    ids = [*(image_id for some in wanted.values() for image_id in some), *(one["image_id"] for one in missed)]
    shown = [dataset.pictures[place[image_id]] for image_id in dict.fromkeys(ids)]
    warn_of_absent(shown)
    detected = {}
    for run in runs:
        if run.path in wanted:
            matches = match_detections(dataset, run.detections, rules=comparison["evaluation_rules"])
            thresholds = score_thresholds(matches)
            detected[run.path] = {
                image_id: draw_detections(dataset, matches, thresholds, place[image_id])
                for image_id in wanted[run.path]
            }
    return Pictures(
        {
            picture.image_id: Picture(number, thumbnail(picture), picture.width, picture.height)
            for number, picture in enumerate(shown, start=1)
        },
        detected,
        [draw_labels(dataset.pictures[place[one["image_id"]]], "missed", one["object"], one["box"]) for one in missed],
    )


def _shown_runs(comparison: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the path of a run and the id of a picture that is shown with its detections."""
    for pair in (pair for group in comparison["groups"] for pair in group["disagreements"]):
        for entry in (*pair["better"], *pair["worse"]):
            for path in pair["runs"].values():
                yield path, entry["image_id"]
