#!/usr/bin/env python3
"""What the study itself costs, beside its stages: planning, one look at all records, one page, one poll of the queue.

Nothing is trained. A plan is made of Table 1 with as many seeds as make that many stages; every stage gets the records
that a worker would have left, with made-up numbers. Then each part is timed over ``--rounds``; files are counted.

Example:
  python tools/bench_study.py --stages 240 600
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import make_parser, run_tool

if TYPE_CHECKING:
    from tools.studies.planning.stages import Stage

CONFIG = Path(__file__).parent / "studies/configs/table1.yaml"


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--stages", type=int, nargs="+", default=[240, 600], metavar="N", help="at least, of each plan")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of every timing; the median counts")
    args = parser.parse_args(argv)
    for name, numbers in (("stages", args.stages), ("rounds", [args.rounds])):
        if min(numbers) < 1:
            raise ValueError(f"--{name} must be at least 1, but got {min(numbers)}")
    rows = [measure(number, args.rounds) for number in args.stages]
    print("  ".join(f"{name:>12}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>12}" for value in row.values()))


def measure(number: int, rounds: int) -> dict[str, str]:
    """Return, by name, the figures of a study of at least ``number`` stages."""
    from tools.studies.config import load_study
    from tools.studies.launching.queue import SlurmQueue
    from tools.studies.planning.plan import make_plan
    from tools.studies.results import write_study
    from tools.studies.runner import finished

    with tempfile.TemporaryDirectory() as folder:

        def plan(seeds: int):
            places = ["OUTPUT_DIR", folder, "PRETRAIN.DATA_ROOT", folder]
            return make_plan(load_study(CONFIG, [*places, "SEEDS", str(tuple(range(seeds)))]), CONFIG)

        seeds = -(-number // len(plan(1).stages))
        stages = plan(seeds).stages
        for stage in stages:
            leave_records(stage)
        results = finished(stages)
        whole = plan(seeds)
        jobs = list(map(str, range(len(stages))))
        lines = "\n".join(f"{job}|RUNNING|None|2026-01-01T00:00:00" for job in jobs)

        def poll() -> None:
            queue = SlurmQueue(run=lambda: lines)
            for job in jobs:
                queue.state(job)

        timed = {
            "plan": lambda: plan(seeds),
            "records": lambda: finished(stages),
            "page": lambda: write_study(whole, results, {}),
            "poll": poll,
        }
        seconds = {f"{name} s": f"{seconds_of(part, rounds):.3f}" for name, part in timed.items()}
        files = sum(path.is_file() for stage in stages for path in stage.folder.iterdir())
        page = (whole.folder / "study.html").stat().st_size
    return {"stages": str(len(stages)), **seconds, "files": str(files), "page KB": f"{page / 1000:.0f}"}


def leave_records(stage: Stage) -> None:
    """Leave in the folder of a stage what its worker would have: small outputs, and numbers that mean nothing."""
    from pretrain.run.run_folder import METRICS_FILE
    from tools.studies.records import LOG, RESULT, describe_outputs, write_record
    from tools.studies.runner import prepare
    from tools.studies.values import read_values

    prepare(stage, {})
    for name in (*stage.outputs, LOG, "lock", "attempts"):
        (stage.folder / name).write_text("made up\n")
    error = float(sum(stage.name.encode()) % 97)
    line = {"iteration": 1, "val/top1_error": error, "val/top5_error": error / 2}
    (stage.folder / METRICS_FILE).write_text(json.dumps(line) + "\n")
    values, link = read_values(stage.kind, stage.folder, stage.outputs)
    made = {"fingerprint": stage.fingerprint, "made_from": {}, "outputs": describe_outputs(stage.folder, stage.outputs)}
    told = {"values": values, "link": link, "attempts": 1, "seconds": 60.0, "finished": "2026-01-01 00:00:00"}
    write_record(stage.folder / RESULT, {**made, **told})


def seconds_of(part: Callable[[], object], rounds: int) -> float:
    """Return the median, over ``rounds``, of the CPU seconds of ``part``."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        part()
        times.append(time.process_time() - started)
    return median(times)


if __name__ == "__main__":
    run_tool(main)
