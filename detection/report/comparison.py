"""comparison.json, and Markdown and HTML rendered from it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detection.datasets.types import DetectionDataset
from detection.evaluation.comparison import BASELINE, COMPARED, HEADLINE, Run
from detection.evaluation.diagnosis.label_errors import MAX_LISTED
from detection.evaluation.intervals import POWER
from detection.evaluation.resampling import SUMMARIES
from detection.report.comparison_pictures import Pictures, draw_pictures
from detection.report.differences import class_difference, classes_in_words, difference_in_words
from detection.report.markdown import (
    SHOWN,
    bold,
    inert,
    linked,
    paragraph,
    percent,
    place_in_words,
    plain,
    protocol_rows,
    rules_in_words,
    table,
)
from detection.report.templates import render
from pretrain.run.files import atomic_write
from pretrain.run.settings import is_number

ONE_SEED = "one seed: no spread"
CLAIM = (
    "Bold: the method may be said to differ from the baseline, p below .05 after Holm's correction over the methods of "
    f"the table. Seeds needed: with as many it would be seen with a chance of {100 * POWER:.0f} %, if the true "
    "difference and spread are those seen here."
)
NOT_RECORDED = "not recorded"
# By the format of the test set: what its headline is called, and what stands beside that: title, metric and name.
TITLES = {"voc": "mAP", "coco": "COCO AP"}
BESIDE = {
    "voc": (("COCO AP", "coco", "AP"),),
    "coco": (*((name, "coco", name) for name in COMPARED["coco"][1:]), ("mAP", "voc07", "AP50")),
}
METRICS = {"voc07": "11 points", "voc10": "area", "coco": "COCO"}
# What the numbers are: that of the headline, and at the end the other one.
ABOUT = {
    "voc": (
        "mAP by VOC2007 (11 points) at IoU .5",
        "COCO AP is the mean over IoU .50 to .95, without intervals over pictures.",
    ),
    "coco": (
        "COCO AP over IoU .50 to .95, beside it that of small, medium and large objects (s, m, l)",
        "mAP is by VOC2007 (11 points) at IoU .5.",
    ),
}


class OneRun(NamedTuple):
    """What a page says of a run; ``report`` is the path of its page from the comparison's folder, None without one."""

    method: str
    path: str
    report: str | None
    seed: str
    file: str
    sha256: str
    engines: str  # of the method


