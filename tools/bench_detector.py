#!/usr/bin/env python3
"""Time a detector held in memory (load_detector) against the evaluation's loop: the same pictures, turn by turn.

Example:
  python tools/bench_detector.py --num-images 100 --rounds 5 INPUT.MIN_SIZE_TEST 200
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", default="detection/configs/demo_r18_fpn.yaml", metavar="FILE", help="detector")
    parser.add_argument("--engine", choices=("auto", "detectron2", "torchvision"), default="torchvision")
    parser.add_argument("--num-images", type=int, default=100, metavar="N", help="JPEGs of 500 x 375 pixels")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="measured turns of each")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys: MODEL.DEVICE cpu")
    args = parser.parse_args(argv)
    if min(args.num_images, args.rounds) < 1:
        parser.error("--num-images and --rounds must be at least 1")
    setup_logging()

    from tools.benchmarks.detector import benchmark

    row = benchmark(args.config_file, args.opts, engine=args.engine, num_images=args.num_images, rounds=args.rounds)
    quartiles = "-" if row["quartiles"] is None else "{:.3f}..{:.3f}".format(*row["quartiles"])
    print(f"{args.num_images} pictures: evaluation loop {row['loop']:.3f} s, one call {row['call']:.3f} s")
    print(f"call / loop {row['ratio']:.3f} (quartiles {quartiles}), bit-equal: {'yes' if row['equal'] else 'no'}")


if __name__ == "__main__":
    run_tool(main)
