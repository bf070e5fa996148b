#!/usr/bin/env python3
"""Compare checkpoints that are there already by the detectors that they become: from files to one page.

Every checkpoint is converted and proved first; all that cannot be are refused at once, before anything is trained. Then
each is fine-tuned with every seed under one protocol, evaluated and compared. "random" is a row that starts from
nothing. What is done is not done again: call it again after anything, or with one checkpoint more. The study that it is
stands in OUTPUT/transfer.yaml, for tools/study.py.

By default the protocol is MoCo's for comparing checkpoints (R50-C4, 24K iterations of 16 pictures, all norms trained):
frozen BatchNorm favours supervised checkpoints and means nothing for random weights.

Examples:
  python tools/transfer.py supervised=resnet50.pth moco=moco_v2.pth.tar timm=a1_in1k.safetensors random --seeds 3 \\
      --output output/transfer VOC.ROOT /data/VOCdevkit
  python tools/transfer.py mine=model_final.pth random --seeds 3 --output output/small --dry-run \\
      --config-file detection/configs/digits_r18_fpn.yaml DIGITS.SCENES 300 DIGITS.TEST_SCENES 200
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import add_help_config, make_parser, run_tool, setup_logging
from tools.studies.session import add_checkpoint_arguments, add_study_arguments, check_study_arguments, pursue

PROTOCOL = "detection/configs/voc_r50_c4_moco.yaml"


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add_checkpoint_arguments(
        parser, "checkpoints, and random; then KEY VALUE pairs of the config, such as VOC.ROOT /data/VOCdevkit"
    )
    for option, name, what in (
        ("--pixel-mean", "NAME=R,G,B", "that are taken off pixels of 0..255"),
        ("--pixel-std", "NAME=R,G,B", "that pixels are divided by"),
        ("--channel-order", "NAME=BGR", "in which a file's network reads a picture"),
        ("--stride-in-1x1", "NAME", "a file's bottlenecks stride in their first convolution (Caffe's)"),
    ):
        parser.add_argument(option, action="append", default=[], metavar=name, help=what)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of fine-tuning: 0 to N - 1")
    parser.add_argument("--output", required=True, metavar="DIR", help="the study, its stages and its page go here")
    parser.add_argument("--config-file", default=PROTOCOL, metavar="FILE", help="YAML of fine-tuning: one for all rows")
    parser.add_argument("--engine", default="auto", help="auto, detectron2 or torchvision")
    parser.add_argument(
        "--sweep",
        metavar="RATES",
        help="such as .005,.01,.02,.04,.08: choose each row's own among them, on training pictures that are held out",
    )
    parser.add_argument("--baseline", metavar="NAME", help="what the others are compared with (default: the first)")
    add_help_config(parser, "detection.config")
    add_study_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = build_parser().parse_intermixed_args(argv)
    check_study_arguments(args)
    setup_logging(quiet=True)  # until it runs something

    from tools.studies.checkpoints import (
        SAID,
        STUDY_FILE,
        prove,
        read_rates,
        read_words,
        study_of,
        with_readings,
        write_study_file,
    )
    from tools.studies.planning.plan import make_plan

    output = Path(args.output).resolve()
    file = output / STUDY_FILE
    accepted = {"accept_code": args.accept_code, "accept_data": args.accept_data}
    cfg = study_of(
        read_words(args.words, {key: getattr(args, key.lower()) for key in SAID}),
        config_file=args.config_file,
        engine=args.engine,
        seeds=args.seeds,
        rates=read_rates(args.sweep or ""),
        baseline=args.baseline,
        output=output,
    )
    plan = make_plan(cfg, file, **accepted)
    read = with_readings(cfg, prove(plan), plan.detection)
    if read.EXPERIMENTS != cfg.EXPERIMENTS:  # planning hashes every checkpoint, which is not done twice for nothing
        plan = make_plan(read, file, **accepted)
    if not args.dry_run:
        write_study_file(read, file, shlex.join(["python", "tools/transfer.py", *(argv or sys.argv[1:])]))
    return pursue(plan, args)


if __name__ == "__main__":
    run_tool(main)
