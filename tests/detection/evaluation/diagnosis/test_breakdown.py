"""Errors by kind, AP by size, and the choice of pictures, on scenes that fit in one's head."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest

from detection.evaluation.diagnosis.breakdown import break_down_errors, break_down_sizes
from detection.evaluation.diagnosis.confusion import score_thresholds
from detection.evaluation.diagnosis.pictures import count_pictures, rank_pictures
from detection.report.illustrations import illustrate
from tests.detection.evaluation.diagnosis import made

DOG = (1.0, 1.0, 100.0, 100.0)  # 100 x 100 pixels
CAT = (201.0, 1.0, 230.0, 30.0)  # 30 x 30
THIRD = (1.0, 1.0, 30.0, 100.0)  # IoU .3 with DOG
NOWHERE = (300.0, 300.0, 350.0, 350.0)


@pytest.mark.parametrize(
    "kind, wrong",
    [("localisation", (0, 0.9, THIRD)), ("confusion", (0, 0.9, CAT)), ("background", (0, 0.9, NOWHERE))],
)
def test_break_down_errors__one_wrong_detection_before_the_right_one(kind, wrong):
    dataset, matches = made.matched_scene(
        {"a": [("dog", DOG), ("cat", CAT)]}, {"a": [wrong, (0, 0.5, DOG), (1, 0.5, CAT)]}
    )
    errors = break_down_errors(dataset, matches)
    assert {name: part["count"] for name, part in errors.items() if part["count"]} == {kind: 1}
    assert errors[kind]["per_class"] == {"dog": 1, "cat": 0}
    # mAP is (1/2 + 1) / 2: without the error dog has 1. A box moved onto DOG finds it; the later one is a duplicate.
    assert errors[kind]["gain"] == pytest.approx(25)
    assert all(part["gain"] == 0 for name, part in errors.items() if name != kind)


def test_break_down_errors__duplicates_and_missed_objects():
    dataset, matches = made.matched_scene(
        {"a": [("dog", DOG)], "b": [("dog", DOG)]}, {"a": [(0, 0.9, DOG), (0, 0.8, DOG), (0, 0.1, NOWHERE)]}
    )
    errors = break_down_errors(dataset, matches)
    counts = {name: part["count"] for name, part in errors.items()}
    # Two objects, so the two surest count: the background detection is not among them.
    assert counts == {"localisation": 0, "confusion": 0, "duplicate": 1, "background": 0, "missed": 1}
    assert errors["missed"]["gain"] == pytest.approx(100 - 600 / 11)


def test_break_down_errors__a_better_box_finds_its_object_once():
    dataset, matches = made.matched_scene(
        {"a": [("dog", DOG)], "b": [("dog", DOG)]}, {"a": [(0, 0.9, THIRD), (0, 0.8, THIRD)]}
    )
    assert break_down_errors(dataset, matches)["localisation"]["gain"] == pytest.approx(600 / 11)  # one of two dogs


def test_break_down_errors__class_of_which_nothing_is_found():
    dataset, matches = made.matched_scene({"a": [("dog", DOG)]}, {})
    errors = break_down_errors(dataset, matches)
    assert (errors["missed"]["count"], errors["missed"]["gain"]) == (1, 100)


def test_break_down_sizes__other_sizes_neither_help_nor_hurt():
    _, matches = made.matched_scene(
        {"a": [("dog", DOG), ("cat", CAT)]},
        {"a": [(0, 0.9, NOWHERE), (0, 0.5, DOG), (1, 0.5, DOG), (1, 0.4, CAT)]},
    )
    sizes = break_down_sizes(matches)
    assert {name: size["objects"] for name, size in sizes.items()} == {"small": 1, "medium": 0, "large": 1}
    assert sizes["small"]["voc10"] == pytest.approx(100)  # the cat; the large box called cat does not count here
    assert sizes["large"]["voc10"] == pytest.approx(100)  # the dog; NOWHERE is of medium size
    assert sizes["medium"]["voc10"] is None
    assert [sizes[name]["found"] for name in sizes] == [100, None, 100]


@pytest.mark.parametrize("width, height, size", [
    (31, 33, "small"), (32, 32, "medium"), (95, 97, "medium"), (96, 96, "large"),  # 1023, 1024, 9215 and 9216 pixels
])  # fmt: skip
def test_break_down_sizes__limits_are_coco_s(width, height, size):
    """An object as large as a limit belongs to the larger size; so does a wrong detection."""
    box = (1.0, 1.0, float(width), float(height))
    elsewhere = (201.0, 201.0, 200.0 + width, 200.0 + height)
    _, matches = made.matched_scene({"a": [("dog", box)]}, {"a": [(0, 0.9, elsewhere), (0, 0.5, box)]})
    sizes = break_down_sizes(matches)
    assert {name: part["objects"] for name, part in sizes.items() if part["objects"]} == {size: 1}
    assert sizes[size]["voc10"] == pytest.approx(50)  # the wrong detection before it is of that size too
    assert {name: part["area"] for name, part in sizes.items()} == {
        "small": [0, 1024], "medium": [1024, 9216], "large": [9216, None],
    }  # fmt: skip


def test_break_down_sizes__found_is_a_percentage_of_the_objects_of_that_size():
    third = {f"{n}": [("dog", DOG)] for n in range(3)}
    _, matches = made.matched_scene(third | {"3": [("cat", CAT)]}, {"0": [(0, 0.9, DOG), (0, 0.8, DOG), (1, 0.7, CAT)]})
    sizes = break_down_sizes(matches)
    assert {name: part["found"] for name, part in sizes.items()} == {
        "small": 0, "medium": None, "large": pytest.approx(100 / 3),
    }  # fmt: skip


def test_score_thresholds__best_f1():
    _, matches = made.matched_scene(
        {"a": [("dog", DOG), ("dog", CAT)]},
        {"a": [(0, 0.9, DOG), (0, 0.5, CAT), (0, 0.4, NOWHERE), (0, 0.3, NOWHERE), (1, 0.9, NOWHERE)]},
    )
    assert score_thresholds(matches).tolist() == [0.5, np.inf]  # F1 is 2/3, 1, 4/5, 2/3


def test_illustrate__boxes_are_shares_of_the_picture(tmp_path):
    from PIL import Image

    Image.new("RGB", (800, 800), "white").save(tmp_path / "a.jpg")
    dataset, matches = made.matched_scene(
        {"a": [("dog", DOG), ("cat", CAT, True), ("cat", NOWHERE)]},
        {"a": [(0, 0.9, DOG), (0, 0.9, (-50.0, 350.0, 50.0, 500.0))]},
        folder=tmp_path,
    )
    thresholds = np.array([0.5, 0.5])
    entry = rank_pictures(dataset, count_pictures(dataset, matches, thresholds))[0]
    shown = illustrate(dataset, matches, thresholds, entry)
    assert Image.open(BytesIO(shown.jpeg)).size == (480, 480)  # small enough to stand in the page
    assert {box.kind: (box.label, *box[2:]) for box in shown.boxes} == {
        "difficult": ("cat", 0.5, 0, pytest.approx(0.075), pytest.approx(0.075)),
        "missed": ("cat", *(pytest.approx(share / 400) for share in (299, 299, 51, 51))),
        "right": ("dog 0.90", 0, 0, 0.25, 0.25),
        "wrong": ("dog 0.90", 0, pytest.approx(349 / 400), 0.125, pytest.approx(51 / 400)),
    }


def test_illustrate__unreadable_picture_is_left_out(tmp_path, caplog):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    dataset, matches = made.matched_scene({"a": [("dog", DOG)]}, {}, folder=tmp_path)
    thresholds = score_thresholds(matches)
    entry = rank_pictures(dataset, count_pictures(dataset, matches, thresholds))[0]
    assert illustrate(dataset, matches, thresholds, entry).jpeg is None
