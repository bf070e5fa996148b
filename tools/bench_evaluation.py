#!/usr/bin/env python3
"""Time the evaluation and the whole report beside Detectron2's evaluator, on made detections, in one process.

Example:
  python tools/bench_evaluation.py --pictures 4952 --detections 100
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=4952, metavar="N", help="as many as VOC2007 test has")
    parser.add_argument("--detections", type=int, default=100, metavar="N", help="in each picture")
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="halves of the pictures behind the report's intervals"
    )
    parser.add_argument("--skip-detectron2", action="store_true", help="time ours alone")
    args = parser.parse_args(argv)
    if min(args.pictures, args.detections, args.resamples) < 1:
        parser.error("--pictures, --detections and --resamples must be at least 1")
    setup_logging()

    from tools.benchmarks.evaluation import benchmark, table

    result = benchmark(args.pictures, args.detections, args.resamples, with_detectron2=not args.skip_detectron2)
    print("\n".join(table(result)))
    return 1 if result["equal"] is False else 0


if __name__ == "__main__":
    run_tool(main)
