"""Small charts as inline SVG; colours come from the page's style, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

SQUARE = 100  # the side of a precision-recall chart, in its own units
WIDE, LOW = 320, 150  # the plotted area of a line chart
MARGIN_LEFT, MARGIN_BOTTOM = 44, 18


def precision_recall_chart(recall: Sequence[float], precision: Sequence[float], title: str) -> str:
    """Return precision over recall, both 0..1, as a curve that starts at recall 0 and ends where the detections do."""
    grid = "".join(f"M0 {at}H{SQUARE}M{at} 0V{SQUARE}" for at in range(0, SQUARE + 1, SQUARE // 4))
    points = [(0.0, precision[0]), *zip(recall, precision, strict=True)] if len(recall) else []
    line = "L".join(f"{SQUARE * x:.2f} {SQUARE * (1 - y):.2f}" for x, y in points)
    drawn = ""
    if line:
        end = SQUARE * points[-1][0]
        drawn = f'<path class="area" d="M0 {SQUARE}L{line}L{end:.2f} {SQUARE}Z"/><path class="curve" d="M{line}"/>'
    return (
        f'<svg viewBox="-12 -1 {SQUARE + 13} {SQUARE + 15}" role="img"><title>{escape(title)}</title>'
        f'<path class="grid" d="{grid}"/>{drawn}'
        f'<text x="-4" y="8" text-anchor="end">1</text><text x="-4" y="{SQUARE}" text-anchor="end">0</text>'
        f'<text x="{SQUARE}" y="{SQUARE + 11}" text-anchor="end">recall 1</text></svg>'
    )


def line_chart(x: Sequence[float], y: Sequence[float], title: str) -> str:
    """Return ``y`` over ``x`` with round numbers at the axes."""
    low, high, step = nice_range(min(y), max(y))
    span = (x[-1] - x[0]) or 1

    def place(value: float) -> float:
        return LOW * (high - value) / (high - low)

    count = round((high - low) / step)
    marks = [low + index * step for index in range(count + 1)]
    lines = "".join(f"M0 {place(mark):.1f}H{WIDE}" for mark in marks)
    labels = "".join(f'<text x="-6" y="{place(mark) + 3:.1f}" text-anchor="end">{mark:.4g}</text>' for mark in marks)
    points = "L".join(f"{WIDE * (a - x[0]) / span:.1f} {place(b):.1f}" for a, b in zip(x, y, strict=True))
    bottom = LOW + MARGIN_BOTTOM - 4
    return (
        f'<svg viewBox="{-MARGIN_LEFT} -8 {WIDE + MARGIN_LEFT + 8} {LOW + MARGIN_BOTTOM + 8}" role="img">'
        f"<title>{escape(title)}</title>"
        f'<path class="grid" d="{lines}"/>{labels}<text x="0" y="{bottom}">{x[0]:,.0f}</text>'
        f'<text x="{WIDE}" y="{bottom}" text-anchor="end">{x[-1]:,.0f} iterations</text>'
        f'<path class="curve" d="M{points}"/></svg>'
    )


def nice_range(low: float, high: float) -> tuple[float, float, float]:
    """Return low <= ``low``, high >= ``high`` and a step of 1, 2 or 5 times a power of ten between 2 to 6 marks."""
    width = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(width / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if width / (factor * power) <= 4)
    bottom = math.floor(low / step) * step
    return bottom, max(math.ceil(high / step) * step, bottom + step), step
