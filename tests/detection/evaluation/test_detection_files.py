"""Challenge files: an exact round trip, and every defect named by file and line."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from detection.datasets.coco import load_coco
from detection.datasets.voc import load_voc
from detection.evaluation.detection_files import read_detections, write_detections
from detection.evaluation.voc import PictureDetections, evaluate_voc

CLASSES = ("dog", "person", "car")
GOOD = "000005 0.5 10 10 40 40\n"


@pytest.fixture
def dataset(voc_root):
    return load_voc("voc_2007_test", root=voc_root, classes=CLASSES)


def random_detections(dataset, dtype=np.float32):
    rng = np.random.default_rng(3)
    result = {}
    for picture in dataset.pictures[1:]:
        corners = rng.random((7, 2)) * 30
        boxes = np.concatenate([corners, corners + rng.random((7, 2)) * 30], axis=1).astype(dtype)
        result[picture.image_id] = PictureDetections(boxes, rng.random(7).astype(dtype), rng.integers(0, 2, 7))
    return result


def test_write_detections__lines_are_one_based(dataset, tmp_path):
    one = PictureDetections(np.float32([[0, 9.5, 40, 40]]), np.float32([0.25]), np.array([0]))
    paths = write_detections(dataset, {"000005": one}, tmp_path / "out")
    assert [path.name for path in paths] == [f"comp4_det_test_{name}.txt" for name in CLASSES]
    assert [path.read_text() for path in paths] == ["000005 0.25 1.0 10.5 40.0 40.0\n", "", ""]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_read_detections__returns_what_was_written(dataset, tmp_path, dtype):
    written = random_detections(dataset, dtype)
    write_detections(dataset, written, tmp_path)
    read = read_detections(dataset, tmp_path)
    assert list(read) == list(written)
    for image_id, (boxes, scores, classes) in written.items():
        order = np.argsort(classes, kind="stable")  # the files are read class by class
        np.testing.assert_array_equal(read[image_id].boxes.astype(dtype), boxes[order])
        np.testing.assert_array_equal(read[image_id].scores, scores[order])
        np.testing.assert_array_equal(read[image_id].classes, classes[order])
    assert evaluate_voc(dataset, read) == evaluate_voc(dataset, written)


def test_read_detections__of_a_detector_that_found_nothing(dataset, tmp_path):
    write_detections(dataset, {}, tmp_path)
    assert read_detections(dataset, tmp_path) == {}


def test_read_detections__of_another_tool(dataset, tmp_path, caplog):
    (tmp_path / "comp3_det_test_dog.txt").write_bytes(b"000005 1e-3 11 11 30 30\r\n\r\n000005\t.5   10 10 9 40")
    (tmp_path / "log.txt").write_text("not a detection file")
    boxes, scores, classes = read_detections(dataset, tmp_path)["000005"]
    assert boxes.tolist() == [[10, 10, 30, 30], [9, 9, 9, 40]]
    assert scores.tolist() == [0.001, 0.5]
    assert classes.tolist() == [0, 0]


@pytest.mark.parametrize("mark, end", [(b"\xef\xbb\xbf", b"\n"), (b"", b"\r"), (b"", b"\r\n")])
def test_read_detections__marks_and_ends_of_lines(dataset, tmp_path, mark, end):
    lines = [b"000005 0.5 10 10 40 40", b"000006 0.5 10 10 40 40", b""]
    (tmp_path / "comp4_det_test_dog.txt").write_bytes(mark + end.join(lines))
    assert list(read_detections(dataset, tmp_path)) == ["000005", "000006"]


def test_read_detections__of_py_faster_rcnn_with_its_salt(dataset, tmp_path):
    (tmp_path / "comp4_8503382f-cb3d-4a_det_test_dog.txt").write_text(GOOD)
    assert list(read_detections(dataset, tmp_path)) == ["000005"]


def test_read_detections__ids_with_underscores_and_accents(dataset, tmp_path):
    ids = ("2008_000001", "caf\u00e9", "s1/a")
    pictures = [replace(dataset.pictures[0], image_id=image_id) for image_id in ids]
    other = replace(dataset, pictures=tuple(pictures))
    lines = [f"{image_id} 0.5 10 10 40 40\n" for image_id in ("cafe\u0301", "2008_000001", "s1/a")]
    (tmp_path / "comp4_det_test_dog.txt").write_text("".join(lines), "utf-8")
    assert list(read_detections(other, tmp_path)) == list(ids)
    (tmp_path / "comp4_det_test_dog.txt").write_text("2008_000001 0.5 1_0 10 40 40\n")
    with pytest.raises(ValueError, match="line 1: xmin is not a number: '1_0'"):
        read_detections(other, tmp_path)


@pytest.mark.parametrize(
    "line, message",
    [
        ("000005 0.5 10 10 40", r"expected 6 columns \(picture id, score, xmin, ymin, xmax, ymax\), but got 5"),
        ("000005 0.5 10 10 40 40 1", "expected 6 columns .* but got 7"),
        ("000009 0.5 10 10 40 40", "unknown picture id '000009'"),
        ("000005 nan 10 10 40 40", "score is not finite: nan"),
        ("000005 inf 10 10 40 40", "score is not finite: inf"),
        ("000005 0.5 10 10 1e999 40", "xmax is not finite: 1e999"),
        ("000005 0,9 10 10 40 40", "score is not a number: '0,9'"),
        ("000005 0.5 10 10 4_0 40", "xmax is not a number: '4_0'"),
        ("000005 0.5 10 10 40 1e200", "ymax is not a number: '1e200'"),
        ("000005 0.5 10 10 0x28 40", "xmax is not a number: '0x28'"),
        ("000005 high 10 10 40 40", "score is not a number: 'high'"),
        ("000005 0.5 40 10 10 40", "inverted box: xmax 10 is less than xmin 40"),
        ("000005 0.5 10 40 40 10", "inverted box: ymax 10 is less than ymin 40"),
        ("000005 0.5 10 10 8.5 40", "inverted box: xmax 8.5 is less than xmin 10"),
        ("000005 0.5 10 10 40 4\xe9", "byte 0xe9 at column 22 is not UTF-8"),
    ],
)
def test_read_detections__names_file_and_line(dataset, tmp_path, line, message):
    path = tmp_path / "comp4_det_test_dog.txt"
    path.write_bytes((GOOD + "\n" + GOOD + line + "\n" + GOOD).encode("latin-1"))
    with pytest.raises(ValueError, match=f"comp4_det_test_dog.txt, line 4: {message}"):
        read_detections(dataset, tmp_path)


@pytest.mark.parametrize(
    "names, error, message",
    [
        ([], FileNotFoundError, r"no detection file in .*; expected comp4_det_test_<class>\.txt"),
        (["comp4_det_test_cow.txt"], ValueError, "voc_2007_test has no class 'cow'; it has dog, person, car"),
        (["comp4_det_val_dog.txt"], ValueError, "not a detection file of image set 'test'"),
        (["comp3_det_test_dog.txt", "comp4_det_test_dog.txt"], ValueError, "comp4.*: a second file for class 'dog'"),
    ],
)
def test_read_detections__refuses_files(dataset, tmp_path, names, error, message):
    for name in names:
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(error, match=message):
        read_detections(dataset, tmp_path)


def test_read_detections__missing_folder(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"detections folder .*absent does not exist"):
        read_detections(dataset, tmp_path / "absent")


def test_write_detections__refuses_before_writing(dataset, tmp_path):
    bad = PictureDetections(np.float32([[0, 0, 1, 1]]), np.float32([np.inf]), np.array([0]))
    with pytest.raises(ValueError, match="picture '000005': score is not finite: inf"):
        write_detections(dataset, {"000005": bad}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


NASTY = (
    " ", "\t", "\u00a0", "\u2003", "\u2028", "\x1c", "\x85", "\0", "\n", "\r", "\x1b", "\ufeff", "\ud800", "\u200d",
    "\u0301", "#", "%", "/", "\\", ".", "..", "_", "-", "e", "E", "\xe9", "\u72ac", "1", "0", "nan", "con",
    "comp4_det_", ".txt", "\u0661", "'", '"', ",",
)  # fmt: skip


def nasty_word(draw):
    return "".join(draw.choice(NASTY) for _ in range(draw.choice((1, 1, 2, 3, 6))))


def test_write_detections__whatever_the_reader_accepts_reads_back(tmp_path):
    """Ids and classes that cannot be written so that they are read again are refused before anything is trained."""
    draw = random.Random(5)
    accepted, refused = set(), set()
    for _ in range(300):
        words = {"id": [nasty_word(draw) for _ in range(4)], "class": [nasty_word(draw) for _ in range(2)]}
        data = {
            "images": [{"id": word, "file_name": "x", "width": 9, "height": 9} for word in words["id"]],
            "categories": [{"id": number, "name": name} for number, name in enumerate(words["class"])],
            "annotations": [],
        }
        (tmp_path / "d.json").write_text(json.dumps(data))
        try:
            dataset = load_coco("d.json", root=tmp_path, check_pictures=False, on_defect=lambda _: None)
        except ValueError:
            continue
        kept = {picture.image_id for picture in dataset.pictures}
        accepted |= {*kept, *dataset.classes}
        refused |= {*words["id"], *words["class"]} - accepted
        if not dataset.classes:
            continue
        one = PictureDetections(
            np.array([[1.0, 2, 3, 4]] * 2), np.array([0.5, 0.25]), np.arange(2) % len(dataset.classes)
        )
        folder = tmp_path / f"out{len(accepted)}_{len(refused)}"
        written = {name: one for name in kept}
        write_detections(dataset, written, folder)
        read = read_detections(dataset, folder)
        assert set(read) == kept
        for found in read.values():
            order = np.argsort(one.classes, kind="stable")
            np.testing.assert_array_equal(found.scores, one.scores[order])
            np.testing.assert_array_equal(found.classes, one.classes[order])
    assert len(accepted) > 100
    assert len(refused) > 100
