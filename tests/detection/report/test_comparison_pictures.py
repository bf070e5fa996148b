"""What is drawn over the pictures of a comparison, by hand."""

from __future__ import annotations

from detection.evaluation.comparison import Run, compare_runs
from detection.report.comparison_pictures import NUM_MISSED, draw_pictures
from tests.detection.evaluation.diagnosis import made

DOG, CAT = (1.0, 1.0, 100.0, 100.0), (201.0, 1.0, 300.0, 100.0)
NOWHERE = (300.0, 300.0, 350.0, 350.0)


def test_draw_pictures__each_detector_from_its_own_scores_on():
    """The first detector's dogs are surer than its errors, the second's are as sure as those."""
    objects = {"a": [("dog", DOG), ("cat", CAT)], "b": [("dog", DOG)], "c": [("dog", DOG)]}
    first = {"a": [(0, 0.9, DOG), (0, 0.3, NOWHERE)], "b": [(0, 0.8, DOG)], "c": [(0, 0.3, NOWHERE)]}
    second = {"a": [(0, 0.3, DOG), (0, 0.3, NOWHERE)], "c": [(0, 0.2, DOG)]}
    dataset, _ = made.scene(objects, {})
    runs = [Run(name, name, {}, made.scene(objects, rows)[1]) for name, rows in (("one", first), ("two", second))]
    comparison = compare_runs(dataset, runs, num_resamples=2)
    (pair,) = comparison["groups"][0]["disagreements"]
    assert [entry["image_id"] for entry in pair["better"]] == ["c"]
    assert [entry["image_id"] for entry in pair["worse"]] == ["b", "a"]
    drawn = draw_pictures(dataset, runs, comparison)
    kinds = {
        path: {image_id: sorted(f"{box.kind} {box.label}" for box in boxes) for image_id, boxes in some.items()}
        for path, some in drawn.detected.items()
    }
    assert kinds == {
        "one": {"a": ["missed cat", "right dog 0.90"], "b": ["right dog 0.80"], "c": ["missed dog"]},
        "two": {"a": ["missed cat", "right dog 0.30", "wrong dog 0.30"], "b": ["missed dog"], "c": ["right dog 0.20"]},
    }
    assert [[(box.kind, box.label) for box in boxes] for boxes in drawn.missed] == [
        [("labelled", "dog"), ("labelled", "cat"), ("missed", "cat")]
    ]
    assert {image_id: (one.number, one.jpeg, one.width) for image_id, one in drawn.pictures.items()} == {
        "c": (1, None, made.SIDE), "b": (2, None, made.SIDE), "a": (3, None, made.SIDE),
    }  # fmt: skip


def test_draw_pictures__the_first_of_many_missed_objects():
    objects = {f"{number}": [("dog", DOG)] for number in range(NUM_MISSED + 3)}
    dataset, _ = made.scene(objects, {})
    runs = [Run(name, name, {}, {}) for name in "ab"]
    drawn = draw_pictures(dataset, runs, compare_runs(dataset, runs, num_resamples=2))
    assert len(drawn.missed) == len(drawn.pictures) == NUM_MISSED
