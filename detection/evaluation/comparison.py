"""Runs side by side: grouped by method over seeds, against a baseline, with the paper's own table beside them.

Three questions are kept apart, as in ``intervals``. A difference over seeds says whether training again would show it:
methods are only said to differ by that. Its interval over pictures says how far the choice of test pictures moves it:
all runs are resampled with the same halves, each method as the mean of its runs. That over both says where it lies for
other trainings and other pictures.

Runs under different protocols never share a table.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.coco import COCO_SUMMARY, coco_outcomes, evaluate_coco
from detection.evaluation.detections import PictureDetections, answers_digest
from detection.evaluation.diagnosis.class_differences import compare_classes, judge_classes, mean_per_class
from detection.evaluation.diagnosis.confusion import score_thresholds
from detection.evaluation.diagnosis.label_errors import find_objects, list_missed
from detection.evaluation.diagnosis.pictures import PictureCounts, count_pictures, rank_disagreements
from detection.evaluation.intervals import (
    LEVEL,
    difference,
    interval_of_difference,
    judge,
    over_both,
    summarise,
)
from detection.evaluation.matching import Matches, Rules, match_detections
from detection.evaluation.protocol import (
    Group,
    agrees_with,
    by_method,
    differences,
    group_runs,
    recipe_differences,
    refuse_copies,
    share_backbone,
)
from detection.evaluation.resampling import (
    NUM_RESAMPLES,
    SUMMARIES,
    draw_halves,
    resampled_ap,
    resampled_coco_ap,
    summarise_resamples,
)
from detection.evaluation.results import find_report, load_results, read_protocol
from detection.evaluation.voc import VOC_METRICS, average_precisions
from pretrain.run.text import read_record

# The number that speaks for a detector, by the format of the test set: metric and name in a report.
HEADLINE = {"coco": ("coco", "AP"), "voc": ("voc07", "AP50")}
COMPARED = {**dict.fromkeys(VOC_METRICS, SUMMARIES), "coco": COCO_SUMMARY}  # metric -> names of its numbers

BASELINE = "baseline"
REPEATS = "repeats.json"  # in the folder that --repeat makes

# Uddin et al., "SaliencyMix" (ICLR 2021), Table 3: VOC07 mAP, mean of three runs.
PAPER_TABLE = {"baseline": 76.71, "cutout": 77.17, "mixup": 77.98, "cutmix": 78.31, "saliencymix": 78.48}
PAPER_PROTOCOL = (
    "Faster R-CNN R50, VOC 07+12 trainval to 07 test, batch 8, 41K iterations, learning rate 4e-3, x0.1 at 33K; "
    "11 points at IoU .5 assumed, and frozen BatchNorm; neither C4 nor FPN is said; "
    "means of three runs, spread not published"
)
# As much of it as is said. A report of other settings is of another protocol.
PAPER_TEST = "voc_2007_test"
PAPER_TRAINING = {
    "DATASETS.TRAIN": ("voc_2007_trainval", "voc_2012_trainval"), "MODEL.RESNETS.DEPTH": 50, "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": 41000, "SOLVER.BASE_LR": 0.004, "SOLVER.STEPS": (33000,), "SOLVER.GAMMA": 0.1,
}  # fmt: skip


BySeed = Mapping[Any, int]  # seed -> run


class Repeats(TypedDict):
    """What is used of repeats.json."""

    seeds: list[int]


class Run(NamedTuple):
    """A detector's answers on a dataset, and what its report says about how it was made (empty if it has none)."""

    method: str
    path: str
    protocol: Mapping[str, Any]
    detections: Mapping[str, PictureDetections]
    report: str | None = None  # the path of that report.json


class Numbers(NamedTuple):
    """What has been computed of each run: its AP by metric; on the halves, metric -> name -> (half,); its pictures."""

    scores: Sequence[dict[str, Any]]
    samples: Sequence[Mapping[str, Mapping[str, np.ndarray]]]
    counts: Sequence[PictureCounts]


def load_runs(dataset: DetectionDataset, spec: str, *, first_category: int | None = None) -> list[Run]:
    """Read the runs of ``PATH`` or ``METHOD=PATH``.

    PATH is anything that ``load_results`` takes, or the folder of ``--repeat``, which holds a run for each seed.
    Without METHOD it is the one that a run's report.json names, else the folder's name without a trailing seed
    (``cutmix_seed2``, ``cutmix-s2`` and ``cutmix_2`` are all of ``cutmix``; ``cutmix/seed_2`` is, too).

    Raises:
        FileNotFoundError, ValueError: as ``load_results``; a report.json that cannot be read; or an empty METHOD.
    """
    method, paths = run_folders(spec)
    return [_load_run(dataset, method, path, first_category) for path in paths]


