"""The report: one JSON, two renderings, and nothing written unless all is well."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from detection.datasets.coco import load_coco
from detection.datasets.types import AnnotatedObject, AnnotatedPicture
from detection.datasets.voc import VOC_CLASSES, load_voc
from detection.evaluation.coco import COCO_NUMBERS, evaluate_coco
from detection.evaluation.voc import PictureDetections, evaluate_voc
from detection.report.illustrations import LONGEST_SIDE
from detection.report.write import NUM_DOUBTS, NUM_PICTURES, headline, write_report

CLASSES = ("dog", "person", "car")


@pytest.fixture
def dataset(voc_root):
    return load_voc("voc_2007_test", root=voc_root, classes=CLASSES)


@pytest.fixture
def detections():
    """The dog is found, the car is not, and the person is difficult."""
    return {"000005": PictureDetections(np.float32([[9, 9, 40, 40]]), np.float32([0.5]), np.array([0]))}


def test_write_report__json_follows_the_schema(dataset, detections, tmp_path):
    report = write_report(dataset, detections, tmp_path / "out", {"engine": "torchvision", "seed": 1})
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert (report["dataset"], report["num_images"], report["classes"]) == ("voc_2007_test", 3, list(CLASSES))
    assert {key: report[key] for key in ("voc07", "voc10")} == evaluate_voc(dataset, detections)
    assert report["voc10"]["per_class"] == {"dog": 100, "person": None, "car": 0}
    assert (report["voc10"]["AP50"], report["voc10"]["num_classes_scored"]) == (50, 2)
    assert report["format"] == "voc"
    assert report["coco"] == evaluate_coco(dataset, detections)
    assert report["protocol"]["versions"].keys() == {"python", "numpy", "hotcoco"}
    assert report["protocol"]["engine"] == "torchvision"
    assert report["protocol"]["evaluation_rules"] == "standard"
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "Rules: standard (a detection matches where its IoU exceeds the threshold)" in text
    assert headline(report).startswith("voc_2007_test: mAP 50.00 (VOC2007, 11 points, IoU .5), 50.00 (area, IoU .5)")
    assert headline(report).endswith("over 2 of 3 classes and 3 pictures")


def test_write_report__json_says_how_sure_and_why_not_more(dataset, detections, tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 1, "total_loss": 2.5}\n')
    report = write_report(dataset, detections, tmp_path, {}, run_folder=tmp_path, num_resamples=50, seed=3)
    assert report["confidence"]["voc10"]["AP50"] is None
    assert report["confidence"]["reasons"]["voc10"]["AP50"] == "objects in 3 pictures, fewer than 10"
    for name in ("report.md", "report.html"):
        assert "No interval: objects in 3 pictures, fewer than 10." in (tmp_path / name).read_text()
    assert (report["confidence"]["resamples"], report["confidence"]["seed"]) == (50, 3)
    assert report["curves"] == {
        "dog": {"recall": [1], "precision": [1]},
        "person": None,
        "car": {"recall": [], "precision": []},
    }
    assert (report["errors"]["missed"]["count"], report["errors"]["missed"]["gain"]) == (1, pytest.approx(50))
    assert report["num_objects"] == {"dog": 1, "person": 0, "car": 1}
    assert [entry["image_id"] for entry in report["pictures"]["worst"]] == ["000007"]
    assert report["training"]["total_loss"]["value"] == [2.5]
    assert "total_loss" in (tmp_path / "report.html").read_text()


COCO_CONTENT = {
    "images": [{"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in (12, 0)],
    "categories": [{"id": 7, "name": "dog"}, {"id": 0, "name": "person"}, {"id": 3, "name": "car"}],
    "annotations": [
        {"id": 1, "image_id": 12, "category_id": 7, "bbox": [0.1, 0.2, 30.3, 30.4], "area": 700.5, "iscrowd": 0},
        {"id": 2, "image_id": 0, "category_id": 7, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 0},
        {"id": 3, "image_id": 0, "category_id": 3, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 1},
    ],
}


@pytest.fixture
def coco_dataset(tmp_path):
    (tmp_path / "gt.json").write_text(json.dumps(COCO_CONTENT))
    return load_coco("gt.json", root=tmp_path, check_pictures=False)


@pytest.fixture
def coco_detections():
    """The first dog is found, not quite, and the other is not; the classes are person, car, dog."""
    boxes, scores = np.float32([[0.1, 0.2, 30.3, 25.7], [3, 3, 9, 9]]), np.float32([0.9, 0.3])
    return {"12": PictureDetections(boxes, scores, np.array([2, 0]))}


def test_write_report__of_coco_data_leads_with_coco(coco_dataset, coco_detections, tmp_path):
    report = write_report(coco_dataset, coco_detections, tmp_path / "out", {}, num_resamples=5)
    assert report["format"] == "coco"
    assert headline(report) == (
        "gt: COCO AP 35.35 (IoU .50:.95), AP50 50.50, AP75 50.50, APs 70.00, APm 0.00, APl undefined, AR100 35.00, "
        "over 1 of 3 classes and 2 pictures"  # IoU .83: seven thresholds of ten
    )
    text, page = ((tmp_path / "out" / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert text.index("## COCO") < text.index("## VOC metrics")
    shown = dict(re.findall(r"^\| (A[PR]\w*) +\| [^|]+\| +([\d.-]+) +\|$", text, re.MULTILINE))
    assert shown == {name: "-" if name[-1] == "l" else f"{report['coco'][name]:.2f}" for name in COCO_NUMBERS}
    assert re.search(r"^\| class +\| COCO AP \|.*\n.*\n\| person +\| - +\|", text, re.MULTILINE)
    assert re.search(r'COCO AP, IoU .50 to .95</div>\s*<div class="big">35.35', page)
    assert page.index("COCO AP, IoU") < page.index("<h2>VOC metrics")


def test_write_report__of_voc_data_leads_with_voc(dataset, detections, tmp_path):
    write_report(dataset, detections, tmp_path, {}, num_resamples=5)
    text, page = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert text.index("## VOC metrics") < text.index("## COCO")
    assert page.index("mAP at IoU .5, 11 points") < page.index("<h2>COCO")
    assert all(f">{name}<" in page for name in COCO_NUMBERS)
    assert not (tmp_path / "coco_instances_results.json").exists()


def test_write_report__of_coco_data_leaves_results_that_pycocotools_reads(
    coco_dataset, coco_detections, coco_files, tmp_path
):
    report = write_report(coco_dataset, coco_detections, tmp_path / "out", {}, num_resamples=5)
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    boxes, scores, _ = coco_detections["12"]
    sides = [[*box[:2], box[2] - box[0], box[3] - box[1]] for box in boxes.tolist()]
    assert results == [
        {"image_id": 12, "category_id": 7, "bbox": sides[0], "score": float(scores[0])},
        {"image_id": 12, "category_id": 0, "bbox": sides[1], "score": float(scores[1])},
    ]
    assert coco_files.numbers(COCO_CONTENT, results) == report["coco"]


def test_write_report__shows_the_very_best_pictures(dataset, detections, tmp_path):
    ids = [f"{index:06d}" for index in range(100, 120)]
    many = replace(dataset, pictures=tuple(replace(dataset.pictures[0], image_id=image_id) for image_id in ids))
    found = dict.fromkeys(ids[2:], detections["000005"])
    shown = write_report(many, found, tmp_path, {}, num_resamples=10)["pictures"]
    assert [entry["image_id"] for entry in shown["worst"]] == ids[:2]
    assert [entry["image_id"] for entry in shown["best"]] == ids[:-9:-1]


def test_write_report__markdown_has_every_class(dataset, detections, tmp_path):
    write_report(dataset, detections, tmp_path, {"weights": {"sha256": "a|b"}})
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"^\| person +\| - +\| - +\| - +\|$", text, re.MULTILINE)
    assert "weights.sha256" in text
    assert "a\\|b" in text


def test_write_report__page_is_self_contained_and_escaped(dataset, detections, tmp_path):
    write_report(dataset, detections, tmp_path, {"note": "<script>alert(1)</script>"})
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert(1)" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "prefers-color-scheme: dark" in page


def test_write_report__markdown_holds_no_tag_and_no_line_end_of_a_name(dataset, detections, tmp_path):
    names = ("<script>\n|x", "<unk>", "&lt;b&gt;")
    pictures = tuple(
        replace(one, objects=tuple(item._replace(name=names[CLASSES.index(item.name)]) for item in one.objects))
        for one in dataset.pictures
    )
    named = replace(dataset, name="a\n<b>", classes=names, pictures=pictures)
    write_report(named, detections, tmp_path, {"note": "<i>\u2028x"}, num_resamples=5)
    text = (tmp_path / "report.md").read_text()
    assert "<" not in text
    assert text.startswith("# Detection report: a &lt;b>\n")
    assert re.search(r"^\| &lt;script> \\\|x +\| 100\.00 +\|", text, re.MULTILINE)
    assert re.search(r"^\| &amp;lt;b&amp;gt; +\| 0\.00 ", text, re.MULTILINE)
    assert re.search(r"^\| note +\| &lt;i> x ", text, re.MULTILINE)


def test_write_report__main_settings_come_first_and_the_others_are_folded(dataset, detections, tmp_path):
    training = {"SOLVER.MAX_ITER": 41000, "MODEL.FPN.OUT_CHANNELS": 17}
    write_report(dataset, detections, tmp_path, {"training": training}, num_resamples=5)
    text, page = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert "training.MODEL.FPN.OUT_CHANNELS" in text.partition("## All other settings")[2]
    assert "training.SOLVER.MAX_ITER" in text.partition("## All other settings")[0]
    assert "<dd>17</dd>" in page.partition("<summary>All other settings</summary>")[2]
    assert "<dd>41000</dd>" in page.partition("<summary>All other settings</summary>")[0]
    write_report(dataset, detections, tmp_path, {}, num_resamples=5)
    assert "All other settings" not in (tmp_path / "report.md").read_text()


def test_write_report__nan_of_detectron2_becomes_null(dataset, detections, tmp_path):
    detections["000006"] = PictureDetections(np.float32([[0, 0, 5, 5]]), np.float32([0.5]), np.array([1]))
    report = write_report(dataset, detections, tmp_path, {}, rules="detectron2")
    assert report["voc10"]["AP50"] is None
    assert report["voc07"]["AP50"] == pytest.approx(100 / 3)
    assert report["confidence"]["voc07"]["AP50"] is None


@pytest.mark.parametrize("protocol", [{"weights": object()}, {"loss": float("nan")}])
def test_write_report__refuses_a_protocol_that_json_cannot_hold(dataset, detections, tmp_path, protocol):
    with pytest.raises(ValueError, match="JSON"):
        write_report(dataset, detections, tmp_path / "out", protocol)
    assert not (tmp_path / "out").exists()


def test_write_report__page_of_voc07_test_size_is_below_8_mb(dataset, tmp_path):
    """The worst case: every picture shown is square noise under 100 boxes, and curves and config are long."""
    rng = np.random.default_rng(0)
    noise = tmp_path / "noise.png"
    Image.fromarray(rng.integers(0, 256, (LONGEST_SIDE, LONGEST_SIDE, 3), np.uint8)).save(noise)
    pictures, detections = [], {}
    for index in range(4952):
        count = 100 if index < 2 * NUM_PICTURES else 1
        corners = 1 + 399 * rng.random((count, 2))
        boxes = np.concatenate([corners, corners + 60], axis=1)
        labels = rng.integers(0, 20, count)
        objects = tuple(
            AnnotatedObject(VOC_CLASSES[label], tuple(box), False)
            for label, box in zip(labels.tolist(), boxes.tolist(), strict=True)
        )
        pictures.append(AnnotatedPicture(f"{index:06d}", noise, noise, LONGEST_SIDE, LONGEST_SIDE, objects))
        found = boxes - [1, 1, 0, 0] + (100 if index < NUM_PICTURES else 0)  # all wrong in the first pictures
        detections[f"{index:06d}"] = PictureDetections(found, rng.random(count), labels)
    with open(tmp_path / "metrics.json", "w") as file:
        for index in range(1000):
            file.write(json.dumps({"iteration": index, **{f"loss_{n}": rng.random() for n in range(8)}}) + "\n")
    full = replace(dataset, classes=VOC_CLASSES, pictures=tuple(pictures))
    protocol = {"config": "KEY: value\n" * 2000}
    write_report(full, detections, tmp_path / "out", protocol, run_folder=tmp_path, num_resamples=5)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/jpeg") == 2 * NUM_PICTURES + NUM_DOUBTS
    assert page.count("<rect") > 2 * NUM_PICTURES * 80
    assert len(page.encode()) < 8e6


def damage_pictures(dataset):
    """Leave the picture of the dog cut short, and that of the car without its file."""
    dog, _, car = (picture.path for picture in dataset.pictures)
    dog.write_bytes(dog.read_bytes()[:-40])
    car.unlink()


def test_write_report__goes_without_what_cannot_be_drawn(dataset, detections, tmp_path, caplog):
    whole = write_report(dataset, detections, tmp_path / "whole", {}, num_resamples=5)
    damage_pictures(dataset)
    assert write_report(dataset, detections, tmp_path, {}, num_resamples=5) == whole
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"the page shows boxes alone for 1 of its 2 pictures, whose files do not exist, such as "
        f"{dataset.pictures[2].path}",
        "the page goes without a picture",
    ]
    page = (tmp_path / "report.html").read_text()
    assert page.count("picture not at hand") == 2


def test_write_report__one_line_where_no_picture_is_there(dataset, detections, tmp_path, caplog):
    for picture in dataset.pictures:
        picture.path.unlink()
    write_report(dataset, detections, tmp_path, {}, num_resamples=5)
    (record,) = caplog.records
    assert "for 2 of its 2 pictures" in record.message


def test_write_report__numbers_are_there_before_anything_is_drawn(dataset, detections, tmp_path, monkeypatch):
    def draw(*_arguments):
        raise RuntimeError(json.loads((tmp_path / "report.json").read_text())["voc10"]["AP50"])

    monkeypatch.setattr("detection.report.write.illustrate_all", draw)
    with pytest.raises(RuntimeError, match="50"):
        write_report(dataset, detections, tmp_path, {}, num_resamples=5)


def test_write_report__an_encoder_that_fails_costs_the_picture(dataset, detections, tmp_path, monkeypatch, caplog):
    def save(*_arguments, **_options):
        raise TypeError("metadata of an unknown type")

    monkeypatch.setattr(Image.Image, "save", save)
    report = write_report(dataset, detections, tmp_path, {}, num_resamples=5)
    assert report["voc10"]["AP50"] == 50
    assert {record.message for record in caplog.records} == {
        "the page goes without a picture: metadata of an unknown type"
    }


def test_write_report__ap_stands_over_the_objects_in_training(dataset, detections, tmp_path):
    report = write_report(dataset, detections, tmp_path, {}, training_objects={"dog": 900, "car": 3}, num_resamples=2)
    assert report["training_objects"] == {"dog": 900, "car": 3}
    page = (tmp_path / "report.html").read_text()
    assert page.count('<circle class="spot"') == report["voc07"]["num_classes_scored"]
    assert "900 objects</title>" in page
    write_report(dataset, detections, tmp_path, {}, num_resamples=2)
    assert 'id="objects"' not in (tmp_path / "report.html").read_text()


def test_write_report__doubted_labels_are_shown_with_their_place(dataset, tmp_path):
    """A sure dog where the file has a car; a car and a dog are found elsewhere."""
    boxes = {name: np.float32([[*np.array(box) - [1, 1, 0, 0]]]) for name, box in
             (("dog", (10, 10, 40, 40)), ("car", (3, 12, 50, 36)))}  # fmt: skip
    found = {
        "000005": PictureDetections(boxes["dog"], np.float32([0.9]), np.array([0])),
        "000007": PictureDetections(boxes["car"], np.float32([0.95]), np.array([0])),
    }
    report = write_report(dataset, found, tmp_path, {}, num_resamples=2)
    (entry,) = report["label_errors"]["listed"]
    assert (entry["kind"], entry["detected"], entry["labelled"]) == ("class", "dog", "car")
    assert {"object": "car", "detected": "dog", "count": 1} in report["confusions"]
    page, markdown = ((tmp_path / f"report.{suffix}").read_text() for suffix in ("html", "md"))
    assert "dog 0.95, labelled car" in page
    assert f"000007.xml, {entry['place']}" in page
    assert "## Labels to look at (1)" in markdown


@pytest.mark.parametrize("count, matrix", [(24, True), (25, False)])
def test_write_report__many_classes_have_a_list_of_confusions_in_place_of_a_matrix(
    dataset, detections, tmp_path, count, matrix
):
    more = (*dataset.classes, *(f"class{number}" for number in range(count - 3)))
    write_report(replace(dataset, classes=more), detections, tmp_path, {}, num_resamples=2)
    assert ('class="matrix"' in (tmp_path / "report.html").read_text()) is matrix
