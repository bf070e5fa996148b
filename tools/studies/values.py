"""The numbers of a finished stage, read from what its command left, and which of them a study's table shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from fvcore.common.config import CfgNode

from detection.datasets.coco import is_coco
from detection.evaluation.coco import COCO_SUMMARY
from pretrain.names import ATTACKS
from pretrain.run.run_folder import METRICS_FILE, read_metrics
from pretrain.run.text import Finite, read_record, to_record
from tools.studies.records import Number, Values


class Metric(NamedTuple):
    """A column of the table."""

    key: str
    label: str
    unit: str
    lower_is_better: bool


class AveragePrecision(TypedDict):
    """What a table shows of one way to score detections; None where no class has an object."""

    AP: Number
    AP50: Number
    AP75: Number


class CocoPrecision(AveragePrecision):
    """What a table shows of COCO's numbers; None also where there is no object of the size."""

    APs: Number
    APm: Number
    APl: Number


class Report(TypedDict):
    """What a table shows of a detector's report.json."""

    voc07: AveragePrecision
    voc10: AveragePrecision
    coco: CocoPrecision


class Trial(TypedDict):
    """What a study learns of a detector that was trained at one rate, without the pictures that are held out."""

    value: Number  # of the study's first metric on these pictures; None where training diverged
    diverged: str  # in what words; empty where it did not


class Tried(TypedDict):
    """A rate of a choice with what was found at it."""

    rate: Finite
    value: Number
    diverged: str


class Choice(TypedDict):
    """The rate that was chosen for a row, and by what; ``edge`` says whether it is the lowest or highest one."""

    rate: Finite
    edge: str
    curve: list[Tried]


class Accuracy(TypedDict):
    """What a table shows of the JSON of tools/evaluate_checkpoint.py."""

    top1_error: Finite
    top5_error: Finite


class OneAttack(TypedDict):
    attack: str
    epsilon: Finite
    top1: Finite


class Robustness(TypedDict):
    """What a table shows of the JSON of tools/attack.py."""

    clean_top1: Finite
    attacks: list[OneAttack]


class TimedRun(TypedDict):
    name: str
    seconds_per_iteration: Finite
    relative: Finite


class Timing(TypedDict):
    """What a table shows of the JSON of tools/bench_methods.py."""

    runs: list[TimedRun]


Evaluation = TypedDict("Evaluation", {"val/top1_error": Finite, "val/top5_error": Finite})  # in metrics.json

VOC = (
    Metric("voc07_AP50", "mAP, 11 points", "%", False),
    Metric("voc10_AP50", "mAP, area", "%", False),
    Metric("voc10_AP", "AP .50:.95", "%", False),
)
COCO = tuple(Metric(f"coco_{name}", f"COCO {name}", "%", False) for name in COCO_SUMMARY)
TRANSFER = {"voc": (*VOC, COCO[0]), "coco": (*COCO, *VOC)}  # format of the test set -> columns, its own first
LAST_EPOCH = (
    Metric("top1_error", "top-1 error, last epoch", "%", True),
    Metric("top5_error", "top-5 error, last epoch", "%", True),
)
BEST_EPOCH = (  # that of the lowest top-1 error
    Metric("best_top1_error", "top-1 error, best epoch", "%", True),
    Metric("best_top5_error", "top-5 error, best epoch", "%", True),
)
CLASSIFICATION = tuple(metric for both in zip(LAST_EPOCH, BEST_EPOCH, strict=True) for metric in both)
TIMING = (
    Metric("seconds_per_iteration", "time of an iteration", "s", True),
    Metric("relative_time", "relative to the first", "", True),
)
ACCURACY = Metric("clean_top1", "top-1 accuracy", "%", False)
NAMED_METRICS = (*TRANSFER["coco"], *CLASSIFICATION, *TIMING, ACCURACY)  # all but those of attacks
OWN_PREFIX = "own_"
FINAL_STAGES = {  # KIND -> kinds of stages that a row's numbers come from
    "transfer": ("evaluate",),
    "classification": ("pretrain", "accuracy"),
    "robustness": ("attack",),
}


def has_metric(name: str) -> bool:
    """Return whether the table of a study of some kind has a column of that name."""
    known = {metric.key for metric in NAMED_METRICS}
    return name in known or re.fullmatch(rf"({'|'.join(ATTACKS)})_.+", name) is not None


def metrics_of(cfg: CfgNode, detection: CfgNode | None = None) -> tuple[Metric, ...]:
    """Return the columns of the table of the study ``cfg``; none for pictures.

    ``detection`` is the config of its fine-tuning, if any: for COCO data COCO's numbers come first.
    """
    if detection is not None:
        headline, *others = TRANSFER["coco" if is_coco(detection.DATASETS.TEST[0]) else "voc"]
        return (headline, *([own(headline)] if cfg.SWEEP.RATES else []), *others)
    if cfg.KIND == "robustness":
        attacked = [
            Metric(f"{name}_{epsilon:g}", f"{name.upper()}, epsilon {epsilon:g}", "%", False)
            for name in cfg.ATTACK.METHODS
            for epsilon in cfg.ATTACK.EPSILONS
        ]
        return (ACCURACY, *attacked)
    return {"transfer": TRANSFER["voc"], "classification": CLASSIFICATION, "timing": TIMING, "cam": ()}[cfg.KIND]


