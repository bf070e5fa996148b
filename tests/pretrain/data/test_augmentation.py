"""The colours of training pictures: torchvision's to the bit, and lighting by its formula."""

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from pretrain.data import augmentation
from pretrain.data.augmentation import ColorJitter, PcaLighting


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
