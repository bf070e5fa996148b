"""What the methods made of a batch before PATCH and LABEL were keys, to the bit: digests, written at that state."""

import hashlib
from pathlib import Path

import pytest
import torch
import yaml

from pretrain.config import load_pretrain_config
from pretrain.learner import build_mixing

FIRST = yaml.safe_load(Path(__file__).with_name("first_bits.yaml").read_text())
SIZES = [(6, 3, 24, 33), (2, 3, 7, 1), (5, 3, 40, 40)]


@pytest.mark.skipif(torch.__version__.split("+")[0] != FIRST["torch"], reason="the digests are of another PyTorch")
@pytest.mark.parametrize("opts", FIRST["digests"])
def test_mixing__pictures_and_labels_are_bit_equal_to_the_first(opts):
    mix = build_mixing(
        load_pretrain_config(None, [f"MIXING.{word}" if word.isupper() else word for word in opts.split()]), 4
    )
    torch.manual_seed(0)
    digest = hashlib.sha256()
    for size in SIZES:
        images = torch.randint(0, 256, size, dtype=torch.uint8)
        mixed, soft_labels = mix(images, torch.arange(size[0]) % 4)
        digest.update(mixed.numpy().tobytes())
        digest.update(soft_labels.numpy().tobytes())
    assert digest.hexdigest()[:16] == FIRST["digests"][opts]
