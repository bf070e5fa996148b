"""The pretraining loop: setup, resume or start, step, evaluate, save."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from pretrain.checkpoint import load_checkpoint, load_last, save_last
from pretrain.cli import Progress, format_seconds
from pretrain.config import FREE_ON_RESUME, check_same_run
from pretrain.data import EvalBatches, Pictures, TrainBatches, load_splits, make_loader
from pretrain.evaluation import evaluate
from pretrain.mixing import make_mixing
from pretrain.models import build_model
from pretrain.run_folder import MetricsWriter, write_config

logger = logging.getLogger(__name__)


def train(cfg: CfgNode, *, resume: bool) -> dict[str, float]:
    """Pretrain as ``cfg`` says and return the last evaluation (see :func:`pretrain.evaluation.evaluate`).

    Writes into ``OUTPUT_DIR``: ``config.yaml``, ``metrics.json``, TensorBoard events, ``model_<iterations>.pth``,
    ``last_checkpoint`` and, at the end, ``model_final.pth``. With ``resume`` it goes on from the newest readable
    checkpoint there, bit-equal on the CPU to a run that was never stopped, or starts where there is none.

    Raises:
        ValueError: data, config and checkpoint do not fit together, or ``OUTPUT_DIR`` holds a run already and
            ``resume`` is off.
        FloatingPointError: the loss is not finite; nothing is saved after that iteration.
    """
    output_dir, device = Path(cfg.OUTPUT_DIR), select_device(cfg.DEVICE)
    train_pictures, val_pictures = load_splits(cfg)
    num_classes, batch_size = len(train_pictures.classes), cfg.SOLVER.BATCH_SIZE
    epoch_iters = TrainBatches(len(train_pictures), batch_size, seed=cfg.SEED, start=0, stop=0).batches_per_epoch
    total_iters = cfg.SOLVER.EPOCHS * epoch_iters

    torch.manual_seed(cfg.SEED)
    model = build_model(cfg.MODEL.ARCH, num_classes).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
    )
    mixing = build_mixing(cfg, num_classes)

    start = 0
    last = load_last(output_dir)
    if last is not None and not resume:
        raise ValueError(f"{output_dir} already holds {last[1].name}; use --resume, or another OUTPUT_DIR")
    if last is not None:
        start = restore(last[0], last[1], cfg, model, optimizer, train_pictures.classes)
        logger.info("resumed from %s at iteration %d of %d", last[1], start, total_iters)
        if start == total_iters:
            logger.info("the run is complete: nothing to do")
            return last[0]["metrics"]
    output_dir.mkdir(parents=True, exist_ok=True)
    write_config(cfg, output_dir)
    logger.info(
        "%s, %d classes, %d training and %d validation pictures, method %s, on %s: "
        "%d epochs of %d iterations, batch %d, lr %g",
        cfg.MODEL.ARCH, num_classes, len(train_pictures), len(val_pictures), cfg.MIXING.METHOD, device,
        cfg.SOLVER.EPOCHS, epoch_iters, batch_size, cfg.SOLVER.BASE_LR,
    )  # fmt: skip

    batches = TrainBatches(len(train_pictures), batch_size, seed=cfg.SEED, start=start, stop=total_iters)
    pin = device.type == "cuda"
    train_loader = make_loader(train_pictures, batches, num_workers=cfg.DATA.NUM_WORKERS, pin_memory=pin)
    val_loader = validation_loader(cfg, val_pictures, device)
    prepare = Preparation(cfg, device)
    checkpoint_period = cfg.CHECKPOINT_PERIOD or epoch_iters
    metrics = last[0]["metrics"] if last else {}
    losses: list[Tensor] = []
    shown: dict[str, float] = {}
    writer = MetricsWriter(output_dir, resume_iteration=start)
    model.train()
    started = window_started = time.monotonic()
    data_seconds = 0.0
    try:
        with Progress(total_iters, "pretrain", initial=start) as progress:
            samples = iter(train_loader)
            for iteration in range(start, total_iters):
                waited = time.monotonic()
                images, labels = next(samples)
                data_seconds += time.monotonic() - waited

                lr = learning_rate(cfg, iteration, epoch_iters)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                images, targets = images.to(device, non_blocking=pin), labels.to(device, non_blocking=pin)
                if mixing is not None:
                    images, targets = mixing(images, targets)
                loss = functional.cross_entropy(model(prepare(images)), targets)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

                done = iteration + 1
                losses.append(loss.detach())
                progress.update(**shown)
                at_log = done % cfg.LOG_PERIOD == 0 or done == total_iters
                at_epoch = done % epoch_iters == 0
                at_save = done % checkpoint_period == 0 or done == total_iters
                if at_log or at_epoch or at_save:
                    mean_loss = finite_mean(losses, done)
                if at_log:
                    seconds = time.monotonic() - window_started
                    values = {
                        "loss": mean_loss,
                        "lr": lr,
                        "epoch": done / epoch_iters,
                        "time": seconds / len(losses),
                        "data_time": data_seconds / len(losses),
                        "eta_seconds": progress.seconds_left(),
                    }
                    writer.write(done, values)
                    shown = {"loss": mean_loss, "lr": lr}
                    losses, data_seconds, window_started = [], 0.0, time.monotonic()
                if at_epoch:
                    metrics = evaluate(model, val_loader, prepare)
                    writer.write(done, {f"val/{name}": value for name, value in metrics.items()})
                    logger.info(
                        "epoch %d/%d: loss %.4f, top-1 error %.2f %%, top-5 error %.2f %%, %s left",
                        done // epoch_iters, cfg.SOLVER.EPOCHS, mean_loss, metrics["top1_error"], metrics["top5_error"],
                        format_seconds(progress.seconds_left()),
                    )  # fmt: skip
                if at_save:
                    name = "model_final.pth" if done == total_iters else f"model_{done:07d}.pth"
                    state = run_state(cfg, model, optimizer, train_pictures, done, epoch_iters, metrics)
                    save_last(state, output_dir, name)
                    drop_old(output_dir, cfg.CHECKPOINTS_KEPT)
    finally:
        writer.close()
    logger.info("done in %s: %s", format_seconds(time.monotonic() - started), output_dir / "model_final.pth")
    return metrics


def evaluate_checkpoint(cfg: CfgNode) -> dict[str, float]:
    """Evaluate ``MODEL.WEIGHTS``, or the newest checkpoint of ``OUTPUT_DIR``, on the validation pictures.

    Raises:
        ValueError: there is no checkpoint, or it has another architecture or other classes than config and data.
    """
    device = select_device(cfg.DEVICE)
    _, val_pictures = load_splits(cfg)
    if cfg.MODEL.WEIGHTS:
        state, path = load_checkpoint(cfg.MODEL.WEIGHTS), Path(cfg.MODEL.WEIGHTS)
    else:
        last = load_last(cfg.OUTPUT_DIR)
        if last is None:
            raise ValueError(f"nothing to evaluate: MODEL.WEIGHTS is empty and {cfg.OUTPUT_DIR} has no checkpoint")
        state, path = last
    model = build_model(cfg.MODEL.ARCH, len(val_pictures.classes))
    load_weights(model, state, path, cfg.MODEL.ARCH, val_pictures.classes)
    logger.info("evaluating %s on %d pictures of %s", path, len(val_pictures), cfg.DATA.ROOT)
    return evaluate(model.to(device), validation_loader(cfg, val_pictures, device), Preparation(cfg, device))


def select_device(name: str) -> torch.device:
    """Return the device of config key ``DEVICE``; ``auto`` is CUDA where PyTorch sees one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"DEVICE is {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"DEVICE is {name!r}, but PyTorch sees no CUDA device; use auto or cpu")
    return device


