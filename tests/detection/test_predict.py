"""Detections on any pictures: drawn where they are, written as JSON, by the config that the weights carry."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from detection import load_detector
from detection.detector import Found
from detection.predict import class_colour, collect_pictures, draw, predict


def test_predict__files_and_json(load_tool, weights, voc_tree, tmp_path, capsys):
    picture, folder = voc_tree.picture("000001"), tmp_path / "more"
    folder.mkdir()
    Image.new("L", (30, 50), 90).save(folder / "grey.png")
    load_tool("predict").main(
        [
            "--weights",
            str(weights),
            "--input",
            str(picture),
            str(folder),
            "--confidence-threshold",
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


def test_draw__outlines_the_pixels_of_the_box():
    image = Image.new("RGB", (100, 80))
    box = Found(np.array([[20.0, 30.0, 60.0, 70.0]], np.float32), np.array([0.9]), np.array([1]), ("cat",))
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
    box = Found(np.array([[0, 0, 1, 1]], np.float32), np.array([0.9]), np.array([0]), ("dog",))
    assert draw(Image.new("RGB", (1, 1)), box, ("dog",)).size == (1, 1)


def test_collect_pictures__files_folders_and_patterns(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/c.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "b2.png").mkdir()  # a pattern that fits a folder means the files
    assert collect_pictures([tmp_path / "sub"]) == {"c": tmp_path / "sub" / "c.jpg"}
    assert list(collect_pictures([tmp_path / "b*.png", tmp_path / "a.png"])) == ["b", "a"]
    assert list(collect_pictures([tmp_path / "**" / "*.jpg"])) == ["c"]


def test_collect_pictures__refuses(tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"a.jpg and .*a.png would both become a.png"):
        collect_pictures([tmp_path])
    with pytest.raises(FileNotFoundError, match=r"picture .*none.jpg does not exist"):
        collect_pictures([tmp_path / "none.jpg"])
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"picture .*text.jpg cannot be read: not a picture of a known format"):
        collect_pictures([tmp_path / "text.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folder .*empty has no picture"):
        collect_pictures([tmp_path / "empty"])


@pytest.mark.parametrize("name", ["a.png", "b.png"])
def test_predict__overwrites_nothing_but_its_own(weights, tmp_path, name):
    """``a.png`` is looked at; ``b.png`` lies beside ``b.jpg``, which is."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / name)
    Image.new("RGB", (40, 30), "blue").save(folder / "b.jpg")
    content = (folder / name).read_bytes()
    looked_at = folder / (name if name == "a.png" else "b.jpg")
    detector = load_detector(weights, engine="torchvision", confidence_threshold=0.5)
    with pytest.raises(FileExistsError, match=rf"{name} is there already, .*choose another --output"):
        predict(detector, [looked_at], folder)
    assert (folder / name).read_bytes() == content
    for _ in range(2):  # the second call replaces what the first drew
        predict(detector, [looked_at], tmp_path / "out")
