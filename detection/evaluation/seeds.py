"""Runs that differ in their seed only: mean, spread and interval, and differences paired by seed.

``--repeat``, ``--compare`` and studies all take their numbers over seeds from here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# Student's t, two-sided 95 %, for 1, 2, ... degrees of freedom; beyond them the normal distribution's value.
T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
NORMAL_95 = 1.960


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Return ``n``, ``mean``, ``std`` (of a sample) and ``interval``, the 95 % interval of the mean by Student's t.

    A single value has neither spread nor interval (None). ``values`` is not empty.
    """
    count, mean = len(values), statistics.fmean(values)
    if count == 1:
        return {"n": 1, "mean": mean, "std": None, "interval": None}
    std = statistics.stdev(values)
    quantile = T_95[count - 2] if count - 2 < len(T_95) else NORMAL_95
    half = quantile * std / math.sqrt(count)
    return {"n": count, "mean": mean, "std": std, "interval": [mean - half, mean + half]}


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, Any] | None:
    """Return what ``summarise`` says of ``values`` less ``reference`` (both seed -> number) over the seeds of both.

    None where they have no seed in common.
    """
    pairs = [value - reference[seed] for seed, value in values.items() if seed in reference]
    return summarise(pairs) if pairs else None
