"""Pairs of validation pictures of two classes, drawn or given by name, to be mixed and shown to networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from pretrain.data.augmentation import eval_transform
from pretrain.data.decoding import read_picture
from pretrain.data.sampling import spread_over_classes
from pretrain.data.sources import labels_of
from pretrain.inspect.pretrained import Pretrained
from pretrain.run.pictures import UnreadablePicture

SAME_PICTURES = ("IMAGE_SIZE", "EVAL_RESIZE")  # keys of DATA that networks must share to be shown the same pictures


class LabelledPicture(NamedTuple):
    """A picture, ``uint8 (3, S, S)``, what names it, and the number of its class."""

    name: str
    label: int
    image: Tensor


def check_same_pictures(networks: Sequence[Pretrained]) -> None:
    """Refuse networks that were evaluated on pictures cut and scaled in different ways.

    Raises:
        ValueError: a key of ``SAME_PICTURES`` differs; the message names it and two checkpoints.
    """
    for key in SAME_PICTURES:
        first = networks[0]
        for other in networks[1:]:
            if other.cfg.DATA[key] != first.cfg.DATA[key]:
                raise ValueError(
                    f"the networks were not evaluated on the same pictures: DATA.{key} is {first.cfg.DATA[key]} in "
                    f"{first.path} and {other.cfg.DATA[key]} in {other.path}"
                )


def choose_pairs(labels: Sequence[int], count: int, *, seed: int) -> list[tuple[int, int]]:
    """Return indices (source, target) of ``count`` pairs, drawn from ``seed`` and spread over the classes.

    The two of a pair have different classes, and no picture is in two pairs.

    Raises:
        ValueError: there are not as many such pairs.
    """
    order = spread_over_classes(labels, seed=seed)
    pairs = []
    while len(pairs) < count and order:
        source = order.pop(0)
        target = next((index for index in order if labels[index] != labels[source]), None)
        if target is None:
            break
        order.remove(target)
        pairs.append((source, target))
    if len(pairs) < count:
        raise ValueError(
            f"{count} pairs of pictures of different classes asked for, but {len(labels)} pictures of "
            f"{len(set(labels))} classes give only {len(pairs)}"
        )
    return pairs


def drawn_pairs(
    pretrained: Pretrained, root: Path | str, count: int, *, seed: int
) -> tuple[list[tuple[LabelledPicture, LabelledPicture]], list[str]]:
    """Return ``count`` pairs (source, target) of validation pictures in ``root``, and the classes of the data.

    The pairs are those of ``choose_pairs``, the pictures as the network was evaluated on them.

    Raises:
        FileNotFoundError: there is no such data.
        ValueError: there are not as many pairs, or a picture of them cannot be read.
    """
    source, transform = pretrained.validation_source(root), eval_transform(pretrained.cfg)

    def read(index: int) -> LabelledPicture:
        try:
            picture, label = source.read(index)
        except UnreadablePicture as error:
            raise ValueError(f"{source.name(index)}: cannot be read as a picture ({error.reason})") from error
        return LabelledPicture(source.name(index), label, transform(picture))

    pairs = choose_pairs(labels_of(source), count, seed=seed)
    return [(read(one), read(other)) for one, other in pairs], pretrained.shown_classes(source.classes)


def given_pairs(
    pretrained: Pretrained, paths: Sequence[str], root: Path | str | None = None
) -> tuple[list[tuple[LabelledPicture, LabelledPicture]], list[str]]:
    """Return the pairs of ``paths`` (source, target, source, target, ...), and the classes.

    A file's class is the name of its folder, in which an underscore may stand for a blank. The classes are the
    checkpoint's; with ``root``, those of the validation pictures there.

    Raises:
        FileNotFoundError: there is no such data in ``root``.
        ValueError: the number of files is odd, a folder is none of the classes, a file cannot be read as a picture, the
            two of a pair are of one class, or the checkpoint does not name its classes and there is no ``root``.
    """
    classes = pretrained.classes if root is None else pretrained.validation_source(root).classes
    if classes is None:
        raise ValueError(f"{pretrained.path} does not name its classes; give --data-root too, whose folders do")
    known_by = pretrained.path if root is None else root
    numbers = {name.replace(" ", "_"): number for number, name in enumerate(classes)}  # as one calls a folder
    transform, pictures = eval_transform(pretrained.cfg), []
    for path in paths:
        name = Path(path).resolve().parent.name
        number = numbers.get(name.replace(" ", "_"))
        if number is None:
            raise ValueError(f"{path}: its folder {name} is none of the {len(classes)} classes of {known_by}")
        try:
            picture = read_picture(path, pretrained.cfg.DATA.DECODER)
        except UnreadablePicture as error:
            raise ValueError(f"{path}: cannot be read as a picture ({error.reason})") from error
        pictures.append(LabelledPicture(path, number, transform(picture)))
    pairs = list(zip(pictures[::2], pictures[1::2], strict=True))
    for source, target in pairs:
        if source.label == target.label:
            raise ValueError(
                f"{source.name} and {target.name} are both of the class {classes[source.label]}; mix two classes"
            )
    return pairs, pretrained.shown_classes(classes)
