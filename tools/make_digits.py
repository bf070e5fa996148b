#!/usr/bin/env python3
"""Make the small data set of the demo and of the small studies: handwritten digits on photographs, no download.

DIR/pictures has train/ and val/ with a folder per class, for tools/pretrain.py; DIR/VOCdevkit, or with --format coco
DIR/coco, has scenes with boxes, for tools/train_net.py. The same arguments make the same files. A folder that is there
already is left alone; one appears only when it is complete. A number of 0 leaves its part out.

Example:
  python tools/make_digits.py --output output/digits --seed 0
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="where pictures/ and VOCdevkit/ or coco/ go")
    parser.add_argument("--seed", type=int, default=0, help="of every draw")
    parser.add_argument("--train-per-class", type=int, default=400, metavar="N", help="training pictures of a digit")
    parser.add_argument("--val-per-class", type=int, default=60, metavar="N", help="validation pictures of a digit")
    parser.add_argument("--side", type=int, default=64, metavar="PX", help="of the square pictures")
    parser.add_argument(
        "--format", choices=("voc", "coco"), default="voc", help="of the scenes, which are the same in both"
    )
    parser.add_argument(
        "--scenes", type=int, default=150, metavar="N", help="VOC2007 trainval; VOC2012 as many; coco_2017_train both"
    )
    parser.add_argument("--test-scenes", type=int, default=150, metavar="N", help="VOC2007 test, coco_2017_val")
    parser.add_argument("--scene-side", type=int, default=128, metavar="PX", help="longer side of a scene")
    args = parser.parse_args(argv)
    check(args)
    setup_logging()

    from detection.datasets import digits

    output = Path(args.output)
    if args.train_per_class:
        digits.write_image_folder(
            output / "pictures",
            seed=args.seed,
            side=args.side,
            train_per_class=args.train_per_class,
            val_per_class=args.val_per_class,
        )
        print(f"pictures by class: {output / 'pictures'}")
    if args.scenes:
        write, name = {"voc": (digits.write_devkit, "VOCdevkit"), "coco": (digits.write_coco, "coco")}[args.format]
        write(output / name, seed=args.seed, side=args.scene_side, trainval=args.scenes, test=args.test_scenes)
        print(f"scenes with boxes: {output / name}")


def check(args) -> None:
    """Refuse numbers that no data set can have."""
    from detection.datasets import digits

    least = {
        "seed": 0,
        "train_per_class": 0,
        "val_per_class": 0,
        "side": digits.MIN_SIDE,
        "scenes": 0,
        "test_scenes": 0,
        "scene_side": digits.MIN_SCENE_SIDE,
    }
    for name, minimum in least.items():
        value = getattr(args, name)
        if value < minimum:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected at least {minimum}")
    for training, held_out in (("train_per_class", "val_per_class"), ("scenes", "test_scenes")):
        if bool(getattr(args, training)) != bool(getattr(args, held_out)):
            raise ValueError(
                f"--{training.replace('_', '-')} is {getattr(args, training)} and --{held_out.replace('_', '-')} "
                f"{getattr(args, held_out)}; give both, or 0 for both"
            )
    if not args.train_per_class and not args.scenes:
        raise ValueError("nothing to make: --train-per-class and --scenes are both 0")


if __name__ == "__main__":
    run_tool(main)
