"""Detections of other tools: COCO result JSON, run folders and Detectron2's inference/."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from detection.datasets.coco import load_coco
from detection.datasets.voc import load_voc
from detection.evaluation.coco import evaluate_coco
from detection.evaluation.detection_files import write_detections
from detection.evaluation.results import find_run_folder, load_results, read_protocol, write_coco_results
from detection.evaluation.voc import PictureDetections, evaluate_voc

GOOD = {"image_id": "000005", "category_id": 1, "bbox": [9, 9.5, 31, 30], "score": 0.5}


@pytest.fixture
def dataset(voc_root):
    return load_voc("voc_2007_test", root=voc_root, classes=("dog", "person", "car"))


def write_json(path, *entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize("image_id", ["000005", 5])
def test_load_results__coco_json(dataset, tmp_path, image_id):
    path = write_json(tmp_path / "results.json", {**GOOD, "image_id": image_id}, {**GOOD, "category_id": 3})
    boxes, scores, classes = load_results(dataset, path)["000005"]
    assert boxes.tolist() == [[9, 9.5, 40, 39.5]] * 2
    assert scores.tolist() == [0.5, 0.5]
    assert classes.tolist() == [0, 2]


def test_load_results__a_number_that_two_ids_spell(dataset, tmp_path):
    both = replace(dataset, pictures=(*dataset.pictures, replace(dataset.pictures[0], image_id="5")))
    with pytest.raises(ValueError, match="entry 0: unknown image_id 5"):
        load_results(both, write_json(tmp_path / "results.json", {**GOOD, "image_id": 5}))


@pytest.mark.parametrize("folder", ["", "inference", "inference/voc_2007_test"])
def test_load_results__finds_challenge_files_of_a_run(dataset, tmp_path, folder):
    one = PictureDetections(np.float32([[9, 9, 40, 40]]), np.float32([0.5]), np.array([1]))
    write_detections(dataset, {"000005": one}, tmp_path / "run" / folder)
    (tmp_path / "run" / "config.yaml").write_text("")
    np.testing.assert_array_equal(load_results(dataset, tmp_path / "run")["000005"].boxes, one.boxes)
    assert find_run_folder(tmp_path / "run" / folder) == (tmp_path / "run").resolve()


def test_load_results__detectron2_inference(dataset, tmp_path):
    import torch

    (tmp_path / "inference").mkdir()
    prediction = {"image_id": "000005", "instances": [{**GOOD, "category_id": 0}]}
    torch.save([prediction, {"image_id": "000006", "instances": []}], tmp_path / "inference/instances_predictions.pth")
    from_predictions = load_results(dataset, tmp_path)
    write_json(tmp_path / "other" / "coco_instances_results.json", {**GOOD, "category_id": 0})
    from_json = load_results(dataset, tmp_path / "other", first_category=0)
    for read in (from_predictions, from_json):
        assert list(read) == ["000005"]
        assert read["000005"].classes.tolist() == [0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": "000009"}, "unknown image_id '000009'"),
        ({"image_id": [5]}, r"unknown image_id \[5\]"),
        ({"category_id": 0}, r"category_id 0 is not in 1\.\.3; is the first category 0 in this file\?"),
        ({"category_id": 4}, r"category_id 4 is not in 1\.\.3"),
        ({"bbox": [1, 2, 3]}, r"bbox must be four finite numbers and score one, but got \[1, 2, 3\]"),
        ({"bbox": [1, 2, -3, 4]}, "bbox has a negative side"),
        ({"score": 1e301}, "bbox must be four finite numbers and score one"),
        ({"score": None}, "bbox must be four finite numbers and score one"),
        ({"score": "0.5"}, "bbox must be four finite numbers and score one, but got .* and '0.5'"),
        ({"score": True}, "bbox must be four finite numbers and score one, but got .* and True"),
        ({"bbox": [9, 9, 10**400, 9]}, r"bbox must be four finite numbers and score one, but got \[9, 9, 1000"),
        ({"bbox": [1.7e308, 5, 1.7e308, 20]}, "bbox must be four finite numbers"),
        ({"bbox": {"x": 1}}, "bbox must be four finite numbers"),
        ({"image_id": True}, "unknown image_id True"),
        ({"image_id": 10**400}, "unknown image_id 1000"),
        ({"category_id": True}, "category_id True is not in 1"),
        ({"category_id": "1"}, "category_id '1' is not in 1"),
    ],
)
def test_load_results__names_the_entry(dataset, tmp_path, change, message):
    path = write_json(tmp_path / "results.json", GOOD, {**GOOD, **change})
    with pytest.raises(ValueError, match=f"results.json, entry 1: {message}"):
        load_results(dataset, path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[\n{]", "results.json, line 2: not JSON"),
        (b'[\n"\xff"]', "results.json, line 2: byte 0xff at column 2 is not UTF-8"),
        (b"{}", "results.json: expected a list of results .* but got dict"),
        (b"[" * 200_000, r"results.json(, line 1)?: not"),
        (b"[1]", "results.json, entry 0: expected an object with image_id"),
        (b'[{"image_id": 5}]', "results.json, entry 0: without category_id, bbox, score"),
    ],
)
def test_load_results__refuses_json(dataset, tmp_path, content, message):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_results(dataset, tmp_path / "results.json")


@pytest.fixture
def coco_split(tmp_path):
    """Return a function that reads a COCO file of categories 0 animals, 7 cat and 3 dog with a list of classes."""
    content = {
        "images": [{"id": 5, "file_name": "5.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 7, "bbox": [9, 9.5, 31, 30], "iscrowd": 0, "area": 930}
        ],
        "categories": [{"id": 0, "name": "animals"}, {"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    (tmp_path / "gt.json").write_text(json.dumps(content))
    return lambda *classes: load_coco("gt.json", root=tmp_path, classes=classes, check_pictures=False)


@pytest.mark.parametrize("classes", [(), ("dog", "cat"), ("cat",), ("zebra", "cat")])
def test_load_results__category_numbers_of_a_coco_file_are_numbers(coco_split, tmp_path, classes):
    import torch

    dataset = coco_split(*classes)
    one = {**GOOD, "image_id": 5}
    by_number = write_json(tmp_path / "results.json", {**one, "category_id": 7})
    consecutive = write_json(tmp_path / "counted.json", {**one, "category_id": 2})  # animals 0, dog 1, cat 2
    torch.save([{"image_id": 5, "instances": [{**one, "category_id": 2}]}], tmp_path / "instances_predictions.pth")
    for path, first in ((by_number, None), (consecutive, 0), (tmp_path / "instances_predictions.pth", None)):
        read = load_results(dataset, path, first_category=first)
        assert read["5"].classes.tolist() == [dataset.classes.index("cat")]
        assert evaluate_voc(dataset, read)["voc07"]["AP50"] == pytest.approx(100)
        assert evaluate_coco(dataset, read)["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    "category, message",
    [
        (1, "category_id 1 is not one of 0, 3, 7"),
        (3, "category_id 3 is 'dog', which is none of the classes cat"),
    ],
)
def test_load_results__refuses_categories_that_the_coco_file_or_the_classes_lack(
    coco_split, tmp_path, category, message
):
    path = write_json(tmp_path / "results.json", {**GOOD, "image_id": 5, "category_id": category})
    with pytest.raises(ValueError, match=f"results.json, entry 0: {message}"):
        load_results(coco_split("cat"), path)


def test_load_results__a_byte_order_mark(dataset, tmp_path):
    path = write_json(tmp_path / "results.json", GOOD)
    path.write_text(path.read_text(), "utf-8-sig")
    assert list(load_results(dataset, path)) == ["000005"]


def test_load_results__predictions_that_are_none(dataset, tmp_path):
    import torch

    torch.save([{"image_id": 5, "instances": 3}], tmp_path / "instances_predictions.pth")
    with pytest.raises(ValueError, match=r"instances_predictions\.pth: expected Detectron2's predictions"):
        load_results(dataset, tmp_path)


def test_load_results__detectron2_writes_these_numbers(coco_split, tmp_path):
    """Its evaluator keeps its own consecutive numbers in the one file and the COCO file's in the other."""
    evaluation = pytest.importorskip("detectron2.evaluation", reason="Detectron2 is not installed")
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets.coco import load_coco_json
    from detectron2.structures import Boxes, Instances

    dataset = coco_split()
    load_coco_json(str(tmp_path / "gt.json"), str(tmp_path), "numbers_of_categories")
    MetadataCatalog.get("numbers_of_categories").json_file = str(tmp_path / "gt.json")
    evaluator = evaluation.COCOEvaluator(
        "numbers_of_categories",
        ("bbox",),
        distributed=False,
        output_dir=str(tmp_path / "inference"),
        use_fast_impl=False,
    )
    found = Instances((48, 64), pred_boxes=Boxes(torch.tensor([[9, 9.5, 40, 39.5]])))
    found.scores, found.pred_classes = torch.tensor([0.5]), torch.tensor([2])
    evaluator.reset()
    evaluator.process([{"image_id": 5}], [{"instances": found}])
    evaluator.evaluate()
    MetadataCatalog.remove("numbers_of_categories")
    for name in ("instances_predictions.pth", "coco_instances_results.json"):
        read = load_results(dataset, tmp_path / "inference" / name)
        assert [dataset.classes[label] for label in read["5"].classes] == ["cat"]


