"""The pretraining loop: setup, resume or start, step, evaluate, save."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.data.batches import Batches, Pictures, Unreadable, load_splits
from pretrain.data.sampling import EvalBatches, TrainBatches, mix_seed
from pretrain.evaluation import evaluate
from pretrain.learner import Learner, Preparation, network_of
from pretrain.run.checkpoint import load_checkpoint, load_last, save_checkpoint, save_last
from pretrain.run.cli import Progress, format_seconds
from pretrain.run.files import remove_leftovers
from pretrain.run.lock import locked_folder
from pretrain.run.processes import Processes, explained_memory, join_processes, num_workers
from pretrain.run.run_folder import MetricsWriter, write_config
from pretrain.run_state import BEST, check_space, drop_old, load_weights, restore, run_state
from pretrain.solver import learning_rate

LESS_MEMORY = "lower SOLVER.BATCH_SIZE, or raise SOLVER.ACCUMULATION, which computes the same batch in parts"
NEEDS_PARTNERS = ("mixup", "manifold_mixup", "cutmix", "resizemix", "saliencymix")

logger = logging.getLogger(__name__)


def train(cfg: CfgNode, *, resume: bool) -> dict[str, float]:
    """Pretrain as ``cfg`` says and return the last evaluation (see :func:`pretrain.evaluation.evaluate`).

    Writes into ``OUTPUT_DIR``: ``config.yaml``, ``metrics.json``, TensorBoard events, ``model_<iterations>.pth``,
    ``last_checkpoint``, ``model_best.pth`` (lowest top-1 error so far) and, at the end, ``model_final.pth``. With
    ``resume`` it goes on from the newest readable checkpoint there, bit-equal on the CPU to a run that was never
    stopped, or starts where there is none.

    Under ``torchrun`` each process learns from its share of every batch and the first one writes. Batch statistics and
    mixing partners are those of a share, so that several processes compute what one does only without either.

    Raises:
        ValueError: data, config and checkpoint do not fit together, or ``OUTPUT_DIR`` holds a run already and
            ``resume`` is off.
        FloatingPointError: the loss is not finite; nothing is saved after that iteration.
        OSError: a checkpoint cannot be written; the ones before it are whole.
    """
    if cfg.MODEL.WEIGHTS:
        raise ValueError(f"MODEL.WEIGHTS is {cfg.MODEL.WEIGHTS!r}; training starts from random weights, leave it empty")
    # the first process before it meets the others: they wait for nobody who is refused, because torchrun ends them
    first = os.environ.get("RANK", "0") == "0"
    with (
        locked_folder(cfg.OUTPUT_DIR) if first else nullcontext(),
        join_processes(cfg.DEVICE) as processes,
        explained_memory(LESS_MEMORY),
        chosen_convolutions(processes.device),
    ):
        return _train(cfg, resume=resume, processes=processes)


@contextmanager
def chosen_convolutions(device: torch.device) -> Iterator[None]:
    """On a GPU, let cuDNN try its algorithms on each new shape and keep the fastest; afterwards it is as it was.

    Training has one shape, evaluation one too (another, if DATA.TRAIN_SIZE is set) and that of the last batch besides.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _train(cfg: CfgNode, *, resume: bool, processes: Processes) -> dict[str, float]:
    output_dir = Path(cfg.OUTPUT_DIR)
    processes.agree("OUTPUT_DIR", str(output_dir.resolve()))
    if cfg.DATA.DOWNLOAD:
        processes.from_main(lambda: load_splits(cfg) and None)  # one process fetches, the others wait for it
    train_pictures, val_pictures = load_splits(cfg)
    classes, batch_size = train_pictures.classes, cfg.SOLVER.BATCH_SIZE
    order = training_batches(cfg, train_pictures, processes)
    if order.part_size < 2 and cfg.MIXING.METHOD in NEEDS_PARTNERS:
        raise ValueError(
            f"{cfg.MIXING.METHOD} needs two pictures to mix, but SOLVER.BATCH_SIZE {batch_size} gives {processes.size} "
            f"processes {order.part_size} at a time; try {2 * processes.size * cfg.SOLVER.ACCUMULATION}"
        )
    epoch_iters = order.batches_per_epoch
    total_iters = cfg.SOLVER.EPOCHS * epoch_iters

    torch.manual_seed(cfg.SEED)
    learner = Learner(cfg, len(classes), processes)
    if not processes.is_main:
        torch.manual_seed(mix_seed(cfg.SEED, processes.rank))  # the same weights, but other draws for another share

    start = 0
    evaluated = {"metrics": {}, "ema_metrics": {}, "iteration": 0, "best_top1_error": float("inf")}
    last = processes.from_main(lambda: load_last(output_dir))
    if last is not None and not resume:
        raise ValueError(f"{output_dir} already holds {last[1].name}; use --resume, or another OUTPUT_DIR")
    if last is not None:
        start = restore(last[0], last[1], cfg, learner, classes, processes)
        evaluated = last[0]["evaluated"]
        logger.info("resumed from %s at iteration %d of %d", last[1], start, total_iters)
        if start == total_iters:
            logger.info("the run is complete: nothing to do")
            return evaluated["metrics"]
    del last
    writer = None
    if processes.is_main:
        output_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output_dir)
        check_space(output_dir, learner)
        write_config(cfg, output_dir)
        writer = MetricsWriter(output_dir, resume_iteration=start or None)
    logger.info(
        "%s, %d classes, %d training and %d validation pictures, method %s, %s on %d x %s: "
        "%d epochs of %d iterations, batch %d (%d a process, in %d parts), lr %g",
        cfg.MODEL.ARCH,
        len(classes),
        len(train_pictures),
        len(val_pictures),
        cfg.MIXING.METHOD,
        cfg.PRECISION,
        processes.size,
        processes.device.type,
        cfg.SOLVER.EPOCHS,
        epoch_iters,
        batch_size,
        batch_size // processes.size,
        cfg.SOLVER.ACCUMULATION,
        cfg.SOLVER.BASE_LR,
    )

    unreadable = Unreadable(cfg.DATA.MAX_UNREADABLE)
    order = training_batches(cfg, train_pictures, processes, start=start, stop=total_iters)
    train_batches = batches_of(cfg, train_pictures, order, unreadable, processes)
    val_batches = validation_batches(cfg, val_pictures, unreadable, processes)
    checkpoint_period = cfg.CHECKPOINT_PERIOD or epoch_iters
    losses: list[Tensor] = []
    shown: dict[str, float] = {}
    learner.network.train()
    started = window_started = time.monotonic()
    data_seconds = 0.0
    try:
        with Progress(total_iters, "pretrain", initial=start) as progress, iter(train_batches) as samples:
            for iteration in range(start, total_iters):
                waited = time.monotonic()
                parts = [next(samples) for _ in range(cfg.SOLVER.ACCUMULATION)]
                data_seconds += time.monotonic() - waited
                lr = learning_rate(cfg, iteration, epoch_iters)
                losses.append(learner.step(parts, lr=lr, progress=iteration / total_iters))

                done = iteration + 1
                progress.update(**shown)
                at_log = done % cfg.LOG_PERIOD == 0 or done == total_iters
                at_epoch = done % epoch_iters == 0
                at_save = done % checkpoint_period == 0 or done == total_iters
                best = False
                if at_log or at_epoch or at_save:
                    mean_loss = finite_mean(processes.sum(torch.stack(losses)) / processes.size, done)
                if at_log:
                    seconds = time.monotonic() - window_started
                    values = {
                        "loss": mean_loss,
                        "lr": lr,
                        "epoch": done / epoch_iters,
                        "time": seconds / len(losses),
                        "data_time": data_seconds / len(losses),
                        "images_per_second": batch_size * len(losses) / seconds,
                        "eta_seconds": progress.seconds_left(),
                        "unreadable_pictures": len(unreadable.reasons),
                    }
                    area_labels = learner.take_area_labels()
                    if area_labels is not None:
                        values["area_labels"] = int(processes.sum(area_labels))
                    if writer:
                        writer.write(done, values)
                    shown = {"loss": mean_loss, "lr": lr}
                    losses, data_seconds, window_started = [], 0.0, time.monotonic()
                paused = time.monotonic()
                if at_epoch:
                    metrics = evaluate(learner.network, val_batches, learner.prepare, processes)
                    ema_metrics = {}
                    if learner.averaged is not None:
                        ema_metrics = evaluate(learner.averaged, val_batches, learner.prepare, processes)
                    best = metrics["top1_error"] < evaluated["best_top1_error"]
                    evaluated = {
                        "metrics": metrics,
                        "ema_metrics": ema_metrics,
                        "iteration": done,
                        "best_top1_error": min(metrics["top1_error"], evaluated["best_top1_error"]),
                    }
                    if writer:
                        writer.write(
                            done,
                            {f"val/{name}": value for name, value in metrics.items()}
                            | {f"val_ema/{name}": value for name, value in ema_metrics.items()},
                        )
                    logger.info(
                        "epoch %d/%d: loss %.4f, top-1 error %.2f %%, top-5 error %.2f %%%s, %s left",
                        done // epoch_iters,
                        cfg.SOLVER.EPOCHS,
                        mean_loss,
                        metrics["top1_error"],
                        metrics["top5_error"],
                        f" (averaged weights: {ema_metrics['top1_error']:.2f} %)" if ema_metrics else "",
                        format_seconds(progress.seconds_left()),
                    )
                if at_save or best:
                    state = run_state(
                        cfg, learner, classes, processes, iteration=done, epoch_iters=epoch_iters, evaluated=evaluated
                    )
                if best and processes.is_main:
                    save_checkpoint(state, output_dir / BEST)
                if at_save and processes.is_main:
                    name = "model_final.pth" if done == total_iters else f"model_{done:07d}.pth"
                    save_last(state, output_dir, name)
                    drop_old(output_dir, cfg.CHECKPOINTS_KEPT)
                window_started += time.monotonic() - paused  # the rate is that of training
    finally:
        if writer:
            writer.close()
    logger.info("done in %s: %s", format_seconds(time.monotonic() - started), output_dir / "model_final.pth")
    return evaluated["metrics"]


