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
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.cli import make_parser, run_tool, setup_logging

SAME_PICTURES = ("IMAGE_SIZE", "EVAL_RESIZE")  # keys of DATA that networks must share to be shown the same pictures


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoints", nargs="+", required=True, metavar="NAME=FILE",
                        help="files of tools/pretrain.py, trained on the same classes")
    pictures = parser.add_mutually_exclusive_group(required=True)
    pictures.add_argument("--data-root", metavar="DIR", help="draw pairs of validation pictures from here: val/ with a "
                          "folder per class, or CIFAR's folder")
    pictures.add_argument("--pictures", nargs="+", metavar="FILE", help="source, target, source, target, ...; "
                          "the folder that a file is in names its class")
    parser.add_argument("--num-images", type=int, default=4, metavar="N", help="mixed pictures drawn from --data-root")
    parser.add_argument("--method", default="saliencymix", metavar="NAME", help="saliencymix, cutmix, mixup")
    parser.add_argument("--share", type=float, default=0.6, help="part of the target that SaliencyMix is to keep (the "
                        "other methods draw it)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs and of what mixing draws")
    parser.add_argument("--output", required=True, metavar="FILE.png")
    args = parser.parse_args(argv)
    setup_logging()
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
    files = named_files(args.checkpoints)

    from detection.weights_file import sha256
    from pretrain.cam_sheet import METHODS, look, mix_pairs, numbers_of, write_cam_sheet
    from pretrain.checkpoint import atomic_write
    from pretrain.learner import Preparation
    from pretrain.pretrained import open_pretrained
    from pretrain.processes import select_device

    if args.method not in METHODS:
        raise ValueError(f"--method is {args.method!r}; expected one of {', '.join(METHODS)}")
    device = select_device(args.device)
    networks = {name: open_pretrained(path) for name, path in files.items()}
    check_same_pictures(list(networks.values()))
    first = next(iter(networks.values()))
    if args.pictures:
        chosen, classes = given_pairs(first, args.pictures), first.classes
    else:
        chosen, classes = drawn_pairs(first, args.data_root, args.num_images, args.seed)
    pairs = mix_pairs(chosen, args.method, seed=args.seed, share=args.share)
    columns = {
        name: look(pretrained.network(device, classes), pairs, Preparation(pretrained.cfg, device))
        for name, pretrained in networks.items()
    }

    numbers = {
        "pairs": numbers_of(pairs, columns, classes),
        "networks": [
            {"name": name, "checkpoint": str(network.path), "checkpoint_sha256": sha256(network.path),
             "arch": network.cfg.MODEL.ARCH, "method": network.state["method"]}
            for name, network in networks.items()
        ],
        "method": args.method,
        "seed": args.seed,
    }  # fmt: skip
    write_cam_sheet(pairs, columns, classes, output)
    with atomic_write(output.with_suffix(".json"), "w") as file:
        json.dump(numbers, file, indent=2)
    print(f"{output}: {len(pairs)} mixed pictures, {len(columns)} networks")


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


def check_same_pictures(networks: list[Any]) -> None:
    for key in SAME_PICTURES:
        first = networks[0]
        for other in networks[1:]:
            if other.cfg.DATA[key] != first.cfg.DATA[key]:
                raise ValueError(
                    f"the networks were not evaluated on the same pictures: DATA.{key} is {first.cfg.DATA[key]} in "
                    f"{first.path} and {other.cfg.DATA[key]} in {other.path}"
                )


def drawn_pairs(pretrained: Any, root: str, count: int, seed: int) -> tuple[list[tuple[Any, Any]], list[str]]:
    """Return ``count`` pairs (source, target) of validation pictures, and the classes of the data."""
    from pretrain.augmentation import eval_transform
    from pretrain.cam_sheet import Labelled, choose_pairs
    from pretrain.pretrained import labels_of

    source, transform = pretrained.validation_source(root), eval_transform(pretrained.cfg)

    def read(index: int) -> Labelled:
        try:
            picture, label = source.read(index)
        except ValueError as error:
            raise ValueError(f"{source.name(index)}: cannot be read as a picture ({error})") from error
        return Labelled(source.name(index), label, transform(picture))

    pairs = choose_pairs(labels_of(source), count, seed=seed)
    return [(read(one), read(other)) for one, other in pairs], source.classes


def given_pairs(pretrained: Any, paths: list[str]) -> list[tuple[Any, Any]]:
    """Return the pairs (source, target) of ``paths``, each file's class being the name of its folder."""
    from pretrain.augmentation import eval_transform
    from pretrain.cam_sheet import Labelled
    from pretrain.decoding import read_picture

    transform, pictures = eval_transform(pretrained.cfg), []
    for path in paths:
        name = Path(path).resolve().parent.name
        if name not in pretrained.classes:
            raise ValueError(f"{path}: its folder {name} is none of the {len(pretrained.classes)} classes of "
                             f"{pretrained.path}")  # fmt: skip
        try:
            picture = read_picture(path, pretrained.cfg.DATA.DECODER)
        except ValueError as error:
            raise ValueError(f"{path}: cannot be read as a picture ({error})") from error
        pictures.append(Labelled(path, pretrained.classes.index(name), transform(picture)))
    pairs = list(zip(pictures[::2], pictures[1::2], strict=True))
    for source, target in pairs:
        if source.label == target.label:
            raise ValueError(f"{source.name} and {target.name} are both of the class "
                             f"{pretrained.classes[source.label]}; mix two classes")  # fmt: skip
    return pairs


if __name__ == "__main__":
    run_tool(main)