def write_comparison(
    comparison: Mapping[str, Any],
    output_dir: Path | str,
    *,
    dataset: DetectionDataset | None = None,
    runs: Sequence[Run] = (),
) -> None:
    """Write comparison.json, comparison.md and comparison.html into ``output_dir`` (made if absent), each whole.

    The first two before any picture is drawn: one that cannot be costs a warning and its place on the page.

    Args:
        dataset, runs: what ``comparison`` is of, for the page's pictures; it has none without them.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    _write(output_dir / "comparison.json", json.dumps(comparison, indent=2, allow_nan=False) + "\n")
    _write(output_dir / "comparison.md", render_markdown(comparison, output_dir))
    pictures = None if dataset is None else draw_pictures(dataset, runs, comparison)
    _write(output_dir / "comparison.html", render_html(comparison, output_dir, pictures))


def _write(path: Path, text: str) -> None:
    with atomic_write(path, "w") as file:
        file.write(text)


def summary_table(comparison: Mapping[str, Any], group: Mapping[str, Any]) -> list[str]:
    """Return the lines of a Markdown table of the methods of ``group``, one of those of ``comparison``.

    Of COCO's data it is about COCO AP, else about mAP (11 points, IoU .5); the other of the two stands beside it.
    """
    of = comparison["format"]
    metric, name = HEADLINE[of]
    difference = f"difference to {group['baseline']}"
    intervals = ("over seeds", "seeds needed", "over pictures", "over both")
    rows = [("method", TITLES[of], "std", "n", difference, *intervals, *(title for title, _, _ in BESIDE[of]))]
    for entry in group["methods"]:
        ap = entry[metric][name]
        spread = ONE_SEED if ap["n"] == 1 else percent(ap["std"])
        said = difference_in_words(ap)
        mean = bold(said.mean) if said.clear else said.mean
        over_seeds = f"{said.over_seeds} {said.around}".strip()
        texts = (mean, over_seeds, said.seeds_needed, said.over_pictures, said.over_both)
        others = (percent(entry[metric][name]["mean"]) for _, metric, name in BESIDE[of])
        rows.append((entry["method"], percent(ap["mean"]), spread, str(entry["n"]), *texts, *others))
    return table(rows)


def render_markdown(comparison: Mapping[str, Any], folder: Path) -> str:
    """Return the comparison as Markdown for a file in ``folder``."""
    lines = [f"# Comparison on {plain(comparison['dataset'])}", "", plain(_note(comparison)), ""]
    if comparison["differences"]:
        lines += ["## What differs between the protocols", "", *table(list(_differences(comparison))), ""]
    for number, group in enumerate(comparison["groups"], start=1):
        lines += [
            f"## {_group_title(comparison, number)}",
            "",
            plain(" ".join(_group_notes(group, comparison["across"]))),
            "",
        ]
        lines += [*summary_table(comparison, group), ""]
        if sentences := list(classes_in_words(group)):
            lines += ["### Classes", "", *(f"- {paragraph(sentence)}" for sentence in sentences), ""]
        rows = [
            (run.method, linked(run.path, run.report), run.seed, run.file, run.sha256) for run in _runs(group, folder)
        ]
        lines += ["### Runs", "", *table([("method", "run", "seed", "checkpoint", "SHA-256"), *rows]), ""]
    missed = comparison["missed_by_all"]
    lines += ["## Objects that every run misses", "", _missed_in_words(missed), ""]
    if missed["listed"]:
        rows = [(one["object"], one["image_id"], place_in_words(one)) for one in missed["listed"][:SHOWN]]
        lines += [*table([("class", "picture", "annotation"), *rows]), ""]
    paper = comparison["paper"]
    if paper is not None:
        lines += ["## The paper's Table 3", "", f"{paragraph(paper['protocol'])}.", ""]
        lines += table([("method", "mAP"), *((name, percent(ap)) for name, ap in paper["voc07_AP50"].items())])
    return inert([*lines, ""])


def render_html(comparison: Mapping[str, Any], folder: Path, pictures: Pictures | None = None) -> str:
    """Return the comparison as one self-contained page for a file in ``folder``."""
    groups, own = comparison["groups"], HEADLINE[comparison["format"]][0]
    metrics = {own: METRICS[own], **METRICS}
    missed = comparison["missed_by_all"]
    return render(
        Path(__file__).with_name("comparison.html.jinja"),
        comparison=comparison,
        headline=TITLES[comparison["format"]],
        beside=[one for one in BESIDE[comparison["format"]] if one[2] in SUMMARIES],  # sizes are among all numbers
        numbers=[(f"{name} ({title})", metric, name) for metric, title in metrics.items() for name in COMPARED[metric]],
        num_runs=sum(entry["n"] for group in groups for entry in group["methods"]),
        note=_note(comparison),
        differences=list(_differences(comparison)) if comparison["differences"] else [],
        groups=[_group_values(comparison, number, group, folder) for number, group in enumerate(groups, start=1)],
        one_seed=ONE_SEED,
        pictures=pictures,
        missed_words=_missed_in_words(missed),
        missed_pictures=list(zip(missed["listed"], pictures.missed, strict=False)) if pictures else [],
        paper=_paper_values(comparison) if comparison["paper"] is not None else None,
    )


def _note(comparison: Mapping[str, Any]) -> str:
    first, last = ABOUT[comparison["format"]]
    return (
        f"{comparison['num_images']:,} pictures, {comparison['num_classes_scored']} of {len(comparison['classes'])} "
        f"classes. {first}, in percent; std over the seeds of a method. A difference has "
        f"three {comparison['level']} % intervals. Over seeds, by Student's t, seed by seed where methods share them: "
        "would training again show it? Over pictures, from the same random halves of the pictures "
        f"({comparison['resamples']:,}) for all runs: would other pictures show it, with these very detectors? "
        "Over both, around the mean over seeds: where does it lie in the mean of all trainings and all splits of such "
        "pictures? "
        f"{CLAIM} {last} {rules_in_words(comparison['evaluation_rules'])}"
        + "".join(
            f" Runs of one table may differ in {key}: --across asks for it, and runs that do are methods of their own."
            for key in comparison["across"]
        )
    )


def _group_title(comparison: Mapping[str, Any], number: int) -> str:
    return "Our runs" if len(comparison["groups"]) == 1 else f"Our runs, protocol {number}"


def _group_notes(group: Mapping[str, Any], across: Collection[str]) -> list[str]:
    """Return what is to be said of the protocol of a group, in sentences."""
    notes = [protocol_line(group["protocol"]["training"], across)]
    if len(group["incomplete"]) == sum(entry["n"] for entry in group["methods"]):
        notes.append("Only the main settings of these runs are recorded; they may differ in others.")
    elif group["incomplete"]:
        notes.append(
            f"Of {', '.join(group['incomplete'])} only the main settings are recorded; the others are taken to be "
            "those of the other runs."
        )
    notes += [
        f"The backbones of {entry['method']} were pretrained under different "
        f"{', '.join(entry['recipe_differences'])}: more than seeds."
        for entry in group["methods"]
        if entry["recipe_differences"]
    ]
    if shared := [entry["method"] for entry in group["methods"] if entry["one_backbone"]]:
        notes.append(
            f"The runs of {', '.join(shared)} start from one pretraining each: their spread over seeds is that of "
            "fine-tuning alone, and says nothing of another pretraining by the same method."
        )
    return notes


def protocol_line(training: Mapping[str, Any] | None, across: Collection[str]) -> str:
    """Return the protocol in a sentence; runs without a report have none, and keys of ``across`` vary."""
    if not training:
        return "How these detectors were trained is not recorded."

    def text(key: str, form: str = "") -> str:
        value = training.get(key)
        if isinstance(value, (list, tuple)):
            return ", ".join(_formatted(one, form) for one in value) or "no step"
        if value is None:
            return "various" if key in across else NOT_RECORDED
        return _formatted(value, form)

    depth = text("MODEL.RESNETS.DEPTH")
    network = f"R{depth}" if depth.isdecimal() else f"depth {depth}"
    return (
        f"Batch {text('SOLVER.IMS_PER_BATCH')}, {text('SOLVER.MAX_ITER', ',')} iterations, learning rate "
        f"{text('SOLVER.BASE_LR', 'g')} x{text('SOLVER.GAMMA', 'g')} at {text('SOLVER.STEPS', ',')}, {network}, "
        f"{text('MODEL.RESNETS.NORM')}, trained on {text('DATASETS.TRAIN')}."
    )


def _formatted(value: Any, form: str) -> str:
    """Return a setting as a report records it: somebody else's may hold anything where ours hold numbers."""
    return format(value, form) if is_number(value) else str(value)


