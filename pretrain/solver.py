"""The optimiser and its learning rate, as the SOLVER keys say."""

from __future__ import annotations

import math

import torch
from fvcore.common.config import CfgNode
from torch import nn

NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(cfg: CfgNode, network: nn.Module, device: torch.device) -> torch.optim.SGD:
    """Return SGD over the parameters of ``network``, which is on ``device``, in a group for each weight decay.

    The first group has the decay of the first parameter, and so on; within one they keep the network's order.
    """
    solver = cfg.SOLVER
    groups: dict[float, list[nn.Parameter]] = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            decay = None
            if isinstance(module, NORM_LAYERS):
                decay = solver.WEIGHT_DECAY_NORM
            elif name == "bias":
                decay = solver.WEIGHT_DECAY_BIAS
            groups.setdefault(float(solver.WEIGHT_DECAY if decay is None else decay), []).append(parameter)
    fused = device.type == "cuda"  # a few kernels, and float16 then waits for no number
    optimizer = torch.optim.SGD(
        [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()],
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        fused=fused or None,
    )
    if fused and solver.MOMENTUM:
        _begin_momentum(optimizer)
        optimizer.register_load_state_dict_post_hook(_begin_momentum)
    return optimizer


def _begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Let the momentum of parameters that have none begin at zero, which is what it begins at.

    PyTorch's fused SGD begins with memory as it finds it, and a first step that float16 leaves out (its scale is still
    too large) does not write to it: the next step adds whatever was there.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def learning_rate(cfg: CfgNode, iteration: int, epoch_iters: int) -> float:
    """Return the learning rate of the 0-based ``iteration``, an epoch having ``epoch_iters`` of them.

    SCHEDULE steps: times GAMMA from each of STEPS on. SCHEDULE cosine: half a cosine from the end of WARMUP_EPOCHS to 0
    at the end of the run. What goes by epochs is that of torchvision's reference: LinearLR, then CosineAnnealingLR.
    """
    solver, epoch = cfg.SOLVER, iteration // epoch_iters
    warmup = 1.0
    if solver.WARMUP_ITERS:
        warmup = min(1.0, (iteration + 1) / solver.WARMUP_ITERS)
    elif epoch < solver.WARMUP_EPOCHS:
        warmup = solver.WARMUP_FACTOR + (1 - solver.WARMUP_FACTOR) * epoch / solver.WARMUP_EPOCHS
    if solver.SCHEDULE == "cosine":
        done = max(0, epoch - solver.WARMUP_EPOCHS) / (solver.EPOCHS - solver.WARMUP_EPOCHS)
        decay = (1 + math.cos(math.pi * done)) / 2
    else:
        decay = solver.GAMMA ** sum(iteration >= step * epoch_iters for step in solver.STEPS)
    return solver.BASE_LR * warmup * decay
