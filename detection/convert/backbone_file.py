"""From a weights file to a backbone file: read, find, convert, prove, write."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.convert.card import TOOLKIT, architecture_of, in_rgb, make_card
from pretrain.run.files import sha256
from pretrain.weights.description import NOTHING_SAID, Preprocessing, assumptions
from pretrain.weights.files import read_weights
from pretrain.weights.namings import check_backbone, convert_state_dict, count_dropped, dropped_by, revert_state_dict
from pretrain.weights.networks import DETECTRON2, TORCHVISION, as_float32, find_network

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".pth", ".pkl")


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        target: the file that was written.
        card: as written into the file; its ``verification`` holds the figures, or None where they were not asked for.
        num_converted: tensors written.
        dropped: rule -> number of keys that the rule dropped.
        notes: sentences for the user: which rules decided what, and what could not be checked.
    """

    target: Path
    card: dict[str, Any]
    num_converted: int
    dropped: dict[str, int]
    notes: tuple[str, ...]

    def tally(self) -> str:
        """Return for example ``265 converted, 55 dropped: 2 fc, 53 num_batches_tracked``."""
        rules = ", ".join(f"{count} {rule}" for rule, count in self.dropped.items())
        return f"{self.num_converted} converted, {sum(self.dropped.values())} dropped{f': {rules}' if rules else ''}"


def convert_file(
    source: Path | str,
    target: Path | str,
    *,
    prefix: str | None = None,
    ema: bool = False,
    reverse: bool = False,
    verify: bool = True,
    said: Preprocessing = NOTHING_SAID,
) -> Conversion:
    """Convert the ResNet in ``source`` to a Detectron2 backbone, prove it equal, and write it to ``target``.

    Args:
        source, target: a ``~`` at their beginning is the home folder; folders of ``target`` are made where they lack.
        target: ``.pth`` (tensors, safe to load) or ``.pkl`` (NumPy arrays, Detectron2's older convention), written only
            after everything else succeeded; the card goes beside it as ``.card.json``.
        prefix, ema: which network, where the file holds several; see `find_network`.
        reverse: ``source`` is in Detectron2's names (a backbone or a whole detector), ``target`` a ``.pth`` checkpoint
            ``{"model": torchvision's names, "arch": ..., "card": ...}`` without classifier.
        verify: run both networks; see `detection.convert.verify`. Names, shapes and values are checked in any case.
        said: how the source reads pictures, where its file does not say so; what is assumed is among the notes.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        ValueError: the source cannot be read or converted, it contradicts ``said``, or the proof fails.
    """
    source, target = (Path(os.path.expanduser(path)) for path in (source, target))
    check_target(source, target, SUFFIXES[:1] if reverse else SUFFIXES)
    if reverse and (said.channel_order == "BGR" or said.stride_in_1x1):
        raise ValueError("--reverse: torchvision's ResNet reads RGB and strides in its 3x3 convolutions")
    content = read_weights(source)
    try:
        return _convert(content, source, target, prefix=prefix, ema=ema, reverse=reverse, verify=verify, said=said)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _convert(
    content: Any,
    source: Path,
    target: Path,
    *,
    prefix: str | None,
    ema: bool,
    reverse: bool,
    verify: bool,
    said: Preprocessing,
) -> Conversion:
    network = find_network(content, DETECTRON2 if reverse else TORCHVISION, prefix=prefix, ema=ema)
    notes = list(network.notes)
    state = as_float32({key: value for key, value in network.state.items() if dropped_by(key) is None}, notes)
    torchvision_state, detectron2_state = (
        (revert_state_dict(state), state) if reverse else (state, convert_state_dict(state))
    )
    architecture = check_backbone(detectron2_state)
    card = make_card(network, architecture, source=source, source_sha256=sha256(source), said=said)
    card["assumed"] = assumptions(network, architecture, said)
    if card["assumed"] is not None:
        notes.append(card["assumed"])

    from detection.convert.verify import check_values

    notes += check_values(detectron2_state)
    if verify:
        card["verification"] = _verify(torchvision_state, detectron2_state, card, target, notes)
    target.parent.mkdir(parents=True, exist_ok=True)
    if reverse:
        _write_torchvision(torchvision_state, card, target)
    else:
        write_backbone(detectron2_state, card, target)
    _write_card(card, target)
    return Conversion(
        target, card, len(detectron2_state), {**count_dropped(network.state), **network.beside}, tuple(notes)
    )


