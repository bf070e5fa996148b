"""study.json, and Markdown and HTML rendered from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detection.report.comparison import CLAIM
from detection.report.markdown import bold, flatten, inert, linked, paragraph, plain, table
from pretrain.run.files import atomic_write
from tools.studies.pages.findings import (
    class_rows,
    headline_in_words,
    on_pictures,
    sources_in_words,
    verdicts_in_words,
)
from tools.studies.pages.html import render_html
from tools.studies.pages.probes import probe_table
from tools.studies.pages.rates import rates_in_words
from tools.studies.pages.tables import (
    Column,
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
    papers_own,
    progress_sentence,
    published,
    published_gain,
    published_sentence,
    published_spread,
    row_name,
    seed_text,
    seeds_of,
    stage_processes,
    stage_time,
    unit_and_direction,
)
from tools.studies.records import RESULT_OF_STUDY

SOURCE_HEADS = ("method", "from", "SHA-256", "network", "reads", "taken for granted")
PUBLISHED_KEYS = ("AP50", "AP", "AP75")


def write_pages(result: Mapping[str, Any], folder: Path | str) -> None:
    """Write study.json, study.md and study.html into ``folder`` (made if absent), each whole.

    The links and figures of ``result`` are paths relative to ``folder``. The page holds its figures inside, so that it
    can be sent alone; one that is not there is named.

    Raises:
        ValueError: a number of ``result`` is not finite; nothing is written.
    """
    folder = Path(folder)
    files = {
        RESULT_OF_STUDY: json.dumps(result, indent=2, allow_nan=False) + "\n",
        "study.md": render_markdown(result),
        "study.html": render_html(result, folder),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with atomic_write(folder / name, "w") as file:
            file.write(text)


def summary_table(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of the paper's table with our numbers: mean +- standard deviation over seeds (how many).

    The paper's own stand in columns "published", those of which there are none of ours first. Several tables have a
    title each; a result without rows has no line.
    """
    lines: list[str] = []
    for one in lay_out(result):
        if one.title:
            lines += [*([""] if lines else []), f"{paragraph(one.title)}:", ""]
        theirs = (f"{column.label} (published)" for column in one.paper_columns)
        rows = [("method", *theirs, *(head for column in one.columns for head in _heads(one, column)))]
        for name, _, line in _named_lines(one):
            theirs = (papers_own(line, column) for column in one.paper_columns)
            rows.append((name, *theirs, *(text for column in one.columns for text in _cells(line, column))))
        lines += table(rows)
    return lines


def render_markdown(result: Mapping[str, Any]) -> str:
    """Return the study as Markdown."""
    parts = [
        [f"# {plain(result['title'])}"],
        [f"{progress_sentence(result)} Written {plain(result['written'])} from {plain(result['config_file'])}."],
        *_verdicts(result),
        [paragraph(result["transfer"]["protocol"])] if result["transfer"] else [],
        *([paragraph(note)] for note in result["notes"]),
        *_failed(result),
        *_results(result),
        *_transfer(result),
        *_titled("Figures", [f"!{linked(figure['label'], figure['src'])}" for figure in result["figures"]]),
        *_titled("Links", [f"- {linked(link['label'], link['href'])}" for link in result["links"]]),
        *(part for key in ("protocol", "versions") for part in _settings(key, result[key])),
        *_stages(result),
    ]
    return inert(["\n\n".join("\n".join(lines) for lines in parts if any(lines)), ""])


def _titled(title: str, lines: list[str]) -> list[list[str]]:
    """Return a heading and what it stands over; nothing over nothing."""
    return [[f"## {title}"], lines] if lines else []


def _failed(result: Mapping[str, Any]) -> list[list[str]]:
    failed = [stage for stage in result["stages"] if stage["state"] == "failed"]
    names = (linked(stage["name"], stage["link"]) if stage["link"] else paragraph(stage["name"]) for stage in failed)
    messages = (plain(" ".join((stage["message"] or "no message").split())) for stage in failed)
    return _titled(
        "Failed",
        [f"- {name}: {message}" for name, message in zip(names, messages, strict=True)],
    )


def _results(result: Mapping[str, Any]) -> Iterator[list[str]]:
    tables = lay_out(result)
    if not tables:
        return
    yield ["## Results"]
    ours_are = "Ours: mean +- standard deviation over the seeds (how many)." if has_spread(result) else ""
    yield [" ".join(filter(None, (ours_are, plain(published_sentence(result)))))]
    yield summary_table(result)
    yield ["## Intervals and differences"]
    said = "95 % intervals over the seeds, of our means and of our differences to the baseline (seed by seed)."
    yield [f"{said} {CLAIM}" if has_spread(result) and has_gains(result) else said]
    for one in tables:
        for column in one.columns:
            yield [f"### {plain(f'{column_title(one, column)} ({unit_and_direction(column.metric)})')}"]
            yield table(list(_interval_rows(result, one, column)))
    yield [f"## Runs: {plain(describe(result['metrics'][0]))}"]
    yield table(list(_run_rows(result, tables)))


