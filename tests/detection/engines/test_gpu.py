"""The torchvision engine on a GPU, pretended: nothing is on the wrong device, little waits, and the numbers stay."""

from __future__ import annotations

import pytest
import torch

from detection.engines.torchvision.model import build_model
from detection.engines.torchvision.trainer import Window
from pretrain.run.processes import Processes
from tests.pretended_cuda import pretended_cuda


@pytest.fixture
def make_twins(make_config, calibrate, samples):
    """Return a function from a kind to a detector on the CPU and one with the same weights on the pretended GPU."""

    def make(kind):
        cfg = make_config(kind)
        model = build_model(cfg)
        calibrate(model, samples)
        cfg.MODEL.DEVICE = "cuda"
        there = build_model(cfg)
        there.load_detectron2_state_dict(model.detectron2_state_dict())
        return model, there

    return make


# One wait each for the sampled anchors, the sampled RoIs, the proposals that are large enough, with a pyramid for the
# RoIs of each level; and one for each picture's suppression.
@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("kind, once", [("c4", 3), ("fpn", 4)])
def test_training__waits_a_few_times_and_loses_as_on_the_cpu(make_twins, samples, kind, once, pictures):
    with pretended_cuda() as device:
        model, there = make_twins(kind)
        device.forget()
        torch.manual_seed(0)
        losses = there.train()(samples[:pictures])
        sum(losses.values()).backward()
        assert sum(device.waits.values()) == once + pictures, device.waits
        assert device.copies == 3 * pictures  # image, boxes, classes; none was waited for
        found = {name: loss.item() for name, loss in losses.items()}
        gradients = {name: p.grad.cpu() for name, p in there.named_parameters() if p.requires_grad}
    torch.manual_seed(0)
    expected = model.train()(samples[:pictures])
    sum(expected.values()).backward()
    assert found == {name: loss.item() for name, loss in expected.items()}
    assert all(torch.equal(gradients[name], p.grad) for name, p in model.named_parameters() if p.requires_grad)


# The proposals and the detections that stay, suppression of both, the level of each RoI, what lies in the picture.
@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("kind, once", [("c4", 1), ("fpn", 2)])
def test_inference__waits_a_few_times_and_finds_as_on_the_cpu(make_twins, samples, kind, once, pictures):
    with pretended_cuda() as device:
        model, there = make_twins(kind)
        device.forget()
        found = there.eval()(samples[:pictures])
        assert sum(device.waits.values()) == once + 4 * pictures, device.waits
        found = [{name: value.cpu() for name, value in picture.items()} for picture in found]
    for ours, expected in zip(found, model.eval()(samples[:pictures]), strict=True):
        assert len(ours["boxes"]) >= 5
        assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_window__waits_when_it_is_read_only():
    with pretended_cuda() as device:
        losses = {"total_loss": torch.tensor(0.5, device="cuda"), "loss_cls": torch.tensor(0.25, device="cuda")}
        device.forget()
        window = Window()
        for iteration in range(20):
            window.begin()
            window.data_is_here()
            window.end(iteration, losses)
        assert not device.waits
        window.read(Processes(torch.device("cuda", 0)))
        assert sum(device.waits.values()) == 1
    assert window.last_loss == {"loss": 0.5}
    assert window.close()["loss_cls"] == 0.25
