"""Class folders -> batches: contents, order, and what is refused."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from pretrain.config import load_pretrain_config
from pretrain.data.augmentation import PcaLighting
from pretrain.data.batches import Batches, Unreadable, load_splits
from pretrain.data.sampling import TrainBatches

DRAWN = ["DATA.TRIVIAL_AUGMENT", "True", "DATA.ERASE_PROB", "0.5", "DATA.TRAIN_SIZE", "12"]
CONFIGS = Path(__file__).resolve().parents[3] / "pretrain" / "configs"


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


def test_load_splits__training_pictures_may_have_a_size_of_their_own(image_folder):
    train, val = load_splits(config(image_folder, "DATA.TRAIN_SIZE", "12"))
    assert (train[0, 5].image.shape, val[0, 5].image.shape) == ((3, 12, 12), (3, 16, 16))


@pytest.mark.parametrize("opts", [[], DRAWN], ids=["default", "drawn"])
def test_pictures__an_item_depends_on_its_seed_alone_and_leaves_the_global_generator(image_folder, opts):
    train, _ = load_splits(config(image_folder, *opts))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train[3, 7][0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(train[3, 7][0], first)
    assert not torch.equal(train[3, 8][0], first)


@pytest.mark.parametrize("opts", [[], DRAWN], ids=["default", "drawn"])
def test_loader__workers_change_nothing(image_folder, opts):
    train, _ = load_splits(config(image_folder, *opts))
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


def unreadable(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"not a picture")


def test_pictures__an_unreadable_one_is_replaced_by_the_next_that_can_be_read(image_folder):
    unreadable(image_folder / "train", "bright/4.png", "bright/5.png")
    train, _ = load_splits(config(image_folder))
    sample = train[4, 99]
    assert torch.equal(sample.image, train[6, 99].image)  # dark/0.png, augmented with the same seed
    assert sample.label == 1
    assert [name.rpartition("/")[2] for name, _ in sample.failures] == ["4.png", "5.png"]
    unreadable(image_folder / "train", "dark/5.png")
    assert train[11, 3].label == 0  # after the last one comes the first


def test_pictures__an_unreadable_validation_picture_is_marked(image_folder):
    unreadable(image_folder / "val", "dark/0.png")
    _, val = load_splits(config(image_folder))
    labels = [val[index, 0].label for index in range(4)]
    assert labels == [0, 0, -1, 1]


def test_pictures__without_a_readable_one_the_error_lists_them(image_folder):
    unreadable(image_folder / "train", *(f"{name}/{number}.png" for name in ("bright", "dark") for number in range(6)))
    train, _ = load_splits(config(image_folder))
    with pytest.raises(ValueError, match=r"12 unreadable pictures, where .* allows 20: .*0\.png: cannot be read"):
        train[0, 0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches__count_each_unreadable_picture_once_up_to_the_limit(image_folder, num_workers, caplog):
    unreadable(image_folder / "train", "bright/0.png", "dark/3.png")
    train, _ = load_splits(config(image_folder))
    twice = TrainBatches(len(train), 4, seed=0, start=0, stop=6)  # two epochs
    ledger = Unreadable(2)
    assert len(list(Batches(train, twice, ledger, num_workers=num_workers, pin_memory=False))) == 6
    assert sorted(name.rpartition("train/")[2] for name in ledger.reasons) == ["bright/0.png", "dark/3.png"]
    assert len([record for record in caplog.records if "cannot be read as a picture" in record.message]) == 2
    with pytest.raises(ValueError, match=r"2 unreadable pictures, where DATA\.MAX_UNREADABLE allows 1: "):
        list(Batches(train, twice, Unreadable(1), num_workers=num_workers, pin_memory=False))


@pytest.mark.parametrize("crop, seeds_differ", [("none", False), ("padded", True), ("resized", True)])
def test_train_transform__crops(image_folder, crop, seeds_differ):
    plain = ["DATA.FLIP_PROB", "0", "DATA.COLOR_JITTER", "0", "DATA.PCA_LIGHTING", "0"]
    train, _ = load_splits(config(image_folder, "DATA.CROP", crop, *plain))
    first = train[0, 0].image
    assert first.shape == (3, 16, 16)
    assert seeds_differ == any(not torch.equal(train[0, seed].image, first) for seed in range(1, 5))
    if crop == "padded":
        assert any((train[0, seed].image == 0).all(dim=0).any() for seed in range(5))  # black comes in at the border


def test_decoders__differ_by_one_level_at_most_after_resampling(image_folder):
    plain = ["DATA.COLOR_JITTER", "0", "DATA.PCA_LIGHTING", "0"]
    fast, reference = (
        load_splits(config(image_folder, *plain, "DATA.DECODER", decoder))[0] for decoder in ("opencv", "pillow")
    )
    for index in range(len(fast)):
        difference = fast[index, index].image.int() - reference[index, index].image.int()
        assert difference.abs().max() <= 1


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    """Write 20 training and 4 test pictures in the layout of CIFAR-10 and CIFAR-100; return their folder."""
    rng = np.random.default_rng(0)

    def write(path, content):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(content))
        return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]

    def pictures(count, key, classes):
        return {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), key: [n % classes for n in range(count)]}

    for reader, key, classes in ((datasets.CIFAR10, "labels", 10), (datasets.CIFAR100, "fine_labels", 100)):
        folder = tmp_path / reader.base_folder
        names = {reader.meta["key"]: [f"class {number}" for number in range(classes)]}
        monkeypatch.setattr(reader, "train_list", [write(folder / "train", pictures(20, key, classes))])
        monkeypatch.setattr(reader, "test_list", [write(folder / "test", pictures(4, key, classes))])
        filename, digest = write(folder / "meta", names)
        monkeypatch.setattr(reader, "meta", {**reader.meta, "filename": filename, "md5": digest})
    return tmp_path


@pytest.mark.parametrize("name, classes", [("cifar10", 10), ("cifar100", 100)])
def test_load_splits__cifar(cifar_folder, name, classes):
    opts = ["DATA.DATASET", name, "DATA.ROOT", str(cifar_folder)]
    cfg = load_pretrain_config(CONFIGS / "cifar10_r18_baseline.yaml", opts)
    train, val = load_splits(cfg)
    assert (len(train), len(val), len(train.classes)) == (20, 4, classes)
    reader = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    stored = reader(str(cifar_folder), train=True).data[7]
    assert torch.equal(train[7, 0].image, torch.from_numpy(stored).permute(2, 0, 1))  # without "+" nothing is changed
    assert train[7, 0].label == 7


def test_load_splits__refuses_cifar_that_is_not_there(tmp_path):
    cfg = config(tmp_path, "DATA.DATASET", "cifar10")
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py is not there .*; unpack https.*DOWNLOAD True"):
        load_splits(cfg)


def test_load_splits__refuses_damaged_cifar(cifar_folder):
    (cifar_folder / "cifar-10-batches-py" / "train").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py is not there or not whole"):
        load_splits(config(cifar_folder, "DATA.DATASET", "cifar10"))
