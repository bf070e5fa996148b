"""The contact sheet: one row for each mixed picture, and refusals in words."""

import numpy as np
import pytest
from PIL import Image

from pretrain.contact_sheet import load_pictures, rows_of


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
    arguments = ["--pictures", *map(str, pictures), "--size", "24", "--targets", "2", "--output", str(sheet)]
    assert not show_mixing([*arguments, "--styles", "all", "--methods", "saliencymix", "cutmix", "cutout", "mixup"])
    assert "16 mixed pictures" in capsys.readouterr().out  # 2 targets x (5 styles + 3 other methods)
    with Image.open(sheet) as picture:
        picture.load()
        tall = picture.height
    assert not show_mixing([*arguments, "--saliency", "all", "--share", "0.5"])
    assert "10 mixed pictures" in capsys.readouterr().out  # 2 targets x 5 saliency maps
    with Image.open(sheet) as picture:
        assert picture.height < tall
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(path.name for path in pictures), "sheet.png"]


def test_rows_of__the_boxes_are_where_the_pixels_come_from(pictures):
    _, images = load_pictures(pictures, 24)
    moved = 0
    for row in rows_of("saliencymix", images, seed=1, share=0.5, style="salient_to_nonsalient"):
        cut, paste = row.source_box, row.target_box
        expected = images[row.target].clone()
        expected[:, paste.top:paste.top + paste.height, paste.left:paste.left + paste.width] = (
            images[row.source][:, cut.top:cut.top + cut.height, cut.left:cut.left + cut.width])  # fmt: skip
        assert (row.mixed == expected).all()
        assert row.weights[row.target] == pytest.approx(1 - paste.height * paste.width / 24**2)
        assert row.source == (row.target - 1) % 3
        moved += cut != paste
    assert moved


def test_load_pictures__shorter_side_and_centre(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    names, images = load_pictures([tmp_path / "wide.png"] * 2, 20)
    assert names == ["wide", "wide"]
    assert images.shape == (2, 3, 20, 20)
    assert (images == 200).all()


@pytest.mark.parametrize("arguments, message", [
    (["--output", "sheet.jpg"], r"sheet\.jpg: the sheet is a PNG"),
    (["--output", "nowhere/sheet.png"], "nowhere: no such folder for --output"),
    (["--size", "4"], "--size must be at least 8 pixels, but got 4"),
    (["--share", "1.5"], r"--share must be in 0\.\.1, but got 1\.5"),
    (["--targets", "4"], r"--targets must be in 1\.\.3, the number of pictures, but got 4"),
    (["--styles", "salient"], "unknown style 'salient'; known: salient_to_corresponding"),
    (["--saliency", "sobel"], "unknown saliency 'sobel'"),
    (["--saliency", "basnet"], "needs the option checkpoint"),
    (["--methods", "baseline"], "method 'baseline' does not mix pictures"),
    (["--alpha", "0"], "alpha must be greater than 0"),
])  # fmt: skip
def test_show_mixing__refuses(show_mixing, pictures, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        show_mixing(["--pictures", *map(str, pictures), "--output", "sheet.png", *arguments])
    assert not (tmp_path / "sheet.png").exists()


def test_show_mixing__refuses_one_picture_and_no_picture(show_mixing, pictures, tmp_path):
    output = ["--output", str(tmp_path / "sheet.png")]
    with pytest.raises(ValueError, match="mixing needs at least 2 pictures, but got 1"):
        show_mixing(["--pictures", str(pictures[0]), *output])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg: not a picture that can be read"):
        show_mixing(["--pictures", str(pictures[0]), str(tmp_path / "broken.jpg"), *output])
    with pytest.raises(ValueError, match=r"missing\.jpg: not a picture that can be read"):
        show_mixing(["--pictures", str(pictures[0]), str(tmp_path / "missing.jpg"), *output])
