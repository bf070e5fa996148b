"""The names of a ResNet's tensors: torchvision's to Detectron2's and back.

A total function: each key is renamed, dropped by a named rule, or an error that names it; what comes out is compared,
names and shapes, with what the backbone needs. Values are never looked at or copied, only their ``shape`` is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pretrain.weights.resnet import BLOCKS, NORM_FIELDS, STEM_CHANNELS, Architecture, backbone_shapes

# torchvision -> Detectron2, whole parts of a name; both tables are read in both directions
STAGES = {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"}
BLOCK_PARTS = {
    "conv1": "conv1",
    "bn1": "conv1.norm",
    "conv2": "conv2",
    "bn2": "conv2.norm",
    "conv3": "conv3",
    "bn3": "conv3.norm",
    "downsample.0": "shortcut",
    "downsample.1": "shortcut.norm",
}
STEM_PARTS = {"conv1": "stem.conv1", "bn1": "stem.conv1.norm"}

# rule name -> pattern of the keys of a head or a memory of self-supervised training, inside or beside a network; each
# begins with a name that no backbone has at its top, so that no part of one can fall under it
TRAINING_ONLY = {
    "projection_head": r"projection_head\..+",  # SwAV, DeepCluster
    "prototypes": r"prototypes[0-9]*\..+",
    "projector": r"projector\..+",  # VICReg, Barlow Twins
    "predictor": r"predictor\..+",  # MoCo v3, SimSiam
    "classifier": r"classifier\..+",  # trained beside the network, on its features
    "queue": r"queue2?(_ptr)?",  # MoCo's negatives; DenseCL has two queues
    "fpn": r"fpn_(lateral|output)[2-5]\..+",  # ReSim trains a feature pyramid on the network
}

# rule name -> pattern of the whole key, in either naming
DROPPED = {
    "fc": re.compile(r"(stem\.)?fc\..+"),  # the classifier or projection head; Detectron2's own script makes it stem.fc
    "num_batches_tracked": re.compile(  # a counter of the norm layers that inference never reads
        r"(bn1|layer[1-4]\.[0-9]+\.(bn[123]|downsample\.1)"
        r"|stem\.conv1\.norm|res[2-5]\.[0-9]+\.(conv[123]|shortcut)\.norm)\.num_batches_tracked"
    ),
    **{name: re.compile(pattern) for name, pattern in TRAINING_ONLY.items()},
}
_ANY_DROPPED = re.compile("|".join(f"(?P<{name}>{pattern.pattern})" for name, pattern in DROPPED.items()))

# pattern of a key that only another kind of ResNet has -> which kind; all of them compute something else
OTHER_KINDS = (
    (re.compile(r"conv1\.[0-9]+\..+"), "a ResNet-D or ResNet-C stem (three 3x3 convolutions in place of one 7x7)"),
    (re.compile(r"(conv|bn)[23]\..+"), "a stem of three convolutions, as CLIP's"),
    (re.compile(r".+\.downsample\.2\..+"), "ResNet-D's shortcuts (average pooling, then a convolution)"),
    (re.compile(r".+\.(se|se_module|attn|eca)\..+"), "attention over channels (squeeze-and-excitation or its kin)"),
    (re.compile(r"(.+\.)?filt"), "blur pooling"),
    (re.compile(r".+\.(IN|BN)\..+"), "instance normalisation (IBN-Net)"),
)

CIFAR_STEM = "a CIFAR stem (3x3 convolution); Detectron2's is a 7x7 convolution of stride 2 and a pooling"


def _pattern(stages: Iterable[str], block_parts: Iterable[str], stem_parts: Iterable[str]) -> re.Pattern[str]:
    stage, part, stem = ("|".join(map(re.escape, names)) for names in (stages, block_parts, stem_parts))
    return re.compile(
        rf"(?:(?P<stem>{stem})|(?P<stage>{stage})\.(?P<block>0|[1-9][0-9]*)\.(?P<part>{part}))"
        rf"\.(?P<field>{'|'.join(NORM_FIELDS)})"
    )


_REVERSED_STAGES = {new: old for old, new in STAGES.items()}
_REVERSED_BLOCK_PARTS = {new: old for old, new in BLOCK_PARTS.items()}
_REVERSED_STEM_PARTS = {new: old for old, new in STEM_PARTS.items()}
_TORCHVISION_KEY = _pattern(STAGES, BLOCK_PARTS, STEM_PARTS)
_DETECTRON2_KEY = _pattern(_REVERSED_STAGES, _REVERSED_BLOCK_PARTS, _REVERSED_STEM_PARTS)


def dropped_by(key: str) -> str | None:
    """Return the name of the rule that drops ``key`` on purpose, or None."""
    match = _ANY_DROPPED.fullmatch(key)
    return match.lastgroup if match else None


def count_dropped(keys: Iterable[str]) -> dict[str, int]:
    """Return rule name -> how many of ``keys`` it drops (rules that drop none are left out)."""
    counts = dict.fromkeys(DROPPED, 0)
    for key in keys:
        if (rule := dropped_by(key)) is not None:
            counts[rule] += 1
    return {rule: count for rule, count in counts.items() if count}


def to_detectron2(key: str) -> str | None:
    """Return Detectron2's name for a torchvision ResNet key, or None where no rule renames it."""
    if not (match := _TORCHVISION_KEY.fullmatch(key)):
        return None
    if match["stem"]:
        return f"{STEM_PARTS[match['stem']]}.{match['field']}"
    return f"{STAGES[match['stage']]}.{match['block']}.{BLOCK_PARTS[match['part']]}.{match['field']}"


