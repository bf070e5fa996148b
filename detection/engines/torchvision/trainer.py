"""The training loop of the torchvision engine: setup, resume or start, step, save, evaluate."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from detection.datasets.types import DetectionDataset
from detection.engines import ONE_PROCESS, Launch
from detection.engines.common import (
    LESS_MEMORY,
    checkpoint_to_resume,
    evaluation_metrics,
    recompute_batch_norm,
    say_random_weights,
)
from detection.engines.torchvision import supported
from detection.engines.torchvision.inference import find_objects, load_weights
from detection.engines.torchvision.model import Detector, build_model
from detection.engines.torchvision.solver import (
    MixedPrecision,
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_learning_rate,
)
from detection.run_data import RunData
from detection.samples import TrainingSamples, iterate, training_loader
from pretrain.run.checkpoint import save_last
from pretrain.run.cli import Progress, format_seconds
from pretrain.run.files import remove_leftovers
from pretrain.run.processes import Processes, explained_memory, join_processes, random_state, set_random_state
from pretrain.run.run_folder import MetricsWriter, write_config

LOG_PERIOD = 20  # iterations between two lines of metrics.json, as in Detectron2

logger = logging.getLogger(__name__)


def check_config(cfg: CfgNode, launch: Launch = ONE_PROCESS) -> None:
    """Refuse by name what this engine does not implement, before anything is read or built.

    Raises:
        ValueError: the key or flag, its value and what would be right.
    """
    supported.check_supported(cfg)
    if launch.world_size > 1:
        raise ValueError(
            f"--engine torchvision does not start processes itself, but --num-gpus {launch.num_gpus} --num-machines "
            f"{launch.num_machines} asks for {launch.world_size}; leave these flags out and start it with "
            f"`torchrun --nproc-per-node {launch.num_gpus} tools/train_net.py ...`, or use --engine detectron2"
        )


def train(cfg: CfgNode, data: RunData, *, resume: bool, launch: Launch = ONE_PROCESS) -> None:
    """Fine-tune on ``data`` as ``cfg`` says, in this process or in those that ``torchrun`` started.

    Writes into OUTPUT_DIR, under Detectron2's names: ``config.yaml``, ``metrics.json``, TensorBoard events, every
    CHECKPOINT_PERIOD iterations a checkpoint ``model_<last iteration>.pth``, ``last_checkpoint`` and
    ``model_final.pth``. With ``resume`` it goes on from the newest readable checkpoint there; on the CPU the end is
    bit-equal to that of a run that was never stopped.

    Several processes see, together, the pictures and augmentations that one process would see in each iteration, an
    equal share each, and average their gradients. They draw the anchors and RoIs of the losses from generators of their
    own, and BN (not SyncBN or naiveSyncBN) looks at a share only: a run depends on the number of processes, and
    repeats for the same number.

    Raises:
        FileNotFoundError, ValueError: data, weights, config and checkpoint do not fit together; said before training.
        FloatingPointError: a loss is not finite; nothing is saved after that. It is raised when losses are read: every
            LOG_PERIOD iterations, and before an evaluation or a checkpoint.
    """
    check_config(cfg, launch)
    with join_processes(cfg.MODEL.DEVICE) as processes, explained_memory(LESS_MEMORY):
        cfg = cfg.clone()
        cfg.SEED = processes.from_main(lambda: cfg.SEED)  # which each process may have drawn for itself
        if processes.size > 1 and cfg.MODEL.RESNETS.NORM == "SyncBN" and processes.device.type == "cpu":
            raise ValueError(
                "MODEL.RESNETS.NORM is 'SyncBN', which PyTorch synchronises on GPUs only; use 'naiveSyncBN' on the CPU"
            )
        _train(cfg, data, resume, processes)


def _train(cfg: CfgNode, data: RunData, resume: bool, processes: Processes) -> None:
    output_dir = Path(cfg.OUTPUT_DIR)
    processes.agree("OUTPUT_DIR", str(output_dir.resolve()))
    last = checkpoint_to_resume(cfg, resume=resume, entry="optimizer")
    start = last[0]["iteration"] + 1 if last else 0
    if len(set(processes.gather(start))) > 1:
        raise ValueError(
            f"OUTPUT_DIR {output_dir} must be one folder that all machines share, but they find different "
            "checkpoints in it"
        )
    if start >= cfg.SOLVER.MAX_ITER:
        logger.info("%s: all %d iterations are done", last[1], cfg.SOLVER.MAX_ITER)
        return
    share = {"rank": processes.rank, "world_size": processes.size}
    training_samples = TrainingSamples(cfg, data.train)
    loader = training_loader(cfg, training_samples, start_iteration=start, **share)

    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    model = build_model(cfg)
    torch.manual_seed(cfg.SEED + processes.rank)  # after creating the model, which draws differently in Detectron2
    optimizer, precision = build_optimizer(cfg, model), MixedPrecision(cfg)
    if last:
        card = restore(*last, model, optimizer, precision, processes, cfg.SEED)
    elif cfg.MODEL.WEIGHTS:
        card = load_weights(model, cfg)
    else:
        card = None
        say_random_weights(cfg)
    model.train()
    parallel_model = data_parallel(model) if processes.size > 1 else model

    writer = None
    if processes.is_main:
        output_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output_dir)
        write_config(cfg, output_dir)
        writer = MetricsWriter(output_dir, resume_iteration=start - 1 if last else None)
    logger.info(
        "iterations %d to %d, %d pictures each, lr %g, seed %d, %d process(es) on %s, into %s",
        start,
        cfg.SOLVER.MAX_ITER,
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.SOLVER.BASE_LR,
        cfg.SEED,
        processes.size,
        processes.device.type,
        output_dir,
    )
    window = Window()
    try:
        with Progress(cfg.SOLVER.MAX_ITER, "train", initial=start) as progress, iterate(loader) as batches:
            for iteration in range(start, cfg.SOLVER.MAX_ITER):
                window.begin()
                samples = next(batches)
                window.data_is_here()

                lr = learning_rate(cfg.SOLVER, iteration)
                set_learning_rate(optimizer, lr)
                with precision.forward():
                    losses = parallel_model(samples)
                    total_loss = sum(losses.values())
                precision.backward(total_loss, optimizer)
                clip_gradients(cfg.SOLVER.CLIP_GRADIENTS, model)
                precision.step(optimizer)

                done = iteration + 1
                is_last = done == cfg.SOLVER.MAX_ITER
                evaluates = cfg.TEST.EVAL_PERIOD > 0 and done % cfg.TEST.EVAL_PERIOD == 0
                logs = is_last or done % LOG_PERIOD == 0
                saves = is_last or done % cfg.SOLVER.CHECKPOINT_PERIOD == 0
                window.end(iteration, {"total_loss": total_loss, **losses})
                if evaluates or logs or saves:  # nothing is kept of weights that a loss without meaning made
                    window.read(processes)
                progress.update(**window.last_loss, lr=lr)
                if cfg.TEST.PRECISE_BN.ENABLED and (is_last or evaluates):
                    with iterate(training_loader(cfg, training_samples, **share)) as first_batches:
                        recompute_batch_norm(cfg, model, first_batches)
                if evaluates and not is_last:  # the tool evaluates the final model
                    scores = evaluate_together(cfg, data.test, model, processes)
                    if writer:
                        writer.write(iteration, scores)
                if logs:
                    values = {**window.close(), "lr": lr, "eta_seconds": progress.seconds_left()}
                    if writer:
                        writer.write(iteration, values)
                    logger.info(
                        "iteration %d: total_loss %.4f, lr %.3g, %.3f s each, %s left",
                        iteration,
                        values["total_loss"],
                        lr,
                        values["time"],
                        format_seconds(values["eta_seconds"]),
                    )
                # last: what a checkpoint has behind it is in the files, whenever the process is killed
                if saves:
                    state = run_state(cfg, model, optimizer, precision, iteration, card, processes)
                    if processes.is_main:
                        name = "model_final.pth" if is_last else f"model_{iteration:07d}.pth"
                        save_last(state, output_dir, name)
    finally:
        if writer:
            writer.close()
    logger.info("trained: %s", output_dir / "model_final.pth")


def data_parallel(model: Detector) -> DistributedDataParallel:
    """Return ``model`` with gradients that are averaged over the processes, and statistics that stay each one's own."""
    # PyTorch 2.13 gave the argument another name, and warns of the old one
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    return DistributedDataParallel(model, **{"forward_sync_buffers" if renamed else "broadcast_buffers": False})


