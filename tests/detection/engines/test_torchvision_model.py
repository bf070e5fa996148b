"""The detector made of torchvision's parts, without Detectron2: names, loading, and the edge cases."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from detection.engines.torchvision.backbone import FrozenBatchNorm2d
from detection.engines.torchvision.model import build_model
from detection.engines.torchvision.rpn import AnchorGrid
from pretrain.run.checkpoint import load_checkpoint, save_checkpoint
from pretrain.weights.namings import convert_state_dict
from pretrain.weights.resnet import Architecture, backbone_shapes

LOSSES = {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
FULL_SIZE_C4 = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 20,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
}
FULL_SIZE_FPN = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 20,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
}


def c4_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of R50-C4 on the 20 VOC classes (facts: Detectron2's own state dict)."""
    shapes = {
        f"{'roi_heads' if name.startswith('res5') else 'backbone'}.{name}": shape
        for name, shape in backbone_shapes(Architecture(50)).items()
    }
    for name, shape in {
        "proposal_generator.rpn_head.conv": (1024, 1024, 3, 3),
        "proposal_generator.rpn_head.objectness_logits": (15, 1024, 1, 1),
        "proposal_generator.rpn_head.anchor_deltas": (60, 1024, 1, 1),
        "roi_heads.box_predictor.cls_score": (21, 2048),
        "roi_heads.box_predictor.bbox_pred": (80, 2048),
    }.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def fpn_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of R50-FPN on the 20 VOC classes."""
    shapes = {f"backbone.bottom_up.{name}": shape for name, shape in backbone_shapes(Architecture(50)).items()}
    heads = {
        "proposal_generator.rpn_head.conv": (256, 256, 3, 3),
        "proposal_generator.rpn_head.objectness_logits": (3, 256, 1, 1),
        "proposal_generator.rpn_head.anchor_deltas": (12, 256, 1, 1),
        "roi_heads.box_head.fc1": (1024, 256 * 7 * 7),
        "roi_heads.box_head.fc2": (1024, 1024),
        "roi_heads.box_predictor.cls_score": (21, 1024),
        "roi_heads.box_predictor.bbox_pred": (80, 1024),
    }
    for stage, channels in zip((2, 3, 4, 5), (256, 512, 1024, 2048), strict=True):
        heads[f"backbone.fpn_lateral{stage}"] = (256, channels, 1, 1)
        heads[f"backbone.fpn_output{stage}"] = (256, 256, 3, 3)
    for name, shape in heads.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


@pytest.mark.parametrize(
    "kind, changes, shapes, num_tensors, millions, millions_trained",
    [
        ("c4", FULL_SIZE_C4, c4_shapes(), 275, 33.18, 32.95),
        ("fpn", FULL_SIZE_FPN, fpn_shapes(), 295, 41.39, 41.17),
    ],
    ids=["c4", "fpn"],
)
def test_build_model__has_detectron2s_tensors(
    make_config, kind, changes, shapes, num_tensors, millions, millions_trained
):
    model = build_model(make_config(kind, changes | {"MODEL.RESNETS.NORM": "FrozenBN"}))
    state = model.detectron2_state_dict()
    assert len(state) == num_tensors
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters) / 1e6 == pytest.approx(millions, abs=0.005)
    assert sum(p.numel() for p in parameters if p.requires_grad) / 1e6 == pytest.approx(millions_trained, abs=0.005)


@pytest.mark.parametrize("kind", ["c4", "fpn"])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_losses__are_finite_and_leave_the_samples_alone(make_config, samples, kind, norm):
    model = build_model(make_config(kind, {"MODEL.RESNETS.NORM": norm}))
    assert model.training
    before = copy.deepcopy(samples)
    losses = model(samples)
    assert losses.keys() == LOSSES
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    for sample, old in zip(samples, before, strict=True):
        assert all(torch.equal(sample[name], old[name]) for name in ("image", "boxes", "classes"))


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_losses__without_any_object(make_config, samples, kind):
    model = build_model(make_config(kind))
    losses = model([samples[1], samples[1]])
    sum(losses.values()).backward()
    assert losses["loss_box_reg"] == 0
    assert losses["loss_rpn_loc"] == 0
    assert losses["loss_cls"] > 0
    assert losses["loss_rpn_cls"] > 0
    for layer in (model.roi_heads.box_predictor.bbox_pred, model.proposal_generator.rpn_head.bbox_pred):
        assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_losses__without_any_region(make_config, samples, kind):
    model = build_model(make_config(kind, {"MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 10000}))
    losses = model([samples[1]])
    assert losses["loss_cls"] == 0
    assert losses["loss_box_reg"] == 0
    sum(losses.values()).backward()


def test_losses__of_diverged_weights_are_no_numbers(make_config, samples):
    model = build_model(make_config("fpn"))
    model.proposal_generator.rpn_head.bbox_pred.bias.data[0] = float("inf")  # of anchors that no loss may have drawn
    losses = model(samples)
    assert {name for name, loss in losses.items() if loss.isnan()} == {"loss_rpn_cls", "loss_rpn_loc"}


@pytest.mark.parametrize("kind", ["c4", "fpn"])
@pytest.mark.parametrize(
    "changes",
    [
        {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1.0},
        {"MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 10000},
    ],
    ids=["no-score", "no-proposal"],
)
def test_detections__can_be_empty(make_config, samples, kind, changes):
    for found in build_model(make_config(kind, changes)).eval()(samples):
        assert (found["boxes"].shape, found["boxes"].dtype) == ((0, 4), torch.float32)
        assert (found["scores"].shape, found["scores"].dtype) == ((0,), torch.float32)
        assert (found["classes"].shape, found["classes"].dtype) == ((0,), torch.int64)


def test_detections__leave_out_what_is_not_finite(make_config, samples):
    model = build_model(make_config("fpn", {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0})).eval()
    model.roi_heads.box_predictor.bbox_pred.bias.data[:] = float("nan")
    assert all(len(found["boxes"]) == 0 for found in model(samples))


def test_detections__are_in_the_original_picture(make_config, calibrate, samples):
    model = build_model(make_config("fpn"))
    calibrate(model, samples)
    height, width = samples[0]["image"].shape[1:]
    plain, large = (model([{**samples[0], "height": scale * height, "width": 3 * width}])[0] for scale in (1, 2))
    assert len(plain["boxes"]) >= 5
    assert not plain["boxes"].requires_grad
    assert torch.equal(large["scores"], plain["scores"])
    assert torch.equal(large["boxes"], plain["boxes"] * torch.tensor([1, 2, 1, 2]))
    assert plain["boxes"].amax(dim=0)[2] > width
    assert (plain["boxes"] >= 0).all()
    assert (large["boxes"] <= torch.tensor([3, 2, 3, 2]) * torch.tensor([width, height, width, height])).all()
    assert torch.equal(plain["scores"], plain["scores"].sort(descending=True).values)


@pytest.mark.parametrize("kind, size", [("c4", (77, 94)), ("fpn", (96, 96))])
def test_batch__is_normalised_then_padded(make_config, samples, kind, size):
    cfg = make_config(kind)
    model = build_model(cfg).eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(samples)
    (batch,) = seen
    assert batch.shape == (2, 3, *size)
    for padded, sample in zip(batch, samples, strict=True):
        image = sample["image"]
        inside = padded[:, : image.shape[1], : image.shape[2]]
        mean, std = (torch.tensor(values)[:, None, None] for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
        assert torch.allclose(inside * std + mean, image.float(), atol=1e-4)
        assert padded.count_nonzero() == inside.count_nonzero()


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_channels_last__is_another_layout_of_the_same_detector(make_config, samples, calibrate, kind):
    model, other = (build_model(make_config(kind, {"MODEL.CHANNELS_LAST": last})) for last in (False, True))
    calibrate(model, samples)
    other.load_detectron2_state_dict(model.detectron2_state_dict())
    seen = []
    for module in (other.backbone, other.proposal_generator.rpn_head):
        module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    expected = model.train()(samples)
    torch.manual_seed(0)
    losses = other.train()(samples)
    for name, loss in expected.items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=1e-3), name
    batch, (level, *_) = seen
    weights = [p for p in other.backbone.parameters() if p.dim() == 4]
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (batch, level, *weights))


def test_anchors__by_hand(make_config):
    cfg = make_config(
        "c4",
        {
            "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32]],
            "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[1.0, 4.0]],
        },
    )
    (anchors,) = AnchorGrid(cfg, [16])([torch.zeros(1, 8, 2, 3)])
    assert anchors.shape == (2 * 3 * 4, 4)
    # size 16: 16x16, then 8 wide and 32 high; size 32: 32x32, then 16 wide and 64 high; the first centre is (8, 8)
    first_cell = torch.tensor([[0, 0, 16, 16], [4, -8, 12, 24], [-8, -8, 24, 24], [0, -24, 16, 40]])
    assert torch.equal(anchors[:4], first_cell.float())
    assert torch.equal(anchors[4:8] - anchors[:4], torch.tensor([16.0, 0, 16, 0]).expand(4, 4))  # next column
    assert torch.equal(anchors[12:16] - anchors[:4], torch.tensor([0, 16.0, 0, 16]).expand(4, 4))  # next row


def test_frozen_norm__is_the_identity_when_fresh_and_one_map_in_both_branches():
    norm = FrozenBatchNorm2d(4)
    x = torch.randn(2, 4, 3, 3)
    assert torch.allclose(norm(x), x)
    for buffer in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        buffer.uniform_(0.5, 2)
    expected = nn.BatchNorm2d(4).eval()
    expected.load_state_dict(norm.state_dict(), strict=False)
    assert torch.equal(norm(x), expected(x).detach())
    assert torch.allclose(norm(x.requires_grad_()), expected(x), atol=1e-6)


STAGES = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


@pytest.mark.parametrize("kind, freeze_at, frozen", [
    ("c4", 0, ()),
    ("c4", 2, STAGES[:3]),
    ("c4", 5, STAGES[:5]),  # res5 is in the RoI heads
    ("fpn", 4, STAGES[:5]),
    ("fpn", 5, STAGES),
])  # fmt: skip
def test_freeze_at__stops_gradients_and_statistics(make_config, samples, kind, freeze_at, frozen):
    model = build_model(make_config(kind, {"MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": freeze_at}))
    body = {"c4": "body", "fpn": "bottom_up"}[kind]
    assert not {stage for stage in frozen if not hasattr(getattr(model.backbone, body), stage)}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(model(samples).values()).backward()
    optimizer.step()
    for name, tensor in model.state_dict().items():
        moved = not torch.equal(tensor, before[name])
        in_frozen_stage = name.startswith(tuple(f"backbone.{body}.{stage}." for stage in frozen))
        if in_frozen_stage or name.endswith((".weight", ".running_mean", ".running_var")):
            assert moved != in_frozen_stage, name


@pytest.mark.parametrize("kind", ["c4", "fpn"])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_load__a_whole_saved_state(make_config, samples, calibrate, tmp_path, kind, norm):
    cfg = make_config(kind, {"MODEL.RESNETS.NORM": norm})
    model, other = build_model(cfg), build_model(cfg)
    calibrate(model, samples)
    save_checkpoint({"model": model.detectron2_state_dict()}, tmp_path / "model.pth")
    report = other.load_detectron2_state_dict(load_checkpoint(tmp_path / "model.pth")["model"])
    assert (report.missing, report.unexpected) == ((), ())
    assert len(report.loaded) == sum(not name.endswith("num_batches_tracked") for name in other.state_dict())
    for found, expected in zip(other.eval()(samples), model.eval()(samples), strict=True):
        assert all(torch.equal(found[name], expected[name]) for name in ("boxes", "scores", "classes"))


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize(
    "kind, make_resnet, num_loaded, num_missing",
    [
        ("c4", resnet50, 265, 10),
        ("fpn", resnet18, 100, 16 + 6 + 4 + 4),  # missing: pyramid, RPN, two linear layers, predictor
    ],
)
def test_load__a_converted_backbone(make_config, kind, make_resnet, num_loaded, num_missing, norm):
    model = build_model(make_config(kind, {"MODEL.RESNETS.NORM": norm})).eval()
    resnet = make_resnet().eval()
    for layer in resnet.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    arrays = {name: tensor.numpy() for name, tensor in convert_state_dict(resnet.state_dict()).items()}
    report = model.load_detectron2_state_dict({**arrays, "fc.weight": np.zeros((10, 512))})
    assert len(report.loaded) == num_loaded
    assert len(report.missing) == num_missing
    assert report.unexpected == ("fc.weight",)

    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
        expected = resnet.layer3(resnet.layer2(resnet.layer1(expected)))
        deepest = resnet.layer4(expected)
        if kind == "c4":
            assert torch.equal(model.backbone(images)["res4"], expected)
            assert torch.equal(model.roi_heads.box_head.res5(expected), deepest)
        else:
            assert torch.equal(model.backbone.bottom_up(images)["res5"], deepest)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"roi_heads.box_predictor.cls_score.bias": torch.zeros(21)},
            r"roi_heads.box_predictor.cls_score.bias has shape \(21,\), but the model needs \(4,\); .* of classes",
        ),
        ({"roi_heads.box_predictor.cls_score.bias": 3}, r"cls_score.bias is a int; expected a tensor of shape \(4,\)"),
        (
            {"stem.conv1.weight": torch.zeros(64, 3, 7, 7)},
            r"hold backbone.bottom_up.stem.conv1.weight twice, as backbone.bottom_up.stem.conv1.weight and as stem",
        ),
    ],
)
def test_load__refuses_what_does_not_fit_and_changes_nothing(make_config, change, message):
    model = build_model(make_config("fpn"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ones = {name: torch.ones_like(tensor) for name, tensor in model.detectron2_state_dict().items()}
    with pytest.raises(ValueError, match=message):
        model.load_detectron2_state_dict(ones | change)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_load__refuses_names_of_another_kind(make_config):
    with pytest.raises(ValueError, match=r"none of the weights' names .*\(conv1.weight, .*convert_checkpoint"):
        build_model(make_config("fpn")).load_detectron2_state_dict(resnet18().state_dict())
