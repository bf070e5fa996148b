"""Detection files in the VOC challenge's format, one per class, which the official devkit scores too.

``comp4_det_<image set>_<class>.txt`` holds a line per detection: picture id, score, xmin, ymin, xmax, ymax, in 1-based
inclusive pixels. Numbers are written with as many digits as it takes to read the same number back.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from detection.datasets.types import DetectionDataset, normal_form
from detection.evaluation.detections import (
    VOC_SHIFT,
    FileDetections,
    PictureDetections,
    check_detections,
    concatenate,
)
from pretrain.run.files import atomic_write
from pretrain.run.text import read_text
from pretrain.run.values import MAX_NUMBER, number_of_text

COLUMNS = ("picture id", "score", "xmin", "ymin", "xmax", "ymax")

logger = logging.getLogger(__name__)


def write_detections(
    dataset: DetectionDataset, detections: Mapping[str, PictureDetections], folder: Path | str
) -> list[Path]:
    """Write one file per class into ``folder`` (made if absent), empty for a class without detections.

    Lines stand in the order of the dataset's pictures, then of each picture's detections. Returns the files.

    Raises:
        ValueError: what ``check_detections`` refuses; nothing is written.
    """
    check_detections(dataset, detections)
    present = [picture.image_id for picture in dataset.pictures if picture.image_id in detections]
    boxes, scores, classes, owner = concatenate([detections[image_id] for image_id in present])
    boxes = boxes.astype(np.float64) + VOC_SHIFT
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for label, name in enumerate(dataset.classes):
        members = np.flatnonzero(classes == label)
        rows = zip(owner[members].tolist(), scores[members].tolist(), boxes[members].tolist(), strict=True)
        path = folder / f"{_prefix(dataset)}{name}.txt"
        with atomic_write(path, "w") as file:
            file.writelines(
                f"{present[index]} {score!r} {xmin!r} {ymin!r} {xmax!r} {ymax!r}\n"
                for index, score, (xmin, ymin, xmax, ymax) in rows
            )
        paths.append(path)
    return paths


def read_detections(dataset: DetectionDataset, folder: Path | str) -> FileDetections:
    """Read the detection files of ``folder``, of any ``comp<number>`` or ``comp<number>_<salt>``.

    Other files there are left alone.

    Returns picture id -> detections in float64, for the pictures that have any, in the dataset's order. A class without
    a file has no detections, which is logged.

    Raises:
        FileNotFoundError: no such folder, or no detection file in it.
        ValueError: a file for another image set or for a class that ``dataset`` lacks, two files for one class, or a
            line that is not a detection; file and line are named.
    """
    folder = Path(folder)
    files = _class_files(dataset, folder)
    missing = [name for name in dataset.classes if name not in files]
    if missing:
        logger.warning("%s has no detection file for %s: counted as no detections", folder, ", ".join(missing))
    place = {normal_form(picture.image_id): index for index, picture in enumerate(dataset.pictures)}
    place |= {picture.image_id: index for index, picture in enumerate(dataset.pictures)}
    tables = [(np.zeros(0, np.int64), np.zeros((0, 5)), np.zeros(0, np.int64))]
    for label, name in enumerate(dataset.classes):
        if name in files:
            pictures, numbers = _read_file(files[name], place)
            tables.append((pictures, numbers, np.full(len(pictures), label)))
    pictures, numbers, classes = (np.concatenate(parts) for parts in zip(*tables, strict=True))

    order = np.argsort(
        pictures, kind="stable"
    )  # places of lines: of one class, which alone are compared, as in its file
    pictures, numbers, classes = pictures[order], numbers[order], classes[order]
    boxes = numbers[:, 1:] - VOC_SHIFT
    bounds = [*np.flatnonzero(np.diff(pictures, prepend=-1)).tolist(), len(pictures)]
    parts = {
        dataset.pictures[pictures[start]].image_id: slice(start, stop) for start, stop in itertools.pairwise(bounds)
    }
    return FileDetections(
        {name: PictureDetections(boxes[part], numbers[part, 0], classes[part]) for name, part in parts.items()},
        {name: order[part] for name, part in parts.items()},
        folder,
    )


def _prefix(dataset: DetectionDataset) -> str:
    return f"comp4_det_{dataset.image_set}_"


def _class_files(dataset: DetectionDataset, folder: Path) -> dict[str, Path]:
    """Return class name -> its file."""
    if not folder.is_dir():
        raise FileNotFoundError(f"detections folder {folder} does not exist")
    expected = re.compile(rf"comp\d+(?:_[\da-f-]+)?_det_{re.escape(dataset.image_set)}_(.+)\.txt")
    known = {normal_form(name): name for name in dataset.classes}
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("comp*_det_*.txt")):
        match = expected.fullmatch(path.name)
        if not match:
            raise ValueError(
                f"{path}: not a detection file of image set {dataset.image_set!r}, such as "
                f"{_prefix(dataset)}{dataset.classes[0]}.txt"
            )
        name = known.get(normal_form(match[1]))
        if name is None:
            raise ValueError(f"{path}: {dataset.name} has no class {match[1]!r}; it has {', '.join(dataset.classes)}")
        if name in files:
            raise ValueError(f"{path}: a second file for class {name!r}, beside {files[name]}")
        files[name] = path
    if not files:
        raise FileNotFoundError(f"no detection file in {folder}; expected {_prefix(dataset)}<class>.txt")
    return files


def _read_file(path: Path, place: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return picture places (N,) int64 and score, xmin, ymin, xmax, ymax (N, 5) float64 as written.

    The whole file is read at once; only a file with a defect is gone through line by line, to name the line.
    """
    text = read_text(path)
    lines = text.split("\n")
    rows = [words for line in lines if (words := line.split())]
    pictures = [place.get(words[0]) for words in rows]
    if None in pictures:
        pictures = [place.get(normal_form(words[0])) for words in rows]
    try:
        numbers = np.array([words[1:] for words in rows], np.float64).reshape(len(rows), 5)
    except ValueError:
        numbers = np.full((len(rows), 5), np.nan)
    inverted = (numbers[:, 3:] < (numbers - [0, 1, 1, 0, 0])[:, 1:3]).any()
    if None not in pictures and (np.abs(numbers) <= MAX_NUMBER).all() and not inverted and _are_plain(text, rows):
        return np.array(pictures, np.int64), numbers
    for line, words in enumerate(map(str.split, lines), start=1):
        defect = _defect(words, place)
        if defect:
            raise ValueError(f"{path}, line {line}: {defect}")
    raise AssertionError(f"{path} has a defect that no line has")