def check_finite(iteration: int, losses: dict[str, float]) -> None:
    """Raise FloatingPointError, with every component, if a loss is infinite or not a number."""
    if not all(map(math.isfinite, losses.values())):
        components = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise FloatingPointError(
            f"the loss of iteration {iteration} is not finite ({components}); "
            "try a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS or SOLVER.CLIP_GRADIENTS.ENABLED True"
        )


def evaluate_together(
    cfg: CfgNode, datasets: Sequence[DetectionDataset], model: Detector, processes: Processes
) -> dict[str, float]:
    """Return ``evaluation_metrics`` of the present model; each process looks at a share of the pictures."""
    processes.copy_buffers(model)  # each process has statistics of its own where BN is not synchronised
    return evaluation_metrics(datasets, lambda dataset: find_objects(model, cfg, dataset, processes))


class Window:
    """Losses and times of the iterations since the last line of metrics.json.

    Losses stay on their device, where nothing waits for them, until ``read``. ``last_loss`` is the newest total that
    was read, as ``loss``; nothing before the first.
    """

    def __init__(self):
        self._names: tuple[str, ...] = ()
        self._unread: list[tuple[int, Tensor]] = []
        self._losses: list[dict[str, float]] = []
        self._times: list[dict[str, float]] = []
        self.last_loss: dict[str, float] = {}

    def begin(self) -> None:
        self._started = time.perf_counter()

    def data_is_here(self) -> None:
        self._data_time = time.perf_counter() - self._started

    def end(self, iteration: int, losses: Mapping[str, Tensor]) -> None:
        """Note the scalar ``losses`` of ``iteration``, the same names each time, and how long it took."""
        self._names = tuple(losses)
        self._unread.append((iteration, torch.stack([loss.detach().float() for loss in losses.values()])))
        self._times.append({"data_time": self._data_time, "time": time.perf_counter() - self._started})

    def read(self, processes: Processes) -> None:
        """Take the losses from the device, averaged over the processes, so that all judge them alike.

        Every process must call it. The wait for the device is part of the last iteration's time.

        Raises:
            FloatingPointError: a loss was not finite; the first iteration's, with all its components.
        """
        if not self._unread:
            return
        started = time.perf_counter()
        iterations, losses = zip(*self._unread, strict=True)
        means = (processes.sum(torch.stack(losses)) / processes.size).tolist()
        self._unread.clear()
        self._times[-1]["time"] += time.perf_counter() - started
        for iteration, values in zip(iterations, means, strict=True):
            numbers = dict(zip(self._names, values, strict=True))
            check_finite(iteration, numbers)
            self._losses.append(numbers)
        self.last_loss = {"loss": self._losses[-1]["total_loss"]}

    def close(self) -> dict[str, float]:
        """Return the means over what was read, and begin anew."""
        values = [{**losses, **times} for losses, times in zip(self._losses, self._times, strict=True)]
        self._losses, self._times = [], []
        return {name: sum(value[name] for value in values) / len(values) for name in values[0]}


