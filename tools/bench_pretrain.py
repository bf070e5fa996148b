#!/usr/bin/env python3
"""Measure where the time of a pretraining run goes: data alone, step alone, both together; print a table, then JSON.

Pictures per second of data alone, by each way to decode, beside torchvision's reference pipeline (Pillow, the same
augmentations by its PIL transforms, normalised floats); of the step on synthetic pictures, which is the ceiling; and of
both together, with the share of time spent waiting for data. Contenders take turns, so that what else the machine does
falls on all of them, and what one process does on the CPU is timed by that process's own clock. Without DATA.ROOT it
makes JPEGs of 500 x 375 pixels.

Example:
  python tools/bench_pretrain.py --config-file pretrain/configs/imagenet_r50_saliencymix.yaml \\
      SOLVER.BATCH_SIZE 32 DATA.NUM_WORKERS 2
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import add_config_arguments, make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--num-images", type=int, default=128, metavar="N", help="that are made or taken from DATA.ROOT"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of every contender; the median counts")
    parser.add_argument("--iterations", type=int, default=4, metavar="N", help="in a round of steps")
    add_config_arguments(parser, example="pretrain/configs/imagenet_r50_saliencymix.yaml", keys="pretrain.config")
    args = parser.parse_args(argv)
    for name in ("num_images", "rounds", "iterations"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, but got {getattr(args, name)}")
    setup_logging()

    from tools.benchmarks.pretrain import benchmark, table

    report = benchmark(
        args.config_file, args.opts, num_pictures=args.num_images, rounds=args.rounds, iterations=args.iterations
    )
    print("\n".join(table(report)))
    print(json.dumps(report))


if __name__ == "__main__":
    run_tool(main)
