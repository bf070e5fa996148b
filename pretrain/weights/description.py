"""What a weights file says of its network besides the tensors: its kind, its accuracy, how it reads pictures.

Most files say little. What they leave out the user says, or it is taken to be torchvision's; nothing is guessed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pretrain.run.settings import Rule, is_number
from pretrain.weights.resnet import Architecture

if TYPE_CHECKING:
    from pretrain.weights.networks import Network

# torchvision's ImageNet statistics, RGB, for pixels in 0..255
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
TORCHVISIONS_READING = {
    "channel_order": "RGB",
    "pixel_mean": PIXEL_MEAN,
    "pixel_std": PIXEL_STD,
    "stride_in_1x1": False,
}

CHANNEL_ORDERS = ("RGB", "BGR")
MAX_SHOWN = 80  # characters of a value from a file, in an error

THREE_NUMBERS = Rule(
    lambda value: isinstance(value, (list, tuple)) and len(value) == 3 and all(map(is_number, value)), "three numbers"
)


@dataclass(frozen=True)
class Preprocessing:
    """What a user says about a source whose file does not say it; None = not said.

    Attributes:
        pixel_mean, pixel_std: red, green, blue, of 0..255 pixels, whatever the order in which the network reads them.
        channel_order: ``RGB`` or ``BGR``, as the network reads.
        stride_in_1x1: whether its bottlenecks stride in their first 1x1 convolution, as Caffe's do.
    """

    pixel_mean: Sequence[float] | None = None
    pixel_std: Sequence[float] | None = None
    channel_order: str | None = None
    stride_in_1x1: bool | None = None


NOTHING_SAID = Preprocessing()


def check_arch(known: Mapping[str, Any], architecture: Architecture) -> None:
    """Refuse a file that says that its network is another one than ``architecture``, which its tensors show.

    Raises:
        ValueError: what it says, and what its tensors are.
    """
    arch = known.get("arch")
    if not (arch is None or isinstance(arch, str)):
        raise ValueError(f"arch in the file is {brief(arch)}; expected text")
    base = re.sub(r"^tv_|\..*$", "", arch) if arch is not None else None  # timm: tv_resnet50, resnet50.a1_in1k
    if base not in (None, "resnet", architecture.name):
        raise ValueError(
            f"the file says arch {brief(arch)}, its tensors are those of a plain {architecture.name}: networks "
            "such as resnetaa50 share the tensors but compute something else"
        )


def assumptions(network: Network, architecture: Architecture, said: Preprocessing) -> str | None:
    """Return a sentence on what is taken for granted of a source, or None where its file or ``said`` says it all."""
    known, usual = inherited(network.metadata), usual_reading(network)
    whole = known.get("pixel_mean") is not None and known.get("pixel_std") is not None  # a file of this toolkit
    taken = []
    if not whole and known.get("channel_order") is None and said.channel_order is None:
        taken.append("to read RGB (--channel-order)")
    statistics = [
        f"{name[6:]} {' '.join(map(str, usual[name]))} (--{name.replace('_', '-')})"
        for name in ("pixel_mean", "pixel_std")
        if known.get(name) is None and getattr(said, name) is None
    ]
    if statistics:
        taken.append(f"with {' and '.join(statistics)}")
    if not (whole or architecture.basic) and known.get("stride_in_1x1") is None and said.stride_in_1x1 is None:
        taken.append("to stride in its 3x3 convolutions (--stride-in-1x1)")
    if taken and known.get("arch") is None:
        taken.append("and to be plain (without blur pooling, for example)")
    if not taken:
        return None
    return f"the source has no card: taken {', '.join(taken)}; its tensors cannot show that"


def usual_reading(network: Network) -> dict[str, Any]:
    """Return how a network reads pictures as long as nobody says otherwise: as its program does, else torchvision's."""
    of_program = {} if network.program is None else network.program._asdict()
    return {name: of_program.get(name) or value for name, value in TORCHVISIONS_READING.items()}