def to_torchvision(key: str) -> str | None:
    """Return torchvision's name for an unprefixed Detectron2 ResNet key, or None where no rule renames it."""
    if not (match := _DETECTRON2_KEY.fullmatch(key)):
        return None
    if match["stem"]:
        return f"{_REVERSED_STEM_PARTS[match['stem']]}.{match['field']}"
    stage, part = _REVERSED_STAGES[match["stage"]], _REVERSED_BLOCK_PARTS[match["part"]]
    return f"{stage}.{match['block']}.{part}.{match['field']}"


def convert_state_dict(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backbone in Detectron2's names: ``stem.conv1.weight``, ``res2.0.conv1.norm.bias`` and so on.

    Args:
        state: a ResNet-18/34/50/101/152, ResNeXt or Wide ResNet in torchvision's names, without prefix; the classifier
            may be missing. Values are anything with a ``shape``; they go into the result as they are, and ``state`` is
            left alone.

    Raises:
        ValueError: a key without a rule, a missing tensor, a wrong shape (with the reason, such as a CIFAR stem).
    """
    converted = {}
    for key, value in state.items():
        if dropped_by(key) is not None:
            continue
        name = to_detectron2(key)
        if name is None:
            kind = next((kind for pattern, kind in OTHER_KINDS if pattern.fullmatch(key)), None)
            raise ValueError(
                f"no rule for the key {key!r}"
                + (
                    f": {kind}; only plain ResNets are converted"
                    if kind
                    else "; expected torchvision's ResNet names such as 'layer1.0.conv1.weight'"
                )
            )
        converted[name] = value
    check_backbone(converted)
    return converted


def revert_state_dict(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return torchvision's names for a backbone in Detectron2's unprefixed names: the inverse of `convert_state_dict`.

    Raises:
        ValueError: a key without a rule, a missing tensor, a wrong shape.
    """
    kept = {key: value for key, value in state.items() if dropped_by(key) is None}
    reverted = {}
    for key, value in kept.items():
        name = to_torchvision(key)
        if name is None:
            raise ValueError(
                f"no rule for the key {key!r}; expected Detectron2's ResNet names such as 'res2.0.conv1.weight'"
            )
        reverted[name] = value
    check_backbone(kept)
    return reverted


def recognise_depth(names: Iterable[str]) -> int:
    """Return the depth of the ResNet that consists of exactly ``names``, unprefixed names of Detectron2.

    Raises:
        ValueError: no depth has these names; the nearest depth and what it lacks or does not know are named.
    """
    names = set(names)
    nearest = min(BLOCKS, key=lambda depth: len(backbone_shapes(Architecture(depth)).keys() ^ names))
    expected = backbone_shapes(Architecture(nearest)).keys()
    missing, unknown = sorted(expected - names), sorted(names - expected)
    if missing or unknown:
        faults = [f"{what} {_some(keys)}" for what, keys in (("lacks", missing), ("has in excess", unknown)) if keys]
        statistics = any(name.endswith(".running_mean") for name in names)
        reason = "" if statistics else ": norm layers without running statistics, such as GroupNorm"
        raise ValueError(f"not a whole ResNet: compared with ResNet-{nearest} the file {' and '.join(faults)}{reason}")
    return nearest


def check_backbone(state: Mapping[str, Any]) -> Architecture:
    """Check names and shapes of a backbone in Detectron2's unprefixed names; returns what it is.

    Raises:
        ValueError: a missing or unknown tensor, or a shape that no such ResNet has, with the reason.
    """
    architecture = _recognise(state, recognise_depth(state))
    for name, shape in backbone_shapes(architecture).items():
        found = tuple(state[name].shape)
        if found != shape:
            raise ValueError(
                f"{to_torchvision(name)} ({name}) has shape {found}, {architecture.name} needs {shape}"
                f"{_reason(state, name)}"
            )
    return architecture


def _recognise(state: Mapping[str, Any], depth: int) -> Architecture:
    """Return the architecture of which stem and first block have their shapes; the plain one where there is none."""
    stem, inner = (tuple(state[name].shape) for name in ("stem.conv1.weight", "res2.0.conv2.weight"))
    plain = Architecture(depth)
    if plain.basic or len(stem) != 4 or len(inner) != 4 or 0 in stem + inner:
        return plain
    # (channels out, channels in of one group, 3, 3)
    found = Architecture(depth, inner[0] // inner[1], inner[1], max(1, stem[0] // STEM_CHANNELS))
    return found if found.fault() is None else plain


def _reason(state: Mapping[str, Any], name: str) -> str:
    """Say which kind of network the first wrong shape points to; empty where it points to none in particular."""
    stem = tuple(state["stem.conv1.weight"].shape)
    if name == "stem.conv1.weight" and len(stem) == 4:
        if stem[2:] == (3, 3):
            return f": {CIFAR_STEM}"
        if stem[1] != 3:
            return f": a network for pictures of {stem[1]} channel{'s' if stem[1] > 1 else ''}; detection reads 3"
    return ""


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"
