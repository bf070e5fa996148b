#!/usr/bin/env python3
"""Probe what the features of checkpoints tell without training them: k-NN and a linear classifier, in a table.

CHECKPOINTs are NAME=FILE, as in tools/transfer.py: any ResNet, with a classifier or without. Features are taken after
global average pooling, in evaluation mode, of pictures shown as each checkpoint's evaluation shows them; what a file
does not say, the options say, for all files that do not. Features and numbers are kept in OUTPUT/features, so that
nothing is computed twice, for another checkpoint, k or seed either.

k-NN is DINO's: cosine, votes weighed by exp(cosine / T). The linear classifier is multinomial logistic regression by
L-BFGS on standardised features; C is chosen on a fifth of the training pictures of each class, then all are learned
from. Probes rank recognition: among checkpoints of one architecture they predict detection badly.

Examples:
  python tools/probe.py supervised=resnet50.pth moco=moco_v2.pth.tar --data-root /data/imagenet \\
      --num-train-images 100000 --output output/probes
  python tools/transfer.py supervised=resnet50.pth moco=moco_v2.pth.tar random --output output/transfer \\
      VOC.ROOT /data/VOCdevkit PROBES output/probes/probes.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import add_view_arguments, make_parser, one_line, run_tool, setup_logging
from tools.studies.session import add_checkpoint_arguments

if TYPE_CHECKING:
    from pretrain.inspect.pretrained import Pretrained

CODE = ("pretrain.inspect.probes",)  # where what is kept comes from
ROW = "{:<24}  {:>9}  {:>9}  {:>7}"


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add_checkpoint_arguments(parser, "checkpoints")
    parser.add_argument(
        "--data-root",
        required=True,
        metavar="DIR",
        help="holds train/ and val/, a folder of pictures per class in each",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="probes.json goes here, and what is kept")
    parser.add_argument("--k", type=int, default=20, metavar="N", help="nearest training pictures that vote")
    parser.add_argument("--temperature", type=float, default=0.07, metavar="T", help="of their votes")
    parser.add_argument("--seed", type=int, default=0, help="of the training pictures that choose C")
    for name, split in (("num-images", "validation"), ("num-train-images", "training")):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=0,
            metavar="N",
            help=f"N {split} pictures, spread over the classes and the same ones for every network; 0: all",
        )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_view_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = build_parser().parse_intermixed_args(argv)
    setup_logging()
    for name in ("num_images", "num_train_images"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected at least 0")

    from pretrain.inspect.probes import Probing, probe_checkpoint
    from pretrain.run.files import atomic_write
    from pretrain.run.processes import select_device
    from tools.studies.planning.code_version import code_version

    probing, device = Probing(args.k, args.temperature, args.seed), select_device(args.device)
    output = Path(args.output)
    found, opened = [], open_all(args)
    print(ROW.format("", "k-NN, %", "linear, %", "C"), flush=True)
    for name, pretrained in opened.items():
        numbers = probe_checkpoint(
            pretrained,
            Path(args.data_root),
            probing,
            cache=output / "features",
            code=code_version(CODE),
            device=device,
            num_images=args.num_images,
            num_train_images=args.num_train_images,
        )
        found.append({"name": name, "prefix": pretrained.prefix, **numbers})
        print(row_of(name, numbers), flush=True)
    with atomic_write(output / "probes.json", "w") as file:
        json.dump({"checkpoints": found}, file, indent=2)
    print(output / "probes.json")


def open_all(args: argparse.Namespace) -> dict[str, Pretrained]:
    """Return name -> what the file holds; refuse at once all that cannot be opened."""
    from pretrain.inspect.pretrained import Reading, open_pretrained
    from pretrain.run.settings import refuse_faults
    from tools.studies.checkpoints import read_words
    from tools.studies.experiments import RANDOM

    given = read_words(args.words, {"PREFIX": args.prefix, "EMA": args.ema})
    keys = (given.detection_opts + given.study_opts)[::2]
    faults = [f"{key} is a config key, and probes have no config; leave it out" for key in keys]
    opened = {}
    for row in given.rows:
        name = row["METHOD"]
        if row["WEIGHTS"] == RANDOM:
            faults.append(f"{RANDOM}: only files are probed; leave it out")
            continue
        try:
            reading = Reading(
                row.get("PREFIX"),
                row.get("EMA", False),
                args.pixel_mean,
                args.pixel_std,
                args.image_size,
                args.eval_resize,
                args.interpolation,
            )
            opened[name] = open_pretrained(row["WEIGHTS"], reading, needs_classifier=False)
        except (ValueError, OSError, ImportError) as error:
            faults.append(f"{name}: {one_line(error)}")
    refuse_faults(faults)
    for name, note in ((name, note) for name, one in opened.items() for note in one.notes):
        print(f"note: {name}: {note}")
    return opened


def row_of(name: str, numbers: Mapping[str, Any]) -> str:
    """Return the line of a checkpoint in the table."""
    linear = numbers["linear"]
    edge = " (at the edge of what was tried)" if linear["at_edge"] else ""
    return ROW.format(name, f"{numbers['knn_top1']:.2f}", f"{numbers['linear_top1']:.2f}", f"{linear['C']:g}") + edge


if __name__ == "__main__":
    run_tool(main)
