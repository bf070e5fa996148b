"""How programs that train ResNets lay out their files: the written rules by which the network in one is found.

Each rule names the program whose file shows it. A rule is about names of keys; `networks` matches whole sets of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from pretrain.weights.namings import TRAINING_ONLY


class Preference(NamedTuple):
    """Of two whole networks whose places differ in ``taken`` and ``left``, the first is meant."""

    taken: str
    left: str
    why: str


_LIGHTLY = "lightly's benchmarks evaluate backbone"
PREFERRED = tuple(
    Preference(*rule)
    for rule in (
        ("encoder_q.", "encoder_k.", "MoCo trains encoder_q, and encoder_k is its moving average"),
        (
            "base_encoder.",
            "momentum_encoder.",
            "MoCo v3 trains base_encoder, and momentum_encoder is its moving average",
        ),
        ("encoder.", "encoder_k.", "PixPro trains encoder, and encoder_k is its moving average"),
        ("backbone.", "momentum_backbone.", "solo-learn trains backbone, and momentum_backbone is its moving average"),
        ("backbone.", "encoder_k.module.0.", "mmselfsup trains backbone, and encoder_k is its moving average"),
        ("backbone.", "target_net.module.0.", "mmselfsup trains backbone, and target_net is its moving average"),
        ("backbone.", "student_backbone.", _LIGHTLY),
        ("backbone.", "teacher_backbone.", _LIGHTLY),
        ("backbone.", "query_backbone.", _LIGHTLY),
        ("teacher.module.backbone.", "student.module.backbone.", "DINO evaluates the teacher, its moving average"),
    )
)

# Children of torchvision's ResNet by their places: nn.Sequential(*resnet.children()) has numbers for names. 2, 3 and 8
# (ReLU and the two poolings) have no tensors.
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}
NUMBERED_ANCHOR = "4.0.conv1.weight"
# lightly's ResNetGenerator, which has the stem for CIFAR, has no poolings among its children
LIGHTLYS_ANCHOR = "2.0.conv1.weight"

# what torch.nn.DataParallel, Lightning and torch.compile put before the names, in any order
_WRAPPERS = r"((module|model|_orig_mod)\.)*"
# a head has as many copies as its network: the moving average's, the other branch's
_HEAD = r"((online|momentum|student|teacher|query)_)?{}(_instance)?(_k)?\..+"
_HEADS = {
    "projection_head": "projection_head",
    "prediction_head": "prediction_head",  # lightly
    "prototypes": "prototypes[0-9]*",
    "projector": "projector",
    "maps_projector": "maps_projector",  # VICRegL
    "predictor": "predictor",
    "classifier": "classifier",
    "value_transform": "value_transform",  # PixPro
    "head": "head(_jig)?",  # DINO, mmpretrain, PyContrast
}

# rule name -> pattern of keys beside a network that are dropped on purpose
DROPPED_BESIDE = {
    **{
        rule: re.compile(_WRAPPERS + pattern)
        for rule, pattern in {
            **TRAINING_ONLY,
            **{rule: _HEAD.format(name) for rule, name in _HEADS.items()},
            "neck": r"neck\..+|(encoder_[qk]|online_net|target_net)(\.module)?\.1\..+",  # mmselfsup, OpenSelfSup
            "jigsaw": r"jigsaw\..+",  # PIRL
            "criterion": r"criterion\..+",  # lightly's losses have a centre or a memory
            "data_preprocessor": r"data_preprocessor\..+",  # mmengine
            "embedding_norm": r"bn\.(running_mean|running_var|num_batches_tracked)",  # Barlow Twins
            "steps": r"(encoder_k|target_net)\.steps",  # mmengine's counter of an average
        }.items()
    },
    "n_averaged": re.compile(r"n_averaged"),  # the counter of torch.optim.swa_utils.AveragedModel
    "detector": re.compile(  # the rest of a Faster R-CNN around its backbone
        r"proposal_generator\..+|roi_heads\.(box_head|box_predictor|res5\.norm)\..+|backbone\.fpn_(lateral|output)\d\..+"
        r"|pixel_mean|pixel_std"
    ),
}


class Program(NamedTuple):
    """A program that is known by the rules that drop keys inside its network, and how it normalises pictures.

    ``pixel_mean`` and ``pixel_std`` are red, green, blue, of 0..255 pixels; None where they are torchvision's.
    """

    title: str
    rules: frozenset[str]
    pixel_mean: tuple[float, float, float] | None
    pixel_std: tuple[float, float, float] | None


PROGRAMS = (
    Program(
        "SwAV (DeepCluster-v2, SeLa-v2)",
        frozenset({"projection_head", "prototypes"}),
        None,
        (58.14, 57.12, 57.375),  # 255 times .228 .224 .225, in its src/multicropdataset.py
    ),
)


def program_of(dropped: Mapping[str, int]) -> Program | None:
    """Return the program whose file a network comes from, by the rules that drop keys inside it."""
    return next((program for program in PROGRAMS if program.rules <= dropped.keys()), None)


def dropping_rule(key: str) -> str | None:
    """Return the name of the rule that drops ``key`` beside a network, or None."""
    return next((name for name, pattern in DROPPED_BESIDE.items() if pattern.fullmatch(key)), None)


def left_for(place: str) -> dict[str, str]:
    """Return the places of the networks that are left where there is one at ``place`` -> why."""
    found = {}
    for rule in PREFERRED:
        rival, replaced = re.subn(rf"(?<![^.]){re.escape(rule.taken)}", rule.left, place)
        if replaced:
            found[rival] = f"{rule.taken} taken rather than {rule.left}: {rule.why}"
    return found


def by_name(keys: Collection[str], prefix: str) -> dict[str, str]:
    """Return torchvision's name -> key of what lies under ``prefix`` by number; a number of no child stays."""
    named = {}
    for key in keys:
        if key.startswith(prefix) and (match := re.match(r"([0-9]+)\.", key[len(prefix) :])):
            named[f"{CHILDREN.get(match[1], match[1])}.{key[len(prefix) + match.end() :]}"] = key
    return named
