"""comparison.json, and Markdown and HTML rendered from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from detection.evaluation.comparison import BASELINE
from detection.report.html import number_cell, page, sortable
from detection.report.markdown import flatten, percent, rules_in_words, table
from pretrain.run.files import atomic_write

ONE_SEED = "one seed: no spread"
METRIC_TITLES = {"voc07": "11 points", "voc10": "area"}


def write_comparison(comparison: Mapping[str, Any], output_dir: Path | str) -> None:
    """Write comparison.json, comparison.md and comparison.html into ``output_dir`` (made if absent), each whole."""
    files = {
        "comparison.json": json.dumps(comparison, indent=2, allow_nan=False) + "\n",
        "comparison.md": render_markdown(comparison),
        "comparison.html": render_html(comparison),
    }
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with atomic_write(output_dir / name, "w") as file:
            file.write(text)


def summary_table(group: Mapping[str, Any]) -> list[str]:
    """Return the lines of a Markdown table with mAP (11 points, IoU .5) of each method of ``group``."""
    rows = [("method", "mAP", "std", "n", f"difference to {group['baseline']}", "interval")]
    for entry in group["methods"]:
        ap = entry["voc07"]["AP50"]
        spread, difference = _std_text(ap), _difference(ap["difference"])
        rows.append((entry["method"], percent(ap["mean"]), spread, str(entry["n"]), *difference))
    return table(rows)


def render_markdown(comparison: Mapping[str, Any]) -> str:
    """Return the comparison as Markdown."""
    lines = [f"# Comparison on {comparison['dataset']}", "", _note(comparison), ""]
    for number, group in enumerate(comparison["groups"], start=1):
        lines += [f"## {_group_title(comparison, number)}", "", _protocol_line(group), ""]
        lines += [*summary_table(group), ""]
    paper = comparison["paper"]
    lines += ["## The paper's Table 3, under its own protocol", "", f"{paper['protocol']}.", ""]
    lines += table([("method", "mAP"), *((name, percent(ap)) for name, ap in paper["voc07_AP50"].items())])
    return "\n".join([*lines, ""])


def render_html(comparison: Mapping[str, Any]) -> str:
    """Return the comparison as one self-contained page."""
    groups = "".join(_group(comparison, number, group) for number, group in enumerate(comparison["groups"], start=1))
    num_runs = sum(entry["n"] for group in comparison["groups"] for entry in group["methods"])
    body = f"""<header>
<div class="eyebrow">Comparison</div>
<h1>{num_runs} runs on {escape(comparison["dataset"])}</h1>
<p class="soft">{escape(_note(comparison))}</p>
</header>
{groups}
{_paper(comparison)}"""
    return page(f"Comparison on {comparison['dataset']}", body)


def dot_strip(dots: Sequence[tuple[str, float]], mean: float, low: float, high: float) -> str:
    """Return a strip from ``low`` to ``high`` with a dot for each (title, value) and a line at their mean."""

    def place(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    drawn = "".join(f'<u style="left:{place(value)}" title="{escape(title)}"></u>' for title, value in dots)
    return f'<div class="track dots"><s style="left:{place(mean)}"></s>{drawn}</div>'


def _note(comparison: Mapping[str, Any]) -> str:
    return (
        f"{comparison['num_images']:,} pictures, {comparison['num_classes_scored']} of {len(comparison['classes'])} "
        "classes. mAP by VOC2007 (11 points) at IoU .5, in percent; std over the seeds of a method. The interval of a "
        f"difference is the central {comparison['level']} % of {comparison['resamples']:,} paired resamples of the "
        "pictures: it speaks about these trained detectors, not about training again. "
        f"{rules_in_words(comparison['evaluation_rules'])}"
    )


def _group_title(comparison: Mapping[str, Any], number: int) -> str:
    return "Our runs" if len(comparison["groups"]) == 1 else f"Our runs, protocol {number}"


def _protocol_line(group: Mapping[str, Any]) -> str:
    """Return the protocol in a sentence; runs without a report have none."""
    training = group["protocol"].get("training")
    if not training:
        return "How these detectors were trained is not recorded."
    return (
        f"Batch {training['SOLVER.IMS_PER_BATCH']}, {training['SOLVER.MAX_ITER']:,} iterations, learning rate "
        f"{training['SOLVER.BASE_LR']:g} x{training['SOLVER.GAMMA']:g} at {_steps(training['SOLVER.STEPS'])}, R"
        f"{training['MODEL.RESNETS.DEPTH']}, {training['MODEL.RESNETS.NORM']}, "
        f"trained on {', '.join(training['DATASETS.TRAIN'])}."
    )


def _steps(steps: Sequence[int]) -> str:
    return ", ".join(f"{step:,}" for step in steps) or "no step"


def _std_text(ap: Mapping[str, Any]) -> str:
    return ONE_SEED if ap["std"] is None else f"{ap['std']:.2f}"


def _difference(difference: Mapping[str, Any] | None) -> tuple[str, str]:
    if difference is None:
        return "-", "-"
    low, high = difference["interval"] or (None, None)
    return f"{difference['mean']:+.2f}", "-" if low is None else f"{low:+.2f} to {high:+.2f}"


def _group(comparison: Mapping[str, Any], number: int, group: Mapping[str, Any]) -> str:
    values = [ap for entry in group["methods"] for ap in entry["voc07"]["AP50"]["values"]]
    low, high = min(values), max(values)
    margin = max(0.1 * (high - low), 0.5)
    rows = "".join(_method_row(entry, low - margin, high + margin) for entry in group["methods"])
    protocol = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in flatten(group["protocol"]))
    return f"""<section>
