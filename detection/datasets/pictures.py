"""Every picture of a dataset, opened as training opens it, before the first iteration and not hours into the run.

What was found is remembered below the user's cache folder, so that many runs look once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from detection.datasets.load import read_checked
from detection.datasets.types import AnnotatedPicture, DetectionDataset
from pretrain.run.cli import Progress
from pretrain.run.files import atomic_write
from pretrain.run.pictures import exif_orientation, open_picture, sixteen_bit_fill
from pretrain.run.text import read_json

ROTATED, SIXTEEN_BITS = "rotated picture", "picture of 16 bits"  # kinds of defects that training survives
RULES = f"1, Pillow {PIL.__version__}"  # what is remembered holds for; the number counts changes of the rules here
SOON = 256  # pictures are opened sooner than a process starts, and need not be remembered
BATCH_SIZE = 16  # pictures that a loading process is given at a time

logger = logging.getLogger(__name__)


class Defect(NamedTuple):
    """``kind`` is one that training survives, or "fatal"; ``text`` names file, line or object, and what is wrong."""

    kind: str
    text: str


def picture_defects(picture: AnnotatedPicture) -> list[Defect]:
    """Open ``picture`` as training does; return what is wrong with the file, or with its size."""
    try:
        with open_picture(picture.path) as opened:
            orientation = exif_orientation(opened)
        read_checked(picture)
        bits = sixteen_bit_fill(picture.path)
    except (OSError, ValueError) as error:
        return [Defect("fatal", str(error))]
    defects = []
    if orientation != 1:
        defects.append(Defect(ROTATED, f"{picture.path}: EXIF orientation {orientation}"))
    if bits is not None:
        defects.append(Defect(SIXTEEN_BITS, f"{picture.path}: its values have {bits} bits"))
    return defects


def look_at_pictures(dataset: DetectionDataset, *, num_workers: int = 0) -> list[Defect]:
    """Return what ``picture_defects`` says of every picture of ``dataset`` that has changed since it was last asked.

    Up to ``num_workers`` loading processes open them, this one if it is 0. Pictures that nothing stops training on are
    remembered by path, size, time of change and the size that their boxes are for, in a file of ``memory_folder``; a
    file that cannot be written is no error.

    Raises:
        pretrain.run.loading.LoadingError: a loading process was killed, or cannot be started.
    """
    marks = [_mark(picture) for picture in dataset.pictures]
    memory = _Memory(dataset)
    known = memory.read() if len(marks) > SOON else {}
    new = [place for place, mark in enumerate(marks) if mark not in known]
    found: dict[str, list[Defect]] = {}
    started = time.monotonic()
    pictures = [dataset.pictures[place] for place in new]
    with Progress(len(new), f"open the pictures of {dataset.name}", unit="picture") as progress:
        for place, defects in zip(new, _open_all(pictures, min(num_workers, len(new) // SOON)), strict=True):
            found[marks[place]] = defects
            progress.update()
    seconds = max(time.monotonic() - started, 1e-9)
    rest = f"; {len(marks) - len(new)} more are as they were when last opened" if len(new) < len(marks) else ""
    logger.info("%s: opened %d pictures (%.0f a second)%s", dataset.name, len(new), len(new) / seconds, rest)
    if len(marks) > SOON and new:
        memory.write({**known, **found}, marks)
    return [defect for mark in marks for defect in found.get(mark, known.get(mark, []))]


def memory_folder() -> Path:
    """Return where runs remember pictures: below ``$XDG_CACHE_HOME``, else ``~/.cache``, else the temporary folder."""
    home = os.path.expanduser("~")  # unchanged where the user has none, as in containers
    cache = tempfile.gettempdir() if home == "~" else os.path.join(home, ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or cache) / "detection-transfer-toolkit" / "pictures"


def _open_all(pictures: Sequence[AnnotatedPicture], num_workers: int) -> Iterator[list[Defect]]:
    """Yield the defects of each of ``pictures``, in their order."""
    if not num_workers:
        yield from map(picture_defects, pictures)
        return
    from pretrain.run.loading import Loading, make_loader  # PyTorch's; tools/check_dataset.py does without

    loader = make_loader(
        _Opened(pictures),
        num_workers=num_workers,
        key="DATALOADER.NUM_WORKERS",
        collate=list,
        batch_size=BATCH_SIZE,
    )
    with Loading(loader) as batches:
        for batch in batches:
            yield from batch


class _Opened:
    """A data set for PyTorch's loader whose items are the defects of pictures."""

    def __init__(self, pictures: Sequence[AnnotatedPicture]):
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, place: int) -> list[Defect]:
        return picture_defects(self._pictures[place])


def _mark(picture: AnnotatedPicture) -> str:
    """Return what changes whenever another look at ``picture`` could find something else."""
    try:
        status = os.stat(picture.path)
        state = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        state = "not there"
    text = f"{os.path.abspath(picture.path)}\n{picture.annotation}\n{state} {picture.width}x{picture.height}"
    return hashlib.blake2b(os.fsencode(text), digest_size=12).hexdigest()


class _Memory:
    """What is known of the pictures of a dataset: mark -> defects that training survives, mostly none."""

    def __init__(self, dataset: DetectionDataset):
        name = f"{os.path.abspath(dataset.folder)}\n{dataset.name}"
        self._path = memory_folder() / f"{hashlib.blake2b(os.fsencode(name), digest_size=12).hexdigest()}.json"

    def read(self) -> dict[str, list[Defect]]:
        try:
            content: Any = read_json(self._path)
            if content["rules"] != RULES:
                return {}
            survived = {mark: [Defect(*one) for one in some] for mark, some in content["survived"].items()}
            return {**{mark: [] for mark in content["good"]}, **survived}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # not there, or not whole: as if unknown
            return {}

    def write(self, found: dict[str, list[Defect]], marks: Sequence[str]) -> None:
        kept = {mark: found[mark] for mark in marks if all(defect.kind != "fatal" for defect in found[mark])}
        content = {
            "rules": RULES,
            "good": [mark for mark, defects in kept.items() if not defects],
            "survived": {mark: defects for mark, defects in kept.items() if defects},
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path, "w") as file:
                json.dump(content, file)
        except OSError as error:
            logger.debug("%s: what was found in the pictures is not remembered (%s)", self._path, error)
