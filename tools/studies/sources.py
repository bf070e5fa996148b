"""What a transfer study tells of its rows beside their numbers: where each backbone comes from and how it reads
pictures, what other pictures would change, AP by class, and numbers that others published under the same protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from fvcore.common.config import CfgNode

from detection.config import EFFECTS
from detection.evaluation.comparison import HEADLINE
from detection.report.comparison import protocol_line
from pretrain.run.text import Finite, read_record
from tools.studies.experiments import RANDOM, Experiment, experiments
from tools.studies.planning.plan import Plan
from tools.studies.records import Number, Result

BACKBONE_STAGES = ("stem", "res2", "res3", "res4", "res5")  # as FREEZE_AT counts them
C4_BACKBONE = "build_resnet_backbone"


class Card(TypedDict):
    """What a page shows of a backbone's card; ``assumed`` is what was taken for granted, None where nothing was."""

    source: str
    source_sha256: str
    source_prefix: str
    arch: str
    top1: Number
    channel_order: str
    pixel_mean: list[Finite]
    pixel_std: list[Finite]
    assumed: NotRequired[str | None]


class _Interval(TypedDict):
    interval: list[Finite] | None


class _Compared(TypedDict):
    difference: _Interval | None
    over_both: NotRequired[_Interval | None]


class _Method(TypedDict):
    method: str
    per_class: dict[str, Number]
    voc07: dict[str, _Compared]
    coco: NotRequired[dict[str, _Compared]]


class _Group(TypedDict):
    baseline: str
    methods: list[_Method]


class Comparison(TypedDict):
    """What is used of comparison.json; the first versions knew no other headline than VOC's, and say no format."""

    format: NotRequired[Literal["coco", "voc"]]
    groups: list[_Group]


def protocol_of(plan: Plan) -> str | None:
    """Return the protocol of all rows in a sentence; None in a study that does not fine-tune."""
    if plan.detection is None:
        return None
    name = Path(plan.cfg.DETECTION.CONFIG).name
    line = protocol_line(EFFECTS.of_training(plan.detection), ())
    return " ".join(filter(None, (f"One protocol for all rows, {name}: {line}", frozen_sentence(plan.detection))))


def frozen_sentence(detection: CfgNode) -> str:
    """Return which stages of the backbone stay as they are; empty where all of it is trained."""
    frozen = BACKBONE_STAGES[: detection.MODEL.BACKBONE.FREEZE_AT]
    if not frozen:
        return ""
    in_heads = "res5" in frozen and detection.MODEL.BACKBONE.NAME == C4_BACKBONE
    kept = frozen[:-1] if in_heads else frozen
    sentence = f"Frozen: {', '.join(kept)} (MODEL.BACKBONE.FREEZE_AT {len(frozen)})"
    return f"{sentence}; res5 is part of C4's RoI heads and is trained." if in_heads else f"{sentence}."


def sources_of(plan: Plan, results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Return of each row that is fine-tuned what its backbone is; ``card`` is None before it is converted."""
    if plan.cfg.KIND != "transfer":
        return []
    return [_source(plan, experiment, results) for experiment in experiments(plan.cfg)]


def _source(plan: Plan, experiment: Experiment, results: Mapping[str, Result]) -> dict[str, Any]:
    stage = next(
        (one for one in plan.stages if one.kind == "convert" and one.experiment == experiment and one.name in results),
        None,
    )
    try:
        card = None if stage is None else read_record(stage.folder / "backbone.card.json", Card, "a card")
    except (OSError, ValueError):
        card = None
    file = None if experiment.weights == RANDOM else Path(experiment.config or experiment.weights).name
    return {
        "method": experiment.name.replace("/", " "),
        "from": "nothing" if experiment.weights == RANDOM else "pretraining" if experiment.config else "file",
        "file": file,
        "card": None if card is None else dict(card),
    }


def comparison_of(plan: Plan, results: Mapping[str, Result]) -> Comparison | None:
    """Return the comparison of the detectors on the test pictures; None before it is made."""
    stage = next((one for one in plan.stages if one.kind == "comparison" and one.name in results), None)
    if stage is None:
        return None
    try:
        return read_record(stage.folder / "comparison.json", Comparison, "a comparison")
    except (OSError, ValueError):
        return None


def headline_of(comparison: Comparison | None) -> str | None:
    """Return the key of the metric that ``over_pictures`` and ``per_class`` are about, such as ``coco_AP``."""
    return None if comparison is None else "_".join(HEADLINE[comparison.get("format", "voc")])


def over_pictures(comparison: Comparison | None, baseline: str) -> dict[str, dict[str, list[float] | None]]:
    """Return method -> intervals of its difference in the headline to ``baseline``, over pictures and over both.

    Detectors that read pictures in another way than the baseline's stand in a table of their own there, and have none.
    """
    if comparison is None:
        return {}
    metric, name = HEADLINE[comparison.get("format", "voc")]
    found = {}
    for group in comparison["groups"]:
        for method in group["methods"] if group["baseline"] == baseline else ():
            ap = method.get(metric, {}).get(name)
            if ap is not None and ap["difference"] is not None:
                both = ap.get("over_both")
                found[method["method"]] = {
                    "pictures": ap["difference"]["interval"],
                    "both": both["interval"] if both else None,
                }
    return found


def per_class(comparison: Comparison | None) -> dict[str, dict[str, float | None]]:
    """Return class -> method -> mean over its runs: of COCO AP for COCO's data, else of AP50 (11 points)."""
    methods = [method for group in comparison["groups"] for method in group["methods"]] if comparison else []
    names = list(dict.fromkeys(name for method in methods for name in method["per_class"]))
    return {name: {method["method"]: method["per_class"].get(name) for method in methods} for name in names}
