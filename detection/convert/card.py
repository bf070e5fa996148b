"""The card of a converted backbone: where it comes from, and the preprocessing that it needs.

Wrong preprocessing or stride placement raises no error anywhere; detection merely gets worse. So the backbone carries
what is right, and fine-tuning refuses a config that says otherwise.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.run.run_folder import package_versions
from pretrain.run.settings import Rule, get_value
from pretrain.weights.description import (
    CHANNEL_ORDERS,
    NOTHING_SAID,
    PIXEL_MEAN,
    PIXEL_STD,
    THREE_NUMBERS,
    Preprocessing,
    accuracies,
    brief,
    check_arch,
    inherited,
    num_classes,
    preprocessing,
    record,
    same,
    usual_reading,
)
from pretrain.weights.resnet import BLOCKS, PLAIN_WIDTH, STEM_CHANNELS, Architecture

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from pretrain.weights.networks import Network

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
    "num_groups": "MODEL.RESNETS.NUM_GROUPS",
    "width_per_group": "MODEL.RESNETS.WIDTH_PER_GROUP",
    "stem_out_channels": "MODEL.RESNETS.STEM_OUT_CHANNELS",
}
# what cards did not say when there were only plain ResNets
SINCE_THEN = {"num_groups": 1, "width_per_group": PLAIN_WIDTH, "stem_out_channels": STEM_CHANNELS}

# what a card's values must be, whoever wrote the file
_CARD_RULES = {
    "channel_order": Rule(lambda value: value in CHANNEL_ORDERS, "RGB or BGR"),
    "pixel_mean": THREE_NUMBERS,
    "pixel_std": THREE_NUMBERS,
    "stride_in_1x1": Rule(lambda value: isinstance(value, bool), "True or False"),
    "depth": Rule(lambda value: type(value) is int and value in BLOCKS, f"one of {', '.join(map(str, BLOCKS))}"),
    **dict.fromkeys(("res2_out_channels", *SINCE_THEN), Rule(lambda value: type(value) is int, "a whole number")),
}


def make_card(
    network: Network,
    architecture: Architecture,
    *,
    source: Path,
    source_sha256: str,
    said: Preprocessing = NOTHING_SAID,
) -> dict[str, Any]:
    """Return the card of ``network``, an ``architecture``, in plain values for JSON and safe loading; None = not known.

    ``pixel_mean`` and ``pixel_std`` stand in the order of ``channel_order``, as Detectron2 has it.

    Raises:
        ValueError: the file says that its network is another one than its tensors show, its numbers are no mean, std
            or accuracy, or ``said`` contradicts it or is no preprocessing.
    """
    known = inherited(network.metadata)
    check_arch(known, architecture)
    top1, top5 = accuracies(known)
    return {
        "tool": " ".join((TOOLKIT, package_versions((TOOLKIT,))[TOOLKIT])),
        "source": source.name,
        "source_sha256": source_sha256,
        "source_prefix": network.prefix,
        "ema": network.ema,
        "arch": architecture.name,
        "depth": architecture.depth,
        "num_classes": num_classes(network.state),
        "method": record(known.get("method")),
        "recipe": record(known.get("config")),  # the pretraining config, YAML
        "top1": None if network.ema else top1,  # the file's figures are those of the weights that were trained
        "top5": None if network.ema else top5,
        **preprocessing(known, said, architecture, usual_reading(network)),
        "norm_eps": NORM_EPS,
        **_widths(architecture),
        "verification": None,
    }


def _widths(architecture: Architecture) -> dict[str, int]:
    return {name: getattr(architecture, name) for name in ("res2_out_channels", *SINCE_THEN)}


def architecture_of(card: Mapping[str, Any]) -> Architecture:
    """Return what a card says of its network's shape."""
    card = {**SINCE_THEN, **card}
    widen = card["stem_out_channels"] // STEM_CHANNELS
    return Architecture(card["depth"], card["num_groups"], card["width_per_group"], widen)


def in_rgb(card: Mapping[str, Any], key: str) -> list[float]:
    """Return a card's ``pixel_mean`` or ``pixel_std`` in the order red, green, blue."""
    return card[key] if card["channel_order"] == "RGB" else card[key][::-1]


def check_card(card: Mapping[str, Any], cfg: CfgNode) -> None:
    """Check that a detection config treats the backbone as its card says.

    Raises:
        ValueError: the first contradiction: config key, the card's value and the config's; or a card that lacks a key.
    """
    card = {**SINCE_THEN, **card}
    for name, key in CONFIG_KEYS.items():
        if name not in card:
            raise ValueError(f"the backbone's card lacks {name!r}; convert it again with tools/convert_checkpoint.py")
        if not _CARD_RULES[name].holds(card[name]):
            raise ValueError(
                f"the backbone's card says {name} {brief(card[name])}; expected {_CARD_RULES[name].expected}; "
                "convert it again with tools/convert_checkpoint.py"
            )
        configured = get_value(cfg, key)
        if not same(card[name], configured):
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
    basic = architecture_of(card).basic
    return "\n".join(
        [
            "MODEL:",
            f'  WEIGHTS: "{weights}"',
            f"  PIXEL_MEAN: {_shown(card['pixel_mean'])}",
            f"  PIXEL_STD: {_shown(card['pixel_std'])}",
            "  RESNETS:",
            f"    DEPTH: {card['depth']}",
            f"    STRIDE_IN_1X1: {card['stride_in_1x1']}",
            f"    NUM_GROUPS: {card['num_groups']}",
            f"    WIDTH_PER_GROUP: {card['width_per_group']}",
            f"    STEM_OUT_CHANNELS: {card['stem_out_channels']}",
            f"    RES2_OUT_CHANNELS: {card['res2_out_channels']}"
            + ("  # FPN only: the C4 head's res5 is built of bottleneck blocks" if basic else ""),
            "INPUT:",
            f'  FORMAT: "{card["channel_order"]}"',
        ]
    )


def next_command(card: Mapping[str, Any], weights: Path | str) -> str:
    """Return the command that fine-tunes the backbone under the paper's schedule, with the keys that it needs set."""
    config = f"detection/configs/voc_r50_{'fpn' if architecture_of(card).basic else 'c4'}_paper.yaml"
    usual = {
        "channel_order": "RGB",
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "stride_in_1x1": False,
        "depth": 50,
        **_widths(Architecture(50)),
    }
    pairs = [f"{key} {_quoted(card[name])}" for name, key in CONFIG_KEYS.items() if not same(card[name], usual[name])]
    words = ["MODEL.WEIGHTS", shlex.quote(str(weights)), *pairs, "VOC.ROOT", "/data/VOCdevkit"]
    return f"python tools/train_net.py --config-file {config} \\\n    {' '.join(words)}"


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, (list, tuple)) else repr(value)


def _quoted(value: Any) -> str:
    return f'"{_shown(value)}"' if isinstance(value, (list, tuple)) else str(value)