def run_state(
    cfg: CfgNode,
    model: Detector,
    optimizer: torch.optim.Optimizer,
    precision: MixedPrecision,
    iteration: int,
    card: dict[str, Any] | None,
    processes: Processes,
) -> dict[str, Any]:
    """Return all that resuming and detecting need; ``iteration`` is the last one done, 0-based as in Detectron2.

    Every process must call it.
    """
    return {
        "model": model.detectron2_state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": precision.scaler.state_dict(),
        "iteration": iteration,
        "rng": processes.gather(random_state(processes.device)),
        "card": card,
        "config": cfg.dump(),
        "processes": processes.size,
    }


def restore(
    state: dict[str, Any],
    path: Path,
    model: Detector,
    optimizer: torch.optim.Optimizer,
    precision: MixedPrecision,
    processes: Processes,
    seed: int,
) -> dict[str, Any] | None:
    """Load a checkpoint of ``run_state`` into all that trains and draws; return the backbone's card."""
    report = model.load_detectron2_state_dict(state["model"])
    if report.missing or report.unexpected:
        raise ValueError(f"cannot resume from {path}: its tensors are not the model's ({len(report.missing)} missing)")
    optimizer.load_state_dict(state["optimizer"])
    precision.load_state(state["scaler"])
    if len(state["rng"]) == processes.size:
        set_random_state(state["rng"][processes.rank], processes.device)
    else:
        torch.manual_seed(seed + state["iteration"] + 1 + processes.rank)
        logger.warning(
            "%d process(es) wrote %s and %d go on: pictures and learning rate continue as they were, what "
            "the losses draw does not",
            len(state["rng"]),
            path,
            processes.size,
        )
    logger.info("resumed from %s, after iteration %d", path, state["iteration"])
    return state["card"]
