#!/usr/bin/env python3
"""Run a trained detector on pictures: boxes drawn on copies of them (PNG) and everything found as predictions.json.

Example:
  python tools/predict.py --weights output/model_final.pth --input street.jpg holidays/ --output found
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import add_help_config, make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--weights", required=True, metavar="FILE", help="a trained detector of either engine")
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PATH", help="picture files, folders of them, or patterns"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the drawings and predictions.json go")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, metavar="P", help="leave out what is less sure"
    )
    parser.add_argument("--engine", choices=("auto", "detectron2", "torchvision"), default="auto")
    parser.add_argument("--config-file", metavar="FILE", help="for weights that do not carry their config")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys: MODEL.DEVICE cpu")
    add_help_config(parser, "detection.config")
    args = parser.parse_args(argv)
    setup_logging()

    from detection import load_detector
    from detection.predict import RESULTS, predict

    detector = load_detector(
        args.weights,
        confidence_threshold=args.confidence_threshold,
        engine=args.engine,
        config_file=args.config_file,
        opts=args.opts,
    )
    entries = predict(detector, args.input, args.output)
    for entry in entries:
        print(f"{entry['file']}: {len(entry['detections'])} objects")
    print(Path(args.output) / RESULTS)


if __name__ == "__main__":
    run_tool(main)
