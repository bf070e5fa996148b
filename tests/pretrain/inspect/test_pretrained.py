"""A finished checkpoint on its own, and the order in which a part of its pictures is chosen."""

from collections import Counter

import pytest

from pretrain.data.sampling import spread_over_classes


@pytest.mark.parametrize("count, most, least", [(3, 1, 1), (6, 2, 2), (7, 3, 2), (2, 1, 0)])
def test_spread_over_classes__the_first_are_spread_evenly(count, most, least):
    labels = [0] * 5 + [1] * 4 + [2] * 9
    chosen = Counter(labels[index] for index in spread_over_classes(labels, seed=0)[:count])
    assert max(chosen.values()) == most
    assert min(chosen[label] for label in range(3)) == least


def test_spread_over_classes__every_index_once_and_a_class_that_runs_out():
    labels = [0, 1, 1, 1, 2, 1]
    order = spread_over_classes(labels, seed=3)
    assert sorted(order) == list(range(6))
    assert {labels[index] for index in order[:3]} == {0, 1, 2}
    assert [labels[index] for index in order[3:]] == [1, 1, 1]


def test_spread_over_classes__is_drawn_from_the_seed():
    labels = [index // 10 for index in range(40)]  # in the order of class folders
    orders = [spread_over_classes(labels, seed=seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    firsts = {spread_over_classes(labels, seed=seed)[0] // 10 for seed in range(20)}
    assert firsts == {0, 1, 2, 3}  # a part smaller than the number of classes is not always of the same classes
