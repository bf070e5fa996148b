"""The network and everything that changes with it, and what one iteration does to them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from pretrain.mixing import make_mixing
from pretrain.mixing.manifold_mixup import ManifoldMixup
from pretrain.models import build_model, set_progress
from pretrain.run.processes import Processes


class Learner:
    """Network, optimiser, loss scaler and averaged weights of one process; ``step`` is one iteration.

    Attributes:
        network: the plain network, in torchvision's names, whatever wraps or compiles it.
        averaged: a copy of it with the moving average of its weights and statistics, or None.
        prepare: 0..255 pictures, ``uint8`` or float -> what the network takes, on the device.
    """

    def __init__(self, cfg: CfgNode, num_classes: int, processes: Processes):
        self.device, self._cfg = processes.device, cfg
        device = self.device
        layout = torch.channels_last if cfg.CHANNELS_LAST else torch.contiguous_format
        self.network = network_of(cfg, num_classes).to(device, memory_format=layout)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False) if cfg.SOLVER.EMA_DECAY else None
        if cfg.COMPILE:
            self.network.compile()  # in place: no wrapper, so no weight changes its name
        self._forward: nn.Module = self.network
        if processes.size > 1:
            device_ids = [device.index] if device.type == "cuda" else None
            self._forward = DistributedDataParallel(self.network, device_ids=device_ids)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=cfg.SOLVER.BASE_LR,
            momentum=cfg.SOLVER.MOMENTUM,
            nesterov=cfg.SOLVER.NESTEROV,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=cfg.PRECISION == "float16")
        self.mixing = build_mixing(cfg, num_classes)
        self.prepare = Preparation(cfg, device)

    def step(self, parts: Sequence[tuple[Tensor, Tensor]], *, lr: float, progress: float) -> Tensor:
        """Learn from one batch and return its mean loss, a scalar on the device; nothing here waits for a GPU.

        ``parts``: this process's share of the batch, ``uint8 (B, 3, S, S)`` and ``int64 (B,)`` each, all of one size.
        ``progress``: the share of the run that is done, 0..1.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        set_progress(self.network, progress)
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for number, (images, labels) in enumerate(parts, start=1):
            with ExitStack() as around:
                if self._forward is not self.network and number < len(parts):
                    around.enter_context(self._forward.no_sync())  # gradients are exchanged once, with the last part
                loss = self._loss(images, labels) / len(parts)
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self._average()
        return torch.stack(losses).sum()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        images, targets = (tensor.to(self.device, non_blocking=True) for tensor in (images, labels))
        if isinstance(self.mixing, ManifoldMixup):
            mixed = self.mixing(self._forward, targets)  # mixes inside the network, within the context
        else:
            if self.mixing is not None:
                images, targets = self.mixing(images, targets)
            mixed = nullcontext(targets)
        half = None if self._cfg.PRECISION == "float32" else getattr(torch, self._cfg.PRECISION)
        with mixed as targets, torch.autocast(self.device.type, dtype=half, enabled=half is not None):
            return functional.cross_entropy(self._predict(self.prepare(images)), targets)

    def _predict(self, images: Tensor) -> Tensor:
        try:
            return self._forward(images)
        except ValueError as error:
            if len(images) > 1 or "Expected more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                "BatchNorm learns nothing from one picture, and a part of the batch is one picture here: SOLVER."
                f"BATCH_SIZE is {self._cfg.SOLVER.BATCH_SIZE}, SOLVER.ACCUMULATION {self._cfg.SOLVER.ACCUMULATION}; "
                "raise the one or lower the other"
            ) from error

    @torch.no_grad()
    def _average(self) -> None:
        for mean, new in zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(new, 1 - self._cfg.SOLVER.EMA_DECAY)
            else:
                mean.copy_(new)


class Preparation:
    """Moves 0..255 pictures (``uint8`` or float) to the device and normalises them, last before the network."""

    def __init__(self, cfg: CfgNode, device: torch.device):
        self.device = device
        self._layout = torch.channels_last if cfg.CHANNELS_LAST else torch.contiguous_format
        self.mean, self.std = (
            torch.tensor(values, device=device)[:, None, None] for values in (cfg.DATA.PIXEL_MEAN, cfg.DATA.PIXEL_STD)
        )

    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        return ((images.float() - self.mean) / self.std).contiguous(memory_format=self._layout)


def network_of(cfg: CfgNode, num_classes: int) -> nn.Module:
    """Return the network that ``cfg`` describes, with what its method drops inside it."""
    return build_model(
        cfg.MODEL.ARCH,
        num_classes,
        dropout=cfg.MODEL.DROPOUT,
        drop_block=cfg.MODEL.DROP_BLOCK_PROB if cfg.MIXING.METHOD == "dropblock" else 0.0,
        drop_block_size=cfg.MODEL.DROP_BLOCK_SIZE,
        stochastic_depth=cfg.MODEL.STOCHASTIC_DEPTH_PROB if cfg.MIXING.METHOD == "stochastic_depth" else 0.0,
    )


def build_mixing(cfg: CfgNode, num_classes: int) -> nn.Module | None:
    """Return what ``make_mixing`` makes of the MIXING keys of ``cfg``."""
    options: dict[str, Any] = {}
    if cfg.MIXING.METHOD == "cutout":
        options = {"size": cfg.MIXING.CUTOUT_SIZE or None, "fill": [round(value) for value in cfg.DATA.PIXEL_MEAN]}
    if cfg.MIXING.METHOD == "saliencymix":
        options = {
            "saliency": cfg.MIXING.SALIENCY,
            "saliency_options": _saliency_options(cfg),
            "style": cfg.MIXING.STYLE,
            "scope": cfg.MIXING.SCOPE,
            "placement": cfg.MIXING.PLACEMENT,
            "resolution": cfg.MIXING.RESOLUTION or None,
        }
    return make_mixing(cfg.MIXING.METHOD, num_classes=num_classes, alpha=cfg.MIXING.ALPHA, p=cfg.MIXING.PROB, **options)


def _saliency_options(cfg: CfgNode) -> dict[str, Any]:
    if cfg.MIXING.SALIENCY == "official":  # it reads the bytes of the normalised picture
        mean, std = ([value / 255 for value in values] for values in (cfg.DATA.PIXEL_MEAN, cfg.DATA.PIXEL_STD))
        return {"mean": mean, "std": std}
    if cfg.MIXING.SALIENCY == "basnet":
        if not cfg.MIXING.BASNET_WEIGHTS:
            raise ValueError("MIXING.SALIENCY is basnet, but MIXING.BASNET_WEIGHTS is empty; expected a path")
        return {"checkpoint": cfg.MIXING.BASNET_WEIGHTS}
    return {}
