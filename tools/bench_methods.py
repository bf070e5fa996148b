#!/usr/bin/env python3
"""Time the training iterations of several methods beside each other: Table 5 of the paper, measured interleaved.

Every run is a pretraining config. All are held in memory at the same time and take turns of a few iterations, so that
a machine that grows slower slows them all; a run's relative time is the median, over the rounds, of its time to that of
the first run in the same round. An iteration is the product's own: load (with DATA.ROOT; without it all learn from one
batch of noise), mix, normalise, forward, backward, optimiser step. Evaluation and saving are left out.

Seconds are those of this process's CPU clock where that says what an idle machine would take, which is on one CPU
thread without loading processes; otherwise they are those that passed. Every turn's time by both is in the JSON.

Example:
  python tools/bench_methods.py --output timing.json --opts SOLVER.BATCH_SIZE 128 \\
      --run baseline pretrain/configs/cifar10_r18_baseline.yaml \\
      --run cutout pretrain/configs/cifar10_r18_cutout.yaml \\
      --run mixup pretrain/configs/cifar10_r18_baseline.yaml MIXING.METHOD mixup \\
      --run cutmix pretrain/configs/cifar10_r18_cutmix.yaml \\
      --run saliencymix pretrain/configs/cifar10_r18_saliencymix.yaml
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.cli import make_parser, run_tool, setup_logging

if TYPE_CHECKING:
    import torch
    from fvcore.common.config import CfgNode

    from pretrain.learner import Learner
    from pretrain.processes import Processes

# What must be equal, besides DATA.*, for the methods alone to make the difference.
SHARED_KEYS = (
    "MODEL.ARCH", "MODEL.DROPOUT", "SOLVER.BATCH_SIZE", "SOLVER.ACCUMULATION", "SOLVER.EMA_DECAY",
    "DEVICE", "PRECISION", "CHANNELS_LAST", "COMPILE",
)  # fmt: skip
LEARNING_RATE = 0.001  # takes as long as any other, and keeps the weights finite on noise
PROGRESS = 0.5  # DropBlock and Stochastic Depth grow linearly over a run: halfway they cost their mean
CLASSES = {"cifar10": 10, "cifar100": 100, "image_folder": 1000}  # where there are no pictures to count them in
CIFAR_PICTURES = 50_000
CLOCKS = {"wall": "wall: time that passed", "cpu": "cpu: time that this process computed"}

logger = logging.getLogger("pretrain.bench_methods")


class Feed(NamedTuple):
    """Where batches come from: the same stream for all runs, so that it keeps its pace whoever takes from it.

    ``pictures``: in an epoch; None where nobody knows.
    """

    batches: Iterator[tuple[torch.Tensor, torch.Tensor]]
    classes: int
    pictures: int | None


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--run", nargs="+", action="append", default=[], metavar=("NAME", "FILE KEY VALUE"),
                        help="a config under a name of its own; at least two, the first is what the others are "
                        "compared with")  # fmt: skip
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE",
                        help="config keys of all runs; a run's own come after them")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="of every run; the median counts")
    parser.add_argument("--iterations", type=int, default=20, metavar="N", help="that a run trains in a round")
    parser.add_argument("--output", metavar="FILE", help="JSON with every single time")
    args = parser.parse_args(argv)
    for name in ("rounds", "iterations"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, but got {getattr(args, name)}")
    if args.output and not Path(args.output).absolute().parent.is_dir():
        raise FileNotFoundError(f"--output {args.output}: its folder does not exist")
    setup_logging()
    runs = load_runs(args.run, args.opts)

    from pretrain.checkpoint import atomic_write
    from pretrain.timing import environment

    report = {
        "environment": environment(), "rounds": args.rounds, "iterations": args.iterations,
        **measure(runs, args.rounds, args.iterations),
    }  # fmt: skip
    if args.output:
        with atomic_write(args.output, "w") as file:
            file.write(json.dumps(report, indent=2) + "\n")
    print_table(report)


def load_runs(given: list[list[str]], opts: list[str]) -> dict[str, CfgNode]:
    """Return name -> config in the order given.

    Raises:
        FileNotFoundError, ValueError: a run is not complete, its config is wrong, or together they are no comparison.
    """
    from pretrain.config import load_pretrain_config

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
    """Refuse runs that differ in more than their methods, by the names of the keys."""
    (reference, first), *others = runs.items()
    keys = (*SHARED_KEYS, *(f"DATA.{key}" for key in first.DATA))
    different = [
        f"{key} ({reference}: {value_of(first, key)!r}, {name}: {value_of(cfg, key)!r})"
        for key in keys
        for name, cfg in others
        if value_of(cfg, key) != value_of(first, key)
    ]
    if different:
        raise ValueError(
            f"the runs differ in more than their methods: {', '.join(different)}; give such keys to all, with --opts"
        )


def value_of(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def measure(runs: Mapping[str, CfgNode], rounds: int, iterations: int) -> dict[str, Any]:
    """Return the parts ``runs`` and ``protocol`` of the report.

    Raises:
        ValueError: the data and the config do not fit together, or the runs do not fit into the GPU's memory together.
    """
    import torch

    from pretrain.processes import Processes, select_device
    from pretrain.timing import take_turns

    reference, cfg = next(iter(runs.items()))  # the config for what all share
    device = select_device(cfg.DEVICE)
    try:
        # One feed for all, a round more than counts, which warms up.
        with feed(cfg, Processes(device), len(runs) * (rounds + 1) * iterations) as source:
            learners = {name: make_learner(run, source.classes, Processes(device)) for name, run in runs.items()}
            million = sum(weight.numel() for one in learners.values() for weight in one.network.parameters()) / 1e6
            logger.info("%d runs with %.1f million weights are held in memory together", len(runs), million)
            turns = {name: training(one, source, cfg, iterations) for name, one in learners.items()}
            steps = dict(zip(turns, take_turns(list(turns.values()), rounds, device=device), strict=True))
        # Afterwards, because loading processes would use its turns to run ahead of the next ones.
        turns = {name: mixing(one, cfg, source.classes, iterations) for name, one in learners.items() if mixes(one)}
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
        seconds = clocks[clock]["seconds_per_iteration"]
        mixing_seconds = 0.0 if run.MIXING.METHOD == "baseline" else None  # None: inside the network, part of its step
        if name in mixings:
            mixing_seconds = median(getattr(mixings[name], clock)) / iterations
        length = None if source.pictures is None else run.SOLVER.EPOCHS * (source.pictures // run.SOLVER.BATCH_SIZE)
        rows.append({
            "name": name,
            "method": run.MIXING.METHOD,
            **clocks[clock],
            "mixing_seconds": mixing_seconds,
            "mixing_share": None if mixing_seconds is None else mixing_seconds / seconds,
            "schedule_iterations": length,
            "schedule_hours": None if length is None else length * seconds / 3600,
            "clocks": clocks,
            "config": run.dump(),
        })  # fmt: skip
    protocol = {
        "reference": reference,
        "arch": cfg.MODEL.ARCH,
        "batch_size": cfg.SOLVER.BATCH_SIZE,
        "image_size": cfg.DATA.IMAGE_SIZE,
        "precision": cfg.PRECISION,
        "device": str(device),
        "data": cfg.DATA.ROOT or "one batch of noise",
        "loading_processes": loading_processes(cfg),
        "clock": clock,
        "order": "every run once a round, after a round that warms up; an odd round is the one before it backwards, "
        "and each pair of rounds starts with the next run",
    }
    return {"runs": rows, "protocol": protocol}


def summary(own: list[float], reference: list[float], iterations: int) -> dict[str, Any]:
    """Sum up a run's seconds, a number a round, and its ratios to the reference run's of the same round.

    The relative time is the median of the ratios, not the ratio of the medians, and all quartiles are over the rounds.
    """
    from pretrain.timing import quartiles

    each = [seconds / iterations for seconds in own]
    ratios = [one / other for one, other in zip(own, reference, strict=True)]
    return {
        "seconds_per_iteration": median(each),
        "quartiles": quartiles(each),
        "relative": median(ratios),
        "relative_quartiles": quartiles(ratios),
        "rounds": each,
    }


@contextmanager
def feed(cfg: CfgNode, processes: Processes, iterations: int) -> Iterator[Feed]:
    """Open the batches of ``iterations`` iterations; loading processes end with the context."""
    from pretrain.data import Unreadable, load_splits
    from pretrain.trainer import batches_of, training_batches

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


def noise(cfg: CfgNode, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch as the data path would hand it over; what a picture shows does not change what mixing it costs."""
    import torch

    generator = torch.Generator().manual_seed(0)
    count, side = cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATION, cfg.DATA.IMAGE_SIZE
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, classes, (count,), generator=generator)


