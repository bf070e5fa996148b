"""Class folders -> batches: contents, order, and what is refused."""

import pytest
import torch
from PIL import Image

from pretrain.augmentation import PcaLighting
from pretrain.config import load_pretrain_config
from pretrain.data import Batches, Unreadable, load_splits
from pretrain.sampling import TrainBatches


def config(root, *opts):
    return load_pretrain_config(
        None, ["DATA.ROOT", str(root), "DATA.IMAGE_SIZE", "16", "DATA.EVAL_RESIZE", "18", *opts]
    )


def take(pictures, batches, num_workers=0, limit=0):
    return list(Batches(pictures, batches, Unreadable(limit), num_workers=num_workers, pin_memory=False))


def test_load_splits__classes_and_8_bit_pictures(image_folder):
    train, val = load_splits(config(image_folder))
    assert train.classes == val.classes == ["bright", "dark"]
    assert (len(train), len(val)) == (12, 4)
    picture, label, failures = train[0, 5]
    assert (picture.dtype, tuple(picture.shape), label) == (torch.uint8, (3, 16, 16), 0)
    assert failures == []


def test_pictures__an_item_depends_on_its_seed_alone_and_leaves_the_global_generator(image_folder):
    train, _ = load_splits(config(image_folder))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train[3, 7][0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(train[3, 7][0], first)
    assert not torch.equal(train[3, 8][0], first)


def test_loader__workers_change_nothing(image_folder):
    train, _ = load_splits(config(image_folder))
    one, two = (
        take(train, TrainBatches(len(train), 5, seed=3, start=1, stop=5), num_workers=workers) for workers in (0, 2)
    )
    for (images, labels), (other_images, other_labels) in zip(one, two, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_pca_lighting__shifts_all_pixels_alike_and_stays_8_bit():
    torch.manual_seed(0)
    grey = torch.full((3, 4, 4), 128, dtype=torch.uint8)
    lit = PcaLighting(1.0)(grey)
    assert lit.dtype == torch.uint8
    assert (lit != grey).any()
    assert all(len(channel.unique()) == 1 for channel in lit)
    white = torch.full((3, 4, 4), 250, dtype=torch.uint8)
    assert all(int(PcaLighting(1.0)(white).min()) > 100 for _ in range(20))  # saturates instead of wrapping


def test_load_splits__refuses_an_unset_root():
    with pytest.raises(ValueError, match=r"DATA\.ROOT is empty; expected a folder that holds train/ and val/"):
        load_splits(config(""))


def test_load_splits__refuses_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent/train: no such folder"):
        load_splits(config(tmp_path / "absent"))


def test_load_splits__refuses_an_empty_folder(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"train: Couldn't find any class folder"):
        load_splits(config(tmp_path))


def test_load_splits__refuses_an_empty_class_folder(image_folder):
    (image_folder / "train" / "void").mkdir()
    with pytest.raises(FileNotFoundError, match=r"train: Found no valid file for the classes void"):
        load_splits(config(image_folder))


def test_load_splits__refuses_splits_with_different_classes(image_folder):
    (image_folder / "val" / "dark").rename(image_folder / "val" / "night")
    with pytest.raises(ValueError, match=r"same class folders, but dark only in train/, night only in val/"):
        load_splits(config(image_folder))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK"])
def test_pictures__every_colour_mode_becomes_rgb(image_folder, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    path = image_folder / "train" / "bright" / f"0.{suffix}"
    with Image.open(image_folder / "train" / "bright" / "1.png") as picture:
        picture.convert("RGB").convert(mode).save(path)
    train, _ = load_splits(config(image_folder))
    assert train[0, 0][0].shape == (3, 16, 16)
