#!/usr/bin/env python3
"""Time the training iterations of several methods beside each other: Table 5 of the paper, measured interleaved.

Every run is a pretraining config. All are held in memory at the same time and take turns of a few iterations, so that
a machine that grows slower slows them all; a run's relative time is the median, over the rounds, of its time to that of
the first run in the same round. An iteration is the product's own: load (with DATA.ROOT; without it all learn from one
batch of noise), mix, normalise, forward, backward, optimiser step. Evaluation and saving are left out.

Seconds are those of this process's CPU clock where that says what an idle machine would take, which is on one CPU
thread without loading processes; otherwise they are those that passed. Every turn's time by both is in the JSON.

Example:
  python tools/bench_methods.py --run baseline pretrain/configs/cifar10_r18_baseline.yaml \\
      --run cutout pretrain/configs/cifar10_r18_cutout.yaml \\
      --run mixup pretrain/configs/cifar10_r18_baseline.yaml MIXING.METHOD mixup \\
      --run cutmix pretrain/configs/cifar10_r18_cutmix.yaml \\
      --run saliencymix pretrain/configs/cifar10_r18_saliencymix.yaml \\
      --output timing.json SOLVER.BATCH_SIZE 128
"""

from __future__ import annotations

import json
import sys
from argparse import REMAINDER, Namespace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    for name in ("rounds", "iterations"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, but got {getattr(args, name)}")
    if args.output and not Path(args.output).absolute().parent.is_dir():
        raise FileNotFoundError(f"--output {args.output}: its folder does not exist")
    setup_logging()

    from pretrain.run.files import atomic_write
    from tools.benchmarks.methods import benchmark, load_runs, table

    report = benchmark(load_runs(args.run, args.opts), args.rounds, args.iterations)
    if args.output:
        with atomic_write(args.output, "w") as file:
            file.write(json.dumps(report, indent=2) + "\n")
    print("\n".join(table(report)))


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--run",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "FILE KEY VALUE"),
        help="a config under a name of its own; at least two, the first is what the others are compared with",
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="of every run; the median counts")
    parser.add_argument("--iterations", type=int, default=20, metavar="N", help="that a run trains in a round")
    parser.add_argument("--output", metavar="FILE", help="JSON with every single time")
    parser.add_argument(
        "opts",
        nargs=REMAINDER,
        metavar="KEY VALUE",
        help="config keys of all runs, after any other option; a run's own come after them",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_tool(main)
