"""The comparison of two detectors on boxes small enough to pair by eye."""

import numpy as np
import pytest
from PIL import Image

from detection.defaults import get_cfg
from detection.evaluation.detections import PictureDetections
from detection.export.proof import SIZES, Proof, compare, make_pictures


def detections(*found):
    """A picture's detections of (left, score, class) each: boxes of 10 x 10."""
    boxes = np.array([(left, 0, left + 10, 10) for left, _, _ in found], np.float32).reshape(-1, 4)
    return PictureDetections(boxes, np.array([one[1] for one in found]), np.array([one[2] for one in found], np.int64))


OURS = {"a": detections((0, 0.9, 0), (20, 0.5, 1)), "b": detections((5, 0.3, 1))}


def test_compare__the_largest_difference_whatever_the_order():
    theirs = {"a": detections((20, 0.25, 1), (0.5, 0.9, 0)), "b": detections((5.25, 0.3, 1))}
    assert compare(OURS, theirs, max_pixels=0.5, max_score=0.25) == Proof(3, 2, 0.5, 0.25)
    assert compare(OURS, OURS, max_pixels=0, max_score=0) == Proof(3, 2, 0, 0)


@pytest.mark.parametrize("ours, theirs, pixels", [
    ((5, 0), (4, 9), 4),  # were the first to take its nearest, the second would be 9 away from what is left
    ((0, 4), (1, 8), 4),  # 1 is the nearest to both, and stands for one
])  # fmt: skip
def test_compare__pairs_so_that_all_boxes_differ_least(ours, theirs, pixels):
    found, exported = ({"a": detections(*((left, 0.5, 0) for left in lefts))} for lefts in (ours, theirs))
    assert compare(found, exported, max_pixels=9, max_score=0).pixels == pixels


def test_compare__pairs_within_a_class():
    ours, theirs = {"a": detections((0, 0.9, 0), (1, 0.5, 1))}, {"a": detections((1, 0.9, 0), (0, 0.5, 1))}
    assert compare(ours, theirs, max_pixels=1, max_score=0) == Proof(2, 1, 1, 0)


@pytest.mark.parametrize(
    "theirs, message",
    [
        (detections((0, 0.9, 0), (21, 0.5, 1)), r"differs: 3 boxes .* difference 1 pixels and 0 of a score; allowed"),
        (detections((0, 0.9, 0), (20, 0.8, 1)), r"differs: 3 boxes .* difference 0 pixels and 0.3 of a score; allowed"),
        (detections((0, 0.9, 0)), r"other classes or numbers of boxes in a.png: 1 boxes, but ours 2"),
        (detections((0, 0.9, 0), (20, 0.5, 0)), r"other classes or numbers of boxes in a.png: 2 boxes, but ours 2"),
    ],
    ids=["box", "score", "number", "class"],
)
def test_compare__refuses(theirs, message):
    with pytest.raises(ValueError, match=message):
        compare(OURS, {**OURS, "a": theirs}, max_pixels=0.5, max_score=0.25)


def test_compare__nothing_found_proves_nothing():
    with pytest.raises(ValueError, match="the detector finds nothing at all, whatever the score"):
        compare({"a": detections()}, {"a": detections()}, max_pixels=1, max_score=1)


def test_make_pictures__the_same_ones_every_time_and_none_is_flat(tmp_path):
    first, second = (make_pictures(get_cfg(), tmp_path / name) for name in "ab" if not (tmp_path / name).mkdir())
    assert [(one.width, one.height) for one in first.pictures] == list(SIZES)
    for one, again in zip(first.pictures, second.pictures, strict=True):
        pixels = np.asarray(Image.open(one.path))
        assert pixels.shape == (one.height, one.width, 3)
        assert pixels.std() > 20
        assert np.array_equal(pixels, np.asarray(Image.open(again.path)))
