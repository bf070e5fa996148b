"""The card of a converted backbone: where it comes from, and the preprocessing that it needs.

Wrong preprocessing or stride placement raises no error anywhere; detection merely gets worse. So the backbone carries
what is right, and fine-tuning refuses a config that says otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.run.run_folder import package_versions
from pretrain.run.settings import get_value
from pretrain.weights.resnet import BASIC_DEPTHS, stage_channels

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


def make_card(network: Network, depth: int, *, source: Path, source_sha256: str) -> dict[str, Any]:
    """Return the card of ``network``, of ``depth``, in plain values that JSON and safe loading take; None = not known.

    Raises:
        ValueError: the file says that its network is another one than its tensors show, or its numbers are no mean, std
            or accuracy.
    """
    known = _inherited(network.metadata)
    arch = known.get("arch")
    base = re.sub(r"^tv_|\..*$", "", arch) if isinstance(arch, str) else None  # timm: tv_resnet50, resnet50.a1_in1k
    if base not in (None, "resnet", f"resnet{depth}"):
        raise ValueError(
            f"the file says arch {arch!r}, its tensors are those of a plain resnet{depth}: networks "
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
        "method": known.get("method"),
        "recipe": known.get("config"),  # the pretraining config, YAML
        "top1": None if network.ema else top1,  # the file's figures are those of the weights that were trained
        "top5": None if network.ema else top5,
        "channel_order": "RGB",
        "pixel_mean": _three_numbers(known.get("pixel_mean", PIXEL_MEAN), "pixel_mean"),
        "pixel_std": _three_numbers(known.get("pixel_std", PIXEL_STD), "pixel_std"),
        "stride_in_1x1": False,
        "norm_eps": NORM_EPS,
        "res2_out_channels": stage_channels(depth)[0],
        "verification": None,
    }


def check_card(card: Mapping[str, Any], cfg: CfgNode) -> None:
    """Check that a detection config treats the backbone as its card says.

    Raises:
        ValueError: the first contradiction: config key, the card's value and the config's; or a card that lacks a key.
    """
    for name, key in CONFIG_KEYS.items():
        if name not in card:
            raise ValueError(f"the backbone's card lacks {name!r}; convert it again with tools/convert_checkpoint.py")
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
        raise ValueError(f"the file's card is {card!r}; expected a dict")
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
            raise ValueError(f"{name} in the file is {value!r}; expected percent, 0 to 100")
        return 100.0 - value if name == error else float(value)
    return None


def _three_numbers(values: Any, name: str) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or (name == "pixel_std" and min(numbers) <= 0):
        raise ValueError(
            f"{name} in the file is {values!r}; expected three numbers for red, green and blue, of 0..255 pixels"
        )
    return numbers
