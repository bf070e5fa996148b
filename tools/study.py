#!/usr/bin/env python3
"""Run a whole experiment of the paper, or your own: every method, every seed, one table.

A stage that is done is not run again, one that died goes on; so call it again after anything. A stage depends on its
settings, on the code that it runs and on what it is made from; when one of them changes, so do the stages after it.

Examples:
  python tools/study.py --config-file tools/studies/configs/table3_small.yaml
  python tools/study.py --config-file tools/studies/configs/table3.yaml --dry-run \\
      PRETRAIN.DATA_ROOT /data/imagenet DETECTION.VOC_ROOT /data/VOCdevkit
  python tools/study.py --config-file tools/studies/configs/table3.yaml --launcher slurm --only saliencymix \\
      PRETRAIN.DATA_ROOT /data/imagenet DETECTION.VOC_ROOT /data/VOCdevkit SLURM.PARTITION gpu
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import add_config_arguments, make_parser, run_tool, setup_logging


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
        help="only the stages of that name, "
        "with what they are made from: a method, seed1, pretrain, '*/cutmix/seed1/*'; may be repeated",
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
        "--accept-code", action="store_true", help="take what another version of the code has made, or begun, as it is"
    )
    add_config_arguments(parser, example="tools/studies/configs/table3_small.yaml")
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = build_parser().parse_args(argv)
    if args.jobs < 0:
        raise ValueError(f"--jobs is {args.jobs}; expected at least 1 (0: chosen by the machine)")

    from tools.studies.config import load_study
    from tools.studies.cost import Estimates, describe_plan
    from tools.studies.pages import summary_table
    from tools.studies.plan import make_plan
    from tools.studies.results import write_study
    from tools.studies.runner import check_data, finished, run, select

    cfg = load_study(args.config_file, args.opts)
    plan = make_plan(cfg, args.config_file, accept_code=args.accept_code)
    stages = select(plan, args.only)
    results = finished(plan.stages)
    estimates = Estimates(cfg, [(stage, results[stage.name]) for stage in plan.stages if stage.name in results])
    missing = [stage for stage in stages if stage.name not in results]
    if args.dry_run:
        print("\n".join(describe_plan(plan, stages, missing, estimates)))
        return 0
    failed: dict[str, str] = {}
    if missing:
        check_data(plan)
        setup_logging(plan.folder)

        from tools.studies.launchers import make_launcher

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped, then 130
        launcher = make_launcher(args.launcher, cfg, jobs=args.jobs)
        failed = run(stages, launcher, estimates, on_result=lambda done: write_study(plan, results | done, {}))
        results = finished(plan.stages)
    print("\n".join(summary_table(write_study(plan, results, failed))))
    print(plan.folder / "study.html")
    if not missing:
        print(f"nothing to do: all {len(stages)} stages are done")
    for name, reason in failed.items():
        print(f"study.py: error: {name} failed: {reason}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    run_tool(main)
