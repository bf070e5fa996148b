"""Tensor names at the edge: Detectron2's in files and reports, torchvision's parts inside the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretrain.weights.namings import to_detectron2

COUNTER = "num_batches_tracked"  # of BatchNorm: nothing reads it, and converted backbones come without it


class LoadReport(NamedTuple):
    """What became of a state dict, sorted: ``loaded`` and ``missing`` in the model's names, ``unexpected`` as given.

    The model's names are Detectron2's, with their prefix. BatchNorm's step counters are loaded where both sides have
    them and never listed.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def _resnet(key: str) -> str:
    """Return Detectron2's name for a key of torchvision's ResNet; a counter stands beside its layer's mean."""
    layer, _, field = key.rpartition(".")
    name = to_detectron2(f"{layer}.running_mean" if field == COUNTER else key)
    assert name is not None, key
    return name.removesuffix("running_mean") + COUNTER if field == COUNTER else name


# (pattern of the whole key inside, Detectron2's key); a key that no pattern fits has the same name on both sides
RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"backbone\.body\.(.+)", lambda m: f"backbone.{_resnet(m[1])}"),
        (r"backbone\.bottom_up\.(.+)", lambda m: f"backbone.bottom_up.{_resnet(m[1])}"),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.(.+)", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}.{m[2]}"),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.(.+)", lambda m: f"backbone.fpn_output{int(m[1]) + 2}.{m[2]}"),
        (r"(proposal_generator\.rpn_head)\.conv\.0\.0\.(.+)", lambda m: f"{m[1]}.conv.{m[2]}"),
        (r"(proposal_generator\.rpn_head)\.cls_logits\.(.+)", lambda m: f"{m[1]}.objectness_logits.{m[2]}"),
        (r"(proposal_generator\.rpn_head)\.bbox_pred\.(.+)", lambda m: f"{m[1]}.anchor_deltas.{m[2]}"),
        (r"roi_heads\.box_head\.res5\.norm\.(.+)", lambda m: f"roi_heads.res5.norm.{m[1]}"),
        (r"roi_heads\.box_head\.res5\.(.+)", lambda m: f"roi_heads.{_resnet(f'layer4.{m[1]}')}"),
    )
)


def detectron2_name(key: str) -> str:
    """Return Detectron2's name for a key of the model's own state dict."""
    for pattern, name in RULES:
        if match := pattern.fullmatch(key):
            return name(match)
    return key


def load(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> LoadReport:
    """Copy ``state`` into ``tensors``, the model's own, both by Detectron2's names; nothing is copied after an error.

    Args:
        tensors: name -> tensor to fill in place.
        state: name -> tensor or NumPy array. A backbone's names may come without prefix (``stem.*``, ``res2.*`` ..
            ``res5.*``); they go to the backbone, and res5 of a C4 model to the RoI heads.

    Raises:
        ValueError: nothing in ``state`` fits, a wrong shape, a value without a shape, two values for one tensor.
    """
    found: dict[str, str] = {}  # the model's name -> the file's
    unexpected = []
    for given in state:
        name = _full_name(given, tensors)
        if name is None:
            unexpected.append(given)
        elif name in found:
            raise ValueError(f"the weights hold {name} twice, as {found[name]} and as {given}")
        else:
            found[name] = given
    if not found:
        examples = ", ".join(list(state)[:3]) or "an empty state dict"
        raise ValueError(
            f"none of the weights' names is a Detectron2 name of this model ({examples}); expected names "
            "such as 'stem.conv1.weight'; tools/convert_checkpoint.py converts classification checkpoints"
        )
    for name, given in found.items():
        _check_shape(given, state[given], tensors[name])
    with torch.no_grad():
        for name, given in found.items():
            tensors[name].copy_(torch.as_tensor(state[given]))
    return LoadReport(_listed(found), _listed(tensors.keys() - found.keys()), _listed(unexpected))


def _full_name(given: str, names: Mapping[str, Any]) -> str | None:
    """Return the model's name for a file's name, or None where the model has none."""
    prefixes = ("", "backbone.bottom_up.", "backbone.", "roi_heads.")
    return next((prefix + given for prefix in prefixes if prefix + given in names), None)


def _check_shape(given: str, value: Any, target: Tensor) -> None:
    if not hasattr(value, "shape"):
        raise ValueError(f"{given} is a {type(value).__name__}; expected a tensor of shape {tuple(target.shape)}")
    if tuple(value.shape) != tuple(target.shape):
        raise ValueError(
            f"{given} has shape {tuple(value.shape)}, but the model needs {tuple(target.shape)}; "
            "the config's depth, number of classes or heads are not those of the weights"
        )


def _listed(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if not name.endswith(f".{COUNTER}")))