def _heads(one: Table, column: Column) -> list[str]:
    head = column.label if one.title else ", ".join(filter(None, (column.label, column.metric["unit"])))
    return [head, "published"] if column.published else [head]


def _cells(line: Line, column: Column) -> list[str]:
    text = _ours(ours(line, column))
    if not column.published:
        return [text]
    spread = published_spread(line, column)
    return [text, published(line, column) + (f" +- {spread}" if spread else "")]


def _ours(cell: MeasuredCell) -> str:
    spread = f" +- {cell.spread}" if cell.spread else ""
    count = f" ({cell.count})" if cell.count else ""
    return f"{cell.mean}{spread}{count}"


def _named_lines(one: Table) -> Iterator[tuple[str, list[Line], Line]]:
    """Yield each line with its name, which says the model where there are several, and all lines of its model."""
    for model, lines in one.models.items():
        for line in lines:
            yield (f"{model} {line.method}" if len(one.models) > 1 else line.method), lines, line


def _interval_rows(result: Mapping[str, Any], one: Table, column: Column) -> Iterator[tuple[str, ...]]:
    gains = has_gains(result)
    head = ("method", "interval")
    if gains:
        head += (f"difference to {result['baseline']}", "interval", "seeds needed")
        head += ("published",) if column.published else ()
    yield head
    for name, lines, line in _named_lines(one):
        cell = ours(line, column)
        row = (name, cell.interval or (cell.mean if cell.absent else "-"))
        if gains:
            baseline = baseline_of(lines, result)
            difference = gain(line, column, baseline)
            mean = bold(difference.mean) if difference.clear else difference.mean
            row += (mean, difference.interval or "-", difference.needed or "-")
            if column.published:
                row += (published_gain(line, column, baseline),)
        yield row


def _verdicts(result: Mapping[str, Any]) -> Iterator[list[str]]:
    for of, headline, said in verdicts_in_words(result):
        yield [bold(plain(headline))]
        yield [paragraph(f"{of}. {said}" if of else said)]


def _transfer(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield what a study that fine-tunes tells besides its tables."""
    if not result["transfer"]:
        return
    if rates := rates_in_words(result):
        yield ["## Learning rates"]
        yield [paragraph(" ".join([rates.note, *rates.warnings]))]
        yield table(rates.table)
    headline, by_class_title = headline_in_words(result)
    if lines := on_pictures(result, lay_out(result)):
        rows = [(one.method, bold(one.difference) if one.clear else one.difference, *one[2:6]) for one in lines]
        head = ("method", "difference", "over seeds", "over pictures", "over both", "seeds needed")
        title = f"Difference to {plain(result['baseline'])} in {headline}, over seeds and pictures"
        yield from _titled(title, table([head, *rows]))
    if probes := probe_table(result):
        yield from _titled("Probes of the backbones", table([probes.head, *probes.rows]))
        yield [paragraph(" ".join(probes.sentences))]
    if sources := sources_in_words(result):
        rows = [tuple(text or "-" for text in one) for one in sources]
        yield from _titled("Where each row comes from", table([SOURCE_HEADS, *rows]))
    if published := result["transfer"]["published"]:
        rows = [
            (one["NAME"], *(f"{one[key]:.1f}" for key in PUBLISHED_KEYS), one["SOURCE"]) for one in published["rows"]
        ]
        yield ["## Published under this protocol"]
        yield [paragraph(f"{published['protocol']}.")]
        yield table([("", *PUBLISHED_KEYS, "source"), *rows])
    methods, classes = class_rows(result)
    if classes:
        rows = [(name, *row) for name, row in classes]
        yield from _titled(by_class_title, table([("class", *methods), *rows]))


def _run_rows(result: Mapping[str, Any], tables: list[Table]) -> Iterator[tuple[str, ...]]:
    columns, seeds = headline_columns(tables), seeds_of(result)
    yield ("run", *(seed_text(seed, result) for seed in seeds))
    for row in result["rows"]:
        cells = (one_run(row, seed, columns[row["data"]]) for seed in seeds)
        yield (row_name(row, result), *(linked(cell.text, cell.link) for cell in cells))


def _settings(key: str, values: Mapping[str, Any]) -> list[list[str]]:
    return _titled(key.capitalize(), table([("", ""), *flatten(values)]) if values else [])


def _stages(result: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        (stage["name"], stage["state"], stage_time(stage), stage_processes(stage), stage.get("machine") or "-")
        for stage in result["stages"]
    ]
    return _titled("Stages", table([("stage", "state", "h:mm:ss", "processes", "machine"), *rows]) if rows else [])
