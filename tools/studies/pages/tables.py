"""A study's result laid out as the paper has it: which number stands in which cell, and the words of every cell.

Markdown and HTML are two ways to write down what is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from detection.report.comparison import ONE_SEED
from detection.report.differences import seeds_needed_text
from pretrain.run.cli import format_seconds
from tools.studies.values import is_own

SIGNIFICANT_DIGITS = 4  # of the smallest mean in a column that is not in percent
NONE_PUBLISHED = "-"


class Column(NamedTuple):
    """A metric on a data set."""

    metric: Mapping[str, Any]  # an entry of the result's "metrics"
    data: str
    label: str  # the metric's, or the data set's where a table is about one metric on several
    decimals: int
    published: bool  # whether the paper has a number in this column
    single: str  # what is said of the spread of a single run


class PaperColumn(NamedTuple):
    """A column of the paper's table that is nothing we measure."""

    name: str
    data: str
    label: str  # the name, with the data set where the study has several
    decimals: int  # as many as the longest of its numbers has


class Line(NamedTuple):
    """A method of a model; ``rows`` holds the result's row of each data set that there is one for."""

    model: str
    method: str
    rows: Mapping[str, Mapping[str, Any]]


class Table(NamedTuple):
    """``models`` maps each model to its lines, in the study's order."""

    title: str  # the metric of all columns; empty where they are metrics themselves
    paper_columns: list[PaperColumn]  # they stand first, as in the paper; of several tables the first has them
    columns: list[Column]
    models: Mapping[str, list[Line]]


class MeasuredCell(NamedTuple):
    """The mean of our runs; where there is none, ``mean`` says why and the rest is empty."""

    mean: str
    spread: str = ""  # standard deviation over the seeds, empty for one seed
    count: str = ""  # how many seeds, and how many there should be
    interval: str = ""
    partial: bool = False  # seeds are missing
    absent: bool = False

    @property
    def beside(self) -> str:
        """What stands beside the mean: the spread, and how many seeds unless that is longer to say."""
        if not self.spread:
            return ""
        return f"± {self.spread}" if self.partial else f"± {self.spread} ({self.count})"


class Gain(NamedTuple):
    """Our difference to the baseline; where there is none, ``mean`` says why and the rest is empty."""

    mean: str
    count: str = ""
    interval: str = ""
    partial: bool = False
    clear: bool = False  # it may be said that the method differs
    needed: str = ""  # how many seeds it would take to see it; empty where nothing is known of its spread
    absent: bool = False


class OneRun(NamedTuple):
    """The number of a single run, or its state, and the path of its report."""

    text: str
    link: str | None
    absent: bool = False


def lay_out(result: Mapping[str, Any]) -> list[Table]:
    """Return the tables of ``result``: one, or where there are several data sets one a metric with a column for each.

    A result without rows has none.
    """
    rows = result["rows"]
    if not rows:
        return []
    models: dict[str, dict[str, Line]] = {}
    for row in rows:
        line = models.setdefault(row["model"], {}).setdefault(row["method"], Line(row["model"], row["method"], {}))
        line.rows[row["data"]] = row
    lines = {model: list(methods.values()) for model, methods in models.items()}
    data = list(dict.fromkeys(row["data"] for row in rows))
    theirs = _paper_columns(result, data)
    if len(data) == 1:
        columns = [_column(result, metric, data[0], metric["label"]) for metric in result["metrics"]]
        return [Table("", theirs, columns, lines)]
    return [
        Table(describe(metric), [] if number else theirs, [_column(result, metric, name, name) for name in data], lines)
        for number, metric in enumerate(result["metrics"])
    ]


def headline_columns(tables: list[Table]) -> dict[str, Column]:
    """Return, for each data set, the column of the study's first metric."""
    columns: dict[str, Column] = {}
    for column in tables[0].columns:
        columns.setdefault(column.data, column)
    return columns


def describe(metric: Mapping[str, Any]) -> str:
    """Return the metric's name, unit and direction."""
    return f"{metric['label']}, {unit_and_direction(metric)}"


def column_title(table: Table, column: Column) -> str:
    """Return what a chart or table about ``column`` alone is about."""
    return f"{column.metric['label']}, {column.data}" if table.title else column.label


def unit_and_direction(metric: Mapping[str, Any]) -> str:
    """Return such as ``%, lower is better``."""
    return ", ".join(filter(None, (metric["unit"], f"{'lower' if metric['lower_is_better'] else 'higher'} is better")))


