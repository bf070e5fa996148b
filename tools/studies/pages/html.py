"""A study's result as one HTML page, by ``study.html.jinja``: the paper's tables with ours beside theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detection.report.comparison import CLAIM
from detection.report.markdown import flatten
from detection.report.templates import render
from tools.studies.pages.findings import (
    class_rows,
    headline_in_words,
    on_pictures,
    sources_in_words,
    verdicts_in_words,
)
from tools.studies.pages.probes import probe_table
from tools.studies.pages.rates import rates_in_words
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
    papers_own,
    progress_sentence,
    published,
    published_gain,
    published_sentence,
    published_spread,
    row_name,
    seed_text,
    seed_values,
    seeds_of,
    stage_processes,
    stage_time,
    unit_and_direction,
)

OPEN_RUNS = 12  # rows; more of them are folded away

Cell = tuple[MeasuredCell | Gain, str, str]  # ours, the paper's, and the spread of that


class Head(NamedTuple):
    """A column of a sheet; ``unit`` is empty where the title says it, ``widest`` is the widest spread in its cells."""

    label: str
    unit: str
    published: bool
    widest: str


class Sheet(NamedTuple):
    """A table of the page: model -> (method, texts of the paper's own columns, cells) of its lines."""

    title: str
    papers_own: list[str]
    heads: list[Head]
    models: dict[str, list[tuple[str, list[str], list[Cell]]]]


class Strips(NamedTuple):
    """The runs of a column as dots between ``low`` and ``high``.

    ``models`` maps each model to (method, dots, their mean) of its lines; a dot is (title, value). Instead of the mean
    stands in words why a line has no dots.
    """

    title: str
    unit: str
    low: float
    high: float
    decimals: int
    models: dict[str, list[tuple[str, list[tuple[str, float]], float | str]]]


def render_html(result: Mapping[str, Any], folder: Path) -> str:
    """Return the page for ``result``; its figures are read from ``folder``, and one that is not there is named."""
    tables = lay_out(result)
    headline, by_class_title = headline_in_words(result)
    strips = [_strips(result, one, column) for one in tables for column in one.columns]
    return render(
        Path(__file__).with_name("study.html.jinja"),
        result=result,
        verdicts=verdicts_in_words(result),
        transfer=result["transfer"],
        rates=rates_in_words(result),
        sources=sources_in_words(result),
        pictures=on_pictures(result, tables),
        probes=probe_table(result),
        headline=headline,
        by_class=class_rows(result),
        by_class_title=by_class_title,
        progress=progress_sentence(result),
        failed=[stage for stage in result["stages"] if stage["state"] == "failed"],
        setting=_setting(result),
        has_spread=has_spread(result),
        published=published_sentence(result),
        results=[_sheet(one, _numbers) for one in tables],
        gains=list(_gains(result, tables)),
        claim=CLAIM,
        strips=[one for one in strips if one is not None],
        figures=[(figure["label"], figure["src"], _picture(folder / figure["src"])) for figure in result["figures"]],
        runs=_runs(result, tables) if tables else None,
        stages=[(stage, stage_time(stage), stage_processes(stage)) for stage in result["stages"]],
        settings=[(key, flatten(result[key])) for key in ("protocol", "versions") if result[key]],
    )


def _sheet(one: Table, cell: Callable[[Line, Column], Cell]) -> Sheet:
    """Return ``one`` with what ``cell`` makes of each line in each column."""
    title = one.title or ("" if one.paper_columns else _shared_unit(one))  # the paper's own have other units
    models = {
        model: [
            (
                line.method,
                [papers_own(line, column) for column in one.paper_columns],
                [cell(line, column) for column in one.columns],
            )
            for line in lines
        ]
        for model, lines in one.models.items()
    }
    heads = [
        Head(column.label, "" if title else unit_and_direction(column.metric), column.published, _widest(one, column))
        for column in one.columns
    ]
    return Sheet(title, [column.label for column in one.paper_columns], heads, models)


def _numbers(line: Line, column: Column) -> Cell:
    return ours(line, column), published(line, column), published_spread(line, column)


def _widest(one: Table, column: Column) -> str:
    return max((ours(line, column).beside for lines in one.models.values() for line in lines), key=len)


def _gains(result: Mapping[str, Any], tables: Sequence[Table]) -> Iterator[Sheet]:
    """Yield the differences to the baseline, which has no line itself; nothing without one."""
    if not has_gains(result):
        return
    references = {model: baseline_of(lines, result) for model, lines in tables[0].models.items()}

    def cell(line: Line, column: Column) -> Cell:
        reference = references[line.model]
        return gain(line, column, reference), published_gain(line, column, reference), ""

    for one in tables:
        others = {
            model: [line for line in lines if line.method != result["baseline"]] for model, lines in one.models.items()
        }
        kept = {model: lines for model, lines in others.items() if lines}
        yield _sheet(one._replace(models=kept, paper_columns=[]), cell)


def _shared_unit(one: Table) -> str:
    """Return unit and direction of all metrics, empty where they differ."""
    units = {unit_and_direction(column.metric) for column in one.columns}
    return f"In {units.pop()}" if len(units) == 1 and one.columns[0].metric["unit"] else ""


def _setting(result: Mapping[str, Any]) -> str:
    """Return the model and data set that all rows share."""
    shared = [{row[key] for row in result["rows"]} for key in ("model", "data")]
    names = [name for names in shared if len(names) == 1 for name in names if name]
    return f"{', '.join(names)}." if names else ""


def _strips(result: Mapping[str, Any], one: Table, column: Column) -> Strips | None:
    """Return the runs of ``column``; None where no run has a number."""
    values = [value for lines in one.models.values() for line in lines for _, value in seed_values(line, column)]
    if not values:
        return None
    margin = 0.1 * (max(values) - min(values)) or 0.1 * abs(max(values)) or 1

    def strip(line: Line) -> tuple[str, list[tuple[str, float]], float | str]:
        found = seed_values(line, column)
        dots = [(f"{seed_text(seed, result)}: {value:.{column.decimals}f}", value) for seed, value in found]
        mean = sum(value for _, value in found) / len(found) if found else ours(line, column).mean
        return line.method, dots, mean

    return Strips(
        column_title(one, column),
        unit_and_direction(column.metric),
        min(values) - margin,
        max(values) + margin,
        column.decimals,
        {model: [strip(line) for line in lines] for model, lines in one.models.items()},
    )


def _picture(path: Path) -> bytes | None:
    """Return a figure's file; it stands inside the page, whose policy forbids it to load one. None without a file."""
    return path.read_bytes() if os.path.isfile(path) else None


def _runs(result: Mapping[str, Any], tables: Sequence[Table]) -> dict[str, Any]:
    """Return every run by row and seed, with the path of its report."""
    columns, seeds = headline_columns(tables), seeds_of(result)
    return {
        "title": f"Runs and their reports: {describe(result['metrics'][0])}",
        "heads": [seed_text(seed, result) for seed in seeds],
        "rows": [
            (row_name(row, result), [one_run(row, seed, columns[row["data"]]) for seed in seeds])
            for row in result["rows"]
        ],
        "is_open": len(result["rows"]) <= OPEN_RUNS,
    }
