#!/usr/bin/env python3
"""Measure what a GPU makes of saliency, mixing, pretraining and both engines' detectors; a table, and JSON.

Needs nothing from outside (it makes JPEGs of ImageNet's sizes) and takes less than eight minutes on one GPU: maps per
second of every saliency, what SaliencyMix adds to a ResNet-50 step (bfloat16, channels-last, by the GPU's own clock),
pictures per second of step alone, data alone and both together, memory, training iterations per second of C4 and FPN
detectors, and the result of the tests that need a GPU. KEY VALUE pairs are those of the pretraining config.

Examples:
  python tools/bench_gpu.py --output gpu.json
  python tools/bench_gpu.py --output gpu.json COMPILE True DATA.NUM_WORKERS 12
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--output", metavar="FILE", help="JSON with everything that is measured")
    parser.add_argument("--num-images", type=int, default=512, metavar="N", help="JPEGs that are made and read")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of every measurement; the median counts")
    parser.add_argument("--iterations", type=int, default=10, metavar="N", help="training steps in a round")
    parser.add_argument(
        "--size", nargs=2, type=int, default=[800, 1067], metavar=("HEIGHT", "WIDTH"), help="of a detector's pictures"
    )
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="pictures in a detector's training step")
    parser.add_argument("--no-tests", action="store_true", help="leave the GPU tests out")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="pretraining config keys at the end: DEVICE cuda:1"
    )
    args = parser.parse_args(argv)
    if min(args.num_images, args.rounds, args.iterations, args.batch, *args.size) < 1:
        parser.error("--num-images, --rounds, --iterations, --batch and --size must be at least 1")
    setup_logging()

    from pretrain.run.files import atomic_write
    from tools.benchmarks.gpu import benchmark, table

    report = benchmark(
        args.opts,
        num_pictures=args.num_images,
        rounds=args.rounds,
        iterations=args.iterations,
        detector_size=tuple(args.size),
        detector_batch=args.batch,
        tests=not args.no_tests,
    )
    if args.output:
        with atomic_write(args.output, "w") as file:
            file.write(json.dumps(report, indent=2) + "\n")
    print("\n".join(table(report)))


if __name__ == "__main__":
    run_tool(main)
