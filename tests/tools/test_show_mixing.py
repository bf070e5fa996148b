"""tools/show_mixing.py: the sheet it writes, and refusals in words."""

import re

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for number, size in enumerate([(40, 30), (24, 24), (31, 50)]):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        paths.append(tmp_path / f"picture{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture
def show_mixing(load_tool):
    return load_tool("show_mixing").main


def test_show_mixing__every_style_and_method(show_mixing, pictures, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    arguments = ["--input", *map(str, pictures), "--size", "24", "--targets", "2", "--output", str(sheet)]
    assert not show_mixing([*arguments, "--styles", "all", "--methods", "saliencymix", "cutmix", "cutout", "mixup"])
    assert "16 mixed pictures" in capsys.readouterr().out  # 2 targets x (5 styles + 3 other methods)
    with Image.open(sheet) as picture:
        picture.load()
        tall = picture.height
    other = sheet.with_suffix(".jpg")
    assert not show_mixing([*arguments[:-1], str(other), "--saliency", "all", "--share", "0.5"])
    assert "10 mixed pictures" in capsys.readouterr().out  # 2 targets x 5 saliency maps
    with Image.open(other) as picture:
        assert picture.format == "JPEG"
        assert picture.height < tall
    assert {path.name for path in tmp_path.iterdir()} == {*(path.name for path in pictures), "sheet.png", "sheet.jpg"}


def test_show_mixing__says_where_label_and_area_differ_most(show_mixing, pictures, tmp_path, capsys):
    arguments = ["--input", *map(str, pictures), "--size", "24", "--output", str(tmp_path / "sheet.png")]
    assert not show_mixing([*arguments, "--patches", "uniform", "salient_to_salient", "--labels", "all"])
    *_, sheet, most = capsys.readouterr().out.splitlines()
    assert sheet.endswith("18 mixed pictures")  # 3 targets x 2 patches x 3 labels
    assert re.fullmatch(
        r"label and area differ most in row \d+, picture\d in picture\d: the label says 0\.\d\d picture\d, "
        r"the area 0\.\d\d \([+-]0\.\d\d\)",
        most,
    )


@pytest.mark.parametrize("arguments, message", [
    (["--output", "sheet.gif"], r"sheet\.gif: the sheet is a PNG or a JPEG"),
    (["--output", "nowhere/sheet.png"], "nowhere: no such folder for --output"),
    (["--size", "4"], "--size must be at least 8 pixels, but got 4"),
    (["--share", "1.5"], r"--share must be in 0\.\.1, but got 1\.5"),
    (["--targets", "4"], r"--targets must be in 1\.\.3, the number of pictures, but got 4"),
    (["--styles", "salient"], "unknown style 'salient'; known: salient_to_corresponding"),
    (["--patches", "salient"], "unknown patch 'salient'; known: uniform, resized, salient_to_corresponding"),
    (["--labels", "pixels"], "unknown label 'pixels'; known: area, absolute, relative"),
    (["--patches", "resized", "--labels", "relative"], "label 'relative' has no meaning for patch 'resized'"),
    (["--saliency", "sobel"], "unknown saliency 'sobel'"),
    (["--saliency", "basnet"], "needs the option checkpoint"),
    (["--methods", "baseline"], "method 'baseline' does not mix pictures"),
    (["--alpha", "0"], "alpha must be greater than 0"),
])  # fmt: skip
def test_show_mixing__refuses(show_mixing, pictures, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        show_mixing(["--input", *map(str, pictures), "--output", "sheet.png", *arguments])
    assert not (tmp_path / "sheet.png").exists()


def test_show_mixing__refuses_one_picture_and_no_picture(show_mixing, pictures, tmp_path):
    output = ["--output", str(tmp_path / "sheet.png")]
    with pytest.raises(ValueError, match="mixing needs at least 2 pictures, but got 1"):
        show_mixing(["--input", str(pictures[0]), *output])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"picture .*broken\.jpg cannot be read: not a picture of a known format"):
        show_mixing(["--input", str(pictures[0]), str(tmp_path / "broken.jpg"), *output])
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        show_mixing(["--input", str(pictures[0]), str(tmp_path / "missing.jpg"), *output])


def test_show_mixing__takes_folders(show_mixing, pictures, tmp_path, capsys):
    (tmp_path / "._picture0.png").write_bytes(b"no picture")
    output = ["--size", "24", "--output", str(tmp_path / "sheet.png")]
    assert not show_mixing(["--input", str(tmp_path), str(pictures[1]), *output])
    assert "4 mixed pictures" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folder .*empty has no picture"):
        show_mixing(["--input", str(tmp_path / "empty"), *output])
