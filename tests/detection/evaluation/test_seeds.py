"""Numbers over seeds, worked by hand."""

import pytest

from detection.evaluation.seeds import paired_difference, summarise


def test_summarise__three_values():
    found = summarise([70.0, 72.0, 74.0])  # variance (4 + 0 + 4) / 2
    half = 4.303 * 2 / 3**0.5
    assert found == {"n": 3, "mean": 72.0, "std": 2.0, "interval": [pytest.approx(72 - half), pytest.approx(72 + half)]}


def test_summarise__one_value_has_no_spread():
    assert summarise([70.0]) == {"n": 1, "mean": 70.0, "std": None, "interval": None}


@pytest.mark.parametrize("count, quantile", [(2, 12.706), (31, 2.042), (32, 1.960)])
def test_summarise__students_t_by_degrees_of_freedom(count, quantile):
    found = summarise([0.0] * (count - 1) + [1.0])
    assert found["interval"][1] - found["mean"] == pytest.approx(quantile * found["std"] / count**0.5)


def test_paired_difference__over_the_seeds_of_both():
    found = paired_difference({1: 5.0, 2: 7.0, 3: 9.0}, {1: 4.0, 3: 4.0, 4: 0.0})
    assert (found["n"], found["mean"]) == (2, 3.0)  # 1 and 5
    assert paired_difference({1: 5.0}, {2: 5.0}) is None
