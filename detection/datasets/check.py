"""What is wrong with a dataset, all of it at once, before any GPU hour is spent.

A defect is fatal where training or evaluation would have to guess: a missing or unreadable file, an unknown class, an
object without a box. Boxes without area or outside of the picture are not: training leaves them out or clips them, as
Detectron2 does, and they are counted here.
"""

from __future__ import annotations

import logging
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detection.datasets.load import load_dataset
from detection.datasets.pictures import ROTATED, SIXTEEN_BITS, Defect, picture_defects
from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from pretrain.run.cli import Progress

# What becomes of each kind of defect that training survives.
SURVIVED = {
    "box without area": "left out of training",
    "box outside of the picture": "left out of training",
    "box across the border": "clipped in training",
    "box of one pixel": "used as it is, but hardly meant",
    "coordinates not whole": "used as they are",
    ROTATED: "turned upright; boxes must be for the upright picture",
    SIXTEEN_BITS: "shifted to 8 bits, by the fewest bits that hold its largest value",
}
MAX_LISTED = 20  # defects of a kind that a person is shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetCheck:
    """A dataset without what is fatally wrong with it, and every defect found."""

    dataset: DetectionDataset
    defects: tuple[Defect, ...]

    @property
    def fatal(self) -> list[str]:
        """The texts of the fatal defects."""
        return [defect.text for defect in self.defects if defect.kind == "fatal"]

    def survived(self) -> Counter[str]:
        """Return how many defects there are of each kind that training survives."""
        return Counter(defect.kind for defect in self.defects if defect.kind != "fatal")


def check_dataset(
    name: str,
    *,
    root: Path | str | None = None,
    classes: Sequence[str] | None = None,
    read_pictures: bool = True,
    pictures_anywhere: bool = False,
    alone: bool = True,
) -> DatasetCheck:
    """Read the dataset ``name`` and return everything that is wrong with it; arguments as those of ``load_dataset``.

    With ``read_pictures`` every picture is decoded and its size and orientation are looked at; without, only the
    annotations are read and the files must exist. ``alone`` says that no other dataset may supply the objects: one that
    has none to train on is a defect then.

    Raises:
        FileNotFoundError, ValueError: there is no such dataset, or nothing in it can be read and no defect says why.
    """
    defects: list[Defect] = []

    def tell(error: Exception) -> None:
        defects.append(Defect("fatal", str(error)))

    try:
        dataset = load_dataset(name, root=root, classes=classes, pictures_anywhere=pictures_anywhere, on_defect=tell)
    except (FileNotFoundError, ValueError) as error:
        if not defects:
            raise
        tell(error)  # what it gave up for comes after what was wrong before
        return DatasetCheck(DetectionDataset(name, Path(root or ""), name, tuple(classes or ()), ()), tuple(defects))
    if alone and not defects:  # else those come first, and may be the reason
        defects.extend(_check_objects(dataset))
    for picture in dataset.pictures:
        defects.extend(_check_boxes(picture))
    if read_pictures:
        with Progress(len(dataset.pictures), f"read {name}", unit="picture") as progress:
            for picture in dataset.pictures:
                defects.extend(picture_defects(picture))
                progress.update()
    return DatasetCheck(dataset, tuple(defects))


def check_before_training(checks: Sequence[DatasetCheck]) -> None:
    """Log what training survives, once for each kind, and stop at what it does not.

    Raises:
        ValueError: the first fatal defect, how many more there are, and the command that lists them.
    """
    for check in checks:
        for kind, count in check.survived().items():
            logger.warning("%s: %d x %s: %s", check.dataset.name, count, kind, SURVIVED[kind])
    refuse_fatal(checks)


def refuse_fatal(checks: Iterable[DatasetCheck]) -> None:
    """Stop at what training does not survive, and log nothing.

    Raises:
        ValueError: as ``check_before_training``.
    """
    fatal = [text for check in checks for text in check.fatal]
    if len(fatal) == 1:
        raise ValueError(fatal[0])
    if fatal:
        raise ValueError(f"{fatal[0]}; and {len(fatal) - 1} more such defects, which tools/check_dataset.py lists")


