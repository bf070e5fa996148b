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
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import add_config_arguments, make_parser, run_tool, setup_logging

if TYPE_CHECKING:
    from tools.studies.planning.cost import Estimates
    from tools.studies.planning.plan import Plan
    from tools.studies.planning.stages import Stage
    from tools.studies.records import Result


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the stages that would run, their commands and how long they should take; run and write nothing",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only the stages of that name, with what they are made from: a method, seed1, pretrain, "
        "'*/cutmix/seed1/*'; several are written --only A --only B",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=0,
        metavar="N",
        help="stages at a time (default: on this machine "
        "as many as its GPUs or cores hold, on a cluster all that are ready)",
    )
    parser.add_argument(
        "--launcher",
        choices=("local", "slurm", "submitit-local"),
        default="local",
        help="slurm: a job a stage, through submitit; submitit-local: the same on this machine",
    )
    parser.add_argument(
        "--accept-code",
        action="store_true",
        help="take what another version of the code, or of PyTorch, has made, or begun, as it is",
    )
    parser.add_argument(
        "--accept-data",
        action="store_true",
        help="take what was made, or begun, of real data that have changed since as it is",
    )
    parser.add_argument(
        "--trust-group",
        action="store_true",
        help="run stages in an OUTPUT_DIR that its group can write to; who can write there decides what is run",
    )
    add_config_arguments(parser, example="tools/studies/configs/table3_small.yaml")
    return parser


def main(argv: list[str] | None = None) -> int | None:
    _refuse_second_pattern(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(argv)
    if args.jobs < 0:
        raise ValueError(f"--jobs is {args.jobs}; expected at least 1 (0: chosen by the machine)")

    setup_logging(quiet=True)  # until it runs something

    from tools.studies.config import load_study
    from tools.studies.pages import summary_table
    from tools.studies.planning.cost import Estimates, describe_plan
    from tools.studies.planning.plan import make_plan
    from tools.studies.results import write_study
    from tools.studies.runner import find_obstacles, finished, refuse_other_study, select

    cfg = load_study(args.config_file, args.opts)
    plan = make_plan(cfg, args.config_file, accept_code=args.accept_code, accept_data=args.accept_data)
    stages = select(plan, args.only)
    results = finished(plan.stages)
    estimates = Estimates(cfg, [(stage, results[stage.name]) for stage in plan.stages if stage.name in results])
    missing = [stage for stage in stages if stage.name not in results]
    refuse_other_study(plan)
    obstacles = find_obstacles(plan, trust_group=args.trust_group) if missing else []
    if args.dry_run:
        print("\n".join([*describe_plan(plan, stages, missing, estimates), *(f"warning: {one}" for one in obstacles)]))
        return 0
    if obstacles:
        raise ValueError("; ".join(obstacles))
    failed: dict[str, str] = {}
    if missing:
        failed = _run(args, plan, stages, results, estimates)
        results = finished(plan.stages)
    print("\n".join(summary_table(write_study(plan, results, failed))))
    print(plan.folder / "study.html")
    if not missing:
        print(f"nothing to do: all {len(stages)} stages are done")
    for name, reason in failed.items():
        print(f"study.py: error: {name} failed: {reason}", file=sys.stderr)
    return 2 if failed else 0


def _run(
    args: argparse.Namespace, plan: Plan, stages: list[Stage], results: dict[str, Result], estimates: Estimates
) -> dict[str, str]:
    """Run what is missing of ``stages``; return the name of each that failed with the reason."""
    from tools.studies.launchers import make_launcher
    from tools.studies.results import write_study
    from tools.studies.runner import run

    setup_logging(plan.folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped, then 130
    launcher = make_launcher(args.launcher, plan.cfg, jobs=args.jobs, trust_group=args.trust_group)
    write_study(plan, results, {})  # from now on another study of that name is refused
    return run(stages, launcher, estimates, on_result=lambda done: write_study(plan, results | done, {}))


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