def test_write_coco_results__reads_back_to_the_last_bit(coco_files, tmp_path):
    for seed in range(10):
        coco_files.write(tmp_path, *coco_files.make(seed))
        dataset = load_coco("gt.json", root=tmp_path, check_pictures=False)
        first = load_results(dataset, tmp_path / "results.json")
        write_coco_results(dataset, first, tmp_path / "out")
        again = load_results(dataset, tmp_path / "out")
        assert list(again) == list(first)
        for image_id, found in first.items():
            assert all(map(np.array_equal, again[image_id], found))
            assert np.array_equal(again.bboxes[image_id], first.bboxes[image_id])


@pytest.mark.parametrize("image_id", [5, -5, 10**30, "5", "a-5"])
def test_write_coco_results__has_the_file_s_own_ids(tmp_path, image_id):
    image = {"id": image_id, "file_name": "5.jpg", "width": 64, "height": 48}
    content = {"images": [image], "annotations": [], "categories": [{"id": -3, "name": "cat"}]}
    write_json(tmp_path / "gt.json").write_text(json.dumps(content))
    dataset = load_coco("gt.json", root=tmp_path, classes=["zebra", "cat"], check_pictures=False)
    boxes = np.float32([[1, 2, 3.5, 5], [1, 2, 3, 4]])
    found = PictureDetections(boxes, np.float32([0.5, 0.9]), np.array([1, 0]))  # the file has no zebra
    write_coco_results(dataset, {str(image_id): found}, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert results == [{"image_id": image_id, "category_id": -3, "bbox": [1, 2, 2.5, 3], "score": 0.5}]
    assert load_results(dataset, tmp_path / "out")[str(image_id)].boxes.tolist() == [[1, 2, 3.5, 5]]


@pytest.mark.parametrize("name, message", [("", "no detections in"), ("absent", "do not exist")])
def test_load_results__nothing_there(dataset, tmp_path, name, message):
    with pytest.raises(FileNotFoundError, match=message):
        load_results(dataset, tmp_path / name)


def test_load_results__of_other_weights_in_the_folder_of_a_run(dataset, tmp_path):
    folder = tmp_path / "run" / "inference_model_0004999" / dataset.name
    write_detections(dataset, {}, folder)
    (folder / "report.json").write_text('{"protocol": {"seed": 3}}')
    (tmp_path / "run" / "config.yaml").touch()
    for path in (folder, folder.parent):
        assert load_results(dataset, path) == {}
        assert read_protocol(dataset, path) == {"seed": 3}
        assert find_run_folder(path) == tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="no detections in"):
        load_results(dataset, tmp_path / "run")
