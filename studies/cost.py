"""How long stages take: from what this study has measured, else from the rates that its YAML states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from fvcore.common.config import CfgNode

from studies.plan import Stage

RATES = {"pretrain": "PRETRAIN_RATE", "fine_tune": "FINE_TUNE_RATE", "evaluate": "EVALUATE_RATE"}


class Estimates:
    """Seconds per unit of work of each kind of stage; ``add`` improves them as stages end."""

    def __init__(self, cfg: CfgNode, finished: Iterable[tuple[Stage, Mapping[str, Any]]] = ()):
        self.cfg = cfg
        self.measured: dict[str, list[float]] = {}
        for stage, result in finished:
            self.add(stage, result)

    def add(self, stage: Stage, result: Mapping[str, Any]) -> None:
        """Learn from the result of ``stage``; one that was interrupted says nothing about the whole."""
        if result["attempts"] == 1:
            self.measured.setdefault(stage.kind, []).append(result["seconds"] / max(stage.work, 1))

    def seconds(self, stage: Stage) -> float | None:
        """Return how long ``stage`` takes, None where nothing is known about its kind."""
        if stage.kind in self.measured:
            return median(self.measured[stage.kind]) * max(stage.work, 1)
        rate = self.cfg.COST[RATES[stage.kind]] if stage.kind in RATES else 0
        return stage.work / rate / max(stage.processes, 1) if rate and stage.work else None
