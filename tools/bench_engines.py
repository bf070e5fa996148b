#!/usr/bin/env python3
"""Time training and inference steps of both engines, turn by turn in one process, with equal weights and pictures.

Examples:
  python tools/bench_engines.py --output engines.json
  python tools/bench_engines.py --kinds fpn --size 160 213 MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 32 \\
    MODEL.RPN.POST_NMS_TOPK_TEST 50
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--kinds", nargs="+", choices=("c4", "fpn"), default=["c4", "fpn"], help="ResNet-50 C4, FPN")
    parser.add_argument(
        "--size", nargs=2, type=int, default=[800, 1067], metavar=("HEIGHT", "WIDTH"), help="of the pictures, in pixels"
    )
    parser.add_argument("--batch", type=int, default=2, metavar="N", help="pictures in a training step")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="measured steps of each engine")
    parser.add_argument("--output", metavar="FILE", help="JSON with every single time")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys at the end: MODEL.DEVICE cpu"
    )
    args = parser.parse_args(argv)
    if min(args.batch, args.rounds, *args.size) < 1:
        parser.error("--batch, --rounds and --size must be at least 1")
    setup_logging()

    from detection.engines import select
    from pretrain.run.files import atomic_write
    from pretrain.run.run_folder import package_versions
    from tools.benchmarks.engines import benchmark, table

    select("detectron2")  # says what is missing where it cannot be imported
    rows = benchmark(args.kinds, opts=args.opts, size=tuple(args.size), batch=args.batch, rounds=args.rounds)
    device = rows[0]["device"]
    print("\n".join(table(rows)))
    height, width = args.size
    print(f"{height}x{width} pixels, {args.batch} pictures a training step, {args.rounds} rounds, {device}")
    if args.output:
        content = {
            "rows": rows,
            "arguments": vars(args),
            "device": device,
            "machine": platform.platform(),
            "versions": package_versions(("detection-transfer-toolkit", "torch", "torchvision", "detectron2")),
        }
        with atomic_write(args.output, "w") as file:
            file.write(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    run_tool(main)
