#!/usr/bin/env python3
"""Measure the top-1 accuracy of a pretrained network under attack (Table 4 of the paper); write JSON, print a table.

CHECKPOINT is a file of tools/pretrain.py, which says everything itself, or any other ResNet checkpoint with a
classifier: torchvision's, timm's, the authors' and CutMix's releases. Epsilons are in levels of 255, max-norm; the
paper's, by way of CutMix's, is 8 (pretrain/inspect/attacks.py says what is known of it).

Example:
  python tools/attack.py output/r50_saliencymix/model_final.pth --data-root /data/imagenet --output attack.json
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

    from pretrain.inspect.accuracy import open_validation
    from pretrain.inspect.attacks import Attack
    from pretrain.inspect.pretrained import open_pretrained, reading_of
    from pretrain.inspect.robustness import check_attacks, measure_robustness
    from pretrain.run.files import atomic_write
    from pretrain.run.processes import select_device

    attacks = [Attack(name, epsilon, args.steps, args.step_size) for name in args.attacks for epsilon in args.epsilons]
    check_attacks(attacks)
    pretrained = open_pretrained(args.checkpoint, reading_of(args))
    for note in pretrained.notes:
        print(f"note: {note}")
    report = measure_robustness(
        open_validation(
            pretrained,
            args.data_root,
            num_images=args.num_images,
            batch_size=args.batch_size,
            device=select_device(args.device),
        ),
        attacks,
        seed=args.seed,
        on_result=print_result,
    )
    with atomic_write(args.output, "w") as file:
        json.dump(report, file, indent=2)
    print(f"{args.output}: {report['num_images']} pictures")


def print_result(name: str, epsilon: float, top1: float) -> None:
    if name == "none":  # the first: from here on there is something to show
        print(f"{'attack':8}{'epsilon':>8}{'top-1 accuracy':>16}")
    print(f"{name:8}{epsilon:>8g}{top1:>14.2f} %", flush=True)


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = make_parser(__doc__)
    add_measurement_arguments(parser)
    parser.add_argument("--attacks", nargs="+", default=["fgsm", "pgd"], metavar="NAME", help="fgsm, pgd")
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0, 2.0, 4.0, 8.0], metavar="LEVELS")
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    parser.add_argument(
        "--step-size", type=float, default=0.0, metavar="LEVELS", help="of PGD; 0: 2.5 x epsilon / steps"
    )
    parser.add_argument("--seed", type=int, default=0, help="of PGD's random starts")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_tool(main)
