#!/usr/bin/env python3
"""Draw a contact sheet of what mixing does: source, saliency, peak, target, mixed picture and label weights.

Examples:
  python tools/show_mixing.py --output sheet.png
  python tools/show_mixing.py --input cat.jpg dog.jpg --targets 1 --styles all --share 0.6 --output figure4.png
  python tools/show_mixing.py --patches uniform salient_to_corresponding --labels relative --output labels.png
  python tools/show_mixing.py --methods saliencymix cutmix mixup cutout --saliency fine_grained official --targets 1 \\
    --output comparison.png
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.names import SHEET_SUFFIXES
from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    args = parse_arguments(argv)
    setup_logging()
    check_arguments(args)

    from pretrain.inspect.contact_sheet import load_pictures, rows_of_each, where_furthest, write_sheet
    from pretrain.mixing.labels import check_choice
    from pretrain.names import LABELS, STYLES
    from pretrain.saliency import FUNCTIONS

    names, images = load_pictures(args.input, args.size)
    if args.targets is not None and not 1 <= args.targets <= len(images):
        raise ValueError(f"--targets must be in 1..{len(images)}, the number of pictures, but got {args.targets}")
    styles = list(STYLES) if args.styles == ["all"] else args.styles
    for style in styles:
        check_choice("style", style, STYLES)
    rows = rows_of_each(
        args.methods,
        images,
        saliencies=list(FUNCTIONS) if args.saliency == ["all"] else args.saliency,
        patches=args.patches or styles,
        labels=list(LABELS) if args.labels == ["all"] else args.labels,
        num_targets=args.targets,
        seed=args.seed,
        share=args.share,
        alpha=args.alpha,
        basnet_checkpoint=args.basnet_checkpoint,
        resolution=args.resolution,
        scope=args.scope,
        placement=args.placement,
    )
    write_sheet(rows, names, images, args.output)
    print(f"{args.output}: {len(rows)} mixed pictures")
    if (line := where_furthest(rows, names)) is not None:
        print(line)


def check_arguments(args: Namespace) -> None:
    output = Path(args.output)
    if output.suffix.lower() not in SHEET_SUFFIXES:
        raise ValueError(f"{output}: the sheet is a PNG or a JPEG; give a name that ends in .png or .jpg")
    if not output.parent.is_dir():
        raise ValueError(f"{output.parent}: no such folder for --output")
    if args.size < 8:
        raise ValueError(f"--size must be at least 8 pixels, but got {args.size}")
    if args.share is not None and not 0 <= args.share <= 1:
        raise ValueError(f"--share must be in 0..1, but got {args.share}")


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="files, or folders of them: each is the target once, the one "
        "before it (for the first, the last) its source; default: photographs of scikit-image",
    )
    parser.add_argument("--size", type=int, default=224, help="pixels a side that the pictures are brought to")
    parser.add_argument("--targets", type=int, metavar="N", help="show only the first N pictures as targets")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["saliencymix"],
        metavar="NAME",
        help="saliencymix, cutmix, resizemix, mixup, cutout",
    )
    parser.add_argument(
        "--saliency",
        nargs="+",
        default=["fine_grained"],
        metavar="NAME",
        help="fine_grained, "
        "spectral_residual, frequency_tuned, background_subtraction, official, basnet; "
        "or all, which is all but basnet",
    )
    parser.add_argument("--basnet-checkpoint", metavar="FILE", help="the published basnet.pth")
    parser.add_argument("--resolution", type=int, metavar="N", help="find saliency at no more than N pixels a side")
    parser.add_argument(
        "--styles",
        nargs="+",
        default=["salient_to_corresponding"],
        metavar="NAME",
        help="salient_to_corresponding, salient_to_salient, salient_to_nonsalient, "
        "nonsalient_to_salient, nonsalient_to_nonsalient; or all",
    )
    parser.add_argument(
        "--patches",
        nargs="+",
        metavar="NAME",
        help="where SaliencyMix's patches come from, instead of --styles: uniform, resized, or a style",
    )
    parser.add_argument(
        "--labels", nargs="+", default=["area"], metavar="NAME", help="area, absolute, relative; or all, for each patch"
    )
    parser.add_argument("--scope", default="image", help="image or batch")
    parser.add_argument("--placement", default="clip", help="clip or shift")
    parser.add_argument("--alpha", type=float, default=1.0, help="of the Beta distribution that shares are drawn from")
    parser.add_argument(
        "--share", type=float, help="part of the target that is kept by SaliencyMix and ResizeMix, not drawn"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, metavar="FILE.png|jpg")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_tool(main)
