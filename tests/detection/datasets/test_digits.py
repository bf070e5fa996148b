"""The demo's data: complete, repeatable, and with nothing shared between training and test."""

import numpy as np
import pytest
from PIL import Image

from detection.datasets import digits
from detection.datasets.coco import load_coco
from detection.datasets.voc import load_voc

pytest.importorskip("sklearn", reason='the demo\'s data needs scikit-learn; pip install -e ".[demo]"')
pytest.importorskip("skimage", reason='the demo\'s data needs scikit-image; pip install -e ".[demo]"')


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "VOCdevkit"
    digits.write_devkit(folder, seed=0, trainval=12, test=20, side=96)
    return folder


def test_write_devkit__loads_as_voc_with_tight_boxes_inside(devkit):
    for name, count in (("voc_2007_trainval", 12), ("voc_2012_trainval", 12), ("voc_2007_test", 20)):
        dataset = load_voc(name, root=devkit, classes=digits.DIGIT_CLASSES)
        assert len(dataset.pictures) == count
        for picture in dataset.pictures:
            assert max(picture.width, picture.height) == 96
            assert 1 <= len(picture.objects) <= 5
            for thing in picture.objects:
                xmin, ymin, xmax, ymax = thing.box
                assert 1 <= xmin <= xmax <= picture.width
                assert 1 <= ymin <= ymax <= picture.height
                assert thing.difficult == (ymax - ymin + 1 < digits.DIFFICULT_SIDE)


def test_write_devkit__has_difficult_objects_and_several_sizes(devkit):
    dataset = load_voc("voc_2007_test", root=devkit, classes=digits.DIGIT_CLASSES)
    objects = [thing for picture in dataset.pictures for thing in picture.objects]
    heights = [thing.box[3] - thing.box[1] + 1 for thing in objects]
    assert 0 < sum(thing.difficult for thing in objects) < len(objects) / 2
    assert max(heights) > 2.5 * min(heights)


def test_write_devkit__a_seed_repeats_to_the_byte(devkit, tmp_path):
    digits.write_devkit(tmp_path / "again", seed=0, trainval=12, test=20, side=96)
    digits.write_devkit(tmp_path / "other", seed=1, trainval=12, test=20, side=96)
    name = "VOC2007/JPEGImages/2007_test_00000.jpg"
    assert (tmp_path / "again" / name).read_bytes() == (devkit / name).read_bytes()
    assert (tmp_path / "other" / name).read_bytes() != (devkit / name).read_bytes()


def test_write_coco__has_the_devkits_scenes(devkit, tmp_path):
    digits.write_coco(tmp_path / "coco", seed=0, trainval=12, test=20, side=96)
    for coco_name, voc_names in (
        ("coco_2017_train", ("voc_2007_trainval", "voc_2012_trainval")),
        ("coco_2017_val", ("voc_2007_test",)),
    ):
        coco = load_coco(coco_name, root=tmp_path)
        voc = [load_voc(name, root=devkit, classes=digits.DIGIT_CLASSES) for name in voc_names]
        assert coco.classes == digits.DIGIT_CLASSES
        pictures = [picture for dataset in voc for picture in dataset.pictures]
        assert len(coco.pictures) == len(pictures)
        for ours, theirs in zip(coco.pictures, pictures, strict=True):
            assert ours.path.read_bytes() == theirs.path.read_bytes()
            assert (ours.width, ours.height) == (theirs.width, theirs.height)
            assert [(one.name, one.box) for one in ours.objects] == [(one.name, one.box) for one in theirs.objects]
            assert not any(one.difficult or one.crowd for one in ours.objects)
            areas = [(one.box[2] - one.box[0] + 1) * (one.box[3] - one.box[1] + 1) for one in theirs.objects]
            assert [one.area for one in ours.objects] == areas


def test_material__training_and_held_out_share_neither_handwriting_nor_photographs():
    train, test = digits._material(held_out=False), digits._material(held_out=True)
    assert len(train.digits) + len(test.digits) == 1797
    assert not set(digits.TRAIN_PHOTOS) & set(digits.TEST_PHOTOS)
    assert set(train.labels) == set(test.labels) == set(range(10))


def test_paste__the_box_is_tight_around_the_ink():
    rng = np.random.default_rng(0)
    picture = np.full((64, 64, 3), 128, dtype=np.uint8)
    ink = np.zeros((8, 8))
    ink[1:7, 3:5] = 1.0
    xmin, ymin, xmax, ymax = digits._paste(rng, picture, ink, 40.0, [])
    changed = np.abs(picture.astype(int) - 128).max(axis=2) > 45  # half of the least contrast
    rows, cols = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (
        np.abs(np.array([cols[0] + 1, rows[0] + 1, cols[-1] + 1, rows[-1] + 1]) - (xmin, ymin, xmax, ymax)).max() <= 1
    )


def test_paste__gives_up_where_everything_is_taken():
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    assert digits._paste(np.random.default_rng(0), picture, np.ones((8, 8)), 16.0, [(1, 1, 32, 32)]) is None
    assert not picture.any()


def test_write_image_folder__is_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "_save", lambda picture, path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        digits.write_image_folder(tmp_path / "digits", seed=0, train_per_class=1, val_per_class=1, side=32)
    assert not (tmp_path / "digits").exists()
    monkeypatch.undo()
    digits.write_image_folder(tmp_path / "digits", seed=0, train_per_class=2, val_per_class=1, side=32)
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    pictures = sorted((tmp_path / "digits").glob("*/*/*.jpg"))
    assert len(pictures) == 30
    assert Image.open(pictures[0]).size == (32, 32)
