"""Pairs of pictures of different classes."""

import pytest

from pretrain.inspect.pairs import choose_pairs


def test_choose_pairs__two_classes_and_no_picture_twice():
    labels = [0] * 6 + [1] * 3 + [2] * 3
    for seed in range(10):
        pairs = choose_pairs(labels, 5, seed=seed)
        assert len({index for pair in pairs for index in pair}) == 10
        assert all(labels[source] != labels[target] for source, target in pairs)
    with pytest.raises(
        ValueError, match="3 pairs of pictures of different classes asked for, but 6 pictures of 2 classes give only 1"
    ):
        choose_pairs([0, 0, 0, 0, 0, 1], 3, seed=0)