def run_folders(spec: str) -> tuple[str, list[str]]:
    """Return METHOD, empty where there is none, and the path of each run that ``spec`` names.

    Raises:
        ValueError: an empty METHOD; or the file that --repeat left is damaged.
    """
    method, path = split_spec(spec)
    summary = Path(path) / REPEATS
    if not summary.is_file():
        return method, [path]
    seeds = read_record(summary, Repeats, "the summary of --repeat (name the runs themselves)")["seeds"]
    return method, [str(summary.with_name(f"seed_{seed}")) for seed in seeds]


def split_spec(spec: str) -> tuple[str, str]:
    """Return METHOD, empty where there is none, and PATH of a run; either may hold equals signs.

    Raises:
        ValueError: an empty METHOD before an equals sign.
    """
    if "=" not in spec or Path(spec).exists():
        return "", spec
    splits = [(spec[:place], spec[place + 1 :]) for place, letter in enumerate(spec) if letter == "="]
    method, path = next((split for split in splits if Path(split[1]).exists()), splits[0])
    if not method.strip():
        raise ValueError(f"--compare {spec}: the name before the equals sign is empty")
    return method, path


def _is_inside_run(folder: Path, dataset: DetectionDataset) -> bool:
    """Return whether a folder is called as those that every run has: ``inference``, with what is in it."""
    inference = re.compile(r"inference(_.+)?")
    inside = folder.name == dataset.name and inference.fullmatch(folder.parent.name)
    return bool(inside or inference.fullmatch(folder.name))


def check_baseline(baseline: str | None, methods: Sequence[str]) -> None:
    """Refuse a ``baseline`` that is none of ``methods`` with a ``ValueError``."""
    if baseline is not None and baseline not in methods:
        known = ", ".join(dict.fromkeys(methods))
        raise ValueError(f"--baseline {baseline}: no run is of that method; expected one of {known}")


def _load_run(dataset: DetectionDataset, method: str, path: str, first_category: int | None) -> Run:
    protocol, report = read_protocol(dataset, path), find_report(dataset.name, path)
    named = str(method or protocol.get("method") or _name_of(Path(path).resolve(), dataset))
    if not named.strip():
        raise ValueError(
            f"--compare {path}: neither a report nor a folder says which method that is; write METHOD={path}"
        )
    detections = load_results(dataset, path, first_category=first_category)
    return Run(named, path, protocol, detections, report and str(report))


def _name_of(path: Path, dataset: DetectionDataset) -> str:
    """Return the name of the run's folder, above what every run has inside, without its seed."""
    if path.is_file():
        path = path.parent if _is_inside_run(path.parent, dataset) else path.with_suffix("")
    while _is_inside_run(path, dataset):
        path = path.parent
    return re.sub(r"(^|[-_])(seed|s)?[-_]?\d+$", "", path.name) or path.parent.name


