#!/usr/bin/env python3
"""Convert a ResNet checkpoint to a Detectron2 backbone, and prove both equal.

SOURCE: a checkpoint of tools/pretrain.py, a torchvision or timm ResNet, ResNeXt or Wide ResNet, the authors'
SaliencyMix and CutMix releases, those of self-supervised programs (MoCo, SwAV, DINO, VICReg, ...; pretrain/README.md
has the list), .safetensors; with --reverse a Detectron2 backbone or detector, which becomes a torchvision ResNet.

Example:
  python tools/convert_checkpoint.py output/pretrain/model_final.pth output/backbone.pth
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import add_weights_arguments, make_parser, run_tool, setup_logging


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("source", metavar="SOURCE", type=Path, help="weights file; nothing in it is executed")
    parser.add_argument(
        "target", metavar="TARGET", type=Path, help=".pth (safe to load) or .pkl (Detectron2's older convention)"
    )
    says = add_weights_arguments(parser)
    parser.add_argument("--reverse", action="store_true", help="from Detectron2's names to torchvision's")
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not run the two networks; names, shapes and values are checked even so",
    )
    says.add_argument("--channel-order", choices=("RGB", "BGR"), help="in which the network reads a picture")
    says.add_argument(
        "--stride-in-1x1",
        action="store_true",
        default=None,
        help="bottlenecks stride in their first convolution (Caffe's)",
    )
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = make_arguments().parse_args(argv)
    setup_logging()
    import json

    from detection.convert.backbone_file import convert_file
    from detection.convert.card import next_command, yaml_fragment
    from detection.convert.verify import describe
    from pretrain.weights.description import Preprocessing

    conversion = convert_file(
        args.source,
        args.target,
        prefix=args.prefix,
        ema=args.ema,
        reverse=args.reverse,
        verify=args.verify,
        said=Preprocessing(args.pixel_mean, args.pixel_std, args.channel_order, args.stride_in_1x1),
    )
    for note in conversion.notes:
        print(f"note: {note}")
    print(conversion.tally())
    print(describe(conversion.card["verification"]))
    print(json.dumps({key: value for key, value in conversion.card.items() if key != "verification"}, indent=2))
    print(f"written: {conversion.target}, card beside it in {conversion.target.with_suffix('.card.json').name}")
    if not args.reverse:
        print("\nIn a detection config it needs:")
        print(yaml_fragment(conversion.card, conversion.target))
        print(f"\nNext:\n{next_command(conversion.card, conversion.target)}")
    return 0


if __name__ == "__main__":
    run_tool(main)