def evaluate_checkpoint(cfg: CfgNode) -> dict[str, float]:
    """Evaluate ``MODEL.WEIGHTS``, or the newest checkpoint of ``OUTPUT_DIR``, on the validation pictures.

    Averaged weights, where the checkpoint has them, are evaluated too and reported in the log.

    Raises:
        ValueError: there is no checkpoint, or it has another architecture or other classes than config and data.
    """
    with join_processes(cfg.DEVICE) as processes, explained_memory(LESS_MEMORY):
        return _evaluate_checkpoint(cfg, processes)


def _evaluate_checkpoint(cfg: CfgNode, processes: Processes) -> dict[str, float]:
    _, pictures = load_splits(cfg)
    if cfg.MODEL.WEIGHTS:
        state, path = load_checkpoint(cfg.MODEL.WEIGHTS), Path(cfg.MODEL.WEIGHTS)
    else:
        last = load_last(cfg.OUTPUT_DIR)
        if last is None:
            raise ValueError(f"nothing to evaluate: MODEL.WEIGHTS is empty and {cfg.OUTPUT_DIR} has no checkpoint")
        state, path = last
    layout = torch.channels_last if cfg.CHANNELS_LAST else torch.contiguous_format
    model = network_of(cfg, len(pictures.classes)).to(processes.device, memory_format=layout)
    load_weights(model, state, path, cfg.MODEL.ARCH, pictures.classes)
    logger.info("evaluating %s on %d pictures of %s", path, len(pictures), cfg.DATA.ROOT)
    batches = validation_batches(cfg, pictures, Unreadable(cfg.DATA.MAX_UNREADABLE), processes)
    prepare = Preparation(cfg, processes.device)
    metrics = evaluate(model, batches, prepare, processes)
    if "ema" in state:
        load_weights(model, state, path, cfg.MODEL.ARCH, pictures.classes, entry="ema")
        averaged = evaluate(model, batches, prepare, processes)
        logger.info(
            "averaged weights: top-1 error %.2f %%, top-5 error %.2f %%", averaged["top1_error"], averaged["top5_error"]
        )
    return metrics