def ours(line: Line, column: Column) -> MeasuredCell:
    """Return what the cell of ``line`` in ``column`` says about our runs."""
    row, summary = _summary(line, column)
    if summary is None:
        return MeasuredCell(_absence(row, column), absent=True)
    places, interval = column.decimals, summary["interval"]
    return MeasuredCell(
        f"{summary['mean']:.{places}f}",
        "" if summary["std"] is None else f"{summary['std']:.{places}f}",
        _count(row, summary["n"], column),
        f"{interval[0]:.{places}f} to {interval[1]:.{places}f}" if interval else "",
        summary["n"] < len(row["runs"]),
    )


def gain(line: Line, column: Column, baseline: Line | None) -> Gain:
    """Return what the cell says about our difference to ``baseline``, the same model's, None where it has no line."""
    if line is baseline:
        return Gain("baseline", absent=True)
    row, summary = _summary(line, column)
    if summary is None:
        return Gain(_absence(row, column), absent=True)
    difference = summary["difference"]
    if difference is None:
        known = baseline is not None and _summary(baseline, column)[1] is not None
        return Gain("no seed in common" if known else "no baseline", absent=True)
    interval = difference["interval"]
    return Gain(
        signed(difference["mean"], column),
        _count(row, difference["n"], column),
        " to ".join(signed(bound, column) for bound in interval) if interval else "",
        difference["n"] < len(row["runs"]),
        difference["clear"],
        seeds_needed_text(difference) if interval else "",
    )


def published(line: Line, column: Column) -> str:
    """Return the paper's number, a dash where it has none."""
    number = _published(line, column)
    return NONE_PUBLISHED if number is None else f"{number:.{column.decimals}f}"


def published_spread(line: Line, column: Column) -> str:
    """Return the standard deviation of the paper's number; empty where it is not known."""
    row = line.rows.get(column.data)
    std = row and row["paper_std"].get(column.metric["key"])
    return "" if std is None else f"{std:.{column.decimals}f}"


def papers_own(line: Line, column: PaperColumn) -> str:
    """Return the number of the paper in a column of its own, a dash where it has none."""
    number = line.rows[column.data]["paper_only"].get(column.name) if column.data in line.rows else None
    return NONE_PUBLISHED if number is None else f"{number:.{column.decimals}f}"


def published_gain(line: Line, column: Column, baseline: Line | None) -> str:
    """Return the difference of the paper's numbers, a dash where it lacks one of them."""
    number = _published(line, column)
    reference = None if baseline is None or line is baseline else _published(baseline, column)
    return NONE_PUBLISHED if number is None or reference is None else signed(number - reference, column)


def baseline_of(lines: list[Line], result: Mapping[str, Any]) -> Line | None:
    """Return the baseline among the ``lines`` of a model."""
    return next((line for line in lines if line.method == result["baseline"]), None)


def has_gains(result: Mapping[str, Any]) -> bool:
    """Return whether there is a baseline, and something to compare with it."""
    methods = {row["method"] for row in result["rows"]}
    return result["baseline"] in methods and len(methods) > 1


def seed_values(line: Line, column: Column) -> list[tuple[int, float]]:
    """Return (seed, number) of the runs that have one."""
    runs = line.rows[column.data]["runs"] if column.data in line.rows else ()
    values = ((run["seed"], (run["values"] or {}).get(column.metric["key"])) for run in runs)
    return [(seed, value) for seed, value in values if value is not None]


def one_run(row: Mapping[str, Any], seed: int, column: Column) -> OneRun:
    """Return what the cell of the run of ``row`` with ``seed`` says."""
    run = next((run for run in row["runs"] if run["seed"] == seed), None)
    if run is None:
        return OneRun("not run", None, absent=True)
    value = (run["values"] or {}).get(column.metric["key"])
    if value is None:
        return OneRun(run["state"], run["link"], absent=True)
    return OneRun(f"{value:.{column.decimals}f}", run["link"])