def accuracies(known: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the top-1 and top-5 accuracy that a file states, in percent; None where it does not.

    Raises:
        ValueError: a number is no percentage.
    """
    return _accuracy(known, "top1", "best_err1", "best_acc1"), _accuracy(known, "top5", "best_err5", None)


def same(value: Any, other: Any) -> bool:
    """Return whether two entries of a description are equal, numbers up to what text leaves of them."""
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(
            math.isclose(mine, theirs, rel_tol=1e-6, abs_tol=1e-6) for mine, theirs in zip(value, other, strict=True)
        )
    return value == other


def inherited(known: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a file that has a card itself (a backbone on its way back) as that of a checkpoint."""
    card = known.get("card")
    if card is None:
        return known
    if not isinstance(card, dict):
        raise ValueError(f"the file's card is {brief(card)}; expected a dict")
    if card.get("channel_order", "RGB") != "RGB" or card.get("stride_in_1x1", False):
        raise ValueError(
            f"the file's card says channel_order {card.get('channel_order')!r} and stride_in_1x1 "
            f"{card.get('stride_in_1x1')!r}; torchvision's ResNet reads RGB and strides in its 3x3 "
            "convolutions"
        )
    return {**card, "config": card.get("recipe")}


def num_classes(state: Mapping[str, Any]) -> int | None:
    """Return how many classes a network's classifier has; None without one of a single linear layer."""
    return int(state["fc.weight"].shape[0]) if "fc.weight" in state else None


def _accuracy(known: Mapping[str, Any], percent: str, error: str, other_percent: str | None) -> float | None:
    """Return an accuracy in percent from whichever of the three names the file has."""
    for name in (percent, other_percent, error):
        value = known.get(name) if name else None
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
            raise ValueError(f"{name} in the file is {brief(value)}; expected percent, 0 to 100")
        return 100.0 - value if name == error else float(value)
    return None


def preprocessing(
    known: Mapping[str, Any],
    said: Preprocessing,
    architecture: Architecture,
    usual: Mapping[str, Any] = TORCHVISIONS_READING,
) -> dict[str, Any]:
    """Return the four entries of a card that the file or the user says, or that are usual."""
    order, stride = said.channel_order, said.stride_in_1x1
    if order not in (None, *CHANNEL_ORDERS):
        raise ValueError(f"--channel-order is {order!r}; expected RGB or BGR")
    if stride and architecture.basic:
        raise ValueError(f"--stride-in-1x1, but the blocks of a ResNet-{architecture.depth} have no 1x1 convolution")
    values: dict[str, Any] = {}
    for name, otherwise in usual.items():
        of_user, of_file = getattr(said, name), known.get(name)
        option = f"--{name.replace('_', '-')}"
        if name.startswith("pixel"):
            of_user = None if of_user is None else _three_numbers(of_user, name, f"{option} is")
            of_file = None if of_file is None else _three_numbers(of_file, name, f"{name} in the file is")
        if of_user is not None and of_file is not None and not same(of_user, of_file):
            raise ValueError(f"{option} says {of_user!r}, the file {of_file!r}")
        values[name] = next(value for value in (of_user, of_file, otherwise) if value is not None)
    for name in ("pixel_mean", "pixel_std"):
        values[name] = list(values[name])[:: 1 if values["channel_order"] == "RGB" else -1]
    return values


def _three_numbers(values: Any, name: str, whose: str) -> list[float]:
    """Return three numbers for 0..255 pixels; no mean is within 0..1 there but 0 itself, and no std below 1."""
    least = 1 if name == "pixel_std" else 0
    good = THREE_NUMBERS.holds(values) and all(least <= value <= 255 for value in values)
    if not good or (name == "pixel_mean" and 0 < max(values) <= 1):
        raise ValueError(
            f"{whose} {brief(values)}; expected three numbers for red, green and blue, of 0..255 pixels "
            "(those of 0..1 times 255)"
        )
    return [float(value) for value in values]


def record(value: Any) -> Any:
    """Return what a card can hold of a value that decides nothing: itself where JSON takes it, else how it looks."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return brief(value)
    return value


def brief(value: Any) -> str:
    """Return a value from a file as an error shows it: on one line, and cut where it is long."""
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
