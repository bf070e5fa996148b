"""What study.json says of a sweep: what was found at each rate, which one each row was given, and what that cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.studies.experiments import Experiment, experiments, folder_name
from tools.studies.planning.detectors import CHOICE
from tools.studies.planning.plan import Plan
from tools.studies.records import Result, find_record
from tools.studies.values import OWN_PREFIX, Choice, metrics_of


def rates_of(plan: Plan, results: Mapping[str, Result]) -> dict[str, Any] | None:
    """Return the sweep of a study; None of one without.

    ``rows`` have the ``curve``, the ``rate`` that was chosen and the ``edge`` of the grid that it is at, or None and no
    curve before the choice; ``seconds`` are those of all trainings of the row's choice that are done.
    """
    if not plan.cfg.SWEEP.RATES:
        return None
    trial = next(stage for stage in plan.stages if stage.kind == "sweep").inputs
    seed = plan.cfg.SWEEP.SEED
    held = " and ".join(trial["DATASETS.TEST"])
    if share := trial["DATASETS.HELD_OUT"]:
        held = f"{100 * share:g} % of the pictures of {held}, drawn by seed {seed} and stratified by class"
    return {
        "metric": metrics_of(plan.cfg, plan.detection)[0].label,
        "fixed": plan.detection.SOLVER.BASE_LR,
        "chosen_on": f"{held}; trained without them, {trial['SOLVER.MAX_ITER']:,} iterations, seed {seed}",
        "rows": [_row(plan, row, results) for row in experiments(plan.cfg)],
    }


def own_values(plan: Plan, experiment: Experiment, seed: int, results: Mapping[str, Result]) -> dict[str, Any]:
    """Return the numbers of the row's run with ``seed`` that was trained at the row's own rate; empty before that."""
    found = results.get(folder_name(f"{experiment.name}/seed{seed}/evaluate_own"))
    return {} if found is None else {f"{OWN_PREFIX}{key}": value for key, value in found["values"].items()}


def _row(plan: Plan, experiment: Experiment, results: Mapping[str, Result]) -> dict[str, Any]:
    folder = folder_name(f"{experiment.name}/sweep/")
    stages = [stage for stage in plan.stages if stage.name.startswith(folder) and stage.name in results]
    choice = None
    for stage in stages:
        if stage.kind == "choice":
            choice, _ = find_record(stage.folder / CHOICE, Choice)
    return {
        "method": experiment.name.replace("/", " "),
        **(choice or {"rate": None, "edge": "", "curve": []}),
        "seconds": sum(results[stage.name]["seconds"] for stage in stages if stage.kind == "sweep"),
    }
