"""Detections on any pictures: drawn where they are, written as JSON, by the config that the weights carry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detection.config import load_detection_config
from detection.engines.torchvision.model import build_model
from detection.evaluation.detections import PictureDetections
from detection.predict import class_colour, collect_pictures, draw, load_config_of, predict
from pretrain.run.checkpoint import save_checkpoint

SMOKE = Path(__file__).resolve().parents[2] / "detection" / "configs" / "smoke.yaml"


@pytest.fixture
def weights(tmp_path):
    """A detector with weights that find something, as training would leave it."""
    torch.manual_seed(0)
    cfg = load_detection_config(
        SMOKE, ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "3", "VOC.CLASSES", "('dog', 'person', 'car')"]
    )
    path = tmp_path / "model_final.pth"
    model = build_model(cfg)
    model.roi_heads.box_predictor.cls_score.bias.data[1] = 3.0
    save_checkpoint({"model": model.detectron2_state_dict(), "config": cfg.dump(), "iteration": 1}, path)
    return path


def test_predict__files_and_json(load_tool, weights, voc_tree, tmp_path, capsys):
    picture, folder = voc_tree.picture("000001"), tmp_path / "more"
    folder.mkdir()
    Image.new("L", (30, 50), 90).save(folder / "grey.png")
    load_tool("predict").main(
        [
            "--weights",
            str(weights),
            "--pictures",
            str(picture),
            str(folder),
            "--min-score",
            "0.3",
            "--output",
            str(tmp_path / "out"),
            "--engine",
            "torchvision",
        ]
    )
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out" / "predictions.json")
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(entry["file"], entry["width"], entry["height"]) for entry in entries] == [
        (str(picture), 64, 48),
        (str(folder / "grey.png"), 30, 50),
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"000001.png", "grey.png", "predictions.json"}
    assert Image.open(tmp_path / "out" / "000001.png").size == (64, 48)
    for entry in entries:
        scores = [found["score"] for found in entry["detections"]]
        assert scores
        assert scores == sorted(scores, reverse=True)
        assert min(scores) > 0.3
        assert {found["class"] for found in entry["detections"]} == {"person"}
        assert all(0 <= found["box"][0] < found["box"][2] <= entry["width"] for found in entry["detections"])


def test_load_config_of__what_the_weights_carry_and_what_is_changed(weights, tmp_path):
    cfg = load_config_of(weights, None, ["INPUT.MIN_SIZE_TEST", "96"])
    assert cfg.VOC.CLASSES == ("dog", "person", "car")
    assert cfg.INPUT.MIN_SIZE_TEST == 96
    assert Path(cfg.MODEL.WEIGHTS) == weights
    assert cfg.MODEL.FPN.OUT_CHANNELS == 32
    assert load_config_of("x.pth", str(SMOKE), []).MODEL.WEIGHTS == "x.pth"
    for text, fault in (("a: [", "line 1: not valid YAML"), ("[]", "expected a mapping of config keys")):
        save_checkpoint({"model": {}, "config": text}, tmp_path / "odd.pth")
        with pytest.raises(ValueError, match=rf"config in .*odd\.pth.*{fault}"):
            load_config_of(tmp_path / "odd.pth", None, [])
    save_checkpoint({"model": {}}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match=r"bare.pth does not carry the config of its detector; give it with --config"):
        load_config_of(tmp_path / "bare.pth", None, [])


def test_draw__outlines_the_pixels_of_the_box():
    image = Image.new("RGB", (100, 80))
    box = PictureDetections(np.array([[20.0, 30.0, 60.0, 70.0]], np.float32), np.array([0.9]), np.array([1]))
    drawn = np.asarray(draw(image, box, ("dog", "cat")))
    colour = class_colour(1, 2)
    assert (drawn[30, 20:60] == colour).all()  # top row, and the last column and row inside [20, 60) and [30, 70)
    assert (drawn[69, 20:60] == colour).all()
    assert (drawn[30:70, 59] == colour).all()
    assert (drawn[30:70, 60] == 0).all()
    assert (drawn[71:] == 0).all()
    assert not np.asarray(image).any()
    assert class_colour(0, 2) != colour


def test_draw__a_picture_of_one_pixel():
    box = PictureDetections(np.array([[0, 0, 1, 1]], np.float32), np.array([0.9]), np.array([0]))
    assert draw(Image.new("RGB", (1, 1)), box, ("dog",)).size == (1, 1)


def test_predict__refuses(weights, tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"a.jpg and .*a.png would both become a.png"):
        collect_pictures([tmp_path], ["dog"])
    with pytest.raises(FileNotFoundError, match=r"picture .*none.jpg does not exist"):
        collect_pictures([tmp_path / "none.jpg"], ["dog"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folder .*empty has no picture"):
        collect_pictures([tmp_path / "empty"], ["dog"])
    with pytest.raises(ValueError, match=r"the lowest score is 2; expected 0 to 1"):
        predict(load_config_of(weights, None, []), [tmp_path / "a.png"], tmp_path / "out", min_score=2)


@pytest.mark.parametrize("name", ["a.png", "b.png"])
def test_predict__overwrites_nothing_but_its_own(weights, tmp_path, name):
    """``a.png`` is looked at; ``b.png`` lies beside ``b.jpg``, which is."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / name)
    Image.new("RGB", (40, 30), "blue").save(folder / "b.jpg")
    content = (folder / name).read_bytes()
    looked_at = folder / (name if name == "a.png" else "b.jpg")
    cfg = load_config_of(weights, None, [])
    with pytest.raises(FileExistsError, match=rf"{name} is there already, .*choose another --output"):
        predict(cfg, [looked_at], folder, engine="torchvision")
    assert (folder / name).read_bytes() == content
    for _ in range(2):  # the second call replaces what the first drew
        predict(cfg, [looked_at], tmp_path / "out", engine="torchvision")
