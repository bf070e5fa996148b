"""A study's result as one HTML page: the paper's tables with ours beside theirs, and what lies behind each number."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from detection.report.comparison import dot_strip
from detection.report.html import link, page
from detection.report.markdown import address, flatten
from tools.studies.pages.tables import (
    Column,
    Gain,
    Line,
    MeasuredCell,
    Table,
    baseline_of,
    column_title,
    describe,
    gain,
    has_gains,
    has_spread,
    headline_columns,
    lay_out,
    one_run,
    ours,
    progress_sentence,
    published,
    published_gain,
    published_sentence,
    row_name,
    seed_text,
    seed_values,
    seeds_of,
    stage_processes,
    stage_time,
    unit_and_direction,
)

OPEN_RUNS = 12  # rows; more of them are folded away

STYLE = """
.results th, .results td { padding-right: .8rem; }
.results tr > .text, .results thead tr:first-child > th:first-child, .group th { position: sticky; left: 0; z-index: 1;
    background: var(--card); }
.results th[colspan] { text-align: center; }
.results .over { border-bottom-style: dotted; }
.results .own { padding-left: 1.2rem; }
.results .published { color: var(--soft); font-style: italic; }
.results tbody + tbody > tr:first-child > * { border-top: 1px solid var(--line); }
.group th { color: var(--soft); font-size: .82rem; padding-top: 1rem; white-space: nowrap; }
.spread { display: inline-block; text-align: left; color: var(--soft); margin-left: .4em; font-size: .88em; }
:root { --warning: #8a5a00; }
@media screen and (prefers-color-scheme: dark) { :root { --warning: #e5b04a; } }
.absent { color: var(--soft); } .partial { color: var(--warning); }
.progress { max-width: 24rem; height: .5rem; }
.links { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; }
.glance { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(16rem, 100%), 1fr)); gap: 1rem; }
.glance table { margin-top: .5rem; } .glance .bars { width: 55%; }
.glance .text { min-width: 6.5rem; overflow-wrap: anywhere; }
.glance tr > * { border-bottom: 0; padding-top: .2rem; padding-bottom: .2rem; }
.glance .group th { padding-top: .8rem; }
.axis { display: flex; justify-content: space-between; font-size: .78rem; color: var(--soft); }
.failed { border-color: var(--wrong); } .failed dt { color: var(--wrong); overflow-wrap: anywhere; }
.sheet { margin: 0 0 1rem; } .sheet img { display: block; max-width: 100%; height: auto; border-radius: 7px; }
.sheet figcaption { padding-top: .5rem; }
details { margin-top: 1rem; } details > .card { margin-top: .6rem; }
@media (max-width: 46rem) { .results .text { min-width: 6.5rem; max-width: 8rem; overflow-wrap: anywhere; } }
@media print { .scroll { overflow: visible; } .results { font-size: 8pt; } .spread { font-size: inherit; } }
"""


def render_html(result: Mapping[str, Any], folder: Path) -> str:
    """Return the page for ``result``; its figures are read from ``folder``, and one that is not there is named."""
    tables = lay_out(result)
    sections = [
        _head(result),
        _failed(result),
        _results(result, tables),
        _gains(result, tables),
        _seeds(result, tables),
        _figures(result, folder),
        _record(result, tables),
    ]
    return page(result["title"], "\n".join(filter(None, sections)), STYLE)


def _head(result: Mapping[str, Any]) -> str:
    table = f" &middot; {escape(result['paper']['table'])} of the paper" if result["paper"] else ""
    done, total = result["progress"]["done"], result["progress"]["total"]
    bar = f'<div class="track progress"><i style="width:{100 * done / total:.1f}%"></i></div>' if done < total else ""
    notes = f'<p class="note">{escape(" ".join(result["notes"]))}</p>' if result["notes"] else ""
    links = "".join(link(one["label"], one["href"]) for one in result["links"])
    return f"""<header>
<div class="eyebrow">Study {escape(result["study"])}{table}</div>
<h1>{escape(result["title"])}</h1>
<p class="soft">{progress_sentence(result)}
Written {escape(result["written"])} from {escape(result["config_file"])}.</p>
{bar}{notes}{f'<nav class="links">{links}</nav>' if links else ""}
</header>"""


def _failed(result: Mapping[str, Any]) -> str:
    failed = [stage for stage in result["stages"] if stage["state"] == "failed"]
    if not failed:
        return ""
    entries = "".join(
        f"<dt>{escape(stage['name'])}</dt><dd>{escape(stage['message'] or 'no message')} "
        f"{link('log', stage['link']) if stage['link'] else ''}</dd>"
        for stage in failed
    )
    return f"""<section id="failed">
<h2>Failed</h2>
<div class="card failed"><dl>{entries}</dl></div>
</section>"""


def _results(result: Mapping[str, Any], tables: Sequence[Table]) -> str:
    if not tables:
        return ""
    says = (
        "Ours: mean ± standard deviation over the seeds (how many), beneath it the 95 % interval of the mean."
        if has_spread(result)
        else ""
    )

    def cells(one: Table, column: Column) -> Callable[[Line], str]:
        width = max(len(_spread_text(ours(line, column))) for lines in one.models.values() for line in lines)
        return lambda line: _ours_cell(ours(line, column), width) + _published_cell(column, published(line, column))

    return f"""<section id="results">
<h2>Results</h2>
<p class="note">{" ".join(filter(None, (_setting(result), says, escape(published_sentence(result)))))}</p>
{"".join(_table(one, cells) for one in tables)}
</section>"""


def _gains(result: Mapping[str, Any], tables: Sequence[Table]) -> str:
    if not has_gains(result):
        return ""

    def without_baseline(one: Table) -> Table:
        others = {
            model: [line for line in lines if line.method != result["baseline"]] for model, lines in one.models.items()
        }
        return one._replace(models={model: lines for model, lines in others.items() if lines})

    def cells(one: Table, column: Column) -> Callable[[Line], str]:
        def cell(line: Line) -> str:
            baseline = references[line.model]
            return _gain_cell(gain(line, column, baseline)) + _published_cell(
                column, published_gain(line, column, baseline)
            )

        return cell

    references = {model: baseline_of(lines, result) for model, lines in tables[0].models.items()}
    says = (
        '<p class="note">Ours: mean of the differences seed by seed, beneath it its 95 % interval; bold where that, '
        "taken alone, excludes zero.</p>"
        if has_spread(result)
        else ""
    )
    return f"""<section id="gains">
<h2>Difference to {escape(result["baseline"])}</h2>
{says}
{"".join(_table(without_baseline(one), cells) for one in tables)}
</section>"""


def _table(one: Table, cells: Callable[[Table, Column], Callable[[Line], str]]) -> str:
    """Return a table; ``cells(one, column)`` returns what makes the cells of a line in that column."""
    makers = [cells(one, column) for column in one.columns]
    body = "".join(
        f"<tbody>{_model_row(one, model)}"
        + "".join(
            f'<tr><th class="text">{_name(line.method)}</th>{"".join(make(line) for make in makers)}</tr>'
            for line in lines
        )
        + "</tbody>"
        for model, lines in one.models.items()
    )
    title = one.title or _shared_unit(one)
    return f"""{f"<h3>{escape(title)}</h3>" if title else ""}
<div class="card"><div class="scroll"><table class="results">{_thead(one)}{body}</table></div></div>"""


def _shared_unit(one: Table) -> str:
    """Return unit and direction of all metrics, empty where they differ."""
    units = {unit_and_direction(column.metric) for column in one.columns}
    return f"In {units.pop()}" if len(units) == 1 and one.columns[0].metric["unit"] else ""


def _thead(one: Table) -> str:
    both = any(column.published for column in one.columns)
    heads, below = [], []
    for column in one.columns:
        unit = "" if one.title or _shared_unit(one) else _small(unit_and_direction(column.metric))
        if column.published:
            heads.append(f'<th class="over own" colspan="2">{escape(column.label)}{unit}</th>')
            below.append('<th class="number own">ours</th><th class="number published">published</th>')
        else:
            heads.append(f'<th class="number own"{" rowspan=2" if both else ""}>{escape(column.label)}{unit}</th>')
    second = f"<tr>{''.join(below)}</tr>" if both else ""
    return f"<thead><tr><th{' rowspan=2' if both else ''}>Method</th>{''.join(heads)}</tr>{second}</thead>"


def _model_row(one: Table, model: str) -> str:
    if len(one.models) == 1:
        return ""
    width = sum(1 + column.published for column in one.columns)
    return f'<tr class="group"><th>{escape(model)}</th><td colspan="{width}"></td></tr>'


def _spread_text(cell: MeasuredCell) -> str:
    if not cell.spread:
        return ""
    return f"± {cell.spread}" if cell.partial else f"± {cell.spread} ({cell.count})"


def _ours_cell(cell: MeasuredCell, width: int) -> str:
    if cell.absent:
        return f'<td class="number own absent">{cell.mean}</td>'
    # All spreads of a column are as wide as the widest, so that the decimal points of the means are in line.
    spread = f'<span class="spread" style="min-width:{0.8 * width:.1f}ch">{_spread_text(cell)}</span>' if width else ""
    said = cell.partial or not cell.spread  # else the count stands behind the spread
    return f'<td class="number own">{cell.mean}{spread}{_below(cell, said=said)}</td>'


def _gain_cell(cell: Gain) -> str:
    if cell.absent:
        return f'<td class="number own absent">{cell.mean}</td>'
    said = cell.partial or not cell.interval
    return f'<td class="number own{" clear" if cell.clear else ""}">{cell.mean}{_below(cell, said=said)}</td>'


def _below(cell: MeasuredCell | Gain, *, said: bool) -> str:
    """Return the interval, and where it is to be ``said`` the count, beneath a number."""
    count = _small(cell.count, " partial" if cell.partial else "") if said and cell.count else ""
    return f"{_small(cell.interval) if cell.interval else ''}{count}"


def _name(text: str) -> str:
    """Return the name of a row, which breaks after an underscore first where it must."""
    return escape(text).replace("_", "_<wbr>")


def _small(text: str, kind: str = "") -> str:
    return f'<span class="range{kind}">{escape(text)}</span>'


def _published_cell(column: Column, text: str) -> str:
    return f'<td class="number published">{text}</td>' if column.published else ""


def _setting(result: Mapping[str, Any]) -> str:
    """Return the model and data set that all rows share."""
    shared = [{row[key] for row in result["rows"]} for key in ("model", "data")]
    names = [name for names in shared if len(names) == 1 for name in names if name]
    return f"{escape(', '.join(names))}." if names else ""


def _seeds(result: Mapping[str, Any], tables: Sequence[Table]) -> str:
    cards = "".join(filter(None, (_dots(result, one, column) for one in tables for column in one.columns)))
    if not cards:
        return ""
    return f"""<section id="seeds">
<h2>At a glance</h2>
<p class="note">A dot is a run, the line their mean. Each chart has a scale of its own.</p>
<div class="glance">{cards}</div>
</section>"""


def _dots(result: Mapping[str, Any], one: Table, column: Column) -> str:
    """Return a card with a strip for each line; nothing where no run has a number."""
    values = [value for lines in one.models.values() for line in lines for _, value in seed_values(line, column)]
    if not values:
        return ""
    margin = 0.1 * (max(values) - min(values)) or 0.1 * abs(max(values)) or 1
    low, high = min(values) - margin, max(values) + margin

    def strip(line: Line) -> str:
        found = seed_values(line, column)
        if not found:
            return f'<span class="absent">{ours(line, column).mean}</span>'
        named = [(f"{seed_text(seed, result)}: {value:.{column.decimals}f}", value) for seed, value in found]
        return dot_strip(named, sum(value for _, value in found) / len(found), low, high)

    body = "".join(
        (f'<tr class="group"><th colspan="2">{escape(model)}</th></tr>' if len(one.models) > 1 else "")
        + "".join(
            f'<tr><th class="text">{_name(line.method)}</th><td class="bars">{strip(line)}</td></tr>' for line in lines
        )
        for model, lines in one.models.items()
    )
    ends = "".join(f"<span>{end:.{column.decimals}f}</span>" for end in (low, high))
    return f"""<div class="card"><b>{escape(column_title(one, column))}</b>{_small(unit_and_direction(column.metric))}
<table><tbody>{body}
<tr><td></td><td><div class="axis">{ends}</div></td></tr></tbody></table></div>"""


def _figures(result: Mapping[str, Any], folder: Path) -> str:
    if not result["figures"]:
        return ""
    return f"""<section id="figures">
<h2>Figures</h2>
{"".join(_figure(figure, folder) for figure in result["figures"])}
</section>"""


def _figure(figure: Mapping[str, str], folder: Path) -> str:
    label, source = escape(figure["label"]), escape(figure["src"])
    try:
        png = (folder / figure["src"]).read_bytes()
    except FileNotFoundError:
        return f'<figure class="card sheet absent">{label}: {source} is not there yet</figure>'
    # Inside the page, whose policy forbids it to load a file; the link shows it at full size.
    picture = f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{label}">'
    return f"""<figure class="card sheet"><a href="{escape(address(figure["src"]))}">{picture}</a>
<figcaption><span>{label}</span></figcaption></figure>"""


def _record(result: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """Return what lies behind the numbers: runs, stages, protocol and versions."""
    parts = [_runs(result, tables), _stages(result), *(_settings(key, result[key]) for key in ("protocol", "versions"))]
    if not any(parts):
        return ""
    return f"""<section id="record">
<h2>Behind the numbers</h2>
<p class="note">Everything on this page is in study.json, at full precision.</p>
{"".join(parts)}
</section>"""


def _runs(result: Mapping[str, Any], tables: Sequence[Table]) -> str:
    if not tables:
        return ""
    columns, seeds = headline_columns(tables), seeds_of(result)

    def cell(row: Mapping[str, Any], seed: int) -> str:
        run = one_run(row, seed, columns[row["data"]])
        text = link(run.text, run.link) if run.link else run.text
        return f'<td class="number{" absent" if run.absent else ""}">{text}</td>'

    heads = "".join(f'<th class="number">{seed_text(seed, result)}</th>' for seed in seeds)
    rows = (
        f'<tr><th class="text">{_name(row_name(row, result))}</th>{"".join(cell(row, seed) for seed in seeds)}</tr>'
        for row in result["rows"]
    )
    title = f"Runs and their reports: {describe(result['metrics'][0])}"
    return _folded(title, f"<th>Run</th>{heads}", rows, is_open=len(result["rows"]) <= OPEN_RUNS)


def _stages(result: Mapping[str, Any]) -> str:
    if not result["stages"]:
        return ""
    rows = (
        f'<tr><th class="text">{escape(stage["name"])}</th><td>{escape(stage["state"])}</td>'
        f'<td class="number">{stage_time(stage)}</td><td class="number">{stage_processes(stage)}</td>'
        f"<td>{escape(stage.get('machine') or '')}</td>"
        f"<td>{link('log', stage['link']) if stage['link'] else ''}</td></tr>"
        for stage in result["stages"]
    )
    heads = (
        '<th>Stage</th><th>State</th><th class="number">h:mm:ss</th><th class="number">Processes</th>'
        "<th>Machine</th><th></th>"
    )
    return _folded("Stages, how long they took and on what", heads, rows)


def _folded(title: str, heads: str, rows: Iterable[str], *, is_open: bool = False) -> str:
    return f"""<details{" open" if is_open else ""}><summary>{escape(title)}</summary>
<div class="card"><div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>
</div></details>"""


def _settings(key: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in flatten(values))
    return f'<details><summary>{key.capitalize()}</summary><div class="card"><dl>{entries}</dl></div></details>'