<h2>{_group_title(comparison, number)}</h2>
<p class="note">{escape(_protocol_line(group))} A dot is a run, the line their mean, from {low:.2f} to {high:.2f}.</p>
<div class="card"><div class="scroll"><table>
<thead><tr>{sortable("Method", number=False)}{sortable("mAP")}{sortable("Std")}{sortable("n")}<th class="bars"></th>
{sortable(f"Difference to {group['baseline']}")}</tr></thead>
<tbody>{rows}</tbody>
</table></div></div>
<h3>All metrics</h3>
<div class="card"><div class="scroll"><table>{_all_metrics(group)}</table></div></div>
<h3>By class</h3>
<div class="card"><div class="scroll"><table>{_by_class(comparison, group)}</table></div></div>
<details style="margin-top:1rem"><summary>Protocol and runs</summary>
<div class="card" style="margin-top:.6rem"><dl>{protocol}{_runs(group)}</dl></div></details>
</section>"""


def _method_row(entry: Mapping[str, Any], low: float, high: float) -> str:
    ap = entry["voc07"]["AP50"]
    dots = dot_strip([(f"{value:.2f}", value) for value in ap["values"]], ap["mean"], low, high)
    spread = number_cell(ap["std"]) if entry["n"] > 1 else f'<td class="number soft" data-value="">{ONE_SEED}</td>'
    return (
        f'<tr><th class="text">{escape(entry["method"])}</th>{number_cell(ap["mean"])}{spread}'
        f'<td class="number">{entry["n"]}</td>'
        f'<td class="bars">{dots}</td>'
        f"{_difference_cell(ap['difference'])}</tr>"
    )


def _difference_cell(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return '<td class="number soft" data-value="0">baseline</td>'
    mean, between = _difference(difference)
    low, high = difference["interval"] or (0, 0)
    clear = " clear" if low > 0 or high < 0 else ""
    return (
        f'<td class="number{clear}" data-value="{difference["mean"]!r}">{mean}<span class="range">{between}</span></td>'
    )


def _all_metrics(group: Mapping[str, Any]) -> str:
    columns = [(metric, name) for metric in METRIC_TITLES for name in ("AP", "AP50", "AP75")]
    heads = "".join(sortable(f"{name} ({METRIC_TITLES[metric]})") for metric, name in columns)
    rows = "".join(
        f'<tr><th class="text">{escape(entry["method"])}</th>'
        + "".join(number_cell(entry[metric][name]["mean"]) for metric, name in columns)
        + "</tr>"
        for entry in group["methods"]
    )
    return f"<thead><tr>{sortable('Method', number=False)}{heads}</tr></thead><tbody>{rows}</tbody>"


def _by_class(comparison: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    heads = "".join(sortable(entry["method"]) for entry in group["methods"])
    rows = "".join(
        f'<tr><th class="text">{escape(name)}</th>'
        + "".join(number_cell(entry["per_class"][name]) for entry in group["methods"])
        + "</tr>"
        for name in comparison["classes"]
    )
    return f"<thead><tr>{sortable('Class', number=False)}{heads}</tr></thead><tbody>{rows}</tbody>"


def _runs(group: Mapping[str, Any]) -> str:
    return "".join(
        f"<dt>{escape(entry['method'])}</dt><dd>"
        + "<br>".join(
            f"{escape(path)}{'' if seed is None else f', seed {seed}'}"
            for path, seed in zip(entry["runs"], entry["seeds"], strict=True)
        )
        + f" ({escape(', '.join(entry['engines']))})</dd>"
        for entry in group["methods"]
    )


def _paper(comparison: Mapping[str, Any]) -> str:
    paper = comparison["paper"]["voc07_AP50"]
    group = comparison["groups"][0]
    ours = {entry["method"]: entry["voc07"]["AP50"]["mean"] for entry in group["methods"]}
    rows = "".join(
        f'<tr><th class="text">{escape(name)}</th>{number_cell(ap)}'
        f'<td class="number">{_gap(name, paper, BASELINE)}</td>'
        f'<td class="number">{_gap(name, ours, group["baseline"])}</td></tr>'
        for name, ap in paper.items()
    )
    return f"""<section>
<h2>The paper's Table 3</h2>
<p class="note">Under its own protocol: {escape(comparison["paper"]["protocol"])}. Numbers of different protocols
cannot be compared; what can be is the gain over the baseline of the same protocol.</p>
<div class="card"><div class="scroll"><table>
<thead><tr>{sortable("Method", number=False)}{sortable("mAP, paper")}<th class="number">Gain, paper</th>
<th class="number">Gain, {_group_title(comparison, 1).lower()}</th></tr></thead>
<tbody>{rows}</tbody>
</table></div></div>
</section>"""


def _gap(name: str, values: Mapping[str, float], baseline: str) -> str:
    if name not in values or baseline not in values or name == baseline:
        return "-"
    return f"{values[name] - values[baseline]:+.2f}"