def _differences(comparison: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a head, then each setting in which the groups differ with its value in each."""
    yield ("setting", *(f"protocol {number}" for number, _ in enumerate(comparison["groups"], start=1)))
    for key, values in comparison["differences"].items():
        yield (key, *(NOT_RECORDED if value is None else str(value) for value in values))


def _missed_in_words(missed: Mapping[str, Any]) -> str:
    """Return in sentences how many objects no run finds, and what that means."""
    objects, runs = f"{missed['num_objects']:,} objects", f"the {missed['num_runs']} runs"
    if not missed["count"]:
        return f"There is none: each of {objects} is found in one of {runs}."
    return (
        f"{missed['count']:,} of {objects}: no detection of their class, however unsure, finds them at IoU .5 in any "
        f"of {runs}. The label of such an object is often wrong, or the object is hard: a person looks. "
        f"comparison.json lists the largest, up to {MAX_LISTED}."
    )


def _group_values(comparison: Mapping[str, Any], number: int, group: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return ``group`` with what the page says of it besides; a dot is (title, number) of a run."""
    metric, name = HEADLINE[comparison["format"]]
    values = [ap for entry in group["methods"] for ap in entry[metric][name]["values"] if ap is not None] or [0.0]
    protocol, other_settings = protocol_rows(group["protocol"])
    return {
        "title": _group_title(comparison, number),
        "notes": " ".join(_group_notes(group, comparison["across"])),
        "low": min(values),
        "high": max(values),
        "margin": max(0.1 * (max(values) - min(values)), 0.5),
        "baseline": group["baseline"],
        "differing": list(classes_in_words(group)),
        "class_differences": {
            entry["method"]: {name: class_difference(found) for name, found in entry["per_class_differences"].items()}
            for entry in group["methods"]
            if entry["per_class_differences"] is not None
        },
        "disagreements": group["disagreements"],
        "methods": [
            {
                **entry,
                "headline": entry[metric][name],
                "dots": [(percent(ap), ap) for ap in entry[metric][name]["values"] if ap is not None],
                "said": difference_in_words(entry[metric][name]),
            }
            for entry in group["methods"]
        ],
        "runs": list(_runs(group, folder)),
        "protocol": protocol,
        "other_settings": other_settings,
    }


def _runs(group: Mapping[str, Any], folder: Path) -> Iterator[OneRun]:
    for entry in group["methods"]:
        for path, report, seed, weights in zip(
            entry["runs"], entry["reports"], entry["seeds"], entry["weights"], strict=True
        ):
            shown = report and Path(report).with_name("report.html")
            known = weights or {}
            yield OneRun(
                entry["method"],
                path,
                Path(os.path.relpath(shown, folder)).as_posix() if shown and os.path.isfile(shown) else None,
                NOT_RECORDED if seed is None else str(seed),
                str(known.get("file", NOT_RECORDED)),
                str(known.get("sha256", NOT_RECORDED)),
                ", ".join(entry["engines"]),
            )


def _paper_values(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return the paper's table, and what the group of its protocol gains over the baseline beside what it does."""
    paper = comparison["paper"]["voc07_AP50"]
    number, group = next((n, one) for n, one in enumerate(comparison["groups"], start=1) if one["is_papers"])
    ours = {entry["method"]: entry["voc07"]["AP50"]["mean"] for entry in group["methods"]}
    return {
        "protocol": comparison["paper"]["protocol"],
        "ours": _group_title(comparison, number),
        "rows": [
            (name, ap, _gap(name, paper, BASELINE), _gap(name, ours, group["baseline"])) for name, ap in paper.items()
        ],
    }


def _gap(name: str, values: Mapping[str, float], baseline: str) -> str:
    if name not in values or baseline not in values or name == baseline:
        return "-"
    return f"{values[name] - values[baseline]:+.2f}"