def _are_plain(text: str, rows: list[list[str]]) -> bool:
    """Return whether NumPy reads no more into the numbers than is written: ASCII digits, and not ``1_0``."""
    if text.isascii() and "_" not in text:
        return True
    return all(word.isascii() and "_" not in word for words in rows for word in words[1:])


def _defect(words: list[str], place: dict[str, int]) -> str | None:
    """Return what is wrong with one line of a detection file, None for a good or an empty one."""
    if not words:
        return None
    if len(words) != len(COLUMNS):
        return f"expected {len(COLUMNS)} columns ({', '.join(COLUMNS)}), but got {len(words)}"
    if words[0] not in place and normal_form(words[0]) not in place:
        return f"unknown picture id {words[0]!r}"
    numbers = []
    for name, word in zip(COLUMNS[1:], words[1:], strict=True):
        try:
            if not math.isfinite(float(word)):
                return f"{name} is not finite: {word}"
            numbers.append(number_of_text(word))
        except ValueError:
            return f"{name} is not a number: {word!r}"
    _, xmin, ymin, xmax, ymax = numbers
    for axis, low, high in (("x", xmin, xmax), ("y", ymin, ymax)):
        if high < low - 1:  # one less is a box without extent, which a detector may give
            return f"inverted box: {axis}max {high:g} is less than {axis}min {low:g}"
    return None
