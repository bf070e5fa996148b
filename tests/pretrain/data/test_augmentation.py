"""Training pictures: torchvision's colours and its reference pipeline to the bit, and lighting by its formula."""

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from pretrain.config import load_pretrain_config
from pretrain.data import augmentation
from pretrain.data.augmentation import ColorJitter, PcaLighting, train_transform
from pretrain.learner import Preparation


def pictures(count=24):
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        picture = torch.randint(0, 256, (3, 19, 17 + number), dtype=torch.uint8, generator=generator)
        yield picture if number % 2 else picture.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def drawn(transform, picture, seed):
    torch.manual_seed(seed)
    return transform(picture)


@pytest.mark.parametrize("strength", [0.4, 3.0])  # all orders of the changes, also where most levels are cut off
def test_color_jitter__is_torchvisions_to_the_bit(strength):
    ours, theirs = (jitter(strength, strength, strength) for jitter in (ColorJitter, v2.ColorJitter))
    for seed, picture in enumerate(pictures()):
        before = picture.clone()
        changed = drawn(ours, picture, seed)
        assert torch.equal(changed, drawn(theirs, picture, seed))
        assert changed.dtype == torch.uint8
        assert torch.equal(picture, before)


def test_color_jitter__leaves_pil_to_torchvision():
    picture = Image.new("RGB", (3, 2), (10, 100, 200))
    ours, theirs = (drawn(jitter(0.4, 0.4, 0.4), picture, 1) for jitter in (ColorJitter, v2.ColorJitter))
    assert ours.tobytes() == theirs.tobytes()
    assert isinstance(ours, Image.Image)


@pytest.mark.parametrize("std", [0.1, 10.0, 1000.0])
def test_pca_lighting__adds_whole_levels_and_saturates(std):
    for seed, picture in enumerate(pictures()):
        torch.manual_seed(seed)
        weights = torch.randn(3) * std
        shift = 255 * (augmentation._PCA_VECTORS * weights * augmentation._PCA_VALUES).sum(dim=1)
        expected = (picture.double() + shift.round().double()[:, None, None]).clamp(0, 255)
        before = picture.clone()
        assert torch.equal(drawn(PcaLighting(std), picture, seed).double(), expected)
        assert torch.equal(picture, before)


def reference_preset(cfg):
    """torchvision's references/classification/presets.py, with ta_wide and random_erase: normalised floats come out."""
    mean, std = ([level / 255 for level in levels] for levels in (cfg.DATA.PIXEL_MEAN, cfg.DATA.PIXEL_STD))
    steps = [
        v2.RandomResizedCrop(cfg.DATA.TRAIN_SIZE, antialias=True),
        v2.RandomHorizontalFlip(0.5),
        v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean, std),
        v2.RandomErasing(p=0.3),
    ]
    return v2.Compose(steps)


@pytest.mark.parametrize("decoder", ["opencv", "pillow"])
def test_train_transform__is_torchvisions_reference_preset(decoder):
    """The same draws: equal pictures, but for the box, which has the nearest whole levels to its zeros."""
    keys = {
        "DATA.TRAIN_SIZE": 12, "DATA.TRIVIAL_AUGMENT": True, "DATA.ERASE_PROB": 0.3, "DATA.COLOR_JITTER": 0,
        "DATA.PCA_LIGHTING": 0,
    }  # fmt: skip
    cfg = load_pretrain_config(None, [str(item) for pair in keys.items() for item in pair])
    ours, theirs, normalise = train_transform(cfg), reference_preset(cfg), Preparation(cfg, torch.device("cpu"))
    grey = torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None].expand(3, 12, 12)
    boxes = 0
    for seed, picture in enumerate(pictures(60)):
        picture = v2.functional.to_pil_image(picture) if decoder == "pillow" else picture
        changed, expected = drawn(ours, picture, seed), drawn(theirs, picture, seed)
        box = expected == 0  # no level is: the means are none
        boxes += box.any().item()
        assert (changed.dtype, changed.shape) == (torch.uint8, (3, 12, 12))
        assert torch.equal(changed[box], grey[box])
        torch.testing.assert_close(normalise(changed)[~box], expected[~box], rtol=1e-5, atol=1e-5)
    assert 10 < boxes < 30
