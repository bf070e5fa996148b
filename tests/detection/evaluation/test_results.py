"""Detections of other tools: COCO result JSON, run folders and Detectron2's inference/."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from detection.datasets.voc import load_voc
from detection.evaluation.detection_files import write_detections
from detection.evaluation.results import find_run_folder, load_results, read_protocol
from detection.evaluation.voc import PictureDetections

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
        ({"score": float("nan")}, "bbox must be four finite numbers and score one"),
        ({"score": None}, "bbox must be four finite numbers and score one"),
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
        (b'[\n"\xff"]', "results.json, line 2: byte 0xff is not UTF-8"),
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
