"""The pretraining loop: resume, evaluation and refusals, on a miniature network."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain import learner, trainer
from pretrain.checkpoint import load_checkpoint, save_checkpoint
from pretrain.config import load_pretrain_config
from pretrain.processes import select_device


class TinyNet(nn.Module):
    """Convolution, batch statistics and dropout: everything whose state a resume must bring back."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images):
        features = self.norm(self.conv(images)).relu().mean(dim=(2, 3))
        return self.fc(nn.functional.dropout(features, 0.3, self.training))


@pytest.fixture(autouse=True)
def tiny_net(monkeypatch):
    monkeypatch.setattr(learner, "build_model", lambda arch, num_classes, **options: TinyNet(num_classes))


@pytest.fixture
def config(image_folder, tmp_path):
    def make(name, *opts):
        fixed = {
            "DATA.ROOT": image_folder, "OUTPUT_DIR": tmp_path / name, "DATA.IMAGE_SIZE": 16, "DATA.EVAL_RESIZE": 16,
            "DATA.NUM_WORKERS": 0, "SOLVER.EPOCHS": 4, "SOLVER.BATCH_SIZE": 4, "SOLVER.STEPS": (2,), "LOG_PERIOD": 2,
            "CHECKPOINT_PERIOD": 5, "MIXING.METHOD": "saliencymix", "MIXING.PROB": 0.5, "DEVICE": "cpu",
        }  # fmt: skip
        return load_pretrain_config(None, [str(item) for pair in fixed.items() for item in pair] + list(opts))

    return make


def final(cfg):
    return load_checkpoint(f"{cfg.OUTPUT_DIR}/model_final.pth")


