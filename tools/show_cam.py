#!/usr/bin/env python3
"""Draw where several pretrained networks see the two classes of mixed pictures (Figure 5 of the paper).

A column for each checkpoint; the numbers behind the PNG are written beside it as JSON.

Example:
  python tools/show_cam.py --checkpoints baseline=output/r50_baseline/model_final.pth \\
      saliencymix=output/r50_saliencymix/model_final.pth --data-root /data/imagenet --num-images 4 --output figure5.png
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    args = parse_arguments(argv)
    setup_logging()
    check_arguments(args)
    files = named_files(args.checkpoints)

    from pretrain.inspect.cam_sheet import PAIR_METHODS, look_with_each, mix_pairs, numbers_of, write_cam_sheet
    from pretrain.inspect.pairs import check_same_pictures, drawn_pairs, given_pairs
    from pretrain.inspect.pretrained import open_pretrained
    from pretrain.run.files import atomic_write
    from pretrain.run.processes import select_device

    if args.method not in PAIR_METHODS:
        raise ValueError(f"--method is {args.method!r}; expected one of {', '.join(PAIR_METHODS)}")
    device = select_device(args.device)
    networks = {name: open_pretrained(path) for name, path in files.items()}
    check_same_pictures(list(networks.values()))
    first = next(iter(networks.values()))
    if args.pictures:
        chosen, classes = given_pairs(first, args.pictures), first.classes
    else:
        chosen, classes = drawn_pairs(first, args.data_root, args.num_images, seed=args.seed)
    pairs = mix_pairs(chosen, args.method, seed=args.seed, share=args.share)
    columns = look_with_each(networks, pairs, classes, device)
    numbers = numbers_of(networks, pairs, columns, classes, method=args.method, seed=args.seed)
    output = Path(args.output)
    write_cam_sheet(pairs, columns, classes, output)
    with atomic_write(output.with_suffix(".json"), "w") as file:
        json.dump(numbers, file, indent=2)
    print(f"{output}: {len(pairs)} mixed pictures, {len(columns)} networks")


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        required=True,
        metavar="NAME=FILE",
        help="files of tools/pretrain.py, trained on the same classes",
    )
    pictures = parser.add_mutually_exclusive_group(required=True)
    pictures.add_argument(
        "--data-root",
        metavar="DIR",
        help="draw pairs of validation pictures from here: val/ with a folder per class, or CIFAR's folder",
    )
    pictures.add_argument(
        "--pictures",
        nargs="+",
        metavar="FILE",
        help="source, target, source, target, ...; the folder that a file is in names its class",
    )
    parser.add_argument("--num-images", type=int, default=4, metavar="N", help="mixed pictures drawn from --data-root")
    parser.add_argument("--method", default="saliencymix", metavar="NAME", help="saliencymix, cutmix, mixup")
    parser.add_argument(
        "--share",
        type=float,
        default=0.6,
        help="part of the target that SaliencyMix is to keep (the other methods draw it)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs and of what mixing draws")
    parser.add_argument("--output", required=True, metavar="FILE.png")
    return parser.parse_args(argv)


def check_arguments(args: Namespace) -> None:
    output = Path(args.output)
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output}: the sheet is a PNG; give a name that ends in .png")
    if not output.parent.is_dir():
        raise ValueError(f"{output.parent}: no such folder for --output")
    if args.num_images < 1:
        raise ValueError(f"--num-images is {args.num_images}; expected at least 1")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; expected at least 0")
    if not 0 <= args.share <= 1:
        raise ValueError(f"--share must be in 0..1, but got {args.share}")
    if args.pictures and len(args.pictures) % 2:
        raise ValueError(f"--pictures are pairs, source and target, but got {len(args.pictures)} files")


def named_files(arguments: list[str]) -> dict[str, str]:
    """Return name -> file of ``NAME=FILE`` arguments."""
    files: dict[str, str] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not (name and equals and path):
            raise ValueError(f"--checkpoints: expected NAME=FILE, but got {argument!r}")
        if name in files:
            raise ValueError(f"--checkpoints: the name {name!r} is given twice")
        files[name] = path
    return files


if __name__ == "__main__":
    run_tool(main)
