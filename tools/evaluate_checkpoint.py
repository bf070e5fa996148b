#!/usr/bin/env python3
"""Measure the top-1 and top-5 accuracy of a ResNet checkpoint, whoever trained it; write JSON, print the numbers.

CHECKPOINT is a file of tools/pretrain.py, which says everything itself, or any other ResNet checkpoint with a
classifier: torchvision's, timm's, the authors' and CutMix's releases. What a file does not say is taken to be
torchvision's reference evaluation, unless the options say otherwise; each such thing is told.

Examples:
  python tools/evaluate_checkpoint.py resnet50-0676ba61.pth --data-root /data/imagenet --output resnet50.json
  python tools/evaluate_checkpoint.py a1_in1k.safetensors --data-root /data/imagenet --output a1.json \\
      --image-size 288 --eval-resize 288 --interpolation bicubic
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import (
    add_measurement_arguments,
    check_measurement_arguments,
    make_parser,
    run_tool,
    setup_logging,
)


def main(argv: list[str] | None = None) -> int | None:
    args = parse_arguments(argv)
    setup_logging()
    check_measurement_arguments(args)

    from pretrain.inspect.accuracy import measure_accuracy, open_validation
    from pretrain.inspect.pretrained import open_pretrained, reading_of
    from pretrain.run.files import atomic_write
    from pretrain.run.processes import select_device

    pretrained = open_pretrained(args.checkpoint, reading_of(args))
    for note in pretrained.notes:
        print(f"note: {note}")
    device = select_device(args.device)
    validation = open_validation(
        pretrained, args.data_root, num_images=args.num_images, batch_size=args.batch_size, device=device
    )
    report = measure_accuracy(validation)
    with atomic_write(args.output, "w") as file:
        json.dump(report, file, indent=2)
    print(
        f"top-1 accuracy {report['top1']:.3f} %, top-5 accuracy {report['top5']:.3f} %, "
        f"{report['num_images']} pictures{_stated(report['stated'])}"
    )
    print(args.output)


def _stated(stated: dict[str, float | None]) -> str:
    known = [f"{name.replace('top', 'top-')} {value:.3f} %" for name, value in stated.items() if value is not None]
    return f"; stated by the file or its publisher: {', '.join(known)}" if known else ""


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = make_parser(__doc__)
    add_measurement_arguments(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_tool(main)
