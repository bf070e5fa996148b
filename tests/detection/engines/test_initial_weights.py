"""One seed, one start: initial weights are the same in both engines and have Detectron2's distributions."""

import math

import pytest
import torch

from detection.engines.initial_weights import draw_initial_weights
from detection.engines.torchvision.model import build_model


@pytest.mark.parametrize("kind, changes", [("fpn", {"MODEL.RESNETS.NORM": "BN"}), ("c4", {})], ids=["fpn", "c4"])
def test_draw_initial_weights__depends_on_the_seed_alone(make_config, kind, changes):
    cfg = make_config(kind, changes)
    drawn = []
    for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(global_seed)
        state = build_model(cfg).detectron2_state_dict()
        before = torch.get_rng_state()
        draw_initial_weights(state, seed)
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append(state)
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    layers = [name for name, tensor in drawn[0].items() if tensor.dim() > 1]
    assert layers
    assert not any(torch.equal(drawn[0][name], drawn[2][name]) for name in layers)


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_draw_initial_weights__engines_start_equal(make_config, kind):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.modeling import build_model as build_theirs

    from detection.engines.detectron2 import detectron2_config

    cfg = make_config(kind)
    ours, theirs = build_model(cfg).detectron2_state_dict(), build_theirs(detectron2_config(cfg)).state_dict()
    for state in (ours, theirs):
        draw_initial_weights(state, 3)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name, shape, std", [
    ("proposal_generator.rpn_head.conv.weight", (64, 64, 3, 3), 0.01),
    ("roi_heads.box_predictor.cls_score.weight", (21, 1024), 0.01),
    ("roi_heads.box_predictor.bbox_pred.weight", (80, 1024), 0.001),
    ("backbone.fpn_lateral3.weight", (256, 128, 1, 1), math.sqrt(1 / 128)),  # uniform within sqrt(3 / fan in)
    ("roi_heads.box_head.fc1.weight", (256, 256), math.sqrt(1 / 256)),
    ("backbone.bottom_up.res3.0.shortcut.weight", (128, 64, 1, 1), math.sqrt(2 / 128)),  # fan out
    ("roi_heads.res5.0.conv2.weight", (64, 32, 3, 3), math.sqrt(2 / (64 * 9))),
    ("backbone.stem.conv1.weight", (64, 3, 7, 7), math.sqrt(2 / (64 * 49))),
])  # fmt: skip
def test_draw_initial_weights__distributions(name, shape, std):
    tensor = torch.zeros(shape)
    draw_initial_weights({name: tensor}, 0)
    assert tensor.std().item() == pytest.approx(std, rel=0.05)
    assert abs(tensor.mean().item()) < 4 * std / math.sqrt(tensor.numel())


def test_draw_initial_weights__an_unknown_layer_is_an_error():
    with pytest.raises(ValueError, match=r"no initial distribution is known for roi_heads.mask_head.deconv.weight"):
        draw_initial_weights({"roi_heads.mask_head.deconv.weight": torch.zeros(2, 2)}, 0)
