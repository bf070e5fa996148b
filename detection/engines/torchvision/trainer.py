"""The training loop of the torchvision engine: setup, resume or start, step, save, evaluate."""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from detection.data import iterate, training_loader
from detection.engines import ONE_PROCESS, Launch
from detection.engines.common import checkpoint_to_resume, evaluation_metrics, random_state, set_random_state
from detection.engines.initial_weights import draw_initial_weights
from detection.engines.torchvision.inference import find_objects, load_weights
from detection.engines.torchvision.model import Detector, build_model
from pretrain.checkpoint import save_last
from pretrain.cli import Progress, format_seconds
from pretrain.run_folder import MetricsWriter, write_config

LOG_PERIOD = 20  # iterations between two lines of metrics.json, as in Detectron2
# Detectron2 keys that this loop does not implement -> the value that leaves them off
OFF = {
    "AMP.ENABLED": False,
    "REFERENCE_WORLD_SIZE": 0,
    "BIAS_LR_FACTOR": 1.0,
    "WEIGHT_DECAY_BIAS": None,
}
NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)  # FrozenBN has no parameters

logger = logging.getLogger(__name__)


def train(cfg: CfgNode, *, resume: bool, launch: Launch = ONE_PROCESS) -> None:
    """Fine-tune as ``cfg`` says, in this process.

    Writes into OUTPUT_DIR, under Detectron2's names: ``config.yaml``, ``metrics.json``, TensorBoard events, every
    CHECKPOINT_PERIOD iterations a checkpoint ``model_<last iteration>.pth``, ``last_checkpoint`` and
    ``model_final.pth``. With ``resume`` it goes on from the newest readable checkpoint there; on the CPU the end is
    bit-equal to that of a run that was never stopped.

    Raises:
        FileNotFoundError, ValueError: data, weights, config and checkpoint do not fit together; said before training.
        FloatingPointError: a loss is not finite; nothing is saved after that.
    """
    check_supported(cfg, launch)
    output_dir = Path(cfg.OUTPUT_DIR)
    last = checkpoint_to_resume(cfg, resume=resume, entry="optimizer")
    start = last[0]["iteration"] + 1 if last else 0
    if start >= cfg.SOLVER.MAX_ITER:
        logger.info("%s: all %d iterations are done", last[1], cfg.SOLVER.MAX_ITER)
        return
    loader = training_loader(cfg, start_iteration=start)

    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    model = build_model(cfg)
    draw_initial_weights(model.detectron2_state_dict(), cfg.SEED)
    torch.manual_seed(cfg.SEED)  # after creating the model, which draws differently in Detectron2
    optimizer = build_optimizer(cfg, model)
    if last:
        card = restore(*last, model, optimizer)
    elif cfg.MODEL.WEIGHTS:
        card = load_weights(model, cfg)
    else:
        card = None
        logger.info("MODEL.WEIGHTS is empty: all weights start at random")

    output_dir.mkdir(parents=True, exist_ok=True)
    write_config(cfg, output_dir)
    logger.info("iterations %d to %d, %d pictures each, lr %g, seed %d, on %s, into %s", start, cfg.SOLVER.MAX_ITER,
                cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SEED, cfg.MODEL.DEVICE, output_dir)
    window = Window()
    writer = MetricsWriter(output_dir, resume_iteration=max(start - 1, 0))
    model.train()
    try:
        with Progress(cfg.SOLVER.MAX_ITER, "train", initial=start) as progress, closing(iterate(loader)) as batches:
            for iteration in range(start, cfg.SOLVER.MAX_ITER):
                window.begin()
                samples = next(batches)
                window.data_is_here()

                lr = learning_rate(cfg.SOLVER, iteration)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                losses = model(samples)
                total_loss = sum(losses.values())
                numbers = {name: loss.item() for name, loss in {"total_loss": total_loss, **losses}.items()}
                check_finite(iteration, numbers)
                optimizer.zero_grad()
                total_loss.backward()
                clip_gradients(cfg.SOLVER.CLIP_GRADIENTS, model)
                optimizer.step()

                done = iteration + 1
                window.end(numbers)
                progress.update(loss=numbers["total_loss"], lr=lr)
                is_last = done == cfg.SOLVER.MAX_ITER
                evaluates = cfg.TEST.EVAL_PERIOD > 0 and done % cfg.TEST.EVAL_PERIOD == 0
                if cfg.TEST.PRECISE_BN.ENABLED and (is_last or evaluates):
                    recompute_batch_norm(cfg, model)
                if is_last or done % cfg.SOLVER.CHECKPOINT_PERIOD == 0:
                    name = "model_final.pth" if is_last else f"model_{iteration:07d}.pth"
                    save_last(run_state(cfg, model, optimizer, iteration, card), output_dir, name)
                if evaluates and not is_last:  # the tool evaluates the final model
                    scores = evaluation_metrics(cfg, lambda dataset: find_objects(model, cfg, dataset))
                    writer.write(iteration, scores)
                if is_last or done % LOG_PERIOD == 0:
                    values = {**window.close(), "lr": lr, "eta_seconds": progress.seconds_left()}
                    writer.write(iteration, values)
                    logger.info("iteration %d: total_loss %.4f, lr %.3g, %.3f s each, %s left", iteration,
                                values["total_loss"], lr, values["time"], format_seconds(values["eta_seconds"]))
    finally:
        writer.close()
    logger.info("trained: %s", output_dir / "model_final.pth")


