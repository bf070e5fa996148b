"""Datasets by name, whatever their format, and the class list of those that come without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detection.coco_json import is_coco, load_coco
from detection.voc import OnDefect, VocDataset, load_voc, refuse


def load_dataset(
    name: str,
    *,
    root: Path | str | None = None,
    classes: Sequence[str] | None = None,
    check_pictures: bool = True,
    on_defect: OnDefect = refuse,
) -> VocDataset:
    """Read the dataset ``name``: COCO's format for ``coco_<year>_<set>`` and ``<path>.json``, else VOC's.

    Arguments and errors are those of ``detection.voc.load_voc`` and ``detection.coco_json.load_coco``.
    """
    load = load_coco if is_coco(name) else load_voc
    return load(name, root=root, classes=classes, check_pictures=check_pictures, on_defect=on_defect)


def discover_classes(names: Sequence[str], *, root: Path | str | None = None) -> tuple[str, ...]:
    """Return the classes of the datasets ``names``: their list where all have the same, else all in alphabetical order.

    Errors as those of ``load_dataset``.
    """
    lists = [load_dataset(name, root=root, check_pictures=False).classes for name in names]
    if len(set(lists)) == 1:
        return lists[0]
    return tuple(sorted({name for classes in lists for name in classes}))


def read_class_list(text: str) -> list[str]:
    """Return the class names in ``text``, a comma-separated list or the path of a file with one name a line."""
    path = Path(text)
    names = path.read_text("utf-8").splitlines() if path.is_file() else text.split(",")
    return [name.strip() for name in names if name.strip()]
