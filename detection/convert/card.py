"""The card of a converted backbone: where it comes from, and the preprocessing that it needs.

Wrong preprocessing or stride placement raises no error anywhere; detection merely gets worse. So the backbone carries
what is right, and fine-tuning refuses a config that says otherwise.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.run.run_folder import package_versions
from pretrain.run.settings import Rule, get_value, is_number
from pretrain.weights.resnet import BASIC_DEPTHS, BLOCKS, stage_channels

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from pretrain.weights.networks import Network

# torchvision's ImageNet statistics, RGB, for pixels in 0..255
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
NORM_EPS = 1e-5  # of torchvision's BatchNorm2d and of Detectron2's FrozenBatchNorm2d; neither engine lets it be set

TOOLKIT = "detection-transfer-toolkit"

# card key -> the key of the detection config that must agree with it
CONFIG_KEYS = {
    "channel_order": "INPUT.FORMAT",
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
    "stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
    "depth": "MODEL.RESNETS.DEPTH",
    "res2_out_channels": "MODEL.RESNETS.RES2_OUT_CHANNELS",
}

CHANNEL_ORDERS = ("RGB", "BGR")
MAX_SHOWN = 80  # characters of a value from a file, in an error

_THREE = Rule(
    lambda value: isinstance(value, (list, tuple)) and len(value) == 3 and all(map(is_number, value)), "three numbers"
)
# what a card's values must be, whoever wrote the file
_CARD_RULES = {
    "channel_order": Rule(lambda value: value in CHANNEL_ORDERS, "RGB or BGR"),
    "pixel_mean": _THREE,
    "pixel_std": _THREE,
    "stride_in_1x1": Rule(lambda value: isinstance(value, bool), "True or False"),
    "depth": Rule(lambda value: type(value) is int and value in BLOCKS, f"one of {', '.join(map(str, BLOCKS))}"),
    "res2_out_channels": Rule(lambda value: type(value) is int, "a whole number"),
}


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


def make_card(
    network: Network,
    depth: int,
    *,
    source: Path,
    source_sha256: str,
    said: Preprocessing = NOTHING_SAID,
) -> dict[str, Any]:
    """Return the card of ``network``, of ``depth``, in plain values that JSON and safe loading take; None = not known.

    ``pixel_mean`` and ``pixel_std`` stand in the order of ``channel_order``, as Detectron2 has it.

    Raises:
        ValueError: the file says that its network is another one than its tensors show, its numbers are no mean, std
            or accuracy, or ``said`` contradicts it or is no preprocessing.
    """
    known = _inherited(network.metadata)
    arch = known.get("arch")
    if not (arch is None or isinstance(arch, str)):
        raise ValueError(f"arch in the file is {brief(arch)}; expected text")
    base = re.sub(r"^tv_|\..*$", "", arch) if arch is not None else None  # timm: tv_resnet50, resnet50.a1_in1k
    if base not in (None, "resnet", f"resnet{depth}"):
        raise ValueError(
            f"the file says arch {brief(arch)}, its tensors are those of a plain resnet{depth}: networks "
            "such as resnetaa50 share the tensors but compute something else, so nothing is converted"
        )
    top1, top5 = _accuracy(known, "top1", "best_err1", "best_acc1"), _accuracy(known, "top5", "best_err5", None)
    return {
        "tool": " ".join((TOOLKIT, package_versions((TOOLKIT,))[TOOLKIT])),
        "source": source.name,
        "source_sha256": source_sha256,
        "source_prefix": network.prefix,
        "ema": network.ema,
        "arch": f"resnet{depth}",
        "depth": depth,
        "num_classes": _num_classes(network.state),
        "method": _record(known.get("method")),
        "recipe": _record(known.get("config")),  # the pretraining config, YAML
        "top1": None if network.ema else top1,  # the file's figures are those of the weights that were trained
        "top5": None if network.ema else top5,
        **_preprocessing(known, said, depth),
        "norm_eps": NORM_EPS,
        "res2_out_channels": stage_channels(depth)[0],
        "verification": None,
    }


def assumptions(network: Network, depth: int, said: Preprocessing) -> str | None:
    """Return a sentence on what is taken for granted of a source, or None where its file or ``said`` says it all."""
    known = _inherited(network.metadata)
    whole = known.get("pixel_mean") is not None and known.get("pixel_std") is not None  # a file of this toolkit
    taken = []
    if not whole and known.get("channel_order") is None and said.channel_order is None:
        taken.append("to read RGB (--channel-order)")
    statistics = [
        f"{name[6:]} {' '.join(map(str, values))} (--{name.replace('_', '-')})"
        for name, values in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD))
        if known.get(name) is None and getattr(said, name) is None
    ]
    if statistics:
        taken.append(f"with {' and '.join(statistics)}")
    if not whole and known.get("stride_in_1x1") is None and said.stride_in_1x1 is None and depth not in BASIC_DEPTHS:
        taken.append("to stride in its 3x3 convolutions (--stride-in-1x1)")
    if taken and known.get("arch") is None:
        taken.append("and to be plain (without blur pooling, for example)")
    if not taken:
        return None
    return f"the source has no card: taken {', '.join(taken)}; its tensors cannot show that"


def in_rgb(card: Mapping[str, Any], key: str) -> list[float]:
    """Return a card's ``pixel_mean`` or ``pixel_std`` in the order red, green, blue."""
    return card[key] if card["channel_order"] == "RGB" else card[key][::-1]


