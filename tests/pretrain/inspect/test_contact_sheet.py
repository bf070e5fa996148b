"""The contact sheet: pictures brought to one size, and a row for each mixed picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.inspect.contact_sheet import Row, difference, furthest, load_pictures, rows_of, rows_of_each


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for number, size in enumerate([(40, 30), (24, 24), (31, 50)]):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        paths.append(tmp_path / f"picture{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_rows_of__the_boxes_are_where_the_pixels_come_from(pictures):
    _, images = load_pictures(pictures, 24)
    moved = 0
    for row in rows_of("saliencymix", images, seed=1, share=0.5, style="salient_to_nonsalient"):
        cut, paste = row.source_box, row.target_box
        expected = images[row.target].clone()
        expected[:, paste.top : paste.top + paste.height, paste.left : paste.left + paste.width] = images[row.source][
            :, cut.top : cut.top + cut.height, cut.left : cut.left + cut.width
        ]
        assert (row.mixed == expected).all()
        assert row.weights[row.target] == pytest.approx(1 - paste.height * paste.width / 24**2)
        assert row.source == (row.target - 1) % 3
        moved += cut != paste
    assert moved


@pytest.mark.parametrize("method", ["cutmix", "cutout"])
def test_rows_of__the_box_of_a_method_that_draws_it(method):
    """Pictures share no value, nor has the hole one of theirs: what differs from the target was replaced."""
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 24, 20).contiguous()
    found = set()
    for seed in range(20):
        for row in rows_of(method, images, seed=seed):
            replaced = torch.zeros(24, 20, dtype=torch.bool)
            if box := row.target_box:
                replaced[box.top : box.top + box.height, box.left : box.left + box.width] = True
            assert torch.equal((row.mixed != images[row.target]).any(dim=0), replaced)
            assert row.source_box == (row.target_box if method == "cutmix" else None)
            if method == "cutmix":
                assert row.weights[row.source] == pytest.approx(int(replaced.sum()) / 480, abs=1e-6)
            found.add(box)
    assert len(found) > 10
    assert rows_of("mixup", images, seed=0)[0].target_box is None


def test_rows_of_each__methods_in_turn_and_every_saliency_and_style_of_saliencymix(pictures):
    _, images = load_pictures(pictures, 24)
    rows = rows_of_each(
        ["cutout", "saliencymix", "mixup"],
        images,
        saliencies=["fine_grained", "frequency_tuned"],
        patches=["salient_to_corresponding", "salient_to_salient"],
        num_targets=2,
        seed=1,
        share=0.5,
        scope="batch",
    )
    assert [row.target for row in rows] == [0, 1] * 6
    assert [row.title.split("\n")[:2] for row in rows[::2]] == [
        ["cutout"],
        ["fine_grained", "salient to corresponding"],
        ["fine_grained", "salient to salient"],
        ["frequency_tuned", "salient to corresponding"],
        ["frequency_tuned", "salient to salient"],
        ["mixup"],
    ]
    assert all(row.title.endswith("batch, clip") for row in rows[2:-2])
    (alone, *_) = rows_of("mixup", images, seed=1, alpha=1.0)
    assert (rows[-2].mixed == alone.mixed).all()


def test_rows_of__a_label_by_saliency_beside_the_area(pictures):
    _, images = load_pictures(pictures, 24)
    by_area = rows_of("saliencymix", images, seed=1, share=0.5, patch="uniform")
    by_saliency = rows_of("saliencymix", images, seed=1, share=0.5, patch="uniform", label="absolute")
    for plain, row in zip(by_area, by_saliency, strict=True):
        assert (row.mixed == plain.mixed).all()
        assert (plain.area, plain.source_map) == (None, None)
        assert row.area == pytest.approx(plain.weights[row.target])
        box = row.target_box
        seen = {row.target: row.target_map.map_.clone(), row.source: torch.zeros(24, 24)}
        inside = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        seen[row.target][inside] = 0
        seen[row.source][inside] = row.source_map.map_[inside]
        expected = seen[row.target].sum() / sum(map_.sum() for map_ in seen.values())
        assert row.weights[row.target] == pytest.approx(expected.item(), abs=1e-5)
        assert difference(row) == row.weights[row.target] - row.area
        assert row.title.endswith("image, clip\nlabel absolute")
        assert row.target_map.anchors == []


def test_rows_of__resizemix_shows_the_whole_source(pictures):
    _, images = load_pictures(pictures, 24)
    for row in rows_of("resizemix", images, seed=1, share=0.75):
        assert row.source_box == (0, 0, 24, 24)
        box = row.target_box
        assert (box.height, box.width) == (12, 12)
        inside = row.mixed[:, box.top : box.top + 12, box.left : box.left + 12]
        assert (inside == images[row.source][:, ::2, ::2]).all()
        assert row.weights[row.target] == 0.75
    for row in rows_of("resizemix", images, seed=1, share=1.0):  # shrunk to nothing
        assert (row.mixed == images[row.target]).all()
        assert row.weights[row.target] == 1


def test_furthest__of_the_rows_that_have_another_label():
    def row(weight, area):
        return Row("", 1, 0, torch.zeros(3, 8, 8), [weight, 1 - weight], area)

    assert furthest([row(0.1, None), row(0.6, 0.7), row(0.25, 0.75), row(0.9, 0.7), row(0.5, 1.0)]) == 2
    assert furthest([row(0.1, None)]) is None


def test_load_pictures__shorter_side_and_centre(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    names, images = load_pictures([tmp_path / "wide.png"] * 2, 20)
    assert names == ["wide", "wide"]
    assert images.shape == (2, 3, 20, 20)
    assert (images == 200).all()


def test_load_pictures__upright(tmp_path):
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:10] = 200
    exif = Image.Exif()
    exif[0x0112] = 3  # held upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    _, images = load_pictures([tmp_path / "turned.png"] * 2, 20)
    assert (images[:, :, :10] == 0).all()
    assert (images[:, :, 10:] == 200).all()
