"""Optimiser, mixed precision and synchronised BatchNorm, beside Detectron2's where it is installed."""

import pytest
import torch
from torch import nn

from detection.engines.torchvision import backbone
from detection.engines.torchvision.model import build_model
from detection.engines.torchvision.solver import MixedPrecision, build_optimizer, set_learning_rate
from tests.pretended_cuda import pretended_cuda


def settings(optimizer, model, names=lambda name: name):
    """Return the tensor's name -> (rate, decay)."""
    by_id = {id(parameter): names(name) for name, parameter in model.named_parameters()}
    return {
        by_id[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }


BN = {"MODEL.RESNETS.NORM": "BN"}


@pytest.mark.parametrize("kind, changes", [
    ("fpn", BN),
    ("fpn", BN | {"SOLVER.WEIGHT_DECAY_NORM": 0.3}),
    ("fpn", BN | {"SOLVER.BIAS_LR_FACTOR": 2.0, "SOLVER.WEIGHT_DECAY_BIAS": 0.0}),
    ("jwyang", {}),
])  # fmt: skip
def test_build_optimizer__rates_and_decays_are_detectron2s(make_config, kind, changes):
    solver = pytest.importorskip("detectron2.solver", reason="Detectron2 is not installed")
    from detectron2.modeling import build_model as build_theirs

    from detection.engines.detectron2 import detectron2_config
    from detection.engines.torchvision.keys import detectron2_name

    cfg = make_config(kind, {"SOLVER.BASE_LR": 0.02, **changes})
    ours, theirs = build_model(cfg), build_theirs(detectron2_config(cfg))
    optimizer = build_optimizer(cfg, ours)
    set_learning_rate(optimizer, 0.02)
    expected = settings(solver.build_optimizer(detectron2_config(cfg), theirs), theirs)
    assert settings(optimizer, ours, detectron2_name) == expected
    assert len(set(expected.values())) >= 2


@pytest.mark.parametrize("dtype, device, expected, scales", [
    ("auto", "cpu", torch.bfloat16, False),
    ("auto", "cuda", torch.float16, True),
    ("bfloat16", "cuda", torch.bfloat16, False),
    ("float16", "cuda", torch.float16, True),
    ("float16", "cpu", torch.float16, True),
])  # fmt: skip
def test_mixed_precision__types(make_config, dtype, device, expected, scales):
    with pretended_cuda():
        cfg = make_config("fpn", {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": dtype, "MODEL.DEVICE": device})
        precision = MixedPrecision(cfg)
        assert (precision.dtype, precision.scaler.is_enabled()) == (expected, scales)


def test_mixed_precision__goes_on_from_another_device_or_type(make_config):
    changes = {"SOLVER.AMP.ENABLED": True}
    scaling, plain = (
        MixedPrecision(make_config("fpn", changes | {"SOLVER.AMP.DTYPE": f"{kind}16"})) for kind in ("float", "bfloat")
    )
    before = scaling.scaler.state_dict()
    scaling.load_state(plain.scaler.state_dict())  # nothing, which PyTorch refuses
    assert scaling.scaler.state_dict() == before
    plain.load_state(before)
    assert plain.scaler.state_dict() == {}
    scaling.load_state({**before, "scale": 8.0})
    assert scaling.scaler.state_dict()["scale"] == 8.0


def test_mixed_precision__trains_close_to_full_precision_and_off_changes_nothing(make_config, calibrate, samples):
    losses = {}
    for enabled in (False, True):
        torch.manual_seed(0)
        cfg = make_config("fpn", {"SOLVER.AMP.ENABLED": enabled})
        model, precision = build_model(cfg), MixedPrecision(cfg)
        calibrate(model, samples)
        model.train()
        optimizer = build_optimizer(cfg, model)
        torch.manual_seed(1)
        with precision.forward():
            losses[enabled] = model(samples)
        precision.backward(sum(losses[enabled].values()), optimizer)
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
        precision.step(optimizer)
        assert precision.scaler.state_dict() == {}  # bfloat16 has the range of float32
    for name, loss in losses[True].items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(losses[False][name].item(), rel=0.2), name
        assert not torch.equal(loss, losses[False][name]), name


def test_naive_sync_bn__is_one_batch_norm_over_all_processes(monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 6, requires_grad=True)
    whole, naive = nn.BatchNorm2d(3), backbone.NaiveSyncBatchNorm(3)
    nn.init.normal_(whole.weight)
    naive.load_state_dict(whole.state_dict())
    expected = whole(x)
    assert torch.equal(naive(x), expected)  # one process

    half = x[:2].detach()
    other = torch.cat([x[2:].mean((0, 2, 3)), (x[2:] * x[2:]).mean((0, 2, 3))]).detach()
    monkeypatch.setattr(backbone, "_num_processes", lambda: 2)
    monkeypatch.setattr(backbone, "differentiable_all_reduce", lambda moments: moments + other)
    naive.load_state_dict(whole.state_dict())
    before, variance = naive.running_mean.clone(), naive.running_var.clone()
    assert torch.allclose(naive(half), expected[:2], atol=1e-6)
    assert torch.allclose(naive.running_mean, before + 0.1 * (x.mean((0, 2, 3)) - before), atol=1e-6)
    biased = x.var((0, 2, 3), correction=0)
    assert torch.allclose(naive.running_var, variance + 0.1 * (biased - variance), atol=1e-6)
