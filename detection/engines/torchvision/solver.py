"""The optimiser, its learning rate and what happens to gradients, as Detectron2's SOLVER keys say."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from detection.engines.common import amp_dtype

NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)  # FrozenBN has no parameters


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.SGD:
    """Return SGD over the trainable parameters.

    Those of normalisation layers have a weight decay of their own, and biases (also theirs, where WEIGHT_DECAY_BIAS is
    set) another; each group's ``lr_factor`` multiplies the rate.
    """
    solver = cfg.SOLVER
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            decay, factor = solver.WEIGHT_DECAY, 1.0
            if isinstance(module, NORM_LAYERS):
                decay = solver.WEIGHT_DECAY_NORM
            if name == "bias":
                factor = solver.BIAS_LR_FACTOR
                if solver.WEIGHT_DECAY_BIAS is not None:
                    decay = float(solver.WEIGHT_DECAY_BIAS)
            groups.setdefault((decay, factor), []).append(parameter)
    return torch.optim.SGD(
        [{"params": params, "weight_decay": decay, "lr_factor": factor} for (decay, factor), params in groups.items()],
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group to ``lr`` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def learning_rate(solver: CfgNode, iteration: int) -> float:
    """Return the rate of the 0-based ``iteration`` as Detectron2's WarmupMultiStepLR has it.

    The rate is multiplied by GAMMA from each of STEPS on. During warm-up it grows linearly from WARMUP_FACTOR to what
    the schedule has at the end of the warm-up, which lies within the run even if WARMUP_ITERS does not.
    """

    def decay(at: int) -> float:
        return solver.GAMMA ** sum(step <= at for step in solver.STEPS)

    warmup = min(solver.WARMUP_ITERS, solver.MAX_ITER)
    if iteration >= warmup:
        return solver.BASE_LR * decay(iteration)
    share = iteration / warmup
    return solver.BASE_LR * (solver.WARMUP_FACTOR * (1 - share) + decay(warmup) * share)


class MixedPrecision:
    """SOLVER.AMP: forward in 16 bits, weights and gradients in 32. Switched off, every step is the plain one.

    float16, which "auto" takes on CUDA as Detectron2 does, comes with loss scaling; bfloat16 needs none.
    """

    def __init__(self, cfg: CfgNode):
        self.device_type = torch.device(cfg.MODEL.DEVICE).type
        self.enabled = cfg.SOLVER.AMP.ENABLED
        self.dtype = amp_dtype(cfg)
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.enabled and self.dtype == torch.float16)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from the scaler's state in a checkpoint, which is empty where a device or type did without scaling."""
        if state:
            self.scaler.load_state_dict(state)

    def forward(self) -> torch.autocast:
        """Return the context for the forward pass."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled)

    def backward(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Leave the gradients of ``loss`` in the parameters, at their true scale."""
        optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply the gradients; a step whose gradients overflowed is left out, and the scale lowered."""
        self.scaler.step(optimizer)
        self.scaler.update()


def clip_gradients(settings: CfgNode, model: nn.Module) -> None:
    """Clip in place, each parameter by itself, as SOLVER.CLIP_GRADIENTS (``settings``) says."""
    if not settings.ENABLED:
        return
    for parameter in model.parameters():
        if settings.CLIP_TYPE == "value":
            nn.utils.clip_grad_value_(parameter, settings.CLIP_VALUE)
        else:
            nn.utils.clip_grad_norm_(parameter, settings.CLIP_VALUE, settings.NORM_TYPE)