def make_learner(cfg: CfgNode, classes: int, processes: Processes) -> Learner:
    import torch

    from pretrain.learner import Learner

    torch.manual_seed(cfg.SEED)
    learner = Learner(cfg, classes, processes)
    learner.network.train()
    return learner


def training(learner: Learner, source: Feed, cfg: CfgNode, iterations: int) -> Callable[[], None]:
    """Return a turn of ``iterations`` training iterations."""

    def turn() -> None:
        for _ in range(iterations):
            parts = [next(source.batches) for _ in range(cfg.SOLVER.ACCUMULATION)]
            learner.step(parts, lr=LEARNING_RATE, progress=PROGRESS)

    return turn


def mixes(learner: Learner) -> bool:
    """Whether ``learner`` mixes before the network, where it can be timed apart."""
    from pretrain.mixing import ManifoldMixup

    return learner.mixing is not None and not isinstance(learner.mixing, ManifoldMixup)


def mixing(learner: Learner, cfg: CfgNode, classes: int, iterations: int) -> Callable[[], None]:
    """Return a turn that only mixes, as often as ``iterations`` training iterations do."""
    images, labels = (tensor.to(learner.device) for tensor in noise(cfg, classes))

    def turn() -> None:
        for _ in range(iterations * cfg.SOLVER.ACCUMULATION):
            learner.mixing(images, labels)

    return turn