def own(metric: Metric) -> Metric:
    """Return the column of ``metric`` for detectors that were trained at their row's own rate."""
    return metric._replace(key=f"{OWN_PREFIX}{metric.key}", label=f"{metric.label}, own rate")


def is_own(key: str) -> bool:
    """Return whether ``key`` is that of a column that ``own`` has made."""
    return key.startswith(OWN_PREFIX)


def read_values(kind: str, folder: Path, outputs: Sequence[str]) -> tuple[Values, str | None]:
    """Return the numbers that a stage of ``kind`` left in ``folder``, and the path in it of the page that shows them.

    Of timing, run name -> numbers; of all others, metric -> number, empty for stages that measure nothing.

    Raises:
        OSError, ValueError: a file is missing or is not what that command writes.
    """
    if kind == "pretrain":
        return _errors(folder), None
    if kind == "evaluate":
        report = read_record(folder / outputs[0], Report, "a report")
        values: Values = {
            "voc07_AP50": report["voc07"]["AP50"],
            "voc07_AP": report["voc07"]["AP"],
            "voc07_AP75": report["voc07"]["AP75"],
            "voc10_AP50": report["voc10"]["AP50"],
            "voc10_AP": report["voc10"]["AP"],
            **{f"coco_{name}": report["coco"][name] for name in COCO_SUMMARY},
        }
        return values, str(Path(outputs[0]).with_name("report.html"))
    if kind == "sweep":
        trial = read_record(folder / outputs[0], Trial, "what was found at a rate")
        return {"held_out": trial["value"]}, outputs[0]
    if kind == "choice":
        choice = read_record(folder / outputs[1], Choice, "the choice of a rate")
        return {"rate": choice["rate"]}, outputs[1]
    if kind == "accuracy":
        errors = read_record(folder / outputs[0], Accuracy, "the JSON of tools/evaluate_checkpoint.py")
        return dict(errors), outputs[0]
    if kind == "attack":
        content = read_record(folder / outputs[0], Robustness, "the JSON of tools/attack.py")
        attacks = {f"{one['attack']}_{one['epsilon']:g}": one["top1"] for one in content["attacks"]}
        return {"clean_top1": content["clean_top1"], **attacks}, outputs[0]
    if kind == "timing":
        runs = read_record(folder / outputs[0], Timing, "the JSON of tools/bench_methods.py")["runs"]
        return {
            run["name"]: {"seconds_per_iteration": run["seconds_per_iteration"], "relative_time": run["relative"]}
            for run in runs
        }, outputs[0]
    return {}, "comparison.html" if kind == "comparison" else None


def numbers_of(kind: str, values: Values, name: str) -> dict[str, Number]:
    """Return metric -> number of the row ``name``, from the ``values`` of the stage with the numbers of a study's KIND.

    Empty where they are not what a stage of such a study leaves.
    """
    if kind == "timing":
        numbers = values.get(name)
        return dict(numbers) if isinstance(numbers, dict) else {}
    return {key: number for key, number in values.items() if not isinstance(number, dict)}


def with_best_epoch(values: Values, folder: Path) -> Values:
    """Return the ``values`` of a pretraining with those of its best epoch, which earlier versions did not record.

    They are read from metrics.json in its ``folder``; without it, or where it ends in other errors than ``values``
    and so is of another run, ``values`` stay as they are.
    """
    if all(metric.key in values for metric in BEST_EPOCH):
        return values
    try:
        found = _errors(folder)
    except (OSError, ValueError):
        return values
    same = all(values.get(metric.key) == found[metric.key] for metric in LAST_EPOCH)
    return {**found, **values} if same else values


def _errors(folder: Path) -> Values:
    """Return the errors of the last evaluation in a run's metrics.json, and of the one with the lowest top-1 error.

    Among equals that is the first, whose weights are model_best.pth.
    """
    evaluations = []
    for entry in read_metrics(folder):
        if "val/top1_error" in entry:
            where = f"{folder / METRICS_FILE}, iteration {entry['iteration']}"
            evaluations.append(to_record(entry, Evaluation, f"{where}: not an evaluation"))
    if not evaluations:
        raise ValueError(f"{folder / METRICS_FILE} has no evaluation")
    last, best = evaluations[-1], min(evaluations, key=lambda one: one["val/top1_error"])
    return {
        "top1_error": last["val/top1_error"],
        "top5_error": last["val/top5_error"],
        "best_top1_error": best["val/top1_error"],
        "best_top5_error": best["val/top5_error"],
    }
