"""What a page says of the rates that were tried for each row, and of the one that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pretrain.run.cli import format_seconds


class Rates(NamedTuple):
    """A table, the head of it first, and the sentences before it; ``warnings`` name rows whose best is at an edge."""

    note: str
    warnings: list[str]
    table: list[tuple[str, ...]]


def rates_in_words(result: Mapping[str, Any]) -> Rates | None:
    """Return what is told of a study's sweep; None where there was none."""
    sweep = (result["transfer"] or {}).get("rates")
    if not sweep:
        return None
    rates = sorted({one["rate"] for row in sweep["rows"] for one in row["curve"]})
    head = ("method", *(f"{rate:g}" for rate in rates), "own rate", "h:mm:ss")
    note = (
        f"{sweep['metric']}, of a detector trained at each rate, on {sweep['chosen_on']}. The same rates and the same "
        f"rule for every row: the rate with the highest number is the row's own, with which it was then trained on all "
        f"pictures with every seed, and tested once. The test pictures had no part in it. The protocol's own rate, "
        f"{sweep['fixed']:g}, is that of all other columns."
    )
    warnings = [
        f"{row['method']}: {row['rate']:g} is the {row['edge']} rate that was tried; the best may lie beyond it."
        for row in sweep["rows"]
        if row["edge"]
    ]
    return Rates(note, warnings, [head, *(_row(row, rates) for row in sweep["rows"])])


def _row(row: Mapping[str, Any], rates: list[float]) -> tuple[str, ...]:
    found = {one["rate"]: one for one in row["curve"]}
    own = "not chosen yet" if row["rate"] is None else f"{row['rate']:g}"
    spent = format_seconds(row["seconds"]) if row["seconds"] else "-"
    return row["method"], *(_cell(found.get(rate)) for rate in rates), own, spent


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "-"
    return "diverged" if one["diverged"] else f"{one['value']:.2f}"