class Preparation:
    """Moves 0..255 pictures (``uint8`` or float) to the device and normalises them, last before the network."""

    def __init__(self, cfg: CfgNode, device: torch.device):
        self.device = device
        self.mean, self.std = (
            torch.tensor(values, device=device)[:, None, None] for values in (cfg.DATA.PIXEL_MEAN, cfg.DATA.PIXEL_STD)
        )

    def __call__(self, images: Tensor) -> Tensor:
        return (images.to(self.device, non_blocking=True).float() - self.mean) / self.std


def build_mixing(cfg: CfgNode, num_classes: int) -> Any:
    """Return the batch augmentation of ``MIXING.METHOD``: ``images, targets -> images, soft targets``, or None."""
    options: dict[str, Any] = {}
    if cfg.MIXING.METHOD == "saliencymix":
        options = {
            "saliency": cfg.MIXING.SALIENCY,
            "style": cfg.MIXING.STYLE,
            "scope": cfg.MIXING.SCOPE,
            "placement": cfg.MIXING.PLACEMENT,
            "resolution": cfg.MIXING.RESOLUTION or None,
        }
    return make_mixing(cfg.MIXING.METHOD, num_classes=num_classes, alpha=cfg.MIXING.ALPHA, p=cfg.MIXING.PROB, **options)


