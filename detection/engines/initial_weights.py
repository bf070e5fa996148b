"""Initial weights that both engines start from: a function of the seed and of Detectron2's tensor names.

The engines create their layers in different orders, so drawing as each layer is made would give one seed two meanings.
Here every tensor is drawn again, in the order of the names, from the distribution that Detectron2 gives it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Draw = Callable[[Tensor, torch.Generator], Tensor]


def _normal(std: float) -> Draw:
    return lambda tensor, generator: nn.init.normal_(tensor, std=std, generator=generator)


def _zeros(tensor: Tensor, _generator: torch.Generator) -> Tensor:
    return tensor.zero_()


def _kaiming_uniform(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return nn.init.kaiming_uniform_(tensor, a=1, generator=generator)  # Caffe2's "Xavier" fill


def _kaiming_normal(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return nn.init.kaiming_normal_(tensor, mode="fan_out", nonlinearity="relu", generator=generator)


# the first pattern that fits the whole name; norms and counters fit none: they start at 0 or 1 in both engines
DISTRIBUTIONS: tuple[tuple[re.Pattern[str], Draw], ...] = tuple(
    (re.compile(pattern), draw)
    for pattern, draw in (
        (r"(proposal_generator\.rpn_head|roi_heads\.box_predictor)\.\w+\.bias", _zeros),
        (r"(backbone\.fpn_(lateral|output)\d|roi_heads\.box_head\.fc\d+)\.bias", _zeros),
        (r"proposal_generator\.rpn_head\.\w+\.weight", _normal(0.01)),
        (r"roi_heads\.box_predictor\.cls_score\.weight", _normal(0.01)),
        (r"roi_heads\.box_predictor\.bbox_pred\.weight", _normal(0.001)),
        (r"backbone\.fpn_(lateral|output)\d\.weight|roi_heads\.box_head\.fc\d+\.weight", _kaiming_uniform),
        (r"(backbone|roi_heads)\.(.+\.)?(conv\d|shortcut)\.weight", _kaiming_normal),
    )
)


def draw_initial_weights(tensors: Mapping[str, Tensor], seed: int) -> None:
    """Fill ``tensors`` (Detectron2's name -> a model's own tensor, on any device) in place; no other generator moves.

    Raises:
        ValueError: a convolution or linear layer whose distribution is unknown.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(tensors):
            draw = next((draw for pattern, draw in DISTRIBUTIONS if pattern.fullmatch(name)), None)
            if draw is not None:
                tensors[name].copy_(draw(torch.empty(tensors[name].shape), generator))
            elif tensors[name].dim() > 1:
                raise ValueError(f"no initial distribution is known for {name}")
