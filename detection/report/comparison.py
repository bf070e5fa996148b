"""comparison.json, and Markdown and HTML rendered from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from detection.evaluation.comparison import BASELINE
from detection.report.html import link, number_cell, page, sortable
from detection.report.markdown import address, inert, one_line, percent, protocol_rows, rules_in_words, table
from pretrain.run.files import atomic_write

ONE_SEED = "one seed: no spread"
METRIC_TITLES = {"voc07": "11 points", "voc10": "area", "coco": "COCO"}
NOT_RECORDED = "not recorded"


class OneRun(NamedTuple):
    """What a page says of a run; ``report`` is the path of its page from the comparison's folder, None without one."""

    method: str
    path: str
    report: str | None
    seed: str
    file: str
    sha256: str


def write_comparison(comparison: Mapping[str, Any], output_dir: Path | str) -> None:
    """Write comparison.json, comparison.md and comparison.html into ``output_dir`` (made if absent), each whole."""
    output_dir = Path(output_dir)
    files = {
        "comparison.json": json.dumps(comparison, indent=2, allow_nan=False) + "\n",
        "comparison.md": render_markdown(comparison, output_dir),
        "comparison.html": render_html(comparison, output_dir),
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with atomic_write(output_dir / name, "w") as file:
            file.write(text)


def summary_table(group: Mapping[str, Any]) -> list[str]:
    """Return the lines of a Markdown table with mAP (11 points, IoU .5) of each method of ``group``, and COCO's AP."""
    rows = [("method", "mAP", "std", "n", f"difference to {group['baseline']}", "interval", "COCO AP")]
    for entry in group["methods"]:
        ap = entry["voc07"]["AP50"]
        spread, difference = _std_text(ap), _difference(ap["difference"])
        mean = percent(ap["mean"])
        rows.append((entry["method"], mean, spread, str(entry["n"]), *difference, percent(entry["coco"]["AP"]["mean"])))
    return table(rows)


def render_markdown(comparison: Mapping[str, Any], folder: Path) -> str:
    """Return the comparison as Markdown for a file in ``folder``."""
    lines = [f"# Comparison on {one_line(comparison['dataset'])}", "", _note(comparison), ""]
    if comparison["differences"]:
        lines += ["## What differs between the protocols", "", *table(list(_differences(comparison))), ""]
    for number, group in enumerate(comparison["groups"], start=1):
        lines += [f"## {_group_title(comparison, number)}", "", " ".join(_group_notes(group)), ""]
        lines += [*summary_table(group), ""]
        rows = [
            (run.method, f"[{run.path}]({address(run.report)})" if run.report else run.path, *run[3:])
            for run in _runs(group, folder)
        ]
        lines += ["### Runs", "", *table([("method", "run", "seed", "checkpoint", "SHA-256"), *rows]), ""]
    paper = comparison["paper"]
    if paper is not None:
        lines += ["## The paper's Table 3", "", f"{paper['protocol']}.", ""]
        lines += table([("method", "mAP"), *((name, percent(ap)) for name, ap in paper["voc07_AP50"].items())])
    return inert([*lines, ""])


def render_html(comparison: Mapping[str, Any], folder: Path) -> str:
    """Return the comparison as one self-contained page for a file in ``folder``."""
    groups = "".join(
        _group(comparison, number, group, folder) for number, group in enumerate(comparison["groups"], start=1)
    )
    num_runs = sum(entry["n"] for group in comparison["groups"] for entry in group["methods"])
    body = f"""<header>
<div class="eyebrow">Comparison</div>
<h1>{num_runs} runs on {escape(comparison["dataset"])}</h1>
<p class="soft">{escape(_note(comparison))}</p>
</header>
{_what_differs(comparison)}
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
        "pictures: it speaks about these trained detectors, not about training again. COCO AP is the mean over IoU "
        f".50 to .95, without intervals. {rules_in_words(comparison['evaluation_rules'])}"
        + "".join(
            f" Runs of one table may differ in {key}: --across asks for it, and runs that do are methods of their own."
            for key in comparison["across"]
        )
    )


def _group_title(comparison: Mapping[str, Any], number: int) -> str:
    return "Our runs" if len(comparison["groups"]) == 1 else f"Our runs, protocol {number}"


def _group_notes(group: Mapping[str, Any]) -> list[str]:
    """Return what is to be said of the protocol of a group, in sentences."""
    notes = [_protocol_line(group["protocol"]["training"])]
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
    return notes


def _protocol_line(training: Mapping[str, Any] | None) -> str:
    """Return the protocol in a sentence; runs without a report have none, and a key that varies is not in it."""
    if not training:
        return "How these detectors were trained is not recorded."

    def text(key: str, form: str = "") -> str:
        value = training.get(key)
        if isinstance(value, (list, tuple)):
            return ", ".join(format(one, form) for one in value) or "no step"
        return "various" if value is None else format(value, form)

    return (
        f"Batch {text('SOLVER.IMS_PER_BATCH')}, {text('SOLVER.MAX_ITER', ',')} iterations, learning rate "
        f"{text('SOLVER.BASE_LR', 'g')} x{text('SOLVER.GAMMA', 'g')} at {text('SOLVER.STEPS', ',')}, R"
        f"{text('MODEL.RESNETS.DEPTH')}, {text('MODEL.RESNETS.NORM')}, trained on {text('DATASETS.TRAIN')}."
    )


def _differences(comparison: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a head, then each setting in which the groups differ with its value in each."""
    yield ("setting", *(f"protocol {number}" for number, _ in enumerate(comparison["groups"], start=1)))
    for key, values in comparison["differences"].items():
        yield (key, *(NOT_RECORDED if value is None else str(value) for value in values))


def _what_differs(comparison: Mapping[str, Any]) -> str:
    if not comparison["differences"]:
        return ""
    head, *rows = _differences(comparison)
    heads = "".join(f"<th>{escape(cell.capitalize())}</th>" for cell in head)
    body = "".join(
        f'<tr><th class="text">{escape(key)}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}</tr>'
        for key, *values in rows
    )
    return f"""<section>
<h2>What differs between the protocols</h2>
<p class="note">Numbers of different protocols cannot be compared; each has a table of its own.</p>
<div class="card"><div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></div>
</section>"""


def _std_text(ap: Mapping[str, Any]) -> str:
    return ONE_SEED if ap["std"] is None else f"{ap['std']:.2f}"


def _difference(difference: Mapping[str, Any] | None) -> tuple[str, str]:
    if difference is None:
        return "-", "-"
    low, high = difference["interval"] or (None, None)
    return f"{difference['mean']:+.2f}", "-" if low is None else f"{low:+.2f} to {high:+.2f}"


def _group(comparison: Mapping[str, Any], number: int, group: Mapping[str, Any], folder: Path) -> str:
    values = [ap for entry in group["methods"] for ap in entry["voc07"]["AP50"]["values"]]
    low, high = min(values), max(values)
    margin = max(0.1 * (high - low), 0.5)
    rows = "".join(_method_row(entry, low - margin, high + margin) for entry in group["methods"])
    protocol, settings = (
        "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in part)
        for part in protocol_rows(group["protocol"])
    )
    others = f"<details><summary>All other settings</summary><dl>{settings}</dl></details>" if settings else ""
    return f"""<section>
<h2>{_group_title(comparison, number)}</h2>
<p class="note">{escape(" ".join(_group_notes(group)))} A dot is a run, the line their mean, from {low:.2f} to
{high:.2f}. A difference is bold where its interval excludes zero.</p>
<div class="card"><div class="scroll"><table>
<thead><tr>{sortable("Method", number=False)}{sortable("mAP")}{sortable("Std")}{sortable("n")}<th class="bars"></th>
{sortable(f"Difference to {group['baseline']}")}{sortable("COCO AP")}</tr></thead>
<tbody>{rows}</tbody>
</table></div></div>
<h3>All metrics</h3>
<div class="card"><div class="scroll"><table>{_all_metrics(group)}</table></div></div>
<h3>By class</h3>
<div class="card"><div class="scroll"><table>{_by_class(comparison, group)}</table></div></div>
<h3>Runs</h3>
<div class="card"><dl>{_run_list(group, folder)}</dl></div>
<details style="margin-top:1rem"><summary>Protocol</summary>
<div class="card" style="margin-top:.6rem"><dl>{protocol}</dl>{others}</div></details>
</section>"""


def _method_row(entry: Mapping[str, Any], low: float, high: float) -> str:
    ap = entry["voc07"]["AP50"]
    dots = dot_strip([(f"{value:.2f}", value) for value in ap["values"]], ap["mean"], low, high)
    spread = number_cell(ap["std"]) if entry["n"] > 1 else f'<td class="number soft" data-value="">{ONE_SEED}</td>'
    return (
        f'<tr><th class="text">{escape(entry["method"])}</th>{number_cell(ap["mean"])}{spread}'
        f'<td class="number">{entry["n"]}</td>'
        f'<td class="bars">{dots}</td>'
        f"{_difference_cell(ap['difference'])}{number_cell(entry['coco']['AP']['mean'])}</tr>"
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
                Path(os.path.relpath(shown, folder)).as_posix() if shown and shown.is_file() else None,
                NOT_RECORDED if seed is None else str(seed),
                str(known.get("file", NOT_RECORDED)),
                str(known.get("sha256", NOT_RECORDED)),
            )


def _run_list(group: Mapping[str, Any], folder: Path) -> str:
    engines = {entry["method"]: ", ".join(entry["engines"]) for entry in group["methods"]}
    return "".join(
        f"<dt>{escape(run.method)}, seed {escape(run.seed)}</dt>"
        f"<dd>{link(run.path, run.report) if run.report else escape(run.path)}"
        f'<span class="range">engine {escape(engines[run.method])}; checkpoint {escape(run.file)}, '
        f"SHA-256 {escape(run.sha256)}</span></dd>"
        for run in _runs(group, folder)
    )


def _paper(comparison: Mapping[str, Any]) -> str:
    if comparison["paper"] is None:
        return ""
    paper = comparison["paper"]["voc07_AP50"]
    number, group = next((n, one) for n, one in enumerate(comparison["groups"], start=1) if one["is_papers"])
    ours = {entry["method"]: entry["voc07"]["AP50"]["mean"] for entry in group["methods"]}
    rows = "".join(
        f'<tr><th class="text">{escape(name)}</th>{number_cell(ap)}'
        f'<td class="number">{_gap(name, paper, BASELINE)}</td>'
        f'<td class="number">{_gap(name, ours, group["baseline"])}</td></tr>'
        for name, ap in paper.items()
    )
    return f"""<section>
<h2>The paper's Table 3</h2>
<p class="note">{escape(comparison["paper"]["protocol"])}.</p>
<div class="card"><div class="scroll"><table>
<thead><tr>{sortable("Method", number=False)}{sortable("mAP, paper")}<th class="number">Gain, paper</th>
<th class="number">Gain, {_group_title(comparison, number).lower()}</th></tr></thead>
<tbody>{rows}</tbody>
</table></div></div>
</section>"""


def _gap(name: str, values: Mapping[str, float], baseline: str) -> str:
    if name not in values or baseline not in values or name == baseline:
        return "-"
    return f"{values[name] - values[baseline]:+.2f}"
