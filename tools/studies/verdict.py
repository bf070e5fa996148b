"""Which row of a table wins, by how much, and whether that means anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from detection.evaluation.intervals import MAX_SEEDS, difference, judge
from tools.studies.values import Metric

Values = Mapping[int, float]  # seed -> number


def find_verdict(rows: Mapping[str, Values], metric: Metric, *, expected: int) -> dict[str, Any] | None:
    """Return who wins among ``rows``, name -> numbers of its seeds; None where fewer than two have a number.

    ``ranked`` are the names from the best mean to the worst. Every pair of rows is compared, seed by seed, and all
    pairs are judged together (Holm): ranking them first and testing neighbours alone would find differences in noise.
    ``difference`` is that of the first to the second, as ``intervals.difference`` says it, made positive where the
    first is better. ``beats`` are the rows that the first may be said to differ from, ``ordered`` whether that holds
    for all neighbours in the ranking, ``even`` lists those of which it does not, and ``complete`` says whether all
    ``expected`` numbers are there.
    """
    known = {name: values for name, values in rows.items() if values}
    if len(known) < 2:
        return None
    sign = -1 if metric.lower_is_better else 1
    means = {name: sum(values.values()) / len(values) for name, values in known.items()}
    ranked = sorted(known, key=lambda name: -sign * means[name])
    pairs = {}
    for better, worse in combinations(ranked, 2):
        sides = [{seed: sign * value for seed, value in known[name].items()} for name in (better, worse)]
        found = difference(*sides)
        if found is not None:
            pairs[better, worse] = found
    judge(list(pairs.values()))
    first, second = ranked[:2]
    even = [list(neighbours) for neighbours in pairwise(ranked) if not _clear(pairs, *neighbours)]
    return {
        "metric": metric.key,
        "ranked": ranked,
        "means": means,
        "seeds": {name: len(values) for name, values in known.items()},
        "difference": pairs.get((first, second)),
        "beats": [name for name in ranked[1:] if _clear(pairs, first, name)],
        "ordered": not even,
        "even": even,
        "complete": sum(map(len, known.values())) == expected,
    }


def _clear(pairs: Mapping[tuple[str, str], Mapping[str, Any]], better: str, worse: str) -> bool:
    found = pairs.get((better, worse))
    return found is not None and found["clear"]


def verdict_in_words(verdict: Mapping[str, Any], metric: Mapping[str, Any]) -> tuple[str, str]:
    """Return a headline, and in sentences how sure that is."""
    ranked, means = verdict["ranked"], verdict["means"]
    first, second = ranked[:2]
    percent = metric["unit"] == "%"
    unit = f"\u00a0{metric['unit']}" if metric["unit"] else ""  # a number and its unit stay on one line
    side = "below" if metric["lower_is_better"] else "above"
    best = f"{means[first]:.2f}{unit} ({metric['label']})"
    gap = f"{abs(means[first] - means[second]):.2f}{' points' if percent else unit} {side} {second}"
    so_far = [] if verdict["complete"] else ["Not all runs are there yet."]
    others = [name for name in ranked[1:] if name not in verdict["beats"]]
    if not others:
        return f"{first} wins: {best}", " ".join([*so_far, *_sure(verdict, gap)])
    extreme = "lowest" if metric["lower_is_better"] else "highest"
    return f"No clear winner: {first} is {extreme}, {best}", " ".join([*so_far, *_unsure(verdict, gap, others)])


def _sure(verdict: Mapping[str, Any], gap: str) -> Iterator[str]:
    yield f"It is {gap} ({_interval(verdict['difference'])}), and that means something: it is more than seeds do."
    if verdict["ordered"] and len(verdict["ranked"]) > 2:
        yield f"So is the whole order: {' > '.join(verdict['ranked'])}."
    if verdict["even"]:
        yield f"Not told apart: {'; '.join(map(' and '.join, verdict['even']))}."


def _unsure(verdict: Mapping[str, Any], gap: str, others: Sequence[str]) -> Iterator[str]:
    found = verdict["difference"]
    if found is None or found["interval"] is None:
        one = found is None or found["n"] < 2
        why = "one seed says nothing of what another would give" if one else "every seed gave the same difference"
        yield f"It is {gap}; whether that means anything is not known: {why}."
    else:
        yield f"It is {gap} ({_interval(found)})."
        yield f"What seeds do alone could make such a difference: {_listed(others)} may be as good."
        if not found["clear"]:
            needed = found["seeds_needed"]
            many = f"{needed:,} seeds" if needed else f"more than {MAX_SEEDS:,} seeds"
            # ... the tables judge fewer pairs, those to the baseline, and may ask for fewer seeds
            among = ", all pairs of rows judged together" if len(verdict["ranked"]) > 2 else ""
            yield f"To tell it from {verdict['ranked'][1]} would take {many}{among}, if what is seen here is the truth."
    if verdict["beats"]:
        yield f"From {_listed(verdict['beats'])} it does differ."


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"95 % interval over seeds {low:.2f} to {high:.2f}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
