"""Whatever stands in a file, reading it ends with detections or with one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest

from detection.datasets.coco import load_coco
from detection.datasets.voc import load_voc
from detection.evaluation.coco import evaluate_coco
from detection.evaluation.detection_files import read_detections
from detection.evaluation.results import load_results
from detection.evaluation.voc import evaluate_voc
from detection.report.write import write_report

CLASSES = ("dog", "person", "car")
GOOD = b"000005 0.5 10 10 40 40\n000006 0.25 1.5 2 30 33.25\n000005 .75 1 2 3 4\n"
# Pieces that files in the wild, editors and other tools leave behind.
PIECES = [
    b"nan", b"-inf", b"1e999", b"1_0", b"0x1p3", b"\xff\xfe", b"\x00", b"\r\n", b"\n\n", b"\t", b" ", b"\xef\xbb\xbf",
    b",", b"-", b"000005", b"000009", "\u0661".encode(), "\u2028".encode(), b"1e-320", b"-0", b"9" * 400, b"#", b"\x1a",
]  # fmt: skip


@pytest.fixture
def dataset(voc_root):
    return load_voc("voc_2007_test", root=voc_root, classes=CLASSES)


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Return ``content`` with one or two pieces inserted, removed, doubled or overwritten."""
    for _ in range(rng.integers(1, 3)):
        start = int(rng.integers(0, len(content) + 1))
        stop = min(len(content), start + int(rng.integers(0, 12)))
        piece = PIECES[rng.integers(0, len(PIECES))]
        choice = rng.integers(0, 4)
        middle = (piece, b"", content[start:stop] * 2, bytes(rng.integers(0, 256, 3, np.uint8)))[choice]
        content = content[:start] + middle + content[stop:]
    return content


def refusal(action: Callable[[], object]) -> str | None:
    """Return the message of the error, of a kind that users cause, that ``action`` raises, None if it raises none."""
    try:
        action()
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("seed", range(4))
def test_read_detections__of_damaged_files(dataset, tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / "comp4_det_test_dog.txt"
    refused = 0
    for _ in range(80):
        path.write_bytes(damaged(rng, GOOD))
        message = refusal(lambda: evaluate_voc(dataset, read_detections(dataset, tmp_path)))
        assert message is None or message.startswith(f"{path}, line ")
        refused += message is not None
    assert 0 < refused < 80


@pytest.mark.parametrize("seed", range(2))
def test_load_results__of_damaged_json(dataset, tmp_path, seed):
    rng = np.random.default_rng(seed)
    entry = {"image_id": "000005", "category_id": 1, "bbox": [9, 9.5, 31, 30], "score": 0.5}
    good = json.dumps([entry, {**entry, "image_id": 6, "category_id": 3}]).encode()
    path = tmp_path / "results.json"
    for _ in range(80):
        path.write_bytes(damaged(rng, good))
        message = refusal(lambda: evaluate_voc(dataset, load_results(dataset, path)))
        assert message is None or message.startswith((f"{path}, line ", f"{path}, entry ", f"{path}: expected"))


def test_write_report__of_damaged_files_writes_nothing(dataset, tmp_path):
    (tmp_path / "comp4_det_test_dog.txt").write_bytes(GOOD + b"000005 inf 1 2 3 4\n")
    with pytest.raises(ValueError, match=r"comp4_det_test_dog\.txt, line 4: score is not finite"):
        write_report(dataset, read_detections(dataset, tmp_path), tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", range(2))
def test_load_voc__of_damaged_xml(voc_tree, seed):
    rng = np.random.default_rng(seed)
    path = voc_tree.annotation("000005")
    good = path.read_bytes()
    for _ in range(50):
        path.write_bytes(damaged(rng, good))
        message = refusal(lambda: evaluate_voc(load_voc("voc_2007_test", root=voc_tree.root, classes=CLASSES), {}))
        assert message is None or str(path) in message


VALUES = [None, True, -1, 0, 10**400, 1.5, float("nan"), 1e308, "", "1", "a/b", "x\0", "\ud800", [], {}, [1], {"a": 1}]


def changed(rng: np.random.Generator, content: object) -> object:
    """Return a copy of JSON ``content`` in which a random value is another one, absent, or stands twice."""
    copy = json.loads(json.dumps(content))
    node = copy
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[rng.integers(0, len(keys))]
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.7:
            node = node[key]
            continue
        choice = rng.integers(0, 6)
        if choice == 0:
            del node[key]
        elif choice == 1 and isinstance(node, list):
            node.append(node[key])
        else:
            node[key] = VALUES[rng.integers(0, len(VALUES))]
        return copy


def coco_content() -> dict[str, list]:
    return {
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in (1, 2)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "iscrowd": 0, "area": 400},
            {"id": 2, "image_id": 2, "category_id": 4, "bbox": [5, 5, 20, 20], "iscrowd": 1, "area": 400},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog"}],
    }


@pytest.mark.parametrize("seed", range(2))
def test_load_coco__of_damaged_files(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path, results = tmp_path / "gt.json", tmp_path / "results.json"
    entry = {"image_id": 1, "category_id": 4, "bbox": [5, 5, 20, 20], "score": 0.5}
    whole, entries = json.dumps(coco_content()), [entry, {**entry, "image_id": 2}]
    refused = 0
    for turn in range(120):
        truth = damaged(rng, whole.encode()) if turn % 3 == 0 else whole.encode()
        path.write_bytes(json.dumps(changed(rng, coco_content())).encode() if turn % 3 == 1 else truth)
        results.write_text(json.dumps(changed(rng, entries) if turn % 3 == 2 else entries))

        def evaluate():
            dataset = load_coco("gt.json", root=tmp_path, check_pictures=False)
            detections = load_results(dataset, results)
            evaluate_voc(dataset, detections)
            evaluate_coco(dataset, detections)

        message = refusal(evaluate)
        assert message is None or str(tmp_path) in message
        refused += message is not None
    assert 0 < refused < 120


@pytest.mark.parametrize("seed", range(2))
def test_load_voc__of_damaged_image_sets(voc_tree, seed):
    rng = np.random.default_rng(seed)
    path = voc_tree.image_set("test")
    good = path.read_bytes()
    for _ in range(60):
        path.write_bytes(damaged(rng, good))
        message = refusal(lambda: load_voc("voc_2007_test", root=voc_tree.root, classes=CLASSES))
        assert message is None or str(path) in message


@pytest.mark.parametrize("seed", range(2))
def test_load_voc__of_xml_of_another_structure(voc_tree, seed):
    rng = np.random.default_rng(seed)
    path = voc_tree.annotation("000005")
    good = path.read_text()
    tags = ["object", "objects", "Object", "bndbox", "BndBox", "difficult", "Difficult", "xmin", "XMIN", "name", "part"]
    found = 0
    for _ in range(60):
        root = ElementTree.fromstring(good)
        elements = list(root.iter())
        element, other = (elements[rng.integers(0, len(elements))] for _ in range(2))
        choice = rng.integers(0, 3)
        if choice == 0:
            element.tag = tags[rng.integers(0, len(tags))]
        elif choice == 1:
            element.append(ElementTree.fromstring(ElementTree.tostring(other)))
        else:
            element.text = ["nan", "1_0", "", "-5", "0", "9" * 400][rng.integers(0, 6)]
        path.write_bytes(ElementTree.tostring(root))
        told = []
        load_voc("voc_2007_test", root=voc_tree.root, classes=CLASSES, on_defect=told.append)
        assert all(str(defect).startswith(f"{path}, line ") for defect in told)
        found += bool(told)
    assert 0 < found < 60
