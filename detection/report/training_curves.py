"""The course of a training run, from the ``metrics.json`` that both engines write, thinned out for a plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pretrain.run.run_folder import read_metrics
from pretrain.run.settings import is_number

MAX_POINTS = 200  # of a curve


def read_training(run_folder: Path | str) -> dict[str, dict[str, list[float]]] | None:
    """Return ``{name: {"iteration": [...], "value": [...]}}`` of losses, learning rate and AP; None without a file.

    Long series are averaged over equal stretches. A line that was not written to its end is left out, and so are values
    that are not finite.
    """
    series: dict[str, dict[float, float]] = {}
    for entry in read_metrics(run_folder):
        for name, value in entry.items():
            if _is_plotted(name) and is_number(value):
                series.setdefault(name, {})[entry["iteration"]] = float(value)  # a resumed run may repeat an iteration
    return {name: _thin(points) for name, points in sorted(series.items())} or None


def _is_plotted(name: str) -> bool:
    return name in ("total_loss", "lr") or name.startswith("loss_") or name.endswith(("AP50", "/coco/AP"))


def _thin(points: dict[float, float]) -> dict[str, list[float]]:
    table = np.array(sorted(points.items()))
    parts = np.array_split(table, min(len(table), MAX_POINTS))
    means = np.array([part.mean(axis=0) for part in parts])
    return {"iteration": means[:, 0].tolist(), "value": means[:, 1].tolist()}
