"""Training iterations of several methods timed beside each other: all held in memory, in turns of a few iterations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import repeat
from statistics import median
from typing import Any, NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.config import load_pretrain_config
from pretrain.data.augmentation import train_size
from pretrain.data.batches import Unreadable, load_splits
from pretrain.learner import Learner
from pretrain.mixing.manifold_mixup import ManifoldMixup
from pretrain.run.processes import Processes, num_workers, select_device
from pretrain.run.settings import get_value
from pretrain.trainer import batches_of, training_batches
from tools.benchmarks.timing import Seconds, environment, quartiles, take_turns

# What must be equal, besides DATA.*, for the methods alone to make the difference.
SHARED_KEYS = (
    "MODEL.ARCH", "MODEL.DROPOUT", "SOLVER.BATCH_SIZE", "SOLVER.ACCUMULATION", "SOLVER.EMA_DECAY",
    "SOLVER.LABEL_SMOOTHING", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS",
    "DEVICE", "PRECISION", "CHANNELS_LAST", "COMPILE",
)  # fmt: skip
LEARNING_RATE = 0.001  # takes as long as any other, and keeps the weights finite on noise
PROGRESS = 0.5  # DropBlock grows linearly over a run: halfway it costs its mean. Nothing else changes with progress
CLASSES = {"cifar10": 10, "cifar100": 100, "image_folder": 1000}  # where there are no pictures to count them in
CIFAR_PICTURES = 50_000
CLOCKS = {"wall": "wall: time that passed", "cpu": "cpu: time that this process computed"}
ORDER = (
    "every run once a round, after a round that warms up; an odd round is the one before it backwards, "
    "and each pair of rounds starts with the next run"
)

logger = logging.getLogger(__name__)


class Feed(NamedTuple):
    """Where batches come from: the same stream for all runs, so that it keeps its pace whoever takes from it.

    ``pictures``: in an epoch; None where nobody knows.
    """

    batches: Iterator[tuple[Tensor, Tensor]]
    classes: int
    pictures: int | None


def load_runs(given: Sequence[Sequence[str]], opts: Sequence[str]) -> dict[str, CfgNode]:
    """Return name -> config in the order given; each of ``given`` is ``(NAME, FILE, KEY, VALUE, ...)``.

    ``opts``, ``(KEY, VALUE, ...)``, hold for all runs; a run's own come after them.

    Raises:
        FileNotFoundError, ValueError: a run is not complete, its config is wrong, or together they are no comparison.
    """
    if len(given) < 2:
        raise ValueError(f"a comparison needs at least two --run, but got {len(given)}")
    runs: dict[str, CfgNode] = {}
    for name, *rest in given:
        if not rest:
            raise ValueError(f"--run {name}: expected NAME FILE [KEY VALUE ...], but there is no FILE")
        if name in runs:
            raise ValueError(f"--run {name} is given twice; every run needs a name of its own")
        file, *own = rest
        runs[name] = load_pretrain_config(file, [*opts, *own])
    check_alike(runs)
    return runs


def check_alike(runs: Mapping[str, CfgNode]) -> None:
    """Refuse runs that differ in more than their methods, by the names of the keys.

    Raises:
        ValueError: they do.
    """
    (reference, first), *others = runs.items()
    keys = (*SHARED_KEYS, *(f"DATA.{key}" for key in first.DATA))
    different = [
        f"{key} ({reference}: {get_value(first, key)!r}, {name}: {get_value(cfg, key)!r})"
        for key in keys
        for name, cfg in others
        if get_value(cfg, key) != get_value(first, key)
    ]
    if different:
        raise ValueError(
            f"the runs differ in more than their methods: {', '.join(different)}; give such keys to all, at the end"
        )


def benchmark(runs: Mapping[str, CfgNode], rounds: int, iterations: int) -> dict[str, Any]:
    """Time ``iterations`` training iterations of every run (name -> config) in each of ``rounds`` rounds.

    The first run is the reference. An iteration is the product's own: load (with DATA.ROOT; without it all learn from
    one batch of noise), mix, normalise, forward, backward, optimiser step. Mixing before the network is timed once
    more alone.

    Returns:
        ``{"environment", "rounds", "iterations", "runs": [row], "protocol"}``, ready for JSON; ``row_of`` says what a
        row holds, and the protocol says what all runs share and by which clock the rows count.

    Raises:
        ValueError: the data and the config do not fit together, or the runs do not fit into the GPU's memory together.
    """
    where = environment()  # before the work, whose own load it would show
    reference, cfg = next(iter(runs.items()))  # the config for what all share
    device = select_device(cfg.DEVICE)
    try:
        # One feed for all, a round more than counts, which warms up.
        with feed(cfg, Processes(device), len(runs) * (rounds + 1) * iterations) as source:
            learners = {name: make_learner(run, source.classes, Processes(device)) for name, run in runs.items()}
            million = sum(weight.numel() for one in learners.values() for weight in one.network.parameters()) / 1e6
            logger.info("%d runs with %.1f million weights are held in memory together", len(runs), million)
            turns = {name: training_turn(one, source, cfg, iterations) for name, one in learners.items()}
            steps = dict(zip(turns, take_turns(list(turns.values()), rounds, device=device), strict=True))
        # Afterwards, because loading processes would use its turns to run ahead of the next ones.
        turns = {
            name: mixing_turn(one, cfg, source.classes, iterations) for name, one in learners.items() if mixes(one)
        }
        mixings = dict(zip(turns, take_turns(list(turns.values()), rounds, device=device), strict=True))
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{len(runs)} runs, which take turns and so are held together, do not fit into the memory of {device}; "
            "try fewer, or a smaller SOLVER.BATCH_SIZE"
        ) from error

    clock = "cpu" if device.type == "cpu" and torch.get_num_threads() == 1 and not loading_processes(cfg) else "wall"
    rows = []
    for name, run in runs.items():
        clocks = {
            each: summary(getattr(steps[name], each), getattr(steps[reference], each), iterations) for each in CLOCKS
        }
        row = row_of(run, clocks, clock, mixing_seconds(run, mixings.get(name), clock, iterations), source.pictures)
        rows.append({"name": name, **row})
    protocol = {
        "reference": reference,
        "arch": cfg.MODEL.ARCH,
        "batch_size": cfg.SOLVER.BATCH_SIZE,
        "image_size": train_size(cfg),
        "precision": cfg.PRECISION,
        "device": str(device),
        "data": cfg.DATA.ROOT or "one batch of noise",
        "loading_processes": loading_processes(cfg),
        "clock": clock,
        "order": ORDER,
    }
    return {"environment": where, "rounds": rounds, "iterations": iterations, "runs": rows, "protocol": protocol}


def summary(own: Sequence[float], reference: Sequence[float], iterations: int) -> dict[str, Any]:
    """Sum up a run's seconds, a number a round, and its ratios to the reference run's of the same round.

    The relative time is the median of the ratios, not the ratio of the medians, and all quartiles are over the rounds.
    """
    each = [seconds / iterations for seconds in own]
    ratios = [one / other for one, other in zip(own, reference, strict=True)]
    return {
        "seconds_per_iteration": median(each),
        "quartiles": quartiles(each),
        "relative": median(ratios),
        "relative_quartiles": quartiles(ratios),
        "rounds": each,
    }


def mixing_seconds(cfg: CfgNode, measured: Seconds | None, clock: str, iterations: int) -> float | None:
    """Return the seconds of an iteration that go into mixing; None where it is inside the network, part of its step."""
    if measured is not None:
        return median(getattr(measured, clock)) / iterations
    return 0.0 if cfg.MIXING.METHOD == "baseline" else None


def row_of(
    cfg: CfgNode, clocks: Mapping[str, dict[str, Any]], clock: str, mixing: float | None, pictures: int | None
) -> dict[str, Any]:
    """Return what the report says of a run: its summary by ``clock``, mixing's share, and how long the whole run takes.

    ``clocks``: clock -> ``summary``. ``mixing``: seconds an iteration. ``pictures``: in an epoch; None where nobody
    knows, and nobody then knows the length of the run.
    """
    seconds = clocks[clock]["seconds_per_iteration"]
    length = None if pictures is None else cfg.SOLVER.EPOCHS * (pictures // cfg.SOLVER.BATCH_SIZE)
    return {
        "method": cfg.MIXING.METHOD,
        **clocks[clock],
        "mixing_seconds": mixing,
        "mixing_share": None if mixing is None else mixing / seconds,
        "schedule_iterations": length,
        "schedule_hours": None if length is None else length * seconds / 3600,
        "clocks": dict(clocks),
        "config": cfg.dump(),
    }


@contextmanager
def feed(cfg: CfgNode, processes: Processes, iterations: int) -> Iterator[Feed]:
    """Open the batches of ``iterations`` iterations; loading processes end with the context."""
    if not cfg.DATA.ROOT:
        classes = CLASSES[cfg.DATA.DATASET]
        images, labels = noise(cfg, classes)
        if processes.device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()  # as loaded batches are
        yield Feed(repeat((images, labels)), classes, CIFAR_PICTURES if cfg.DATA.DATASET != "image_folder" else None)
        return
    pictures, _ = load_splits(cfg)
    order = training_batches(cfg, pictures, processes, stop=iterations)
    unreadable = Unreadable(cfg.DATA.MAX_UNREADABLE)
    with closing(iter(batches_of(cfg, pictures, order, unreadable, processes))) as batches:
        yield Feed(batches, len(pictures.classes), len(pictures))


def noise(cfg: CfgNode, classes: int) -> tuple[Tensor, Tensor]:
    """Return a batch as the data path would hand it over: pictures ``uint8 (B, 3, S, S)`` and labels ``int64 (B,)``.

    What a picture shows does not change what mixing it costs.
    """
    generator = torch.Generator().manual_seed(0)
    count, side = cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATION, train_size(cfg)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, classes, (count,), generator=generator)


def make_learner(cfg: CfgNode, classes: int, processes: Processes) -> Learner:
    """Return the learner of a run in training mode, its weights drawn from the config's seed."""
    torch.manual_seed(cfg.SEED)
    learner = Learner(cfg, classes, processes)
    learner.network.train()
    return learner


