"""Differences by class over seeds, by hand."""

from __future__ import annotations

import pytest

from detection.evaluation.diagnosis.class_differences import compare_classes, judge_classes, mean_per_class


def tables(**classes):
    """Seed -> AP by class, of class -> AP by seed."""
    return {
        seed: {name: aps[seed] for name, aps in classes.items()} for seed in range(len(next(iter(classes.values()))))
    }


BASELINE = tables(dog=[10.0, 20.0, 30.0], cat=[50.0, 50.0, 50.0], car=[None] * 3)


def test_compare_classes__pairs_the_seeds():
    found = compare_classes(tables(dog=[11.0, 22.0, 33.0], cat=[40.0, 41.0, 42.0], car=[None] * 3), BASELINE)
    assert list(found) == ["dog", "cat", "car"]
    assert found["car"] is None
    dog = found["dog"]["over_seeds"]  # 1, 2, 3
    assert (found["dog"]["mean"], dog["mean"], dog["test"], dog["n"]) == (2, 2, "paired by seed", 3)
    assert dog["interval"] == [pytest.approx(2 + sign * 4.3027 / 3**0.5, abs=1e-3) for sign in (-1, 1)]
    assert found["cat"]["mean"] == -9


def test_compare_classes__mean_is_that_of_all_runs_and_the_interval_of_the_shared_seeds():
    some = {seed: table for seed, table in tables(dog=[11.0, 22.0, 60.0, 40.0]).items() if seed != 2}
    found = compare_classes(some, BASELINE)["dog"]
    assert found["mean"] == pytest.approx(73 / 3 - 20)
    assert (found["over_seeds"]["mean"], found["over_seeds"]["n"]) == (1.5, 2)


def test_compare_classes__one_seed_has_no_interval():
    one = {0: {"dog": 11.0}}
    assert compare_classes(one, {0: {"dog": 10.0}})["dog"]["over_seeds"]["interval"] is None
    assert compare_classes(one, {1: {"dog": 10.0}})["dog"] == {"mean": 1, "over_seeds": None}


def test_judge_classes__all_classes_of_all_methods_are_one_family():
    """t of 1.0, 1.1, 1.2 is 19.05, p .0027: alone it is clear, among 19 such and more it is not."""
    base = {f"{n}": [10.0] * 3 for n in range(10)}
    gains = {name: [11.0, 11.1, 11.2] for name in base}
    one = compare_classes(tables(a=[11.0, 11.1, 11.2]), tables(a=[10.0] * 3))
    judge_classes([one])
    assert one["a"]["over_seeds"]["adjusted_p"] == one["a"]["over_seeds"]["p"] == pytest.approx(0.00274, abs=1e-5)
    assert one["a"]["over_seeds"]["clear"]
    many = [compare_classes(tables(**gains), tables(**base)) for _ in range(2)]
    judge_classes([{}, *many, {"none": None, "alone": {"mean": 1.0, "over_seeds": None}}])
    for table in many:
        for found in table.values():
            assert found["over_seeds"]["adjusted_p"] == pytest.approx(20 * 0.00274, abs=1e-3)
            assert not found["over_seeds"]["clear"]


def test_mean_per_class():
    assert mean_per_class([{"dog": 10.0, "car": None}, {"dog": 30.0, "car": None}]) == {"dog": 20, "car": None}
