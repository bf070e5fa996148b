"""On a GPU: the same maps and mixes as on the CPU, bit by bit, and runs that learn, resume and divide as there."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain import trainer
from pretrain.config import load_pretrain_config
from pretrain.learner import Learner
from pretrain.mixing import SaliencyMix, make_mixing
from pretrain.names import PLACEMENTS, SCOPES, STYLES
from pretrain.run.checkpoint import load_checkpoint
from pretrain.run.processes import Processes
from pretrain.saliency import FUNCTIONS

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
EXACT = ("fine_grained", "official")  # the others take transforms, powers or products in another order


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Let convolutions and products be those of float32, and the same in every run."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def pictures(count, height, width):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (count, 3, 5, 4), generator=generator).float()
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = torch.randint(-20, 21, (count, 3, height, width), generator=generator)
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("height, width", [(224, 224), (37, 61), (300, 200)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_saliency__is_the_cpus(name, height, width):
    images = pictures(70, height, width)  # more than a chunk
    expected, found = FUNCTIONS[name](images), FUNCTIONS[name](images.to(DEVICE)).cpu()
    if name in EXACT:
        assert torch.equal(found, expected)
    elif name == "background_subtraction":  # a rounding may carry a pixel over a threshold: one vote of sixteen
        far = (found - expected).abs() > 2e-3
        assert far.float().mean() < 1e-3
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("style", STYLES)
def test_saliencymix__is_the_cpus(style, scope, placement):
    images, labels = pictures(8, 64, 48), torch.arange(8)
    mix = SaliencyMix(10, style=style, scope=scope, placement=placement)
    draws = mix.draw(8)
    expected = mix.mix_as(images, labels, draws)
    found = mix.mix_as(images.to(DEVICE), labels.to(DEVICE), draws)
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("method", ["cutout", "cutmix", "mixup"])
def test_other_methods__are_the_cpus(method):
    images, labels = pictures(8, 64, 48), torch.arange(8)
    mixed = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        mixed.append(make_mixing(method, num_classes=10)(images.to(device), labels.to(device)))
    for one, other in zip(*mixed, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-4), ("bfloat16", 0.05), ("float16", 0.01)])
@pytest.mark.parametrize("method", ["baseline", "saliencymix", "manifold_mixup"])
def test_step__loses_what_the_cpu_loses(method, precision, tolerance):
    images, labels = pictures(8, 64, 64), torch.arange(8)
    opts = ["MODEL.ARCH", "resnet18", "SOLVER.EMA_DECAY", "0.9", "MIXING.METHOD", method]
    losses = []
    for device, used in (("cpu", "float32"), (DEVICE, precision)):
        torch.manual_seed(0)
        learner = Learner(load_pretrain_config(None, [*opts, "PRECISION", used]), 10, Processes(torch.device(device)))
        learner.network.train()
        torch.manual_seed(1)
        losses.append([learner.step([(images, labels)], lr=1e-5, progress=0.0).item() for _ in range(2)])
    assert losses[1][0] == pytest.approx(losses[0][0], rel=tolerance)
    assert math.isfinite(losses[1][1])  # its first step may have been left out: float16 seeks its scale


@pytest.fixture
def options(image_folder, tmp_path):
    def make(name, **different):
        keys = {
            "DATA.ROOT": image_folder, "OUTPUT_DIR": tmp_path / name, "DATA.IMAGE_SIZE": 32, "DATA.EVAL_RESIZE": 32,
            "DATA.NUM_WORKERS": 2, "SOLVER.EPOCHS": 3, "SOLVER.BATCH_SIZE": 4, "SOLVER.STEPS": (2,), "LOG_PERIOD": 1,
            "CHECKPOINT_PERIOD": 2, "MODEL.ARCH": "resnet18", "MIXING.METHOD": "saliencymix", "DEVICE": DEVICE,
        } | different  # fmt: skip
        return [str(item) for pair in keys.items() for item in pair]

    return make


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_train__resumed_goes_on_as_if_never_stopped(options, tmp_path, tiny_run, precision):
    opts = {name: options(name, PRECISION=precision) for name in ("whole", "stopped")}
    tiny_run.train(opts["whole"])
    with pytest.raises(KeyboardInterrupt):
        tiny_run.train(opts["stopped"], stop=6)
    tiny_run.train(opts["stopped"])
    whole, stopped = (load_checkpoint(tmp_path / name / "model_final.pth") for name in opts)
    assert torch.equal(whole["rng"][0]["cuda"], stopped["rng"][0]["cuda"])
    torch.testing.assert_close(stopped["model"], whole["model"], rtol=1e-4, atol=1e-5)  # kernels may be chosen anew


def test_train__a_run_of_the_cpu_goes_on_on_the_gpu(options, tmp_path, tiny_run):
    with pytest.raises(KeyboardInterrupt):
        tiny_run.train(options("moved", DEVICE="cpu", PRECISION="float16"), stop=6)
    metrics = tiny_run.train(options("moved", PRECISION="float16"))
    assert metrics["num_images"] == 4
    assert load_checkpoint(tmp_path / "moved" / "model_final.pth")["iteration"] == 9


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: NCCL wants one for each process")
def test_torchrun__two_gpus_follow_the_loss_of_one(options, tmp_path):
    alone = options("alone", **{"MIXING.METHOD": "baseline", "SOLVER.EPOCHS": 1})
    together = options("together", **{"MIXING.METHOD": "baseline", "SOLVER.EPOCHS": 1})
    trainer.train(load_pretrain_config(None, alone), resume=False)
    root = Path(__file__).resolve().parents[2]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "tools/pretrain.py"]
    result = subprocess.run(
        [sys.executable, *launcher, *together], cwd=root, env={**os.environ}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    metrics = [load_checkpoint(tmp_path / name / "model_final.pth")["evaluated"] for name in ("alone", "together")]
    assert metrics[1]["metrics"]["loss"] == pytest.approx(metrics[0]["metrics"]["loss"], rel=0.5)  # BN sees a share