def validation_loader(cfg: CfgNode, pictures: Pictures, device: torch.device) -> DataLoader:
    """Return the loader of every validation picture once, in order."""
    batches = EvalBatches(len(pictures), cfg.SOLVER.BATCH_SIZE)
    return make_loader(pictures, batches, num_workers=cfg.DATA.NUM_WORKERS, pin_memory=device.type == "cuda")


def learning_rate(cfg: CfgNode, iteration: int, epoch_iters: int) -> float:
    """Return the learning rate of the 0-based ``iteration``: linear warm-up, times GAMMA from each step epoch on."""
    warmup = min(1.0, (iteration + 1) / cfg.SOLVER.WARMUP_ITERS) if cfg.SOLVER.WARMUP_ITERS else 1.0
    passed = sum(iteration >= step * epoch_iters for step in cfg.SOLVER.STEPS)
    return cfg.SOLVER.BASE_LR * warmup * cfg.SOLVER.GAMMA**passed


def finite_mean(losses: list[Tensor], done: int) -> float:
    """Return the mean of the last iterations' losses, the newest being iteration ``done``.

    Looked at only where a number is needed anyway, because each look waits for the GPU.

    Raises:
        FloatingPointError: names the first iteration whose loss is not finite, and the losses before it.
    """
    values = [float(value) for value in torch.stack(losses).cpu()]
    for index, value in enumerate(values):
        if not math.isfinite(value):
            before = ", ".join(f"{loss:.4g}" for loss in values[max(0, index - 5) : index]) or "none"
            raise FloatingPointError(
                f"the loss of iteration {done - len(values) + index + 1} is {value} (losses before it: {before}); "
                "try a lower SOLVER.BASE_LR or a longer SOLVER.WARMUP_ITERS"
            )
    return sum(values) / len(values)


def run_state(
    cfg: CfgNode,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pictures: Pictures,
    iteration: int,
    epoch_iters: int,
    metrics: dict[str, float],
) -> dict[str, Any]:
    """Return all that resuming, evaluating and converting need: ``iteration`` iterations are done."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": iteration,
        "epoch": iteration // epoch_iters,
        "rng": {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
        "config": cfg.dump(),
        "arch": cfg.MODEL.ARCH,
        "method": cfg.MIXING.METHOD,
        "num_classes": len(pictures.classes),
        "classes": pictures.classes,
        "pixel_mean": list(cfg.DATA.PIXEL_MEAN),
        "pixel_std": list(cfg.DATA.PIXEL_STD),
        "metrics": metrics,
        "top1": 100 - metrics["top1_error"] if metrics else None,
        "top5": 100 - metrics["top5_error"] if metrics else None,
        "versions": {"torch": str(torch.__version__)},
    }


def restore(
    state: dict[str, Any],
    path: Path,
    cfg: CfgNode,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    classes: list[str],
) -> int:
    """Load a checkpoint into model, optimiser and random generators; return the number of iterations done."""
    missing = {"model", "optimizer", "iteration", "rng", "config", "metrics"} - state.keys()
    if missing:
        raise ValueError(f"{path} is not a pretraining checkpoint: it lacks {', '.join(sorted(missing))}")
    check_same_run(state["config"], cfg, free=FREE_ON_RESUME)
    load_weights(model, state, path, cfg.MODEL.ARCH, classes)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"]["cpu"])
    if torch.cuda.is_available() and state["rng"]["cuda"]:
        torch.cuda.set_rng_state_all(state["rng"]["cuda"])
    return state["iteration"]


def load_weights(model: nn.Module, state: dict[str, Any], path: Path, arch: str, classes: list[str]) -> None:
    """Load a checkpoint's weights into ``model``, or say in one line what does not fit."""
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"{path} is not a pretraining checkpoint: it has no entry 'model'")
    if state.get("arch") != arch:
        raise ValueError(f"{path} holds a {state.get('arch')}, but MODEL.ARCH is {arch}")
    if state.get("classes") != classes:
        raise ValueError(f"{path} knows the classes {state.get('classes')}, but the data has {classes}")
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {arch}: {error}") from error


def drop_old(folder: Path, kept: int) -> None:
    """Delete all but the ``kept`` newest ``model_<iterations>.pth``; the final one is never touched."""
    for path in sorted(folder.glob("model_[0-9]*.pth"))[:-kept]:
        path.unlink()
