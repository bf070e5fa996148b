#!/usr/bin/env python3
"""Run a whole experiment of the paper, or your own: every method, every seed, one table.

A stage that is done is not run again, one that died goes on; so call it again after anything. A stage depends on its
settings, on the code that it runs and on what it is made from; when one of them changes, so do the stages after it.

Examples:
  python tools/study.py --config-file studies/table3_small.yaml
  python tools/study.py --config-file studies/table3.yaml --dry-run \\
      PRETRAIN.DATA_ROOT /data/imagenet DETECTION.VOC_ROOT /data/VOCdevkit
  python tools/study.py --config-file studies/table3.yaml --launcher slurm --only saliencymix \\
      PRETRAIN.DATA_ROOT /data/imagenet DETECTION.VOC_ROOT /data/VOCdevkit SLURM.PARTITION gpu
"""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.cli import add_config_arguments, format_seconds, make_parser, run_tool, setup_logging

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from studies.cost import Estimates
    from studies.plan import Plan, Stage


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--dry-run", action="store_true", help="print the stages that would run, their commands and "
                        "how long they should take; run and write nothing")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="only the stages of that name, "
                        "with what they are made from: a method, seed1, pretrain, '*/cutmix/seed1/*'; may be repeated")
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="stages at a time (default: on this machine "
                        "as many as its GPUs or cores hold, on a cluster all that are ready)")
    parser.add_argument("--launcher", choices=("local", "slurm", "submitit-local"), default="local",
                        help="slurm: a job a stage, through submitit; submitit-local: the same on this machine")
    parser.add_argument("--accept-code", action="store_true", help="take what another version of the code has made, "
                        "or begun, as it is")
    add_config_arguments(parser, example="studies/table3_small.yaml")
    args = parser.parse_args(argv)
    if args.jobs < 0:
        raise ValueError(f"--jobs is {args.jobs}; expected at least 1 (0: chosen by the machine)")

    from studies.config import load_study
    from studies.cost import Estimates
    from studies.plan import make_plan
    from studies.runner import finished, run, select

    cfg = load_study(args.config_file, args.opts)
    plan = make_plan(cfg, args.config_file, accept_code=args.accept_code)
    stages = select(plan, args.only)
    results = finished(plan.stages)
    estimates = Estimates(cfg, [(stage, results[stage.name]) for stage in plan.stages if stage.name in results])
    missing = [stage for stage in stages if stage.name not in results]
    if args.dry_run:
        print_plan(plan, stages, missing, estimates)
        return 0
    failed: dict[str, str] = {}
    if missing:
        check_data(plan)
        setup_logging(plan.folder)

        from studies.launchers import make_launcher

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped, then 130
        launcher = make_launcher(args.launcher, cfg, jobs=args.jobs)
        failed = run(stages, launcher, estimates, on_result=lambda done: write(plan, results | done, {}))
        results = finished(plan.stages)
    write(plan, results, failed, show=True)
    if not missing:
        print(f"nothing to do: all {len(stages)} stages are done")
    for name, reason in failed.items():
        print(f"study.py: error: {name} failed: {reason}", file=sys.stderr)
    return 2 if failed else 0


def check_data(plan: Plan) -> None:
    """Refuse to start without the data that the study needs."""
    cfg = plan.cfg
    if cfg.DIGITS.TRAIN_PER_CLASS:
        return
    if not cfg.PRETRAIN.DATA_ROOT and cfg.KIND != "timing":  # times are measured on noise where there is no data
        raise ValueError("PRETRAIN.DATA_ROOT is empty; give the pictures to pretrain on, such as "
                         "PRETRAIN.DATA_ROOT /data/imagenet")
    for key, path in (("PRETRAIN.DATA_ROOT", cfg.PRETRAIN.DATA_ROOT), ("DETECTION.VOC_ROOT", cfg.DETECTION.VOC_ROOT)):
        if path and not Path(path).expanduser().is_dir():
            raise FileNotFoundError(f"{key} {path} is no folder")


def write(plan: Plan, results: Mapping[str, Any], failed: Mapping[str, str], *, show: bool = False) -> None:
    """Write study.json, study.md and study.html; with ``show`` also print the table."""
    from studies.pages import summary_table, write_pages
    from studies.results import study_result

    result = study_result(plan, results, failed)
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_pages(result, plan.folder)
    if show:
        print("\n".join(summary_table(result)))
        print(plan.folder / "study.html")


def print_plan(plan: Plan, stages: Sequence[Stage], missing: Sequence[Stage], estimates: Estimates) -> None:
    """Print a line for each stage that would run, with its command, and what all of them should cost."""
    seconds = {stage.name: estimates.seconds(stage) for stage in missing}
    for stage in missing:
        expected = "duration unknown" if seconds[stage.name] is None else format_seconds(seconds[stage.name])
        begun = ", goes on" if (stage.folder / "request.json").exists() else ""
        print(f"{stage.name}: {expected}{begun}")
        print(f"    {shlex.join(stage.command)}")
    done = len(stages) - len(missing)
    print(f"\n{len(stages)} stages: {done} done, {len(missing)} to run, into {plan.cfg.OUTPUT_DIR}")
    if not missing:
        return
    known = {name: value for name, value in seconds.items() if value is not None}
    hours = sum(known[stage.name] * stage.processes for stage in missing if stage.name in known) / 3600
    left_out = f", {len(missing) - len(known)} of unknown duration left out" if len(known) < len(missing) else ""
    total = format_seconds(sum(known.values()))
    print(f"{total} one after the other{left_out}; {hours:.1f} GPU hours where there are GPUs")
    measured = ", ".join(sorted(estimates.measured))
    sources = [f"measured in this study: {measured}" if measured else "",
               f"rates of the config: {plan.cfg.COST.SOURCE}" if plan.cfg.COST.SOURCE else ""]  # fmt: skip
    print("; ".join(filter(None, sources)) or "no rates are known")


if __name__ == "__main__":
    run_tool(main)