def check_card(card: Mapping[str, Any], cfg: CfgNode) -> None:
    """Check that a detection config treats the backbone as its card says.

    Raises:
        ValueError: the first contradiction: config key, the card's value and the config's; or a card that lacks a key.
    """
    for name, key in CONFIG_KEYS.items():
        if name not in card:
            raise ValueError(f"the backbone's card lacks {name!r}; convert it again with tools/convert_checkpoint.py")
        if not _CARD_RULES[name].holds(card[name]):
            raise ValueError(
                f"the backbone's card says {name} {brief(card[name])}; expected {_CARD_RULES[name].expected}; "
                "convert it again with tools/convert_checkpoint.py"
            )
        configured = get_value(cfg, key)
        if not _same(card[name], configured):
            raise ValueError(
                f"{key} is {_shown(configured)} in the config, but the backbone's card says "
                f"{_shown(card[name])}; set {key} {_quoted(card[name])}"
            )


def load_card(weights: Path | str) -> dict[str, Any] | None:
    """Return the card inside a weights file, or None where the file has none.

    Raises:
        FileNotFoundError, ValueError: as `pretrain.weights.files.read_weights`.
    """
    from pretrain.weights.files import read_weights

    content = read_weights(weights)
    return content.get("card") if isinstance(content, dict) else None


def yaml_fragment(card: Mapping[str, Any], weights: Path | str) -> str:
    """Return the part of a detection config that fits the backbone."""
    basic = card["depth"] in BASIC_DEPTHS
    return "\n".join(
        [
            "MODEL:",
            f'  WEIGHTS: "{weights}"',
            f"  PIXEL_MEAN: {_shown(card['pixel_mean'])}",
            f"  PIXEL_STD: {_shown(card['pixel_std'])}",
            "  RESNETS:",
            f"    DEPTH: {card['depth']}",
            f"    STRIDE_IN_1X1: {card['stride_in_1x1']}",
            f"    RES2_OUT_CHANNELS: {card['res2_out_channels']}"
            + ("  # FPN only: the C4 head's res5 is built of bottleneck blocks" if basic else ""),
            "INPUT:",
            f'  FORMAT: "{card["channel_order"]}"',
        ]
    )


def _same(card_value: Any, configured: Any) -> bool:
    if isinstance(card_value, (list, tuple)):
        return len(card_value) == len(configured) and all(
            math.isclose(mine, theirs, rel_tol=1e-6, abs_tol=1e-6)
            for mine, theirs in zip(card_value, configured, strict=True)
        )
    return card_value == configured


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, (list, tuple)) else repr(value)


def _quoted(value: Any) -> str:
    return f'"{_shown(value)}"' if isinstance(value, (list, tuple)) else str(value)


def _inherited(known: dict[str, Any]) -> dict[str, Any]:
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


def _num_classes(state: Mapping[str, Any]) -> int | None:
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


def _preprocessing(known: Mapping[str, Any], said: Preprocessing, depth: int) -> dict[str, Any]:
    """Return the four entries of a card that the file or the user says, or that are usual."""
    order, stride = said.channel_order, said.stride_in_1x1
    if order not in (None, *CHANNEL_ORDERS):
        raise ValueError(f"--channel-order is {order!r}; expected RGB or BGR")
    if stride and depth in BASIC_DEPTHS:
        raise ValueError(f"--stride-in-1x1, but the blocks of a ResNet-{depth} have no 1x1 convolution")
    values: dict[str, Any] = {}
    for name, usual in (
        ("channel_order", "RGB"),
        ("pixel_mean", PIXEL_MEAN),
        ("pixel_std", PIXEL_STD),
        ("stride_in_1x1", False),
    ):
        of_user, of_file = getattr(said, name), known.get(name)
        option = f"--{name.replace('_', '-')}"
        if name.startswith("pixel"):
            of_user = None if of_user is None else _three_numbers(of_user, name, f"{option} is")
            of_file = None if of_file is None else _three_numbers(of_file, name, f"{name} in the file is")
        if of_user is not None and of_file is not None and not _same(of_user, of_file):
            raise ValueError(f"{option} says {of_user!r}, the file {of_file!r}")
        values[name] = next(value for value in (of_user, of_file, usual) if value is not None)
    for name in ("pixel_mean", "pixel_std"):
        values[name] = list(values[name])[:: 1 if values["channel_order"] == "RGB" else -1]
    return values


def _three_numbers(values: Any, name: str, whose: str) -> list[float]:
    """Return three numbers for 0..255 pixels; no mean is within 0..1 there but 0 itself, and no std below 1."""
    least = 1 if name == "pixel_std" else 0
    good = _THREE.holds(values) and all(least <= value <= 255 for value in values)
    if not good or (name == "pixel_mean" and 0 < max(values) <= 1):
        raise ValueError(
            f"{whose} {brief(values)}; expected three numbers for red, green and blue, of 0..255 pixels "
            "(those of 0..1 times 255)"
        )
    return [float(value) for value in values]


def _record(value: Any) -> Any:
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
