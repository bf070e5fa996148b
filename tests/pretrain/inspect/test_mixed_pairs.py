"""Pairs as the methods mix them; what the networks see in them is tested with tools/show_cam.py."""

import pytest
import torch

from pretrain.inspect.mixed_pairs import mix_pairs
from pretrain.inspect.pairs import LabelledPicture


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    pictures = [
        LabelledPicture(str(label), label, torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator))
        for label in range(4)
    ]
    return [(pictures[0], pictures[1]), (pictures[2], pictures[3])]


@pytest.mark.parametrize("method", ["saliencymix", "cutmix"])
def test_mix_pairs__the_patch_is_the_sources_and_the_rest_the_targets(pairs, method):
    for (source, target), pair in zip(pairs, mix_pairs(pairs, method, seed=0, share=0.5), strict=True):
        assert (pair.source, pair.target) == (source, target)
        top, left, height, width = pair.box
        expected = target.image.clone()
        part = (slice(None), slice(top, top + height), slice(left, left + width))
        expected[part] = source.image[part]
        assert torch.equal(pair.mixed, expected)
        assert pair.share == pytest.approx(1 - height * width / 256)


def test_mix_pairs__without_a_part_of_the_source(pairs):
    for (_, target), whole, cut in zip(
        pairs, mix_pairs(pairs, "baseline", seed=0), mix_pairs(pairs, "cutout", seed=0), strict=True
    ):
        assert torch.equal(whole.mixed, target.image)
        assert (whole.share, whole.box) == (1, None)
        top, left, height, width = cut.box
        expected = target.image.clone()
        expected[:, top : top + height, left : left + width] = torch.tensor([124, 116, 104]).view(3, 1, 1)
        assert torch.equal(cut.mixed, expected)
        assert cut.share == 1
