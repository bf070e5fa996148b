#!/usr/bin/env python3
"""Draw where pretrained networks see the two classes of mixed pictures (Figure 5 of the paper).

One network and several methods: a column for each method's picture of a pair, as the paper has it. Several networks and
one method: a column for each network. The numbers behind the PNG are written beside it as JSON.

Examples:
  python tools/show_cam.py --checkpoints baseline=output/r50_baseline/model_final.pth --num-images 1 \\
      --methods baseline mixup cutout cutmix saliencymix --data-root /data/imagenet --output figure5.png
  python tools/show_cam.py --checkpoints baseline=output/r50_baseline/model_final.pth \\
      saliencymix=output/r50_saliencymix/model_final.pth --data-root /data/imagenet --output networks.png
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.names import PAIR_METHODS, SHEET_SUFFIXES
from pretrain.run.cli import add_evaluation_arguments, make_parser, run_tool, setup_logging
from pretrain.run.settings import check_choice


def main(argv: list[str] | None = None) -> int | None:
    args = parse_arguments(argv)
    setup_logging()
    files = named_files(args.checkpoints)
    check_arguments(args, files)

    from pretrain.inspect import cam_numbers, cam_sheet
    from pretrain.inspect.mixed_pairs import look_with_each, mix_pairs
    from pretrain.inspect.pairs import check_same_pictures, drawn_pairs, given_pairs
    from pretrain.inspect.pretrained import open_pretrained, reading_of
    from pretrain.run.files import atomic_write
    from pretrain.run.processes import select_device

    device = select_device(args.device)
    networks = {name: open_pretrained(path, reading_of(args)) for name, path in files.items()}
    for name, note in ((name, note) for name, network in networks.items() for note in network.notes):
        print(f"note: {name}: {note}")
    check_same_pictures(list(networks.values()))
    first = next(iter(networks.values()))
    if args.input:
        pairs, classes = given_pairs(first, args.input, args.data_root)
    else:
        pairs, classes = drawn_pairs(first, args.data_root, args.num_images, seed=args.seed)
    mixed = {method: mix_pairs(pairs, method, seed=args.seed, share=args.share) for method in args.methods}
    views = look_with_each(networks, mixed, classes, device)
    if len(args.methods) > 1:
        numbers_of, write_sheet = cam_numbers.numbers_by_method, cam_sheet.write_sheet_by_method
    else:
        numbers_of, write_sheet = cam_numbers.numbers_by_network, cam_sheet.write_sheet_by_network
    numbers = numbers_of(networks, views, classes, seed=args.seed)
    output = Path(args.output)
    write_sheet(views, classes, output)
    with atomic_write(output.with_suffix(".json"), "w") as file:
        json.dump(numbers, file, indent=2)
    print(f"{output}: pairs {len(pairs)}, methods {len(mixed)}, networks {len(networks)}")


def parse_arguments(argv: list[str] | None) -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        required=True,
        metavar="NAME=FILE",
        help="files of tools/pretrain.py, or any other ResNet with a classifier, trained on the same classes",
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="draw pairs of validation pictures from here: val/ with a folder per class, or CIFAR's folder; with "
        "--input, only the names of the classes are from here",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        metavar="FILE",
        help="source, target, source, target, ...; the folder that a file is in names its class",
    )
    parser.add_argument("--num-images", type=int, default=4, metavar="N", help="pairs drawn from --data-root")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["saliencymix"],
        metavar="NAME",
        help=f"one, or several for one checkpoint, in the order of the columns: {', '.join(PAIR_METHODS)}; baseline is "
        "the target as it is, cutout has a hole in it",
    )
    parser.add_argument(
        "--share",
        type=float,
        default=0.6,
        help="part of the target that SaliencyMix is to keep (the other methods draw it)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs and of what mixing draws")
    parser.add_argument("--output", required=True, metavar="FILE.png|jpg")
    add_evaluation_arguments(parser)
    return parser.parse_args(argv)


def check_arguments(args: Namespace, files: Mapping[str, str]) -> None:
    output = Path(args.output)
    if output.suffix.lower() not in SHEET_SUFFIXES:
        raise ValueError(f"{output}: the sheet is a PNG or a JPEG; give a name that ends in .png or .jpg")
    if not output.parent.is_dir():
        raise ValueError(f"{output.parent}: no such folder for --output")
    for method in args.methods:
        check_choice("--methods", method, PAIR_METHODS)
    if len(set(args.methods)) < len(args.methods):
        raise ValueError(f"--methods are {', '.join(args.methods)}; expected each once")
    if len(args.methods) > 1 and len(files) > 1:
        raise ValueError(
            f"{len(files)} --checkpoints and {len(args.methods)} --methods are too much for a sheet; give one "
            "checkpoint, to see several methods' pictures, or one method, to see with several networks"
        )
    if not (args.data_root or args.input):
        raise ValueError("no pictures; give --data-root to draw pairs of its validation pictures, or --input")
    if args.num_images < 1:
        raise ValueError(f"--num-images is {args.num_images}; expected at least 1")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; expected at least 0")
    if not 0 <= args.share <= 1:
        raise ValueError(f"--share must be in 0..1, but got {args.share}")
    if args.input and len(args.input) % 2:
        raise ValueError(f"--input are pairs, source and target, but got {len(args.input)} files")


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
