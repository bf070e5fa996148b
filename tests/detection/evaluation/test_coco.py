"""COCO's numbers against cases worked by hand and pycocotools, bit for bit."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest

from detection.datasets.coco import load_coco
from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.coco import COCO_NUMBERS, coco_evaluator, evaluate_coco
from detection.evaluation.detections import PictureDetections
from detection.evaluation.results import load_results

BOX = (1.0, 1.0, 100.0, 100.0)  # 100 x 100 pixels, as in the XML
NEAR = (1.0, 1.0, 60.0, 100.0)  # IoU with BOX is 6/10
FAR = (301.0, 301.0, 320.0, 320.0)


def objects(*items, name="dog"):
    """Objects (box as in the XML, difficult or crowd, area) of one class; all but the box may be left out."""
    made = []
    for box, kind, area in ((*item, *(None, None)[len(item) - 1 :]) for item in items):
        made.append(AnnotatedObject(name, box, kind is not None, kind == "crowd", area))
    return tuple(made)


def dataset_of(*pictures, classes=("dog",)):
    """A VOC dataset whose pictures "0", "1", ... hold these objects."""
    made = [
        AnnotatedPicture(str(index), Path("x.jpg"), Path("x.xml"), 400, 400, items)
        for index, items in enumerate(pictures)
    ]
    return DetectionDataset("voc_2007_test", Path("VOC2007"), "test", tuple(classes), tuple(made))


def found(*rows):
    """Detections (score, box as in the XML, label=0)."""
    boxes = np.array([row[1] for row in rows], np.float32).reshape(-1, 4) - np.float32([1, 1, 0, 0])
    labels = np.array([(*row, 0)[2] for row in rows], np.int64)
    return PictureDetections(boxes, np.array([row[0] for row in rows], np.float32), labels)


def square(side):
    return (1.0, 1.0, float(side), float(side))


def some(numbers, *names):
    return [numbers[name] for name in names]


# ---------------------------------------------------------------------------------------------------- worked by hand
def test_evaluate_coco__one_of_two_objects_is_51_of_101_points():
    dataset = dataset_of(objects((BOX,)), objects((FAR,)))
    result = evaluate_coco(dataset, {"0": found((0.9, BOX))})
    assert result.pop("per_class") == pytest.approx({"dog": 100 * 51 / 101})
    assert result == pytest.approx(
        {
            "AP": 100 * 51 / 101, "AP50": 100 * 51 / 101, "AP75": 100 * 51 / 101,  # recall 0, .01, ... .50
            "APs": 0, "APm": None, "APl": 100,  # FAR, 20 x 20, is small; BOX is large
            "AR1": 50, "AR10": 50, "AR100": 50, "ARs": 0, "ARm": None, "ARl": 100,
        }
    )  # fmt: skip


def test_evaluate_coco__an_iou_of_6_10_is_enough_for_three_thresholds():
    result = evaluate_coco(dataset_of(objects((BOX,))), {"0": found((0.9, NEAR))})
    assert some(result, "AP", "AP50", "AP75", "AR100") == pytest.approx([30, 100, 0, 30])  # .50, .55 and .60, of ten


def test_evaluate_coco__only_the_surest_detections_count():
    dataset = dataset_of(objects((BOX,), (FAR,)))
    wrong = [(0.9 - index / 1000, (201.0, 201.0, 220.0, 220.0)) for index in range(99)]
    for place, recall in ((2, [50, 100, 100]), (10, [50, 100, 100]), (11, [50, 50, 100]), (101, [50, 50, 50])):
        result = evaluate_coco(dataset, {"0": found((1.0, BOX), *wrong[: place - 2], (0.5, FAR))})
        assert some(result, "AR1", "AR10", "AR100") == pytest.approx(recall), place  # where FAR stands


def test_evaluate_coco__hundred_detections_are_of_a_class():
    dataset = dataset_of(objects((FAR,)) + objects((BOX,), name="cat"), classes=("dog", "cat"))
    wrong = [(0.9, (201.0, 201.0, 220.0, 220.0))] * 100
    result = evaluate_coco(dataset, {"0": found(*wrong, (0.5, BOX, 1))})
    assert result["per_class"] == pytest.approx({"dog": 0, "cat": 100})
    assert result["AP"] == pytest.approx(50)


@pytest.mark.parametrize(
    "side, sizes", [(31, "s"), (32, "sm"), (33, "m"), (95, "m"), (96, "ml"), (97, "l")]
)  # 32 x 32 is small and medium, 96 x 96 medium and large
def test_evaluate_coco__an_object_on_a_bound_is_of_both_sizes(side, sizes):
    result = evaluate_coco(dataset_of(objects((square(side),))), {"0": found((0.9, square(side)))})
    for size in "sml":
        expected = pytest.approx(100) if size in sizes else None
        assert some(result, f"AP{size}", f"AR{size}") == [expected, expected], size


def test_evaluate_coco__the_area_of_the_file_is_the_object_s_size():
    dataset = dataset_of(objects((square(50), None, 100.0)))
    result = evaluate_coco(dataset, {"0": found((0.9, square(50)))})
    assert some(result, "APs", "APm") == [pytest.approx(100), None]


def test_evaluate_coco__a_crowd_forgives_every_box_inside_it():
    crowd = ((3.0, 3.0, 60.0, 42.0), "crowd", 2320.0)
    inside = [(0.95, (5.0, 5.0, 14.0, 14.0)), (0.94, (21.0, 11.0, 30.0, 22.0)), (0.93, (41.0, 13.0, 50.0, 24.0))]
    result = evaluate_coco(dataset_of(objects((BOX,)), objects(crowd)), {"0": found((0.9, BOX)), "1": found(*inside)})
    assert some(result, "AP", "AP50", "AP75", "AR100") == pytest.approx([100] * 4)


def test_evaluate_coco__a_difficult_object_forgives_one_box():
    dataset = dataset_of(objects((BOX,), (FAR, "difficult")))
    for rows in ([(0.5, BOX)], [(0.9, FAR), (0.5, BOX)]):
        result = evaluate_coco(dataset, {"0": found(*rows)})
        assert some(result, "AP", "APs", "APl", "AR100") == [pytest.approx(100), None, *[pytest.approx(100)] * 2]
    twice = evaluate_coco(dataset, {"0": found((0.9, FAR), (0.8, FAR), (0.5, BOX))})
    assert twice["AP"] == pytest.approx(50)  # the second is wrong, and surer than the right one


def test_evaluate_coco__nothing_detected_is_zero():
    result = evaluate_coco(dataset_of(objects((BOX,)), classes=("dog", "cat")), {})
    assert some(result, "AP", "AR1", "APl", "APs") == [0, 0, 0, None]
    assert result["per_class"] == {"dog": 0, "cat": None}


@pytest.mark.parametrize(
    "items",
    [[], [(BOX, "difficult")], [(BOX, "crowd", 100.0)], [(BOX, None, 2e10)]],  # COCO counts areas up to 1e10
    ids=["no object", "difficult", "crowd", "vast"],
)
def test_evaluate_coco__undefined_without_an_object_that_counts(items):
    result = evaluate_coco(dataset_of(objects(*items)), {"0": found((0.9, BOX))})
    assert result == {**dict.fromkeys(COCO_NUMBERS), "per_class": {"dog": None}}


def test_evaluate_coco__ids_may_be_words():
    pictures = [objects((BOX,)), objects((FAR,))]
    dataset = dataset_of(*pictures)
    words = [
        AnnotatedPicture(name, one.path, one.annotation, 400, 400, one.objects)
        for name, one in zip(("left-1", "--2"), dataset.pictures, strict=True)
    ]
    named = DetectionDataset("d", Path("d"), "d", ("dog",), tuple(words), ((-3, "dog"),))
    result = evaluate_coco(named, {"left-1": found((0.9, BOX))})
    assert result == evaluate_coco(dataset, {"0": found((0.9, BOX))})


def test_evaluate_coco__refuses_a_score_that_is_no_number():
    with pytest.raises(ValueError, match="picture '0': score is not finite: nan"):
        evaluate_coco(dataset_of(objects((BOX,))), {"0": found((np.nan, BOX))})


# -------------------------------------------------------------------------------------------- against the reference
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_evaluate_coco__bit_equal_to_pycocotools(coco_files, tmp_path, first):
    for seed in range(first, first + 25):
        content, results = coco_files.make(seed)
        coco_files.write(tmp_path, content, results)
        dataset = load_coco("gt.json", root=tmp_path, check_pictures=False)
        ours = evaluate_coco(dataset, load_results(dataset, tmp_path / "results.json"))
        assert ours == coco_files.numbers(content, results), seed


def test_evaluate_coco__the_order_of_the_classes_is_the_file_s(coco_files, tmp_path):
    """A mean over classes in another order differs in its last bit."""
    content, results = coco_files.make(33)
    coco_files.write(tmp_path, content, results)
    expected = coco_files.numbers(content, results)
    names = [category["name"] for category in content["categories"]]
    for classes in (names, names[::-1], ["unicorn", *names]):
        dataset = load_coco("gt.json", root=tmp_path, classes=classes, check_pictures=False)
        ours = evaluate_coco(dataset, load_results(dataset, tmp_path / "results.json"))
        assert list(ours["per_class"]) == classes
        ours["per_class"].pop("unicorn", None)
        assert ours == expected


@pytest.fixture
def without_hotcoco(monkeypatch):
    def refuse(name, *arguments, load=builtins.__import__, **options):
        if name == "hotcoco":
            raise ImportError("no wheel for this machine")
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    coco_evaluator.cache_clear()
    yield
    coco_evaluator.cache_clear()


def test_coco_evaluator__is_hotcoco():
    assert coco_evaluator().name == "hotcoco"


def test_coco_evaluator__is_pycocotools_where_hotcoco_is_not(without_hotcoco, coco_files, tmp_path, caplog, capsys):
    for seed in (2, 10):
        content, results = coco_files.make(seed)
        coco_files.write(tmp_path, content, results)
        dataset = load_coco("gt.json", root=tmp_path, check_pictures=False)
        ours = evaluate_coco(dataset, load_results(dataset, tmp_path / "results.json"))
        assert ours == coco_files.numbers(content, results)
    assert evaluate_coco(dataset_of(objects((BOX,))), {})["AP"] == 0
    assert [record.message for record in caplog.records] == [
        "hotcoco cannot be imported (no wheel for this machine): COCO's numbers by pycocotools, which takes longer"
    ]
    assert capsys.readouterr().out == ""
