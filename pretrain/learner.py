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

from pretrain.data.transfer import mover
from pretrain.mixing import make_mixing
from pretrain.mixing.labels import check_batch
from pretrain.mixing.manifold_mixup import ManifoldMixup
from pretrain.mixing.saliencymix import SaliencyMix
from pretrain.models import build_model, set_progress
from pretrain.run.processes import Processes
from pretrain.solver import build_optimizer


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
        self.prepare = Preparation(cfg, device)
        self.mixing = build_mixing(cfg, num_classes)
        self._objective: nn.Module = Objective(self.network, self.prepare, cfg.SOLVER.LABEL_SMOOTHING)
        if cfg.COMPILE:
            self._compile(processes)
        if processes.size > 1:
            device_ids = [device.index] if device.type == "cuda" else None
            self._objective = DistributedDataParallel(self._objective, device_ids=device_ids)
        self.optimizer = build_optimizer(cfg, self.network, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=cfg.PRECISION == "float16")
        if self.averaged is not None:
            pairs = list(zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True))
            self._averages = [pair for pair in pairs if pair[0].is_floating_point()]
            self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

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
                if isinstance(self._objective, DistributedDataParallel) and number < len(parts):
                    around.enter_context(self._objective.no_sync())  # gradients are exchanged once, with the last part
                loss = self._loss(images, labels) / len(parts)
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self._average()
        return torch.stack(losses).sum()

    def take_area_labels(self) -> Tensor | None:
        """Return ``int64 ()``, how many labels since the last call were of the area for want of saliency; None where no
        label asks for saliency."""
        if isinstance(self.mixing, SaliencyMix) and self.mixing.label != "area":
            return self.mixing.take_area_labels()
        return None

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        mix, move = self.mixing, self.prepare.move
        if isinstance(mix, SaliencyMix) and (mix.scope, mix.saliency_name) == ("batch", "official"):
            # The map of one or two pictures, in hundreds of small steps: before the batch goes to a GPU.
            check_batch(images, labels)
            draws = mix.draw(len(images))
            patches = mix.locate(images, draws) if draws.mix else None
            images, targets = mix.mix_as(move(images), move(labels), draws, patches)
        else:
            images, targets = move(images), move(labels)
            if mix is not None and not isinstance(mix, ManifoldMixup):
                images, targets = mix(images, targets)
        # Manifold Mixup mixes inside the network, within the context
        mixed = mix(self.network, targets) if isinstance(mix, ManifoldMixup) else nullcontext(targets)
        half = None if self._cfg.PRECISION == "float32" else getattr(torch, self._cfg.PRECISION)
        with mixed as targets, torch.autocast(self.device.type, dtype=half, enabled=half is not None):
            return self._mean_loss(images, targets)

    def _mean_loss(self, images: Tensor, targets: Tensor) -> Tensor:
        try:
            return self._objective(images, targets)
        except ValueError as error:
            if len(images) > 1 or "Expected more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                "BatchNorm learns nothing from one picture, and a part of the batch is one picture here: SOLVER."
                f"BATCH_SIZE is {self._cfg.SOLVER.BATCH_SIZE}, SOLVER.ACCUMULATION {self._cfg.SOLVER.ACCUMULATION}; "
                "raise the one or lower the other"
            ) from error

    def _compile(self, processes: Processes) -> None:
        """Compile the step's forward and backward pass as one, and the networks as evaluation calls them.

        In place: no wrapper, so no weight changes its name.
        """
        # CUDA graphs take the launches off the CPU, but write all results to the same memory at every replay: the
        # gradients of a batch in parts would overwrite each other, and other processes read them during the pass.
        graphs = self.device.type == "cuda" and processes.size == 1 and self._cfg.SOLVER.ACCUMULATION == 1
        self._objective.compile(mode="reduce-overhead" if graphs else None)
        for network in (self.network, self.averaged):
            if network is not None:
                network.compile()

    @torch.no_grad()
    def _average(self) -> None:
        means, new = zip(*self._averages, strict=True)
        torch._foreach_lerp_(means, new, 1 - self._cfg.SOLVER.EMA_DECAY)
        if self._counters:
            torch._foreach_copy_(*zip(*self._counters, strict=True))


class Objective(nn.Module):
    """What a step differentiates: normalisation, network and mean cross-entropy with smoothed labels."""

    def __init__(self, network: nn.Module, prepare: Preparation, label_smoothing: float):
        super().__init__()
        self.network, self.prepare, self.label_smoothing = network, prepare, label_smoothing

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return a scalar of 0..255 pictures ``(B, 3, S, S)`` on the device and class numbers or probabilities."""
        logits = self.network(self.prepare.normalise(images))
        return functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)


class Preparation:
    """Moves 0..255 pictures (``uint8`` or float) to the device and normalises them, last before the network."""

    def __init__(self, cfg: CfgNode, device: torch.device):
        self._layout = torch.channels_last if cfg.CHANNELS_LAST else torch.contiguous_format
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] for values in (cfg.DATA.PIXEL_MEAN, cfg.DATA.PIXEL_STD)
        )
        self.move = mover(device)

    def __call__(self, images: Tensor) -> Tensor:
        return self.normalise(self.move(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Return ``float32`` pictures in the network's memory layout, of pictures on the device."""
        return ((images.float() - self._mean) / self._std).contiguous(memory_format=self._layout)


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
            "patch": cfg.MIXING.PATCH or None,
            "label": cfg.MIXING.LABEL,
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