def check_supported(cfg: CfgNode, launch: Launch) -> None:
    """Refuse by name what this loop does not implement; ``build_model`` does the same for MODEL.*."""
    if launch.world_size > 1:
        raise ValueError(
            f"--engine torchvision trains in one process, but --num-gpus {launch.num_gpus} --num-machines "
            f"{launch.num_machines} asks for {launch.world_size}; use --engine detectron2, or leave these flags out"
        )
    for key, off in OFF.items():
        value: Any = cfg.SOLVER
        for name in key.split("."):
            value = value[name]
        if value != off:
            raise ValueError(
                f"SOLVER.{key} is {value!r}, which the torchvision engine does not support; set it to {off!r}"
            )


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.SGD:
    """Return SGD over the trainable parameters; those of normalisation layers have a weight decay of their own."""
    norm_parameters = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORM_LAYERS)
        for parameter in module.parameters(recurse=False)
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in norm_parameters], "weight_decay": cfg.SOLVER.WEIGHT_DECAY},
        {"params": [p for p in trained if id(p) in norm_parameters], "weight_decay": cfg.SOLVER.WEIGHT_DECAY_NORM},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
    )


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


def check_finite(iteration: int, losses: dict[str, float]) -> None:
    """Raise FloatingPointError, with every component, if a loss is infinite or not a number."""
    if not all(map(math.isfinite, losses.values())):
        components = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise FloatingPointError(
            f"the loss of iteration {iteration} is not finite ({components}); "
            "try a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS or SOLVER.CLIP_GRADIENTS.ENABLED True"
        )


def clip_gradients(settings: CfgNode, model: nn.Module) -> None:
    """Clip in place, each parameter by itself, as SOLVER.CLIP_GRADIENTS (``settings``) says."""
    if not settings.ENABLED:
        return
    for parameter in model.parameters():
        if settings.CLIP_TYPE == "value":
            nn.utils.clip_grad_value_(parameter, settings.CLIP_VALUE)
        else:
            nn.utils.clip_grad_norm_(parameter, settings.CLIP_VALUE, settings.NORM_TYPE)


def recompute_batch_norm(cfg: CfgNode, model: Detector) -> None:
    """Replace BatchNorm's running statistics by those of the present weights, over the run's first batches."""
    if get_bn_modules(model):
        logger.info("computing BatchNorm statistics over %d batches", cfg.TEST.PRECISE_BN.NUM_ITER)
        with torch.no_grad(), closing(iterate(training_loader(cfg))) as batches:
            update_bn_stats(model, batches, cfg.TEST.PRECISE_BN.NUM_ITER)


class Window:
    """Losses and times of the iterations since the last line of metrics.json."""

    def __init__(self):
        self.values: list[dict[str, float]] = []

    def begin(self) -> None:
        self._started = time.perf_counter()

    def data_is_here(self) -> None:
        self._data_time = time.perf_counter() - self._started

    def end(self, losses: dict[str, float]) -> None:
        self.values.append({**losses, "data_time": self._data_time, "time": time.perf_counter() - self._started})

    def close(self) -> dict[str, float]:
        """Return the means, and begin anew."""
        values, self.values = self.values, []
        return {name: sum(value[name] for value in values) / len(values) for name in values[0]}


def run_state(
    cfg: CfgNode, model: Detector, optimizer: torch.optim.Optimizer, iteration: int, card: dict[str, Any] | None
) -> dict[str, Any]:
    """Return all that resuming and detecting need; ``iteration`` is the last one done, 0-based as in Detectron2."""
    return {
        "model": model.detectron2_state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": iteration,
        "rng": random_state(),
        "card": card,
        "config": cfg.dump(),
    }


def restore(
    state: dict[str, Any], path: Path, model: Detector, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Load a checkpoint of ``run_state`` into model, optimiser and random generators; return the backbone's card."""
    report = model.load_detectron2_state_dict(state["model"])
    if report.missing or report.unexpected:
        raise ValueError(f"cannot resume from {path}: its tensors are not the model's ({len(report.missing)} missing)")
    optimizer.load_state_dict(state["optimizer"])
    set_random_state(state["rng"])
    logger.info("resumed from %s, after iteration %d", path, state["iteration"])
    return state["card"]