def training_batches(
    cfg: CfgNode, pictures: Pictures, processes: Processes, *, start: int = 0, stop: int = 0
) -> TrainBatches:
    """Return this process's share of the training samples of iterations ``start`` .. ``stop``, in their order."""
    return TrainBatches(
        len(pictures),
        cfg.SOLVER.BATCH_SIZE,
        seed=cfg.SEED,
        start=start,
        stop=stop,
        rank=processes.rank,
        world_size=processes.size,
        parts=cfg.SOLVER.ACCUMULATION,
    )


def validation_batches(cfg: CfgNode, pictures: Pictures, unreadable: Unreadable, processes: Processes) -> Batches:
    """Return this process's share of the validation pictures; all shares together hold each picture once."""
    size = max(1, cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATION)
    order = EvalBatches(len(pictures), size, rank=processes.rank, world_size=processes.size)
    return batches_of(cfg, pictures, order, unreadable, processes)


def batches_of(
    cfg: CfgNode, pictures: Pictures, order: TrainBatches | EvalBatches, unreadable: Unreadable, processes: Processes
) -> Batches:
    """Return the loaded batches of ``order``."""
    pin = processes.device.type == "cuda"
    return Batches(pictures, order, unreadable, num_workers=num_workers(cfg.DATA.NUM_WORKERS), pin_memory=pin)


def finite_mean(losses: Tensor, done: int) -> float:
    """Return the mean of the last iterations' losses, ``(N,)``, the newest being iteration ``done``.

    Looked at only where a number is needed anyway, because each look waits for the GPU.

    Raises:
        FloatingPointError: names the first iteration whose loss is not finite, and the losses before it.
    """
    values = losses.tolist()
    for index, value in enumerate(values):
        if not math.isfinite(value):
            before = ", ".join(f"{loss:.4g}" for loss in values[max(0, index - 5) : index]) or "none"
            raise FloatingPointError(
                f"the loss of iteration {done - len(values) + index + 1} is {value} (losses before it: {before}); "
                "try a lower SOLVER.BASE_LR or a longer SOLVER.WARMUP_ITERS"
            )
    return sum(values) / len(values)
