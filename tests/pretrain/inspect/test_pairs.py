"""Pairs of pictures of different classes."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pretrain.config import load_pretrain_config
from pretrain.data.sources import ClassFolders
from pretrain.inspect.pairs import choose_pairs, given_pairs


def test_choose_pairs__two_classes_and_no_picture_twice():
    labels = [0] * 6 + [1] * 3 + [2] * 3
    for seed in range(10):
        pairs = choose_pairs(labels, 5, seed=seed)
        assert len({index for pair in pairs for index in pair}) == 10
        assert all(labels[source] != labels[target] for source, target in pairs)
    with pytest.raises(
        ValueError, match="3 pairs of pictures of different classes asked for, but 6 pictures of 2 classes give only 1"
    ):
        choose_pairs([0, 0, 0, 0, 0, 1], 3, seed=0)


@pytest.fixture
def nameless(tmp_path):
    """A checkpoint that does not name its classes, and val/ with a picture of each of three."""
    for level, name in enumerate(("n01", "n02", "n03")):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.fromarray(np.full((16, 16, 3), 50 * level, np.uint8)).save(tmp_path / "val" / name / "one.png")
    return SimpleNamespace(
        path="foreign.pth",
        classes=None,
        cfg=load_pretrain_config(None, ["DATA.IMAGE_SIZE", "16", "DATA.EVAL_RESIZE", "16"]),
        validation_source=lambda root: ClassFolders(root / "val", "pillow"),
        shown_classes=lambda classes: classes,
    )


def test_given_pairs__a_checkpoint_without_names_takes_those_of_the_data(nameless, tmp_path):
    files = [str(tmp_path / "val" / name / "one.png") for name in ("n03", "n02")]
    ((source, target),), classes = given_pairs(nameless, files, tmp_path)
    assert classes == ["n01", "n02", "n03"]
    assert [(one.name, one.label, one.image.unique().tolist()) for one in (source, target)] == [
        (files[0], 2, [100]),
        (files[1], 1, [50]),
    ]
    with pytest.raises(ValueError, match=r"foreign\.pth does not name its classes; give --data-root too"):
        given_pairs(nameless, files)
