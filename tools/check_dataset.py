#!/usr/bin/env python3
"""Look for everything that is wrong with a dataset, and count what is in it, before training on it.

Exit status 1 if something would stop the training; defects that training survives are listed and counted.

Examples:
  python tools/check_dataset.py --data-root VOCdevkit voc_2007_trainval voc_2012_trainval voc_2007_test
  python tools/check_dataset.py --data-root cells --classes RBC,WBC,Platelets trainval test
  python tools/check_dataset.py --data-root cells annotations/train.json annotations/test.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "names",
        nargs="+",
        metavar="DATASET",
        help="as in DATASETS.TRAIN: voc_<year>_<set>, another image set of --data-root, or a COCO .json file in it",
    )
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="VOC.ROOT; default $DETECTRON2_DATASETS, else ./datasets"
    )
    parser.add_argument(
        "--classes",
        metavar="A,B,C|FILE",
        help="class list, or a file with one class a line; by "
        "default the 20 VOC classes, or those that the annotations name",
    )
    parser.add_argument("--pictures-anywhere", action="store_true", help="as VOC.PICTURES_ANYWHERE")
    parser.add_argument("--fast", action="store_true", help="read the annotations only, and open no picture")
    args = parser.parse_args(argv)
    setup_logging()

    from detection.datasets.check import check_dataset, describe_datasets, list_defects, overlaps
    from detection.datasets.load import read_class_list

    classes = read_class_list(args.classes) if args.classes else None
    options = {"read_pictures": not args.fast, "pictures_anywhere": args.pictures_anywhere}
    checks = [check_dataset(name, root=args.data_root, classes=classes, **options) for name in args.names]
    lines = [line for check in checks for line in list_defects(check)]
    print("\n".join([*describe_datasets(checks), *overlaps(checks), *lines]))
    fatal = sum(len(check.fatal) for check in checks)
    survived = sum(sum(check.survived().values()) for check in checks)
    print(f"{fatal} defects would stop the training, {survived} it would survive")
    return 1 if fatal else 0


if __name__ == "__main__":
    run_tool(main)
