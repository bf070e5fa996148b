"""Labels to look at: planted errors are found, clean pictures left alone; what all runs miss; the file's place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detection.datasets.coco import load_coco
from detection.datasets.voc import load_voc
from detection.evaluation.detections import PictureDetections
from detection.evaluation.diagnosis.confusion import score_thresholds
from detection.evaluation.diagnosis.label_errors import MAX_LISTED, find_objects, list_missed, suspect_labels
from detection.evaluation.matching import match_detections
from tests.detection.evaluation.diagnosis import made


def suspects(dataset, detections):
    matches = match_detections(dataset, detections)
    return suspect_labels(dataset, matches, score_thresholds(matches))


def overlap(one, other):
    sides = [min(one[side + 2], other[side + 2]) - max(one[side], other[side]) for side in (0, 1)]
    if min(sides) <= 0:
        return 0.0
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return sides[0] * sides[1] / (sum(area) - sides[0] * sides[1])


@pytest.mark.parametrize("seed", range(5))
def test_suspect_labels__finds_nine_of_ten_planted_errors_and_little_else(seed):
    dataset, detections = made.make(seed, 240)
    dataset, planted = made.plant(dataset, seed, 40)
    found = suspects(dataset, detections)["listed"]
    hits, false = set(), []
    for entry in found:
        kind, item = planted.get(entry["image_id"], (None, None))
        left, top, right, bottom = item.box if item else (0, 0, 0, 0)
        if (
            kind == entry["kind"]
            and item.name == entry["detected"]
            and overlap(entry["box"], (left, top, right, bottom)) > 0.5
        ):
            hits.add(entry["image_id"])
        else:
            false.append(entry)
    assert len(hits) >= 0.9 * len(planted)
    clean = len(dataset.pictures) - len(planted)
    assert len(false) <= clean / 20
    assert [entry["score"] for entry in found] == sorted((entry["score"] for entry in found), reverse=True)


def test_suspect_labels__clean_labels_are_left_alone():
    dataset, detections = made.make(1, 200)
    assert suspects(dataset, detections)["count"] <= 10


def one_picture(*rows):
    """Detections (x, y, width, height, score, label) on a picture with a person, among 30 that are all right."""
    dataset, detections = made.make(3, 30)
    person = dataset.pictures[0].objects[0]._replace(name="person", box=(11.0, 11.0, 60.0, 60.0), difficult=False)
    pictures = (replace(dataset.pictures[0], objects=(person,)), *dataset.pictures[1:])
    table = np.array(rows, np.float64).reshape(-1, 6)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    detections["000000"] = PictureDetections(boxes, table[:, 4], table[:, 5].astype(np.int64))
    listed = suspects(replace(dataset, pictures=pictures), detections)["listed"]
    return [(entry["kind"], entry["detected"], entry["labelled"]) for entry in listed if entry["image_id"] == "000000"]


def test_suspect_labels__by_hand():
    assert one_picture((200, 200, 50, 50, 0.99, 0)) == [("missing", "dog", None)]
    assert one_picture((200, 200, 50, 50, 0.3, 0)) == []  # not sure
    assert one_picture((10, 10, 50, 50, 0.99, 0)) == [("class", "dog", "person")]
    assert one_picture((10, 10, 50, 50, 0.99, 0), (10, 10, 50, 50, 0.98, 1)) == []  # found as what it is
    assert one_picture((30, 30, 50, 50, 0.99, 0)) == []  # neither: it touches the person
    twice = one_picture((200, 200, 50, 50, 0.97, 0), (202, 202, 50, 50, 0.99, 1))
    assert twice == [("missing", "person", None)]  # one place, one suspicion


def test_suspect_labels__lists_the_surest_and_counts_all():
    dataset, detections = made.make(0, 400)
    emptied, _ = made.plant(dataset, 0, 200)
    result = suspects(emptied, detections)
    assert result["count"] > MAX_LISTED == len(result["listed"])


def test_suspect_labels__line_of_the_xml(voc_root):
    dataset = load_voc("voc_2007_test", root=voc_root, classes=("dog", "person", "car"))
    picture = next(one for one in dataset.pictures if any(item.name == "car" for item in one.objects))
    at = next(at for at, item in enumerate(picture.objects) if item.name == "car")
    box = np.array([picture.objects[at].box]) - [1, 1, 0, 0]
    rights = {
        one.image_id: PictureDetections(
            np.array([o.box for o in one.objects]).reshape(-1, 4) - [1, 1, 0, 0],
            np.full(len(one.objects), 0.9),
            np.array([dataset.classes.index(o.name) for o in one.objects], np.int64),
        )
        for one in dataset.pictures
    }
    wrong = PictureDetections(box, np.array([0.95]), np.array([dataset.classes.index("dog")]))
    (entry,) = suspects(dataset, {**rights, picture.image_id: wrong})["listed"]
    lines = Path(entry["annotation"]).read_text().splitlines()
    number = int(entry["place"].removeprefix("line "))
    assert lines[number - 1].strip() == "<object>"
    assert sum("<object>" in line for line in lines[:number]) == at + 1


def test_suspect_labels__entry_of_the_coco_file(tmp_path):
    """Annotations of two pictures in turn; the label of the second picture's only object is wrong."""
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 200, "height": 200} for number in (1, 2, 3)]
    rows = [(1, 10, 1), (2, 10, 1), (1, 100, 1), (3, 10, 2)]
    annotations = [
        {"id": at, "image_id": image, "category_id": category, "bbox": [left, 10, 50, 50], "area": 2500, "iscrowd": 0}
        for at, (image, left, category) in enumerate(rows, 1)
    ]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    (tmp_path / "gt.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    dataset = load_coco("gt.json", root=tmp_path, check_pictures=False)
    detections = {}
    for image, left, category in rows:
        one = np.array([[left, 10, left + 50, 60]], np.float64)
        boxes, labels = [one], [category - 1 if image != 2 else 1]
        if str(image) in detections:
            boxes.insert(0, detections[str(image)].boxes)
            labels.insert(0, int(detections[str(image)].classes[0]))
        detections[str(image)] = PictureDetections(np.concatenate(boxes), np.full(len(labels), 0.9), np.array(labels))
    (entry,) = suspects(dataset, detections)["listed"]
    assert (entry["labelled"], entry["detected"], entry["place"]) == ("dog", "cat", "annotations[1]")


DOG, CAT, FAR = (1.0, 1.0, 100.0, 100.0), (201.0, 1.0, 230.0, 30.0), (300.0, 300.0, 380.0, 380.0)


def missed(objects, *runs):
    """What ``list_missed`` says of runs (id -> detections) on pictures of ``made.scene``."""
    scenes = [made.scene(objects, run) for run in runs]
    found = [find_objects(match_detections(dataset, detections)) for dataset, detections in scenes]
    return list_missed(scenes[0][0], found)


def test_list_missed__by_hand():
    objects = {"a": [("dog", DOG), ("cat", CAT)], "b": [("dog", CAT), ("cat", FAR), ("dog", FAR, True)]}
    first = {"a": [(0, 0.01, DOG)], "b": [(0, 0.9, FAR), (1, 0.9, (300.0, 300.0, 339.0, 380.0))]}  # half of the cat
    second = {"b": [(1, 0.9, CAT)]}  # of another class
    said = missed(objects, first, second)
    assert (said["num_runs"], said["num_objects"], said["count"]) == (2, 4, 3)
    assert said["listed"] == [
        {"image_id": "b", "object": "cat", "box": [299, 299, 380, 380], "annotation": "b.xml", "place": None},
        {"image_id": "b", "object": "dog", "box": [200, 0, 230, 30], "annotation": "b.xml", "place": None},
        {"image_id": "a", "object": "cat", "box": [200, 0, 230, 30], "annotation": "a.xml", "place": None},
    ]
    assert missed(objects, first, second, {"a": [(1, 0.1, CAT)]})["count"] == 2


def test_list_missed__lists_the_largest_and_counts_all():
    objects = {f"{n:03d}": [("dog", (1.0, 1.0, 10.0 + n, 10.0))] for n in range(MAX_LISTED + 20)}
    said = missed(objects, {}, {})
    assert (said["count"], len(said["listed"])) == (MAX_LISTED + 20, MAX_LISTED)
    assert [entry["image_id"] for entry in said["listed"]] == [f"{n:03d}" for n in range(119, 19, -1)]


def test_list_missed__none():
    said = missed({"a": [("dog", DOG)]}, {}, {"a": [(0, 0.1, DOG)]})
    assert said == {"num_runs": 2, "num_objects": 1, "count": 0, "listed": []}


def doubled(tmp_path):
    """A COCO file in which annotations 1 and 2, of the second picture, are the very same dog."""
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 200, "height": 200} for number in (1, 2)]
    annotations = [
        {"id": at, "image_id": image, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}
        for at, image in enumerate((1, 2, 2), 1)
    ]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    (tmp_path / "gt.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return load_coco("gt.json", root=tmp_path, check_pictures=False)


def says(label, count):
    """``count`` detections at the place of the dogs of ``doubled``."""
    return PictureDetections(np.array([[10.0, 10, 60, 60]] * count), np.full(count, 0.9), np.full(count, label))


def test_list_missed__a_label_that_stands_twice_is_named_where_it_stands(tmp_path):
    dataset = doubled(tmp_path)
    matches = match_detections(dataset, {"1": says(0, 1), "2": says(0, 2)})
    (entry,) = list_missed(dataset, [find_objects(matches)] * 2)["listed"]
    assert (entry["image_id"], entry["place"]) == ("2", "annotations[2]")  # the first of the two is found


def test_suspect_labels__of_a_label_that_stands_twice_each_is_named(tmp_path):
    dataset = doubled(tmp_path)
    matches = match_detections(dataset, {"1": says(0, 1), "2": says(1, 2)})
    listed = suspect_labels(dataset, matches, np.array([0.5, 0.5]))["listed"]
    assert [entry["place"] for entry in listed] == ["annotations[1]", "annotations[2]"]
