"""Differences to the baseline in words, as pages have them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from detection.evaluation.intervals import MAX_SEEDS

NO_SPREAD = "the same in every seed: not judged"
NOT_JUDGED = "one seed: not judged"


class Difference(NamedTuple):
    """What a page says of a method's difference to the baseline, a dash where there is nothing to say."""

    mean: str
    over_seeds: str
    around: str  # which mean the intervals over seeds and over both are around, empty where it is ``mean``
    seeds_needed: str
    over_pictures: str
    over_both: str
    clear: bool


class ClassDifference(NamedTuple):
    """What a page says of a method's difference to the baseline in a class; a text is empty without an interval."""

    value: float
    over_seeds: str
    around: str  # as of ``Difference``
    clear: bool


def difference_in_words(ap: Mapping[str, Any]) -> Difference:
    """Return what is said of the difference to the baseline of a method whose numbers are ``ap``."""
    if ap["difference"] is None:
        return Difference("-", "-", "", "-", "-", "-", clear=False)
    seeds = ap["over_seeds"] or {"interval": None, "n": 0, "seeds_needed": None, "clear": False}
    around = _around(seeds, ap["difference"]["mean"])
    if seeds["interval"]:
        over_seeds, needed = _range(seeds["interval"]), seeds_needed_text(seeds)
    else:
        over_seeds, needed = NO_SPREAD if seeds["n"] > 1 else NOT_JUDGED, "-"
    over_pictures, over_both = (_range(ap[name]["interval"]) for name in ("difference", "over_both"))
    mean = f"{ap['difference']['mean']:+.2f}"
    return Difference(mean, over_seeds, around, needed, over_pictures, over_both, clear=seeds["clear"])


def _around(seeds: Mapping[str, Any], mean: float) -> str:
    """Return around which mean an interval over seeds is; empty where that is ``mean``, which stands beside it."""
    if seeds["interval"] is None or math.isclose(seeds["mean"], mean, abs_tol=0.005):
        return ""
    return f"around {seeds['mean']:+.2f} ({seeds['n']} shared seeds)"


def class_difference(found: Mapping[str, Any] | None) -> ClassDifference | None:
    """Return what a page says of a class in ``per_class_differences``; None without ground truth."""
    if found is None:
        return None
    seeds = found["over_seeds"]
    if seeds is None or seeds["interval"] is None:
        return ClassDifference(found["mean"], "", "", clear=False)
    return ClassDifference(found["mean"], _range(seeds["interval"]), _around(seeds, found["mean"]), seeds["clear"])


def classes_in_words(group: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence on each method: in how many classes it is higher than the baseline, and where most."""
    for entry in group["methods"]:
        found = {name: one["mean"] for name, one in (entry["per_class_differences"] or {}).items() if one is not None}
        if not found:
            continue
        low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        higher, lower = (sum(sign * value > 0 for value in found.values()) for sign in (1, -1))
        yield (
            f"{entry['method']}: higher in {higher:,} and lower in {lower:,} of {len(found):,} classes, from {low} "
            f"({found[low]:+.2f}) to {high} ({found[high]:+.2f})."
        )


def seeds_needed_text(difference: Mapping[str, Any]) -> str:
    """Return how many seeds a difference of some spread would take."""
    return f"more than {MAX_SEEDS:,}" if difference["seeds_needed"] is None else f"{difference['seeds_needed']:,}"


def _range(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
