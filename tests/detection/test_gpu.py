"""On a GPU: detectors find what they find on the CPU, and train and resume there, by either engine."""

import shutil

import pytest
import torch
from torchvision.ops import box_iou

from detection.detector import load_detector
from detection.engines import select
from detection.engines.torchvision.model import build_model
from detection.run_data import read_run_data
from pretrain.run.checkpoint import load_checkpoint

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
ALL = {  # every anchor and RoI counts, so that the losses do not depend on what a device draws
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 10**6, "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 10**6, "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.fixture
def twins(make_config, calibrate, samples):
    """Return a function kind -> a detector on the CPU and one with its weights on the GPU."""

    def make(kind):
        torch.manual_seed(0)
        here = build_model(make_config(kind, ALL))
        calibrate(here, samples)
        there = build_model(make_config(kind, {**ALL, "MODEL.DEVICE": DEVICE}))
        there.load_detectron2_state_dict(here.detectron2_state_dict())
        return here, there

    return make


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_detections__are_the_cpus(twins, samples, kind):
    here, there = twins(kind)
    for expected, found in zip(here.eval()(samples), there.eval()(samples), strict=True):
        found = {name: values.cpu() for name, values in found.items()}
        boxes, scores, classes = (expected[name][:5] for name in ("boxes", "scores", "classes"))
        overlaps = box_iou(boxes, found["boxes"])  # further down the list a rounding may decide who is left out
        overlaps[classes[:, None] != found["classes"]] = 0
        best, where = overlaps.max(dim=1)
        assert best.min() > 0.99
        torch.testing.assert_close(found["scores"][where], scores, rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_losses__are_the_cpus(twins, samples, kind):
    here, there = twins(kind)
    expected, found = here.train()(samples), there.train()(samples)
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=0.02), name  # a proposal may be another one


@pytest.mark.parametrize("engine", ["torchvision", "detectron2"])
def test_train__resumes_and_its_file_detects_on_any_device(configure, engine, tmp_path):
    if engine == "detectron2":
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    opts = ["MODEL.DEVICE", DEVICE, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2]
    select(engine).train(*read_run_data(configure(*opts, run="whole")), resume=False)
    (tmp_path / "resumed").mkdir()
    (tmp_path / "resumed" / "last_checkpoint").write_text("model_0000001.pth")
    shutil.copy(tmp_path / "whole" / "model_0000001.pth", tmp_path / "resumed")
    select(engine).train(*read_run_data(configure(*opts, run="resumed")), resume=True)
    whole, resumed = (load_checkpoint(tmp_path / run / "model_final.pth")["model"] for run in ("whole", "resumed"))
    torch.testing.assert_close(resumed, whole, rtol=1e-3, atol=1e-4)  # sums on a GPU have no fixed order
    for device in ("cpu", DEVICE):
        load_detector(tmp_path / "whole" / "model_final.pth", device=device)(torch.zeros(3, 64, 64, dtype=torch.uint8))
