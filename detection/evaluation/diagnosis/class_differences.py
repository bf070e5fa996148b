"""AP by class over the runs of a method, and in which classes it differs from the baseline.

Classes are many, and each would be called different by chance in one of twenty cases: all classes of all methods of a
table are judged as one family.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from detection.evaluation.intervals import difference, judge_together

PerClass = Mapping[str, float | None]  # class -> AP in percent, None without ground truth


def mean_per_class(tables: Sequence[PerClass]) -> dict[str, float | None]:
    """Return the mean over the runs of a method, None for a class without ground truth."""
    return {
        name: None if ap is None else float(np.mean([one[name] for one in tables])) for name, ap in tables[0].items()
    }


def compare_classes(
    values: Mapping[Hashable, PerClass], baseline: Mapping[Hashable, PerClass]
) -> dict[str, dict[str, Any] | None]:
    """Return, for each class, how a method differs from the baseline, both seed -> AP by class.

    ``mean`` is the difference of the means over all runs, ``over_seeds`` what ``difference`` of ``intervals`` says.
    None for a class without ground truth.
    """
    result: dict[str, dict[str, Any] | None] = {}
    for name, value in next(iter(values.values())).items():
        if value is None:
            result[name] = None
            continue
        sides = [{seed: one[name] for seed, one in side.items()} for side in (values, baseline)]
        mine, its = (float(np.mean(list(side.values()))) for side in sides)
        result[name] = {"mean": mine - its, "over_seeds": difference(*sides)}
    return result


def judge_classes(tables: Sequence[Mapping[str, dict[str, Any] | None]]) -> None:
    """Add ``adjusted_p`` and ``clear`` to each ``over_seeds`` of ``compare_classes``, of all methods of a table."""
    found = (one["over_seeds"] for table in tables for one in table.values() if one is not None)
    judge_together([one for one in found if one is not None])