def write_backbone(state: Mapping[str, Tensor], card: Mapping[str, Any], target: Path | str) -> None:
    """Write a backbone in Detectron2's unprefixed names, whole or not at all, as ``.pth`` or ``.pkl``.

    ``matching_heuristics`` has Detectron2's checkpointer put the tensors where they belong: res5 into the heads of a C4
    detector, all of them under ``bottom_up`` with FPN.
    """
    from pretrain.run.checkpoint import save_checkpoint
    from pretrain.run.files import atomic_write

    content = {"model": dict(state), "__author__": TOOLKIT, "matching_heuristics": True, "card": dict(card)}
    if Path(target).suffix == ".pkl":
        content["model"] = {name: value.numpy() for name, value in state.items()}
        with atomic_write(target) as file:
            pickle.dump(content, file, protocol=4)  # Detectron2 accepts any protocol; 4 is every supported Python's
    else:
        save_checkpoint(content, target)


def _write_torchvision(state: dict[str, Tensor], card: dict[str, Any], target: Path) -> None:
    from pretrain.run.checkpoint import save_checkpoint

    save_checkpoint(
        {
            "model": state,
            "card": card,
            **{key: card[key] for key in ("arch", "method", "top1", "top5", "pixel_mean", "pixel_std")},
        },
        target,
    )


def _write_card(card: dict[str, Any], target: Path) -> None:
    from pretrain.run.files import atomic_write

    with atomic_write(target.with_suffix(".card.json"), "w") as file:
        json.dump(card, file, indent=2)
        file.write("\n")


def check_target(source: Path, target: Path, suffixes: Sequence[str]) -> None:
    """Refuse, before anything is computed, a ``target`` that cannot become a file of one of ``suffixes``.

    Raises:
        ValueError: another suffix, a folder, a place that cannot be written to, or ``source`` itself.
    """
    if target.suffix not in suffixes:
        raise ValueError(f"target {target} ends in {target.suffix!r}; expected {' or '.join(suffixes)}")
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"target {target}: {above} is no folder")
    if not os.access(above, os.W_OK):
        raise ValueError(f"target {target}: folder {above} may not be written to")
    if target.is_dir():
        raise ValueError(f"target {target} is a folder; expected a file name")
    if target.exists() and source.exists() and os.path.samefile(source, target):
        raise ValueError(f"source and target are the same file, {source}")


def _verify(
    torchvision_state: dict[str, Tensor],
    detectron2_state: dict[str, Tensor],
    card: dict[str, Any],
    target: Path,
    notes: list[str],
) -> dict[str, Any]:
    from detection.convert.verify import SourceNetwork, verify, verify_with_detectron2

    source = SourceNetwork(
        torchvision_state,
        architecture_of(card),
        pixel_mean=in_rgb(card, "pixel_mean"),
        pixel_std=in_rgb(card, "pixel_std"),
        channel_order=card["channel_order"],
        stride_in_1x1=card["stride_in_1x1"],
    )
    figures = verify(source, detectron2_state, card)
    if importlib.util.find_spec("detectron2") is None:
        notes.append("Detectron2 is not installed: its own backbone was not run")
        return figures
    suffix = target.suffix
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"backbone{suffix}"
        write_backbone(detectron2_state, card, file)
        try:
            figures["detectron2"] = verify_with_detectron2(source, file, detectron2_state, card)
        except ImportError as error:
            notes.append(f"Detectron2 cannot be imported ({error}): its own backbone was not run")
    return figures
