"""Whether a weights file fits a detection config, as far as the file alone tells: before any data are read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from detection.convert.card import check_card
from pretrain.weights.description import brief
from pretrain.weights.files import read_weights
from pretrain.weights.resnet import BASIC_DEPTHS, BLOCKS

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

_BLOCK = re.compile(r"(?:.+\.)?(?:res([2-5])|layer([1-4]))\.([0-9]+)\.(conv3)?.*")


def read_model_file(cfg: CfgNode) -> dict[str, Any]:
    """Return what MODEL.WEIGHTS holds: a dict with ``model`` (name -> tensor or array) and, of a backbone, ``card``.

    Nothing in the file is executed, and no data are read: it can be asked before them.

    Raises:
        FileNotFoundError, ValueError: no such file, a folder, an address, no weights in it, a card that is none or
            contradicts ``cfg``, or blocks of a ResNet of another depth. The text names the file.
    """
    path = cfg.MODEL.WEIGHTS
    content = read_weights(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no weights, but a {type(content).__name__}")
    if not isinstance(content.get("model"), dict):
        content = {"model": content}
    if not any(hasattr(value, "shape") for value in content["model"].values()):
        raise ValueError(f"{path} holds no weights: it has no tensor at its top or in its 'model'")
    if (card := content.get("card")) is not None:
        if not isinstance(card, dict):
            raise ValueError(f"{path}: the file's card is {brief(card)}; expected a dict")
        try:
            check_card(card, cfg)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    depth = _depth(content["model"])
    if depth not in (None, cfg.MODEL.RESNETS.DEPTH):
        raise ValueError(
            f"{path} holds a ResNet-{depth}, but MODEL.RESNETS.DEPTH is {cfg.MODEL.RESNETS.DEPTH} in the config"
        )
    return content


def _depth(names: Iterable[Any]) -> int | None:
    """Return the depth of the ResNet whose blocks are among ``names``, in either naming; None where none is whole."""
    blocks: list[set[int]] = [set(), set(), set(), set()]
    basic = True
    for name in names:
        if isinstance(name, str) and (match := _BLOCK.fullmatch(name)):
            blocks[int(match[1]) - 2 if match[1] else int(match[2]) - 1].add(int(match[3]))
            basic = basic and not match[4]
    counts = tuple(len(stage) for stage in blocks)
    return next((depth for depth in BLOCKS if BLOCKS[depth] == counts and (depth in BASIC_DEPTHS) == basic), None)
