"""Runs side by side: grouped by method over seeds, against a baseline, with the paper's own table beside them.

Two questions are kept apart. The standard deviation over the seeds of a method says how far training alone moves the
number. The interval of a difference says how far the choice of test pictures moves it: all runs are resampled with the
same pictures (paired bootstrap), each method as the mean of its runs.

Runs under different protocols never share a table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.bootstrap import (
    LEVEL,
    NUM_RESAMPLES,
    SUMMARIES,
    draw_pictures,
    interval,
    resampled_ap,
    summarise_resamples,
)
from detection.evaluation.detections import PictureDetections
from detection.evaluation.matching import Rules, match_detections
from detection.evaluation.results import load_results, read_protocol
from detection.evaluation.seeds import summarise
from detection.evaluation.voc import VOC_METRICS, average_precisions

BASELINE = "baseline"
REPEATS = "repeats.json"  # in the folder that --repeat makes
PROTOCOL_KEYS = ("training", "test")  # parts of a report's protocol that runs in one table must agree on

# Uddin et al., "SaliencyMix" (ICLR 2021), Table 3: VOC07 mAP, mean of three runs.
PAPER_TABLE = {"baseline": 76.71, "cutout": 77.17, "mixup": 77.98, "cutmix": 78.31, "saliencymix": 78.48}
PAPER_PROTOCOL = (
    "Faster R-CNN R50, VOC 07+12 trainval to 07 test, batch 8, 41K iterations, learning rate 4e-3, x0.1 at 33K; "
    "11 points at IoU .5 assumed, and frozen BatchNorm; means of three runs, spread not published"
)


class Run(NamedTuple):
    """A detector's answers on a dataset, and what its report says about how it was made (empty if it has none)."""

    method: str
    path: str
    protocol: Mapping[str, Any]
    detections: Mapping[str, PictureDetections]


def load_runs(dataset: DetectionDataset, spec: str, *, first_category: int = 1) -> list[Run]:
    """Read the runs of ``PATH`` or ``METHOD=PATH``.

    PATH is anything that ``load_results`` takes, or the folder of ``--repeat``, which holds a run for each seed.
    Without METHOD it is the one that a run's report.json names, else the folder's name without a trailing seed
    (``cutmix_seed2``, ``cutmix-s2`` and ``cutmix_2`` are all of ``cutmix``; ``cutmix/seed_2`` is, too).

    Raises:
        FileNotFoundError, ValueError: as ``load_results``; a report.json that cannot be read; or an empty METHOD.
    """
    method, equals, path = spec.partition("=")
    if not equals or Path(spec).exists():  # a path may hold an equals sign
        method, path = "", spec
    elif not method:
        raise ValueError(f"--compare {spec}: the name before the equals sign is empty")
    repeated = sorted(Path(path).glob("seed_*")) if (Path(path) / REPEATS).is_file() else []
    return [_load_run(dataset, method, str(one), first_category) for one in repeated or [path]]


def _load_run(dataset: DetectionDataset, method: str, path: str, first_category: int) -> Run:
    protocol = read_protocol(dataset, path)
    named = str(method or protocol.get("method") or _name_of(Path(path).resolve()))
    return Run(named, path, protocol, load_results(dataset, path, first_category=first_category))


def _name_of(path: Path) -> str:
    return re.sub(r"(^|[-_])(seed|s)?[-_]?\d+$", "", path.stem) or path.parent.name


def compare_runs(
    dataset: DetectionDataset,
    runs: Sequence[Run],
    *,
    baseline: str = BASELINE,
    rules: Rules = "standard",
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the content of comparison.json; AP in percent.

    ``groups`` has one entry for each protocol with its ``methods``, in order of appearance. A method has ``n``,
    ``seeds``, ``per_class`` (mean AP50 by 11 points) and, for each metric and each of AP, AP50 and AP75: ``values``
    of its runs, what ``summarise`` says of them and ``difference`` to the group's baseline with its ``interval``.
    The baseline is the method of that name, else the first; it has no difference.

    Raises:
        ValueError: fewer than two runs, the same run twice, detections that cannot be evaluated, or Detectron2's rules,
            whose mean may be undefined.
    """
    if rules == "detectron2":
        raise ValueError("runs are not compared by Detectron2's rules, which round the scores; use standard or devkit")
    if len(runs) < 2:
        raise ValueError(f"a comparison needs at least two runs, but got {len(runs)}")
    places = [str(Path(run.path).resolve()) for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"run {place} is given twice; the same run is no second seed")
    counts = draw_pictures(len(dataset.pictures), num_resamples=num_resamples, seed=seed)
    scores, samples = [], []
    for run in runs:
        matches = match_detections(dataset, run.detections, rules=rules)
        scores.append(average_precisions(dataset, matches))
        samples.append(summarise_resamples(resampled_ap(matches, counts)))

    groups: dict[str, dict[str, list[int]]] = {}
    for index, run in enumerate(runs):
        key = json.dumps({name: run.protocol.get(name) for name in PROTOCOL_KEYS}, sort_keys=True)
        groups.setdefault(key, {}).setdefault(run.method, []).append(index)
    return {
        "dataset": dataset.name,
        "num_images": len(dataset.pictures),
        "classes": list(dataset.classes),
        "num_classes_scored": scores[0]["voc07"]["num_classes_scored"],
        "evaluation_rules": rules,
        "level": LEVEL,
        "resamples": num_resamples,
        "seed": seed,
        "groups": [
            _group(json.loads(key), methods, baseline, runs, scores, samples) for key, methods in groups.items()
        ],
        "paper": {"protocol": PAPER_PROTOCOL, "voc07_AP50": PAPER_TABLE},
    }


def _group(
    protocol: dict[str, Any],
    methods: Mapping[str, list[int]],
    baseline: str,
    runs: Sequence[Run],
    scores: Sequence[dict[str, Any]],
    samples: Sequence[dict[str, np.ndarray]],
) -> dict[str, Any]:
    reference = baseline if baseline in methods else next(iter(methods))
    entries = []
    for method, members in methods.items():
        entry: dict[str, Any] = {
            "method": method,
            "n": len(members),
            "runs": [runs[index].path for index in members],
            "seeds": [runs[index].protocol.get("seed") for index in members],
            "engines": sorted({str(runs[index].protocol.get("engine", "not recorded")) for index in members}),
            "per_class": _mean_per_class([scores[index]["voc07"]["per_class"] for index in members]),
        }
        for row, metric in enumerate(VOC_METRICS):
            entry[metric] = {}
            for name in SUMMARIES:
                values = [scores[index][metric][name] for index in members]
                entry[metric][name] = {"values": values, **summarise(values), "difference": None}
                if method != reference:
                    others = methods[reference]
                    resampled = _mean([samples[index][name][row] for index in members])
                    resampled = resampled - _mean([samples[index][name][row] for index in others])
                    actual = np.mean(values) - np.mean([scores[index][metric][name] for index in others])
                    between = interval(resampled, float(actual), lowest=-100.0)
                    entry[metric][name]["difference"] = {"mean": float(actual), "interval": between}
        entries.append(entry)
    return {"protocol": protocol, "baseline": reference, "methods": entries}


def _mean(samples: list[np.ndarray]) -> np.ndarray:
    return np.mean(samples, axis=0)


def _mean_per_class(tables: list[dict[str, float | None]]) -> dict[str, float | None]:
    return {
        name: None if ap is None else float(np.mean([one[name] for one in tables])) for name, ap in tables[0].items()
    }