def assert_equal_states(one, other):
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])
    momenta = [[s["momentum_buffer"] for s in state["optimizer"]["state"].values()] for state in (one, other)]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))
    assert torch.equal(one["rng"][0]["cpu"], other["rng"][0]["cpu"])


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_train__stopped_and_resumed_ends_bit_equal(config, monkeypatch, num_workers):
    whole = config("whole")
    trainer.train(whole, resume=False)  # 4 epochs of 3 iterations

    broken = config("broken", "DATA.NUM_WORKERS", num_workers)
    step, steps = torch.optim.SGD.step, []

    def dying_step(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 8:  # in the middle of epoch 3; the last checkpoint is that of iteration 5
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", dying_step)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(broken, resume=False)
    metrics = trainer.train(broken, resume=True)

    assert_equal_states(final(whole), final(broken))
    assert metrics == final(whole)["evaluated"]["metrics"]
    lines = [json.loads(line) for line in Path(broken.OUTPUT_DIR, "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["iteration"] for line in lines if "val/top1_error" in line] == [3, 6, 9, 12]


def test_train__a_complete_run_is_not_run_again(config):
    cfg = config("run")
    first = trainer.train(cfg, resume=False)
    written = Path(cfg.OUTPUT_DIR, "model_final.pth").read_bytes()
    assert trainer.train(cfg, resume=True) == first
    assert Path(cfg.OUTPUT_DIR, "model_final.pth").read_bytes() == written


def test_train__the_seed_decides_everything(config):
    one, again, other = config("one"), config("again"), config("other", "SEED", "1")
    for cfg in (one, again, other):
        trainer.train(cfg, resume=False)
    assert_equal_states(final(one), final(again))
    assert not torch.equal(final(one)["model"]["conv.weight"], final(other)["model"]["conv.weight"])


def test_train__the_checkpoint_says_what_made_it(config):
    cfg = config("run")
    metrics = trainer.train(cfg, resume=False)
    state = final(cfg)
    assert (state["arch"], state["method"], state["num_classes"]) == ("resnet50", "saliencymix", 2)
    assert (state["iteration"], state["epoch"], state["classes"]) == (12, 4, ["bright", "dark"])
    assert state["top1"] == 100 - metrics["top1_error"]
    assert state["pixel_mean"] == [123.675, 116.28, 103.53]
    assert state["config"] == cfg.dump()


def test_train__keeps_the_newest_checkpoints_only(config, tmp_path):
    trainer.train(config("run", "CHECKPOINT_PERIOD", "2"), resume=False)
    assert sorted(p.name for p in (tmp_path / "run").glob("*.pth")) == [
        "model_0000008.pth", "model_0000010.pth", "model_best.pth", "model_final.pth",
    ]  # fmt: skip


def test_evaluate_checkpoint__reproduces_the_logged_error_exactly(config):
    cfg = config("run")
    logged = trainer.train(cfg, resume=False)
    assert trainer.evaluate_checkpoint(cfg) == logged
    elsewhere = config("elsewhere", "MODEL.WEIGHTS", f"{cfg.OUTPUT_DIR}/model_final.pth")
    assert trainer.evaluate_checkpoint(elsewhere) == logged


@pytest.mark.parametrize("method", ["baseline", "cutout", "mixup", "cutmix"])
def test_train__every_method_trains(config, method):
    metrics = trainer.train(config("run", "MIXING.METHOD", method, "MIXING.PROB", "1.0"), resume=False)
    assert math.isfinite(metrics["loss"])


@pytest.mark.parametrize("iteration, expected", [
    (0, 0.05), (1, 0.1),  # warm-up over two iterations, the second at full rate
    (5, 0.1), (6, 0.01),  # STEPS (2, 3) with epochs of 3 iterations
    (9, 0.001),
])  # fmt: skip
def test_learning_rate__table(iteration, expected):
    cfg = load_pretrain_config(None, ["SOLVER.STEPS", "(2, 3)", "SOLVER.WARMUP_ITERS", "2"])
    assert trainer.learning_rate(cfg, iteration, epoch_iters=3) == pytest.approx(expected)


def test_train__a_non_finite_loss_stops_with_iteration_and_losses(config, tmp_path):
    message = r"the loss of iteration \d+ is (nan|inf).*try a lower SOLVER\.BASE_LR"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train(config("run", "SOLVER.BASE_LR", "1e30"), resume=False)
    assert not (tmp_path / "run" / "model_final.pth").exists()


def test_train__refuses_to_write_over_a_run(config):
    trainer.train(config("run"), resume=False)
    with pytest.raises(ValueError, match=r"run already holds model_final\.pth; use --resume, or another OUTPUT_DIR"):
        trainer.train(config("run"), resume=False)


def test_train__refuses_to_resume_another_run(config):
    trainer.train(config("run"), resume=False)
    with pytest.raises(ValueError, match=r"cannot resume: .*SEED was 0, is 1"):
        trainer.train(config("run", "SEED", "1"), resume=True)


def test_train__refuses_a_checkpoint_that_is_no_pretraining_run(config, tmp_path):
    (tmp_path / "run").mkdir()
    save_checkpoint({"model": {}}, tmp_path / "run" / "model_final.pth")
    with pytest.raises(ValueError, match=r"is not a pretraining checkpoint: it lacks config, evaluated"):
        trainer.train(config("run"), resume=True)


def test_evaluate_checkpoint__refuses_other_classes(config, image_folder):
    cfg = config("run")
    trainer.train(cfg, resume=False)
    for split in ("train", "val"):
        (image_folder / split / "dark").rename(image_folder / split / "night")
    message = r"knows 2 classes, the data has 2: only in the checkpoint dark; only in the data night"
    with pytest.raises(ValueError, match=message):
        trainer.evaluate_checkpoint(cfg)


def test_evaluate_checkpoint__refuses_another_architecture(config):
    cfg = config("run")
    trainer.train(cfg, resume=False)
    with pytest.raises(ValueError, match=r"holds a resnet50, but MODEL\.ARCH is resnet18"):
        trainer.evaluate_checkpoint(config("run", "MODEL.ARCH", "resnet18"))


def test_evaluate_checkpoint__refuses_when_there_is_nothing(config):
    with pytest.raises(ValueError, match=r"nothing to evaluate: MODEL\.WEIGHTS is empty and .*run has no checkpoint"):
        trainer.evaluate_checkpoint(config("run"))


def test_select_device__refuses_an_unknown_device():
    with pytest.raises(ValueError, match=r"DEVICE is 'tpu!'; expected auto, cpu, cuda or cuda:N"):
        select_device("tpu!")


def test_select_device__refuses_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"DEVICE is 'cuda', but PyTorch sees no CUDA device"):
        select_device("cuda")
