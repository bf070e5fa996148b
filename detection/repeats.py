"""The same experiment with several seeds, and what the runs say together."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from detection.evaluation.comparison import COMPARED, REPEATS
from detection.evaluation.intervals import summarise
from pretrain.run.files import atomic_write
from pretrain.run.lock import locked_folder
from pretrain.run.processes import SINGLE_CPU_PROCESS, join_processes
from pretrain.run.run_folder import write_config

# What differs between the runs, which their spread and interval are about.
ONE_BACKBONE = (
    "one backbone: the spread is that of fine-tuning, and says nothing of another pretraining by the same method"
)
NO_BACKBONE = "no backbone (MODEL.WEIGHTS is empty): the spread is that of random weights and of fine-tuning"

logger = logging.getLogger(__name__)


def run_repeats(
    cfg: CfgNode, count: int, run: Callable[[CfgNode], dict[str, dict[str, Any]]], *, writes: bool = True
) -> dict[str, Any]:
    """Call ``run`` for the seeds SEED, SEED + 1, ... and return what ``summarise_reports`` makes of the reports.

    ``varied`` is added to that: what differs between the runs, in words. Run k has ``OUTPUT_DIR/seed_<its seed>`` as
    its OUTPUT_DIR; OUTPUT_DIR itself receives the config (whose SEED a resumed call finds again) and ``repeats.json``.
    ``writes`` is off in all but one of the processes of a run.

    Raises:
        ValueError: ``count`` is not positive; or what ``run`` raises.
    """
    if count < 1:
        raise ValueError(f"--repeat is {count}; expected at least 1")
    # torchrun's processes meet once around all runs; Detectron2 starts its own in each run
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    with (
        locked_folder(cfg.OUTPUT_DIR) if writes else nullcontext(),
        join_processes(cfg.MODEL.DEVICE) if several else nullcontext(SINGLE_CPU_PROCESS) as processes,
    ):
        cfg = cfg.clone()
        cfg.SEED = processes.from_main(lambda: cfg.SEED)  # which each process may have drawn for itself
        return _run_repeats(cfg, count, run, writes=writes)


def _run_repeats(
    cfg: CfgNode, count: int, run: Callable[[CfgNode], dict[str, dict[str, Any]]], *, writes: bool
) -> dict[str, Any]:
    folder = Path(cfg.OUTPUT_DIR)
    if writes:
        write_config(cfg, folder)
    reports = []
    for seed in range(cfg.SEED, cfg.SEED + count):
        one = cfg.clone()
        one.SEED, one.OUTPUT_DIR = seed, str(folder / f"seed_{seed}")
        logger.info("run %d of %d, seed %d, into %s", len(reports) + 1, count, seed, one.OUTPUT_DIR)
        reports.append(run(one))
    summary = summarise_reports(range(cfg.SEED, cfg.SEED + count), reports)
    summary["varied"] = ONE_BACKBONE if cfg.MODEL.WEIGHTS else NO_BACKBONE
    if writes:
        with atomic_write(folder / REPEATS, "w") as file:
            file.write(json.dumps(summary, indent=2) + "\n")
    return summary


def summarise_reports(seeds: range, reports: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return ``{"seeds", "formats", "datasets": {name: {metric: {number}}}}`` of reports by name, one per seed.

    ``formats`` says which datasets are in COCO's format and which in VOC's: ``coco`` or ``voc``. Metrics and numbers
    are those of ``COMPARED``. Each number, in percent, is what ``summarise`` of ``detection.evaluation.intervals`` says
    of it, with its ``values``.
    """
    return {
        "seeds": list(seeds),
        "formats": {name: report["format"] for name, report in reports[0].items()},
        "datasets": {
            name: {
                metric: {number: _over_seeds(reports, name, metric, number) for number in numbers}
                for metric, numbers in COMPARED.items()
            }
            for name in reports[0]
        },
    }


def _over_seeds(reports: list[dict[str, dict[str, Any]]], name: str, metric: str, number: str) -> dict[str, Any]:
    values = [report[name][metric][number] for report in reports]
    return {**summarise(values), "values": values}


def headline(summary: dict[str, Any]) -> list[str]:
    """Return a line for each dataset: mean, standard deviation and seeds of the main numbers; and what these are of."""
    seeds = ", ".join(map(str, summary["seeds"]))
    lines = [
        f"{name}: {_in_words(metrics, summary['formats'][name])}, over seeds {seeds}"
        for name, metrics in summary["datasets"].items()
    ]
    return [*lines, summary["varied"]] if len(summary["seeds"]) > 1 else lines


def _in_words(metrics: dict[str, Any], form: str) -> str:
    if form == "coco":
        ap, *others = (f"{name} {_text(number)}" for name, number in metrics["coco"].items())
        return ", ".join([f"COCO {ap} (IoU .50:.95)", *others])
    return (
        f"mAP {_text(metrics['voc07']['AP50'])} (VOC2007, 11 points, IoU .5), "
        f"{_text(metrics['voc10']['AP50'])} (area, IoU .5), {_text(metrics['voc10']['AP'])} (area, IoU .50:.95)"
    )


def _text(number: dict[str, Any]) -> str:
    if number["mean"] is None:
        return "undefined"
    spread = "" if number["std"] is None else f" +- {number['std']:.2f}"
    return f"{number['mean']:.2f}{spread}"
