"""Class folders -> batches: contents, order, and what is refused."""

import pytest
import torch
from PIL import Image

from pretrain.config import load_pretrain_config
from pretrain.data import EvalBatches, PcaLighting, TrainBatches, load_splits, make_loader, mix_seed


def config(root, *opts):
    return load_pretrain_config(
        None, ["DATA.ROOT", str(root), "DATA.IMAGE_SIZE", "16", "DATA.EVAL_RESIZE", "18", *opts]
    )


def take(pictures, batches, num_workers=0):
    return list(make_loader(pictures, batches, num_workers=num_workers, pin_memory=False))


def test_load_splits__classes_and_8_bit_pictures(image_folder):
    train, val = load_splits(config(image_folder))
    assert train.classes == val.classes == ["bright", "dark"]
    assert (len(train), len(val)) == (12, 4)
    picture, label = train[0, 5]
    assert (picture.dtype, tuple(picture.shape), label) == (torch.uint8, (3, 16, 16), 0)


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


def test_train_batches__each_epoch_is_a_permutation_without_the_partial_batch():
    batches = list(TrainBatches(11, 3, seed=0, start=0, stop=6))  # 3 batches an epoch, two epochs
    epochs = [[index for batch in batches[first : first + 3] for index, _ in batch] for first in (0, 3)]
    assert all(len(set(epoch)) == 9 and set(epoch) < set(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert len({seed for batch in batches for _, seed in batch}) == 18  # a picture is augmented anew in each epoch


def test_train_batches__resuming_goes_on_with_the_next_sample():
    whole = list(TrainBatches(11, 3, seed=4, start=0, stop=9))
    assert list(TrainBatches(11, 3, seed=4, start=4, stop=9)) == whole[4:]
    assert list(TrainBatches(11, 3, seed=5, start=0, stop=9)) != whole


def test_train_batches__refuses_a_batch_larger_than_the_data():
    with pytest.raises(ValueError, match=r"SOLVER\.BATCH_SIZE is 12, but there are only 11 training pictures"):
        TrainBatches(11, 12, seed=0, start=0, stop=1)


def test_eval_batches__every_sample_once_in_order():
    assert [[i for i, _ in batch] for batch in EvalBatches(5, 2)] == [[0, 1], [2, 3], [4]]
    assert len(EvalBatches(5, 2)) == 3


def test_mix_seed__depends_on_every_part_and_order():
    seeds = {mix_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)


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


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_pictures__an_unreadable_picture_is_named(image_folder, damage):
    path = image_folder / "train" / "bright" / "0.png"
    data = path.read_bytes()
    path.write_bytes(b"not a picture" if damage == "text" else data[: len(data) // 2])
    train, _ = load_splits(config(image_folder))
    with pytest.raises(ValueError, match=r"bright/0\.png: cannot be read as a picture"):
        train[0, 0]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK"])
def test_pictures__every_colour_mode_becomes_rgb(image_folder, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    path = image_folder / "train" / "bright" / f"0.{suffix}"
    with Image.open(image_folder / "train" / "bright" / "1.png") as picture:
        picture.convert("RGB").convert(mode).save(path)
    train, _ = load_splits(config(image_folder))
    assert train[0, 0][0].shape == (3, 16, 16)
