#!/usr/bin/env python3
"""Run a whole experiment of the paper, or your own: every method, every seed, one table.

A stage that is done is not run again, one that died goes on; so call it again after anything. A stage depends on its
settings, on the code that it runs, PyTorch's version included, and on what it is made from, the contents of real data
included; when one of them changes, so do the stages after it. What nobody recorded yet counts as unchanged.

Examples:
  python tools/study.py --config-file tools/studies/configs/table3_small.yaml
  python tools/study.py --config-file tools/studies/configs/table3.yaml --dry-run \\
      PRETRAIN.DATA_ROOT /data/imagenet DETECTION.VOC_ROOT /data/VOCdevkit
  python tools/study.py --config-file tools/studies/configs/table3.yaml --launcher slurm --only saliencymix \\
      PRETRAIN.DATA_ROOT /data/imagenet DETECTION.VOC_ROOT /data/VOCdevkit SLURM.PARTITION gpu
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import add_config_arguments, make_parser, run_tool, setup_logging
from tools.studies.session import add_study_arguments, check_study_arguments, pursue


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only the stages of that name, with what they are made from: a method, seed1, pretrain, "
        "'*/cutmix/seed1/*'; several are written --only A --only B",
    )
    add_study_arguments(parser)
    add_config_arguments(parser, example="tools/studies/configs/table3_small.yaml", keys="tools.studies.config")
    return parser


def main(argv: list[str] | None = None) -> int | None:
    _refuse_second_pattern(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(argv)
    check_study_arguments(args)
    setup_logging(quiet=True)  # until it runs something

    from tools.studies.config import load_study
    from tools.studies.planning.plan import make_plan

    cfg = load_study(args.config_file, args.opts)
    plan = make_plan(cfg, args.config_file, accept_code=args.accept_code, accept_data=args.accept_data)
    return pursue(plan, args, only=args.only)


def _refuse_second_pattern(argv: Sequence[str]) -> None:
    """Refuse ``--only A B``: argparse would take B, and all flags behind it, for KEY VALUE pairs."""
    for place, word in enumerate(argv[:-1]):
        flag, equals, first = word.partition("=")
        if flag != "--only":
            continue
        rest = argv[place + 1 :] if equals else argv[place + 2 :]
        first = first if equals else argv[place + 1]
        if rest and not rest[0].startswith("-") and not re.fullmatch(r"[A-Z][A-Z0-9_.]*", rest[0]):
            raise ValueError(
                f"--only takes one pattern, but {rest[0]} follows {first}; write --only {first} --only {rest[0]}"
            )


if __name__ == "__main__":
    run_tool(main)
