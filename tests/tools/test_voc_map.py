"""tools/voc_map.py from detection files to a report."""

from __future__ import annotations

import json

import pytest

ANNOTATION = """<annotation><size><width>64</width><height>48</height></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>40</xmax><ymax>40</ymax></bndbox>
</object>"""


@pytest.fixture
def devkit(tmp_path):
    """A dog in one picture, a car in another; the pictures themselves are not needed."""
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for image_id, name in (("000005", "dog"), ("000007", "car")):
        text = ANNOTATION.format(objects=OBJECT.format(name=name))
        (folder / "Annotations" / f"{image_id}.xml").write_text(text)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("000005\n000007\n")
    return folder.parent


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "detections"
    folder.mkdir()
    (folder / "comp4_det_test_dog.txt").write_text("000005 0.5 10 10 40 40\n")
    return folder


@pytest.mark.parametrize("classes", ["dog,person,car", None])
def test_voc_map__writes_the_report_and_says_where(load_tool, devkit, files, tmp_path, capsys, classes):
    if classes is None:
        classes = str(tmp_path / "classes.txt")
        (tmp_path / "classes.txt").write_text("dog\nperson\n\ncar\n")
    output = tmp_path / "report"
    load_tool("voc_map").main(
        [
            "--devkit",
            str(devkit),
            "--split",
            "voc_2007_test",
            "--detections",
            str(files),
            "--output",
            str(output),
            "--classes",
            classes,
        ]
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("voc_2007_test: mAP 50.00 ")
    assert printed[1] == str(output / "report.html")
    assert json.loads((output / "report.json").read_text())["voc07"]["num_classes_scored"] == 2


def test_voc_map__twenty_classes_by_default(load_tool, devkit, files, tmp_path):
    output = tmp_path / "report"
    load_tool("voc_map").main(
        [
            "--devkit",
            str(devkit),
            "--split",
            "voc_2007_test",
            "--detections",
            str(files),
            "--output",
            str(output),
            "--rules",
            "detectron2",
        ]
    )
    report = json.loads((output / "report.json").read_text())
    assert report["voc10"]["AP50"] == pytest.approx(100 / 20)


def test_voc_map__bad_line_writes_nothing(load_tool, devkit, files, tmp_path):
    (files / "comp4_det_test_car.txt").write_text("000005 0.5 10 10 40\n")
    with pytest.raises(ValueError, match=r"comp4_det_test_car\.txt, line 1: expected 6 columns"):
        load_tool("voc_map").main(
            [
                "--devkit",
                str(devkit),
                "--split",
                "voc_2007_test",
                "--detections",
                str(files),
                "--output",
                str(tmp_path / "report"),
            ]
        )
    assert not (tmp_path / "report").exists()


def test_voc_map__keeps_what_the_run_recorded(load_tool, devkit, files, tmp_path):
    (files / "report.json").write_text(json.dumps({"protocol": {"method": "cutmix", "seed": 4}}))
    (files / "metrics.json").write_text('{"iteration": 1, "total_loss": 2.0}\n')
    load_tool("voc_map").main(
        [
            "--devkit",
            str(devkit),
            "--split",
            "voc_2007_test",
            "--detections",
            str(files),
            "--output",
            str(tmp_path / "report"),
            "--resamples",
            "10",
        ]
    )
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (report["protocol"]["method"], report["protocol"]["seed"]) == ("cutmix", 4)
    assert report["confidence"]["resamples"] == 10
    assert list(report["training"]) == ["total_loss"]


def test_voc_map__compares(load_tool, devkit, files, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "comp4_det_test_car.txt").write_text("000007 0.5 10 10 40 40\n000005 0.25 1 1 9 9\n")
    load_tool("voc_map").main(
        [
            "--devkit",
            str(devkit),
            "--split",
            "voc_2007_test",
            "--output",
            str(tmp_path / "out"),
            "--compare",
            f"baseline={files}",
            f"cutmix={other}",
            "--resamples",
            "10",
        ]
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith("| baseline | 50.00 | one seed")
    assert printed[3].startswith("| cutmix   | 50.00 | one seed")
    assert printed[-1] == str(tmp_path / "out" / "comparison.html")
    assert (tmp_path / "out" / "comparison.json").is_file()
