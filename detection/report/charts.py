"""The geometry of small charts; the templates draw them, in colours from the style, which follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

SQUARE = 100  # the side of a precision-recall chart, in its own units
WIDE, LOW = 320, 150  # the plotted area of a line chart


class PrecisionRecall(NamedTuple):
    """Paths in a square of side SQUARE, y downwards; ``line`` and ``area`` are empty without a detection."""

    grid: str
    line: str
    area: str


class LineChart(NamedTuple):
    """Paths in an area of WIDE by LOW, y downwards; ``marks`` are (y, value) of the grid."""

    grid: str
    line: str
    marks: list[tuple[float, float]]


class ScatterChart(NamedTuple):
    """``dots`` are (name, x, y) in an area of WIDE by LOW, y downwards; ``marks`` are (x, count) of the grid."""

    grid: str
    dots: list[tuple[str, float, float]]
    marks: list[tuple[float, int]]


def precision_recall_chart(recall: Sequence[float], precision: Sequence[float]) -> PrecisionRecall:
    """Return precision over recall, both 0..1, as a curve that starts at recall 0 and ends where the detections do."""
    grid = "".join(f"M0 {at}H{SQUARE}M{at} 0V{SQUARE}" for at in range(0, SQUARE + 1, SQUARE // 4))
    if not len(recall):
        return PrecisionRecall(grid, "", "")
    points = [(0.0, precision[0]), *zip(recall, precision, strict=True)]
    line = "L".join(f"{SQUARE * x:.2f} {SQUARE * (1 - y):.2f}" for x, y in points)
    end = SQUARE * points[-1][0]
    return PrecisionRecall(grid, f"M{line}", f"M0 {SQUARE}L{line}L{end:.2f} {SQUARE}Z")


def line_chart(x: Sequence[float], y: Sequence[float]) -> LineChart:
    """Return ``y`` over ``x`` with round numbers at the axes."""
    low, high, step = nice_range(min(y), max(y))
    span = (x[-1] - x[0]) or 1

    def place(value: float) -> float:
        return LOW * (high - value) / (high - low)

    marks = [low + index * step for index in range(round((high - low) / step) + 1)]
    points = "L".join(f"{WIDE * (a - x[0]) / span:.1f} {place(b):.1f}" for a, b in zip(x, y, strict=True))
    return LineChart(
        "".join(f"M0 {place(mark):.1f}H{WIDE}" for mark in marks),
        f"M{points}",
        [(place(mark), mark) for mark in marks],
    )


def scatter_chart(points: Sequence[tuple[str, float, float]]) -> ScatterChart:
    """Return (name, count, percent) points: the counts, at least 0, by their logarithm, the percents from 0 to 100."""
    counts = [max(count, 1) for _, count, _ in points]
    low, high = math.floor(math.log10(min(counts))), math.ceil(math.log10(max(counts)))
    span = max(high - low, 1)

    def place(count: float) -> float:
        return WIDE * (math.log10(max(count, 1)) - low) / span

    marks = [(WIDE * (power - low) / span, 10**power) for power in range(low, low + span + 1)]
    return ScatterChart(
        "".join(f"M0 {LOW * at / 4:.1f}H{WIDE}" for at in range(5)) + "".join(f"M{x:.1f} 0V{LOW}" for x, _ in marks),
        [(name, place(count), LOW * (1 - value / 100)) for name, count, value in points],
        marks,
    )


def nice_range(low: float, high: float) -> tuple[float, float, float]:
    """Return low <= ``low``, high >= ``high`` and a step of 1, 2 or 5 times a power of ten between 2 to 6 marks."""
    width = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(width / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if width / (factor * power) <= 4)
    bottom = math.floor(low / step) * step
    return bottom, max(math.ceil(high / step) * step, bottom + step), step