def training_turn(learner: Learner, source: Feed, cfg: CfgNode, iterations: int) -> Callable[[], None]:
    """Return a turn of ``iterations`` training iterations."""

    def turn() -> None:
        for _ in range(iterations):
            parts = [next(source.batches) for _ in range(cfg.SOLVER.ACCUMULATION)]
            learner.step(parts, lr=LEARNING_RATE, progress=PROGRESS)

    return turn


def mixes(learner: Learner) -> bool:
    """Whether ``learner`` mixes before the network, where it can be timed apart."""
    return learner.mixing is not None and not isinstance(learner.mixing, ManifoldMixup)


def mixing_turn(learner: Learner, cfg: CfgNode, classes: int, iterations: int) -> Callable[[], None]:
    """Return a turn that only mixes, as often as ``iterations`` training iterations do."""
    images, labels = (tensor.to(learner.device) for tensor in noise(cfg, classes))

    def turn() -> None:
        for _ in range(iterations * cfg.SOLVER.ACCUMULATION):
            learner.mixing(images, labels)

    return turn


def loading_processes(cfg: CfgNode) -> int:
    """Return how many processes load pictures beside this one."""
    return num_workers(cfg.DATA.NUM_WORKERS) if cfg.DATA.ROOT else 0


def table(report: Mapping[str, Any]) -> list[str]:
    """Return a report of ``benchmark`` as lines of text: a header, a line for each run, and how it was measured."""
    protocol = report["protocol"]
    clock, other = protocol["clock"], next(name for name in CLOCKS if name != protocol["clock"])
    reference = f"x {protocol['reference']}"
    header = ["run", f"s/iteration, {clock}", "quartiles", reference, "quartiles", f"by {other}", "mixing", "whole run"]
    rows = [header]
    for run in report["runs"]:
        rows.append(
            [
                run["name"],
                f"{run['seconds_per_iteration']:.4f}",
                span(run["quartiles"], 4),
                f"{run['relative']:.3f}",
                span(run["relative_quartiles"], 3),
                f"{run['clocks'][other]['relative']:.3f}",
                "-" if run["mixing_share"] is None else f"{100 * run['mixing_share']:.1f} %",
                "-" if run["schedule_hours"] is None else f"{run['schedule_hours']:.2f} h",
            ]
        )
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
        for name, *cells in rows
    ]
    return [
        *lines,
        f"{protocol['arch']}, batch {protocol['batch_size']}, {protocol['precision']} on {protocol['device']}, "
        f"{report['environment']['threads']} CPU thread(s), data: {protocol['data']}; "
        f"{report['rounds']} rounds of {report['iterations']} iterations; {CLOCKS[clock]}",
    ]


def span(pair: Sequence[float] | None, digits: int) -> str:
    """Return a pair of numbers as text, a dash for None."""
    return "-" if pair is None else f"{pair[0]:.{digits}f}..{pair[1]:.{digits}f}"