def row_name(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return the row's method, after the model and data set where the study has several."""
    labels = [key for key in ("model", "data") if len({other[key] for other in result["rows"]}) > 1]
    return " ".join(row[key] for key in (*labels, "method"))


def seeds_of(result: Mapping[str, Any]) -> list[int]:
    """Return the seeds of all runs, in order of appearance."""
    return list(dict.fromkeys(run["seed"] for row in result["rows"] for run in row["runs"]))


def seed_text(seed: int, result: Mapping[str, Any]) -> str:
    """Return the name of a run among the others of its row."""
    return "measured" if result["kind"] == "timing" else f"seed {seed}"


def progress_sentence(result: Mapping[str, Any]) -> str:
    """Return how much of the study is done, in a sentence."""
    done, total = result["progress"]["done"], result["progress"]["total"]
    if done == total:
        return f"All {total:,} stages are done." if total > 1 else "Its one stage is done."
    states = [stage["state"] for stage in result["stages"]]
    others = "".join(f", {states.count(state):,} {state}" for state in ("failed", "running") if state in states)
    return f"{done:,} of {total:,} stages {'is' if done == 1 else 'are'} done{others}."


def stage_time(stage: Mapping[str, Any]) -> str:
    """Return how long a stage ran, a dash where that is not known."""
    return "-" if stage["seconds"] is None else format_seconds(stage["seconds"])


def stage_processes(stage: Mapping[str, Any]) -> str:
    """Return on how many processes, each with a GPU where there are any, a training stage ran; a dash for others."""
    return str(stage.get("processes") or "-")


def has_spread(result: Mapping[str, Any]) -> bool:
    """Return whether any cell of the table is about several seeds."""
    summaries = (summary for row in result["rows"] for summary in row["summary"].values())
    return any(summary is not None and summary["std"] is not None for summary in summaries)


def published_sentence(result: Mapping[str, Any]) -> str:
    """Return what the published numbers are, in sentences; empty where there are none."""
    paper = result["paper"]
    if not any(row["paper"] for row in result["rows"]):
        return ""
    table = f"{paper['table']} of the paper, " if paper else "the paper's numbers, "
    protocol = f": {paper['protocol'].rstrip('.')}" if paper and paper["protocol"] else ""
    comparable = "; what can be is the difference to the baseline of the same protocol" if has_gains(result) else ""
    return (
        f"Published: {table}under its own protocol{protocol}. "
        f"Numbers of different protocols cannot be compared{comparable}."
    )


def signed(number: float, column: Column) -> str:
    """Return ``number`` with its sign; what rounds to zero is +0."""
    return f"{round(number, column.decimals) + 0.0:+.{column.decimals}f}"


def _paper_columns(result: Mapping[str, Any], data: list[str]) -> list[PaperColumn]:
    columns = []
    for one in data:
        rows = [row["paper_only"] for row in result["rows"] if row["data"] == one]
        for name in dict.fromkeys(name for row in rows for name in row):
            numbers = (Decimal(str(row[name])) for row in rows if name in row)
            decimals = max(max(-number.as_tuple().exponent, 0) for number in numbers)
            columns.append(PaperColumn(name, one, name if len(data) == 1 else f"{name}, {one}", decimals))
    return columns


def _column(result: Mapping[str, Any], metric: Mapping[str, Any], data: str, label: str) -> Column:
    key = metric["key"]
    rows = [row for row in result["rows"] if row["data"] == data]
    theirs = [row["paper"][key] for row in rows if key in row["paper"]]
    means = [row["summary"][key]["mean"] for row in rows if row["summary"].get(key)]
    # The methods of a timing are measured in turns of one process: there are no seeds to speak of.
    single = "" if result["kind"] == "timing" else ONE_SEED
    return Column(metric, data, label, _decimals(metric["unit"], [*theirs, *means]), bool(theirs), single)


def _decimals(unit: str, numbers: list[float]) -> int:
    """Return the decimals of a column, the same for all its cells."""
    smallest = min((abs(number) for number in numbers if number), default=1.0)
    if unit == "%":
        return 2
    return min(max(SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(smallest)), 0), 9)


def _summary(line: Line, column: Column) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    row = line.rows.get(column.data)
    return row, row and row["summary"].get(column.metric["key"])


def _published(line: Line, column: Column) -> float | None:
    row = line.rows.get(column.data)
    return row and row["paper"].get(column.metric["key"])


def _absence(row: Mapping[str, Any] | None, column: Column) -> str:
    """Return why there is no number; a study that leaves a cell of the paper's table out has not run it either."""
    runs = row["runs"] if row else ()
    states = {run["state"] for run in runs}
    if "done" in states and not is_own(column.metric["key"]):  # else it is of runs that are still to come
        if row["found"]:
            return "not in the file"  # which holds the weights of one epoch
        looked_for = any(column.metric["key"] in (run["values"] or {}) for run in runs)
        return "no value" if looked_for else "not recorded"  # by the version of the toolkit that ran the stage
    return "failed" if "failed" in states else "not run"


def _count(row: Mapping[str, Any], num_seeds: int, column: Column) -> str:
    runs = row["runs"]
    if num_seeds == len(runs):
        return column.single if num_seeds == 1 else str(num_seeds)
    num_failed = sum(run["state"] == "failed" for run in runs)
    return (
        f"{num_seeds} of {len(runs)} seeds"
        + (f", {num_failed} failed" if num_failed else "")
        + (": no spread" if num_seeds == 1 else "")
    )
