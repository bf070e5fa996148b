"""What a study costs: how long stages take, from what it has measured, else from the rates that its YAML states."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from statistics import median

from fvcore.common.config import CfgNode

from pretrain.run.cli import format_seconds
from tools.studies.planning.plan import Plan
from tools.studies.planning.stages import Stage
from tools.studies.records import REQUEST, Result

RATES = {
    **dict.fromkeys(("fine_tune", "sweep"), "FINE_TUNE_RATE"),
    "pretrain": "PRETRAIN_RATE",
    "evaluate": "EVALUATE_RATE",
}


class Estimates:
    """Seconds per unit of work of each kind of stage; ``add`` improves them as stages end."""

    def __init__(self, cfg: CfgNode, finished: Iterable[tuple[Stage, Result]] = ()):
        self.cfg = cfg
        self.measured: dict[str, list[float]] = {}
        for stage, result in finished:
            self.add(stage, result)

    def add(self, stage: Stage, result: Result) -> None:
        """Learn from the result of ``stage``; one that was interrupted says nothing about the whole."""
        if result["attempts"] == 1:
            self.measured.setdefault(stage.kind, []).append(result["seconds"] / max(stage.work, 1))

    def seconds(self, stage: Stage) -> float | None:
        """Return how long ``stage`` takes, None where nothing is known about its kind."""
        if stage.kind in self.measured:
            return median(self.measured[stage.kind]) * max(stage.work, 1)
        rate = self.cfg.COST[RATES[stage.kind]] if stage.kind in RATES else 0
        return stage.work / rate / max(stage.processes, 1) if rate and stage.work else None


def describe_plan(plan: Plan, stages: Sequence[Stage], missing: Sequence[Stage], estimates: Estimates) -> list[str]:
    """Return lines: each of the ``missing`` stages with its command, and what all of them should cost."""
    lines = []
    for stage in missing:
        seconds = estimates.seconds(stage)
        expected = "duration unknown" if seconds is None else format_seconds(seconds)
        reason = stage.why_anew()
        begun = ", goes on" if (stage.folder / REQUEST).exists() else ""
        begun = f", begins anew: {reason}" if reason else begun
        lines.append(f"{stage.name}: {expected}{begun}")
        lines.append(f"    {shlex.join(stage.command)}")
    return [*lines, "", *describe_cost(plan, stages, missing, estimates)]


def describe_cost(plan: Plan, stages: Sequence[Stage], missing: Sequence[Stage], estimates: Estimates) -> list[str]:
    """Return lines: how many of ``stages`` are ``missing``, what they go through, and what they should cost."""
    done = len(stages) - len(missing)
    seconds = {stage.name: estimates.seconds(stage) for stage in missing}
    lines = [f"{len(stages)} stages: {done} done, {len(missing)} to run, into {plan.cfg.OUTPUT_DIR}"]
    if not missing:
        return lines
    lines.append(_listed(missing))
    known = {name: value for name, value in seconds.items() if value is not None}
    hours = sum(known[stage.name] * stage.processes for stage in missing if stage.name in known) / 3600
    left_out = f", {len(missing) - len(known)} of unknown duration left out" if len(known) < len(missing) else ""
    if known:
        total = format_seconds(sum(known.values()))
        lines.append(f"{total} one after the other{left_out}; {hours:.1f} GPU hours where there are GPUs")
    measured = ", ".join(sorted(estimates.measured))
    sources = [
        f"measured in this study: {measured}" if measured else "",
        f"rates of the config: {plan.cfg.COST.SOURCE}" if plan.cfg.COST.SOURCE else "",
    ]
    lines.append(
        "; ".join(filter(None, sources)) or "how long that takes is not known: no rate was measured or is stated"
    )
    return lines


def _listed(stages: Sequence[Stage]) -> str:
    """Return how many stages of each kind there are, and over how many pictures those go that train."""
    counts: dict[str, list[float]] = {}
    for stage in stages:
        counts.setdefault(stage.kind, []).append(stage.work)
    return ", ".join(
        f"{len(works)} {kind}"
        + (f" over {sum(works):,.0f} pictures" if kind in ("pretrain", "fine_tune", "sweep") and sum(works) else "")
        for kind, works in counts.items()
    )
