"""A study from its plan to its page: what is missing is told or run, whichever tool asks for it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.run.cli import setup_logging

if TYPE_CHECKING:
    from tools.studies.planning.cost import Estimates
    from tools.studies.planning.plan import Plan
    from tools.studies.planning.stages import Stage
    from tools.studies.records import Result


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how the stages of a study are run, and what of earlier versions is taken as it is."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the stages that would run, their commands and how long they should take; run and write nothing",
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


def add_checkpoint_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add what ``tools.studies.checkpoints.read_words`` reads; ``what`` says what the words are."""
    parser.add_argument("words", nargs="+", metavar="NAME=FILE", help=what)
    parser.add_argument(
        "--prefix",
        action="append",
        default=[],
        metavar="NAME=PREFIX",
        help="the network under that prefix of a file",
    )
    parser.add_argument("--ema", action="append", default=[], metavar="NAME", help="the averaged weights of a file")


def check_study_arguments(args: argparse.Namespace) -> None:
    """Refuse a number of jobs that is none with a ``ValueError``."""
    if args.jobs < 0:
        raise ValueError(f"--jobs is {args.jobs}; expected at least 1 (0: chosen by the machine)")


def pursue(plan: Plan, args: argparse.Namespace, *, only: Sequence[str] = ()) -> int:
    """Run what is missing of a study, of the stages ``only`` if there are any, and write its page.

    With ``--dry-run`` it is only told. Returns the exit status of the tool: 2 where a stage failed.

    Raises:
        ValueError: something would stop it, as far as it shows before anything is run; or ``only`` names nothing.
    """
    from tools.studies.pages import summary_table
    from tools.studies.planning.cost import Estimates, describe_cost, describe_plan
    from tools.studies.results import write_study
    from tools.studies.runner import find_obstacles, finished, refuse_other_study, select

    stages = select(plan, only)
    results = finished(plan.stages)
    estimates = Estimates(plan.cfg, [(stage, results[stage.name]) for stage in plan.stages if stage.name in results])
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
        print("\n".join(describe_cost(plan, stages, missing, estimates)), flush=True)
        failed = _run(args, plan, stages, results, estimates)
        results = finished(plan.stages)
    print("\n".join(summary_table(write_study(plan, results, failed))))
    if not missing:
        print(f"nothing to do: all {len(stages)} stages are done")
    print(plan.folder / "study.html")
    for name, reason in failed.items():
        print(f"{Path(sys.argv[0]).name}: error: {name} failed: {reason}", file=sys.stderr)
    return 2 if failed else 0


def _run(
    args: argparse.Namespace, plan: Plan, stages: list[Stage], results: dict[str, Result], estimates: Estimates
) -> dict[str, str]:
    """Run what is missing of ``stages``; return the name of each that failed with the reason."""
    from tools.studies.launching import make_launcher
    from tools.studies.results import write_study
    from tools.studies.runner import run

    setup_logging(plan.folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped, then 130
    launcher = make_launcher(args.launcher, plan.cfg, jobs=args.jobs, trust_group=args.trust_group)
    write_study(plan, results, {})  # from now on another study of that name is refused
    return run(stages, launcher, estimates, on_result=lambda done: write_study(plan, results | done, {}))
