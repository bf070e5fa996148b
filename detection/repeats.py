"""The same experiment with several seeds, and what the runs say together."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.checkpoint import atomic_write
from pretrain.run_folder import write_config

SUMMARY = "repeats.json"
METRICS = ("voc07", "voc10", "coco")
NUMBERS = ("AP", "AP50", "AP75")

logger = logging.getLogger(__name__)


def run_repeats(
    cfg: CfgNode, count: int, run: Callable[[CfgNode], dict[str, dict[str, Any]]], *, writes: bool = True
) -> dict[str, Any]:
    """Call ``run`` for the seeds SEED, SEED + 1, ... and return what ``summarise`` makes of the reports.

    Run k has ``OUTPUT_DIR/seed_<its seed>`` as its OUTPUT_DIR; OUTPUT_DIR itself receives the config (whose SEED a
    resumed call finds again) and ``repeats.json``. ``writes`` is off in all but one of the processes of a run.

    Raises:
        ValueError: ``count`` is not positive; or what ``run`` raises.
    """
    if count < 1:
        raise ValueError(f"--repeat is {count}; expected at least 1")
    folder = Path(cfg.OUTPUT_DIR)
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
        write_config(cfg, folder)
    reports = []
    for seed in range(cfg.SEED, cfg.SEED + count):
        one = cfg.clone()
        one.SEED, one.OUTPUT_DIR = seed, str(folder / f"seed_{seed}")
        logger.info("run %d of %d, seed %d, into %s", len(reports) + 1, count, seed, one.OUTPUT_DIR)
        reports.append(run(one))
    summary = summarise(range(cfg.SEED, cfg.SEED + count), reports)
    if writes:
        with atomic_write(folder / SUMMARY, "w") as file:
            file.write(json.dumps(summary, indent=2) + "\n")
    return summary


def summarise(seeds: range, reports: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return ``{"seeds", "datasets": {name: {metric: {AP, AP50, AP75}}}}`` of reports by dataset name, one per seed.

    Each number is ``{"mean", "std", "n", "values"}`` in percent; std is that of a sample, None for a single run.
    """
    datasets: dict[str, Any] = {}
    for name in reports[0]:
        datasets[name] = {
            metric: {number: _spread([report[name][metric][number] for report in reports]) for number in NUMBERS}
            for metric in METRICS
        }
    return {"seeds": list(seeds), "datasets": datasets}


def headline(summary: dict[str, Any]) -> list[str]:
    """Return a line for each dataset: mean, standard deviation and number of runs of the main numbers."""
    return [
        f"{name}: mAP {_text(metrics['voc07']['AP50'])} (VOC2007, 11 points, IoU .5), "
        f"{_text(metrics['voc10']['AP50'])} (area, IoU .5), {_text(metrics['voc10']['AP'])} (area, IoU .50:.95), "
        f"over seeds {', '.join(map(str, summary['seeds']))}"
        for name, metrics in summary["datasets"].items()
    ]


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
        "values": values,
    }


def _text(number: dict[str, Any]) -> str:
    spread = "" if number["std"] is None else f" +- {number['std']:.2f}"
    return f"{number['mean']:.2f}{spread}"