def compare_runs(
    dataset: DetectionDataset,
    runs: Sequence[Run],
    *,
    baseline: str | None = None,
    across: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    recipe_place: Collection[str] = (),
    rules: Rules = "standard",
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the content of comparison.json; AP in percent.

    ``format`` is that of the test set, which says whose numbers its page begins with (``HEADLINE``), COCO's or VOC's;
    all runs are scored on it here, so that a table never holds numbers of two formats.

    ``groups`` has one entry for each protocol with its ``methods``, in order of appearance. A method has ``n``,
    ``seeds``, ``per_class`` (mean of the headline by class) and, for each metric and each name in ``COMPARED``:
    ``values`` of its runs, what ``summarise`` says of them, ``difference`` to the group's baseline with its
    ``interval`` over pictures, and ``over_seeds``: what ``difference`` of ``intervals`` says of the same, with
    ``adjusted_p`` over the methods of the group, whether that makes it ``clear``, and how many ``seeds_needed``; and
    ``over_both`` with the ``interval`` that ``over_both`` of ``intervals`` gives around the mean of ``over_seeds``.
    What is not resampled has no interval over pictures and no ``over_both`` (None): COCO's numbers of VOC data, and
    those by size. ``per_class_differences`` of a method is what ``compare_classes`` says of it, None for the baseline.
    ``disagreements`` of a group has for each other ``method`` the ``runs``, one of the ``baseline`` and one of the
    ``method``, whose pictures ``rank_disagreements`` compares, and what it returns.

    ``missed_by_all`` is what ``list_missed`` says of all runs, ``num_objects`` how many objects of each class count.
    ``differences`` holds the settings in which the groups differ.

    Args:
        baseline: a method; by default ``baseline``. In a group without it the first method is the baseline.
        across: config keys in which runs of one table may differ. Runs that do are methods of their own: another
            learning rate is no second seed.
        defaults: the first default of every config key, for what a report lacks (see ``group_runs``).
        recipe_place: keys of pretraining in which the backbones of a method may differ, besides their seeds.

    Raises:
        ValueError: fewer than two runs, the same run twice, ``baseline`` is no method, a key of ``across`` is not
            recorded, detections that cannot be evaluated, or Detectron2's rules, whose mean may be undefined.
    """
    if rules == "detectron2":
        raise ValueError("runs are not compared by Detectron2's rules, which round the scores; use standard or devkit")
    if len(runs) < 2:
        raise ValueError(f"a comparison needs at least two runs, but got {len(runs)}")
    places = [str(Path(run.path).resolve()) for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"run {place} is given twice; the same run is no second seed")
    check_baseline(baseline, [run.method for run in runs])
    protocols = [run.protocol for run in runs]
    groups = group_runs(protocols, across=across, defaults=defaults)
    tables = [by_method([run.method for run in runs], protocols, group, across) for group in groups]
    for members in (members for table in tables for members in table.values()):
        some = [runs[index] for index in members]
        answers = [answers_digest(run.detections) for run in some]
        refuse_copies([run.path for run in some], [run.protocol for run in some], answers)

    halves = draw_halves(len(dataset.pictures), num_resamples=num_resamples, seed=seed)
    scores, samples, counts, found = [], [], [], []
    for run in runs:
        matches = match_detections(dataset, run.detections, rules=rules)
        scores.append({**average_precisions(dataset, matches), "coco": evaluate_coco(dataset, run.detections)})
        samples.append(_on_halves(dataset, run, matches, halves))
        counts.append(count_pictures(dataset, matches, score_thresholds(matches)))
        found.append(find_objects(matches))
    entries = [
        _group(dataset, group, table, baseline or BASELINE, runs, Numbers(scores, samples, counts), recipe_place)
        for group, table in zip(groups, tables, strict=True)
    ]
    return {
        "dataset": dataset.name,
        "format": dataset.format,
        "num_images": len(dataset.pictures),
        "classes": list(dataset.classes),
        "num_objects": dict(zip(dataset.classes, matches.truth.num_positives.tolist(), strict=True)),
        "num_classes_scored": sum(ap is not None for ap in entries[0]["methods"][0]["per_class"].values()),
        "evaluation_rules": rules,
        "level": LEVEL,
        "resamples": num_resamples,
        "seed": seed,
        "across": list(across),
        "differences": differences([group.protocol for group in groups]),
        "groups": entries,
        "missed_by_all": list_missed(dataset, found),
        "paper": (
            {"protocol": PAPER_PROTOCOL, "voc07_AP50": PAPER_TABLE}
            if any(entry["is_papers"] for entry in entries)
            else None
        ),
    }


def _on_halves(
    dataset: DetectionDataset, run: Run, matches: Matches, halves: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Return metric -> AP, AP50 and AP75 (half,) of the VOC metrics, and of COCO where the headline is COCO's."""
    tables = dict(zip(VOC_METRICS, resampled_ap(matches, halves), strict=True))
    if dataset.format == "coco":
        (tables["coco"],) = resampled_coco_ap(coco_outcomes(dataset, run.detections), halves)
    return {
        metric: {name: samples[0] for name, samples in summarise_resamples(table[None]).items()}
        for metric, table in tables.items()
    }


def _group(
    dataset: DetectionDataset,
    group: Group,
    methods: Mapping[str, list[int]],
    baseline: str,
    runs: Sequence[Run],
    numbers: Numbers,
    recipe_place: Collection[str],
) -> dict[str, Any]:
    reference = next((name for name, members in methods.items() if runs[members[0]].method == baseline), None)
    reference = reference or next(iter(methods))
    per_class = [one[HEADLINE[dataset.format][0]]["per_class"] for one in numbers.scores]
    sides = {name: _by_seed(members, runs) for name, members in methods.items()}
    entries, disagreements = [], []
    for method, side in sides.items():
        members = list(side.values())
        entry: dict[str, Any] = {
            "method": method,
            "n": len(members),
            "runs": [runs[index].path for index in members],
            "seeds": [runs[index].protocol.get("seed") for index in members],
            "engines": sorted({str(runs[index].protocol.get("engine", "not recorded")) for index in members}),
            "reports": [runs[index].report for index in members],
            "one_backbone": share_backbone([runs[index].protocol for index in members]),
            "recipe_differences": recipe_differences([runs[index].protocol for index in members], recipe_place),
            "weights": [runs[index].protocol.get("weights") for index in members],
            "per_class": mean_per_class([per_class[index] for index in members]),
            "per_class_differences": None,
        }
        others = None if method == reference else sides[reference]
        if others is not None:
            entry["per_class_differences"] = compare_classes(
                *({seed: per_class[at] for seed, at in one.items()} for one in (side, others))
            )
            disagreements.append({"method": method, **_disagreement(dataset, side, others, runs, numbers)})
        for metric, names in COMPARED.items():
            entry[metric] = {
                name: _compared(metric, name, len(dataset.pictures), side, others, numbers) for name in names
            }
        entries.append(entry)
    judge_classes([entry["per_class_differences"] or {} for entry in entries])
    for metric, names in COMPARED.items():
        for name in names:
            judge([found for entry in entries if (found := entry[metric][name]["over_seeds"]) is not None])
    return {
        "protocol": group.protocol,
        "incomplete": [runs[index].path for index in group.incomplete],
        "is_papers": dataset.name == PAPER_TEST and agrees_with(group.protocol["training"], PAPER_TRAINING),
        "baseline": reference,
        "methods": entries,
        "disagreements": disagreements,
    }


def _disagreement(
    dataset: DetectionDataset, side: BySeed, others: BySeed, runs: Sequence[Run], numbers: Numbers
) -> dict[str, Any]:
    """Return where one run of a method differs from one of the baseline's, of the same seed if they share any."""
    shared = next((seed for seed in others if seed in side), None)
    mine, theirs = (next(iter(one.values())) if shared is None else one[shared] for one in (side, others))
    return {
        "runs": {"baseline": runs[theirs].path, "method": runs[mine].path},
        **rank_disagreements(dataset, numbers.counts[mine], numbers.counts[theirs]),
    }


def _compared(
    metric: str,
    name: str,
    num_pictures: int,
    side: BySeed,
    others: BySeed | None,
    numbers: Numbers,
) -> dict[str, Any]:
    """Return what is said of a number of the runs ``side`` beside those of the baseline, ``others``."""
    values = [numbers.scores[index][metric][name] for index in side.values()]
    said: dict[str, Any] = {
        "values": values,
        **summarise(values),
        "difference": None,
        "over_seeds": None,
        "over_both": None,
    }
    if others is None or said["mean"] is None:
        return said
    actual = float(np.mean(values) - np.mean([numbers.scores[index][metric][name] for index in others.values()]))
    said["difference"] = {"mean": actual, "interval": None}
    sides = (side, others)
    scores = [{seed: numbers.scores[index][metric][name] for seed, index in one.items()} for one in sides]
    said["over_seeds"] = difference(*scores)
    if name in numbers.samples[0].get(metric, ()):
        samples = [{seed: numbers.samples[index][metric][name] for seed, index in one.items()} for one in sides]
        halves = [np.mean(list(one.values()), axis=0) for one in samples]
        said["difference"]["interval"] = interval_of_difference(actual, halves[0] - halves[1], num_pictures)
        tables = [
            {seed: np.append(one[seed], of_halves) for seed, of_halves in halves.items()}
            for one, halves in zip(scores, samples, strict=True)
        ]
        said["over_both"] = {"interval": over_both(*tables, num_pictures)}
    return said


def _by_seed(members: Sequence[int], runs: Sequence[Run]) -> BySeed:
    """Return seed -> run of a method's runs; each run is a seed of its own where they do not all record another one."""
    seeds = [runs[index].protocol.get("seed") for index in members]
    if None in seeds or len(set(seeds)) < len(seeds):
        seeds = [runs[index].path for index in members]
    return dict(zip(seeds, members, strict=True))