def loading_processes(cfg: CfgNode) -> int:
    return cfg.DATA.NUM_WORKERS if cfg.DATA.ROOT else 0


def print_table(report: Mapping[str, Any]) -> None:
    protocol = report["protocol"]
    clock, other = protocol["clock"], next(name for name in CLOCKS if name != protocol["clock"])
    rows = [["run", f"s/iteration, {clock}", "quartiles", f"x {protocol['reference']}", "quartiles", f"by {other}",
             "mixing", "whole run"]]  # fmt: skip
    for run in report["runs"]:
        rows.append([
            run["name"], f"{run['seconds_per_iteration']:.4f}", span(run["quartiles"], 4),
            f"{run['relative']:.3f}", span(run["relative_quartiles"], 3), f"{run['clocks'][other]['relative']:.3f}",
            "-" if run["mixing_share"] is None else f"{100 * run['mixing_share']:.1f} %",
            "-" if run["schedule_hours"] is None else f"{run['schedule_hours']:.2f} h",
        ])  # fmt: skip
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, *cells in rows:
        print("  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))]))
    print(f"{protocol['arch']}, batch {protocol['batch_size']}, {protocol['precision']} on {protocol['device']}, "
          f"{report['environment']['threads']} CPU thread(s), data: {protocol['data']}; "
          f"{report['rounds']} rounds of {report['iterations']} iterations; {CLOCKS[clock]}")  # fmt: skip


def span(pair: list[float] | None, digits: int) -> str:
    return "-" if pair is None else f"{pair[0]:.{digits}f}..{pair[1]:.{digits}f}"


if __name__ == "__main__":
    run_tool(main)
