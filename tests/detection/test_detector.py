"""A detector held in memory: the evaluation's numbers for every kind of picture, saved and refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from detection import load_detector
from detection.datasets.voc import load_voc
from detection.detector import Found
from detection.engines import select
from detection.evaluation.detection_files import read_detections
from detection.fine_tune import fine_tune, inference_folder
from detection.run_data import read_run_data
from pretrain.run.checkpoint import load_checkpoint, save_checkpoint
from tests.pretended_cuda import pretended_cuda

ENGINES = ("torchvision", "detectron2")
CLASSES = "('dog', 'person', 'car')"


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "detectron2":
        pytest.importorskip("detectron2")
    return request.param


def equal(one: Found, other: Found) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels"))
    return arrays and one.names == other.names


def test_load_detector__finds_what_the_evaluation_found_to_the_bit(engine, weights, configure, voc_root):
    cfg = configure("MODEL.WEIGHTS", weights, "MODEL.ROI_HEADS.NUM_CLASSES", 3, "VOC.CLASSES", CLASSES)
    fine_tune(cfg, engine=engine, eval_only=True)
    (name,) = cfg.DATASETS.TEST
    dataset = load_voc(name, root=voc_root, classes=("dog", "person", "car"))
    written = read_detections(dataset, inference_folder(cfg, name, eval_only=True))
    detector = load_detector(weights, engine=engine, device="cpu")
    found = detector([picture.path for picture in dataset.pictures])
    assert sum(map(len, found)) > 20
    for picture, one in zip(dataset.pictures, found, strict=True):
        expected = written[picture.image_id]
        order = np.lexsort((*expected.boxes.T, expected.classes, -expected.scores))
        ours = np.lexsort((*one.boxes.T, one.labels, -one.scores))
        np.testing.assert_array_equal(one.scores[ours], expected.scores[order].astype(np.float32))
        np.testing.assert_array_equal(one.boxes[ours], expected.boxes[order].astype(np.float32))
        np.testing.assert_array_equal(one.labels[ours], expected.classes[order])
        assert (np.diff(one.scores) <= 0).all()
        assert one.names == tuple(detector.classes[label] for label in one.labels)


def test_detector__every_kind_of_picture_is_the_same_picture(weights, voc_tree, tmp_path):
    path = voc_tree.picture("000001")
    detector = load_detector(weights, engine="torchvision", device="cpu")
    expected = detector(path)
    assert len(expected) > 0
    pixels = np.asarray(Image.open(path).convert("RGB"))
    kinds = [str(path), Image.open(path), pixels, torch.from_numpy(pixels.transpose(2, 0, 1).copy())]
    for kind in (*kinds, pixels[:, ::-1][:, ::-1]):  # the last is no contiguous array
        assert equal(detector(kind), expected)
    for found in (detector(kinds), detector(tuple(kinds)), list(detector.stream(iter(kinds)))):
        assert len(found) == 4
        assert all(equal(one, expected) for one in found)
    assert detector([]) == []
    (alone,) = detector([path])
    assert equal(alone, expected)


def test_detector__opened_pictures_are_read_as_their_files_are(weights, tmp_path):
    """Turned by the camera, grey, with a palette, 12 of 16 bits: what is opened is what the path would give."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(noise).save(tmp_path / "turned.tif", exif=exif)
    Image.fromarray(noise[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(noise).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) << 4).save(tmp_path / "deep.png")
    detector = load_detector(weights, engine="torchvision", device="cpu")
    for path in [*tmp_path.glob("*.*g"), tmp_path / "turned.tif"]:
        with Image.open(path) as opened:
            assert equal(detector(opened), detector(path)), path
        with Image.open(path) as opened:
            opened.load()
            assert equal(detector(opened), detector(path)), path
    assert len(list(tmp_path.glob("*.*g"))) == 4


def test_detector__leaves_its_pictures_alone(weights):
    pixels = np.full((30, 40, 3), 90, np.uint8)
    tensor, image = torch.full((3, 30, 40), 90, dtype=torch.uint8), Image.fromarray(pixels)
    load_detector(weights, engine="torchvision", device="cpu")([pixels, tensor, image])
    assert (pixels == 90).all()
    assert (tensor == 90).all()
    assert image.size == (40, 30)