def overlaps(checks: Sequence[DatasetCheck]) -> list[str]:
    """Return a line for each pair of datasets that share picture files."""
    lines = []
    for place, first in enumerate(checks):
        mine = {picture.path.resolve() for picture in first.dataset.pictures}
        for second in checks[place + 1 :]:
            shared = sorted(mine & {picture.path.resolve() for picture in second.dataset.pictures})
            if shared:
                lines.append(
                    f"{first.dataset.name} and {second.dataset.name} share {len(shared)} pictures, such as {shared[0]}"
                )
    return lines


def describe_datasets(checks: Sequence[DatasetCheck]) -> list[str]:
    """Return, as lines of text, a table of objects by class and dataset, and the numbers and sizes of pictures."""
    names = [check.dataset.name for check in checks]
    counts = [Counter(item.name for p in check.dataset.pictures for item in p.objects) for check in checks]
    classes = list(dict.fromkeys(name for check in checks for name in check.dataset.classes))
    pictures = [check.dataset.pictures for check in checks]
    rows = [[name, *(str(count[name]) for count in counts)] for name in classes]
    rows += [
        ["all objects", *(str(sum(count.values())) for count in counts)],
        ["  difficult or crowd", *(str(sum(item.difficult for p in all_ for item in p.objects)) for all_ in pictures)],
        ["pictures", *(str(len(all_)) for all_ in pictures)],
        ["  without objects", *(str(sum(not p.objects for p in all_)) for all_ in pictures)],
        ["width, min median max", *(_range_text([p.width for p in all_]) for all_ in pictures)],
        ["height, min median max", *(_range_text([p.height for p in all_]) for all_ in pictures)],
    ]
    table = [["", *names], *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in table
    ]
    return lines + [
        f"{check.dataset.name} has no example of {', '.join(absent)}"
        for check, count in zip(checks, counts, strict=True)
        if (absent := [name for name in classes if not count[name]])
    ]


def list_defects(check: DatasetCheck) -> list[str]:
    """Return the defects as lines, the fatal ones first and all of them; of the others, MAX_LISTED of each kind."""
    lines = [f"FATAL  {text}" for text in check.fatal]
    for kind, count in check.survived().items():
        texts = [defect.text for defect in check.defects if defect.kind == kind]
        lines += [f"{kind}, {SURVIVED[kind]}: {text}" for text in texts[:MAX_LISTED]]
        if count > MAX_LISTED:
            lines.append(f"{kind}: {count - MAX_LISTED} more")
    return lines


def _check_objects(dataset: DetectionDataset) -> Iterator[Defect]:
    objects = [item for picture in dataset.pictures for item in picture.objects]
    if not all(item.crowd for item in objects):
        return
    crowds = f"; its {len(objects)} objects are crowds" if objects else ""
    yield Defect(
        "fatal",
        f"none of the {len(dataset.pictures)} pictures of {dataset.name} has an object to train on{crowds}; training "
        "stops unless DATALOADER.FILTER_EMPTY_ANNOTATIONS is False",
    )


def _check_boxes(picture: AnnotatedPicture) -> Iterator[Defect]:
    for item in picture.objects:
        xmin, ymin, xmax, ymax = item.box
        place = f"{picture.annotation}: {_shown(item, picture)}"
        if xmax <= xmin - 1 or ymax <= ymin - 1:  # both ends belong to the box: xmin to xmin is one pixel
            yield Defect("box without area", place)
        elif xmin - 1 >= picture.width or ymin - 1 >= picture.height or xmax <= 0 or ymax <= 0:
            yield Defect("box outside of the picture", place)
        elif xmin < 1 or ymin < 1 or xmax > picture.width or ymax > picture.height:
            yield Defect("box across the border", place)
        elif xmax <= xmin or ymax <= ymin:
            yield Defect("box of one pixel", place)
        elif picture.annotation.suffix == ".xml" and any(side != int(side) for side in item.box):
            yield Defect("coordinates not whole", place)  # COCO's are hardly ever whole


def _shown(item: AnnotatedObject, picture: AnnotatedPicture) -> str:
    box = ", ".join(f"{side:g}" for side in item.box)
    owner = "" if picture.annotation.suffix == ".xml" else f"picture {picture.image_id}, "
    return f"{owner}{item.name} ({box}) in {picture.width}x{picture.height}"


def _range_text(values: Sequence[int]) -> str:
    return f"{min(values)} {statistics.median_low(values)} {max(values)}" if values else "-"
