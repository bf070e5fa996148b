#!/usr/bin/env python3
"""Time the evaluation and the whole report beside Detectron2's evaluator, on made detections, in one process.

With --coco, COCO's numbers too, beside pycocotools and hotcoco.

Examples:
  python tools/bench_evaluation.py --num-images 4952 --detections 100
  python tools/bench_evaluation.py --skip-detectron2 --coco
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--num-images", type=int, default=4952, metavar="N", help="as many as VOC2007 test has")
    parser.add_argument("--detections", type=int, default=100, metavar="N", help="in each picture")
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="halves of the pictures behind the report's intervals"
    )
    parser.add_argument("--skip-detectron2", action="store_true", help="time ours alone")
    parser.add_argument(
        "--coco",
        type=int,
        nargs="?",
        const=5000,
        metavar="N",
        help="also time COCO's numbers on N pictures as full as those of val2017 (without N: as many, 5000; minutes, "
        "which are pycocotools')",
    )
    args = parser.parse_args(argv)
    if min(args.num_images, args.detections, args.resamples, 1 if args.coco is None else args.coco) < 1:
        parser.error("--num-images, --detections, --resamples and --coco must be at least 1")
    setup_logging()

    from tools.benchmarks import coco
    from tools.benchmarks.evaluation import benchmark, table

    result = benchmark(args.num_images, args.detections, args.resamples, with_detectron2=not args.skip_detectron2)
    print("\n".join(table(result)))
    equal = result["equal"] is not False
    if args.coco is not None:
        timed = coco.benchmark(args.coco, args.detections)
        print("\n".join(["", *coco.table(timed)]))
        equal = equal and timed["equal"]
    return 0 if equal else 1


if __name__ == "__main__":
    run_tool(main)