def test_load_detector__both_engines_find_the_same(weights, voc_tree):
    pytest.importorskip("detectron2")
    path = voc_tree.picture("000001")
    one, other = (load_detector(weights, engine=engine, device="cpu") for engine in ENGINES)
    assert (one.engine, other.engine) == ENGINES
    assert equal(one(path), other(path))


def test_load_detector__files_of_either_engine_in_either(configure, voc_tree):
    pytest.importorskip("detectron2")
    for trained_by in ENGINES:
        cfg = configure("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.01, run=trained_by)
        select(trained_by).train(*read_run_data(cfg), resume=False)
        file = f"{cfg.OUTPUT_DIR}/model_final.pth"
        one, other = (load_detector(file, engine=engine, device="cpu") for engine in ENGINES)
        assert one.classes == other.classes
        found = one(voc_tree.picture("000001"))
        assert len(found) > 0
        assert equal(found, other(voc_tree.picture("000001")))
        one.save(f"{cfg.OUTPUT_DIR}/small.pth")
        assert os.path.getsize(f"{cfg.OUTPUT_DIR}/small.pth") < 0.6 * os.path.getsize(file)


def test_load_detector__settings(weights, voc_tree):
    path = voc_tree.picture("000001")
    detector = load_detector(weights, engine="torchvision", device="cpu")
    assert detector.classes == ("dog", "person", "car")
    assert str(weights) == detector.config.MODEL.WEIGHTS
    everything = detector(path)
    limit = float(np.median(everything.scores))
    found = load_detector(weights, engine="torchvision", confidence_threshold=limit)(path)
    np.testing.assert_array_equal(found.scores, everything.scores[everything.scores > np.float32(limit)])
    small = load_detector(weights, engine="torchvision", opts=["INPUT.MIN_SIZE_TEST", "32", "MODEL.DEVICE", "cpu"])
    assert small.config.INPUT.MIN_SIZE_TEST == 32
    assert not equal(small(path), everything)


def test_load_detector__what_a_cpu_trained_goes_to_the_gpu(weights, voc_tree):
    path = voc_tree.picture("000001")
    expected = load_detector(weights, engine="torchvision")(path)
    assert "DEVICE: cpu" in load_checkpoint(weights)["config"]
    with pretended_cuda():
        detector = load_detector(weights, engine="torchvision")
        assert detector.config.MODEL.DEVICE == "cuda"
        assert equal(detector(path), expected)


def test_load_detector__a_file_without_config_and_one_beside_it(weights, voc_tree, tmp_path):
    content = load_checkpoint(weights)
    save_checkpoint({"model": content["model"]}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match=r"bare.pth does not carry the config of its detector; give it with --config-"):
        load_detector(tmp_path / "bare.pth")
    (tmp_path / "its.yaml").write_text(content["config"])
    detector = load_detector(tmp_path / "bare.pth", config_file=tmp_path / "its.yaml", engine="torchvision")
    path = voc_tree.picture("000001")
    assert equal(detector(path), load_detector(weights, engine="torchvision")(path))


def test_save__what_training_needs_is_left_out_and_the_rest_is_the_file(engine, weights, voc_tree, tmp_path):
    load_detector(weights, engine=engine).save(tmp_path / "detector.pth")
    before, after = load_checkpoint(weights), load_checkpoint(tmp_path / "detector.pth")
    assert set(after) == {"model", "config", "card", "iteration", "processes"}
    assert all(torch.equal(after["model"][name], value) for name, value in before["model"].items())
    assert {name: after[name] for name in ("config", "card", "iteration", "processes")} == {
        name: before[name] for name in ("config", "card", "iteration", "processes")
    }
    path = voc_tree.picture("000001")
    assert equal(load_detector(tmp_path / "detector.pth", engine=engine)(path), load_detector(weights)(path))
    load_detector(weights, engine=engine, confidence_threshold=0.9).save(tmp_path / "sure.pth")
    assert load_detector(tmp_path / "sure.pth").config.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.9


def test_load_detector__trained_with_mixed_precision_runs_where_there_is_none(engine, weights, voc_tree, tmp_path):
    content = load_checkpoint(weights)
    off, on = (f"AMP:\n    DTYPE: auto\n    ENABLED: {enabled}" for enabled in ("false", "true"))
    content["config"] = content["config"].replace(off, on)
    assert on in content["config"]
    save_checkpoint(content, tmp_path / "mixed.pth")
    path = voc_tree.picture("000001")
    found = load_detector(tmp_path / "mixed.pth", engine=engine, device="cpu")(path)
    assert equal(found, load_detector(weights, engine=engine, device="cpu")(path))


def test_load_detector__refuses_what_is_no_detector(weights, tmp_path):
    backbone = {name: value for name, value in load_checkpoint(weights)["model"].items() if "roi_heads" not in name}
    save_checkpoint({"model": backbone, "card": {}}, tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=r"backbone.pth is no trained detector, but a backbone or a classifier"):
        load_detector(tmp_path / "backbone.pth")
    save_checkpoint([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list.pth is no trained detector, but something else"):
        load_detector(tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text.pth is not a weights file"):
        load_detector(tmp_path / "text.pth")
    with pytest.raises(FileNotFoundError, match=r"none.pth does not exist"):
        load_detector(tmp_path / "none.pth")


@pytest.mark.parametrize(
    "text, fault",
    [
        ("MODEL:\n  NEWS: 3\n", r"config in .*odd.pth: unknown config key MODEL.NEWS.*\n.*is of another version"),
        ("a: [", r"config in .*odd.pth.*line 1: not valid YAML"),
        ("[]", r"config in .*odd.pth: expected a mapping of config keys"),
        ("VERSION: 1", r"VERSION is 1; expected 2"),
    ],
)
def test_load_detector__refuses_a_config_of_another_version(weights, tmp_path, text, fault):
    save_checkpoint({**load_checkpoint(weights), "config": text}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=fault):
        load_detector(tmp_path / "odd.pth", engine="torchvision")


def test_load_detector__refuses_wrong_arguments(weights, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"the confidence threshold is 2; expected 0 to 1"):
        load_detector(weights, confidence_threshold=2)
    with pytest.raises(ValueError, match=r"the device is 'gpu'; expected 'auto', 'cpu', 'cuda' or 'cuda:<number>'"):
        load_detector(weights, device="gpu")
    with pytest.raises(ValueError, match=r"the device is 'cuda', but PyTorch sees no GPU here; use 'cpu'"):
        load_detector(weights, device="cuda")


def test_detector__refuses_what_is_no_picture(weights, tmp_path):
    detector = load_detector(weights, engine="torchvision", device="cpu")
    good = np.zeros((8, 9, 3), np.uint8)
    (tmp_path / "a.jpg").write_text("no picture")
    for bad, error, fault in (
        (tmp_path / "a.jpg", ValueError, r"a.jpg cannot be read: not a picture of a known format"),
        (tmp_path / "none.jpg", FileNotFoundError, r"none.jpg"),
        (np.zeros((3, 8, 9), np.uint8), ValueError, r"a uint8 array \(H, W, 3\) in RGB, but got uint8 of shape \(3, 8"),
        (np.zeros((8, 9, 3)), ValueError, r"expected a uint8 array \(H, W, 3\) in RGB, but got float64 of shape"),
        (
            torch.zeros(8, 9, 3, dtype=torch.uint8),
            ValueError,
            r"a uint8 tensor \(3, H, W\) in RGB, but got torch.uint8",
        ),
        (np.zeros((0, 9, 3), np.uint8), ValueError, r"of shape \(0, 9, 3\)"),
        (
            {"a": 1},
            TypeError,
            r"expected a path, a PIL image, an array or a tensor, but got dict; several pictures are",
        ),
        (Image.new("F", (4, 4)), ValueError, r"floating-point pixels"),
    ):
        with pytest.raises(error, match=fault):
            detector(bad)
        with pytest.raises(error, match=fault if hasattr(bad, "suffix") else f"^picture 2: .*{fault}"):
            detector([good, bad])
    deep = tmp_path / "deep.png"
    import cv2

    cv2.imwrite(str(deep), np.full((8, 9, 3), 900, np.uint16))
    with Image.open(deep) as opened, pytest.raises(ValueError, match=r"^the picture: it has colours of 16 bits"):
        detector(opened)
