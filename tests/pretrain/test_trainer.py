"""The pretraining loop: resume, evaluation and refusals, on a miniature network."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain import learner, trainer
from pretrain.names import METHODS
from pretrain.run.checkpoint import load_checkpoint
from pretrain.run.run_folder import read_metrics
from pretrain.saliency import FUNCTIONS

pytestmark = pytest.mark.usefixtures("tiny_net")
MODERN = [
    "SOLVER.SCHEDULE", "cosine", "SOLVER.WARMUP_EPOCHS", "1", "SOLVER.LABEL_SMOOTHING", "0.1",
    "SOLVER.WEIGHT_DECAY_NORM", "0", "SOLVER.WEIGHT_DECAY_BIAS", "0.1", "SOLVER.EMA_DECAY", "0.5",
    "DATA.TRIVIAL_AUGMENT", "True", "DATA.ERASE_PROB", "0.5", "DATA.TRAIN_SIZE", "12",
]  # fmt: skip


def flat(cfg):
    """Return a config as KEY VALUE pairs."""
    return [str(item) for pair in leaves(cfg) for item in pair]


def leaves(cfg, prefix=""):
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def final(cfg):
    return load_checkpoint(f"{cfg.OUTPUT_DIR}/model_final.pth")


def assert_equal_states(one, other):
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])
    momenta = [[s["momentum_buffer"] for s in state["optimizer"]["state"].values()] for state in (one, other)]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))
    assert torch.equal(one["rng"][0]["cpu"], other["rng"][0]["cpu"])
    assert all(torch.equal(value, other["ema"][key]) for key, value in one.get("ema", {}).items())


@pytest.mark.parametrize("num_workers", ["0", "2"])
@pytest.mark.parametrize("opts", [[], MODERN], ids=["default", "modern"])
def test_train__stopped_and_resumed_ends_bit_equal(config, monkeypatch, num_workers, opts):
    whole = config("whole", *opts)
    trainer.train(whole, resume=False)  # 4 epochs of 3 iterations

    broken = config("broken", *opts, "DATA.NUM_WORKERS", num_workers)
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
    assert len(final(whole)["optimizer"]["param_groups"]) == (3 if opts else 1)
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
    assert not torch.equal(final(one)["model"]["layer1.weight"], final(other)["model"]["layer1.weight"])


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
        "model_0000008.pth",
        "model_0000010.pth",
        "model_best.pth",
        "model_final.pth",
    ]


def test_evaluate_checkpoint__reproduces_the_logged_error_exactly(config):
    cfg = config("run")
    logged = trainer.train(cfg, resume=False)
    assert trainer.evaluate_checkpoint(cfg) == logged
    elsewhere = config("elsewhere", "MODEL.WEIGHTS", f"{cfg.OUTPUT_DIR}/model_final.pth")
    assert trainer.evaluate_checkpoint(elsewhere) == logged


@pytest.mark.parametrize("method", [name for name in METHODS if name != "saliencymix"])
def test_train__every_method_trains(config, method):
    metrics = trainer.train(config("run", "MIXING.METHOD", method, "MIXING.PROB", "1.0"), resume=False)
    assert math.isfinite(metrics["loss"])


def test_train__says_how_many_labels_are_of_the_area(config, monkeypatch):
    """Of a tiny run's pictures, every one is taken for flat: all labels of an interval, then all of the next."""
    monkeypatch.setitem(FUNCTIONS, "fine_grained", lambda images: torch.zeros_like(images[:, 0]).float())
    opts = ["MIXING.METHOD", "saliencymix", "LOG_PERIOD", "2", "MIXING.PROB", "1.0"]
    by_area, by_saliency = config("area", *opts), config("absolute", *opts, "MIXING.LABEL", "absolute")
    for cfg in (by_area, by_saliency):
        trainer.train(cfg, resume=False)
    assert not any("area_labels" in line for line in read_metrics(by_area.OUTPUT_DIR))
    counts = [line["area_labels"] for line in read_metrics(by_saliency.OUTPUT_DIR) if "loss" in line]
    assert counts == [2 * by_saliency.SOLVER.BATCH_SIZE] * len(counts)
    assert len(counts) > 1


@pytest.mark.parametrize("opts", [
    ["PRECISION", "bfloat16"], ["PRECISION", "float16"], ["CHANNELS_LAST", "True"],
    ["SOLVER.ACCUMULATION", "2", "SOLVER.EMA_DECAY", "0.5"],
], ids=lambda opts: opts[0])  # fmt: skip
def test_train__stopped_and_resumed_is_exact_in_every_mode(config, tiny_run, opts):
    whole, broken = config("whole", *opts), config("broken", *opts)
    trainer.train(whole, resume=False)
    with pytest.raises(KeyboardInterrupt):
        tiny_run.train(flat(broken), resume=False, stop=8)
    trainer.train(broken, resume=True)
    assert_equal_states(final(whole), final(broken))
    assert final(whole)["scaler"] == final(broken)["scaler"]
    assert bool(final(whole)["scaler"]) == (opts[1] == "float16")
    assert ("ema" in final(whole)) == ("SOLVER.EMA_DECAY" in opts)


def test_train__half_precision_is_close_to_full(config):
    for name, precision in (("full", "float32"), ("half", "bfloat16")):
        trainer.train(config(name, "PRECISION", precision, "MIXING.METHOD", "baseline"), resume=False)
    full, half = (final(config(name))["model"]["fc.weight"] for name in ("full", "half"))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)  # it was really used
    torch.testing.assert_close(half, full, rtol=0, atol=0.02)


def test_train__accumulation_gives_the_gradient_of_the_whole_batch(config, tiny_run, monkeypatch):
    monkeypatch.setattr(learner, "build_model", lambda arch, classes, **options: tiny_run.StatelessNet(classes))
    for name, parts in (("one", "1"), ("two", "2")):
        trainer.train(config(name, "MIXING.METHOD", "baseline", "SOLVER.ACCUMULATION", parts), resume=False)
    torch.testing.assert_close(final(config("one"))["model"], final(config("two"))["model"], rtol=1e-4, atol=1e-6)


def test_train__averaged_weights_follow_their_definition(config, monkeypatch):
    seen, step = [], learner.Learner.step

    def watched_step(self, *args, **options):
        if not seen:
            seen.append(self.network.fc.weight.detach().clone())
        loss = step(self, *args, **options)
        seen.append(self.network.fc.weight.detach().clone())
        return loss

    monkeypatch.setattr(learner.Learner, "step", watched_step)
    cfg = config("run", "SOLVER.EMA_DECAY", "0.9")
    trainer.train(cfg, resume=False)
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.9 * expected + 0.1 * weight
    state = final(cfg)
    torch.testing.assert_close(state["ema"]["fc.weight"], expected)
    assert state["ema"].keys() == state["model"].keys()
    lines = [json.loads(line) for line in Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "val_ema/top1_error" in line] == [3, 6, 9, 12]


@pytest.mark.slow  # the compiler takes about a minute
def test_train__compiled_gives_the_same(config, tiny_run, monkeypatch):
    monkeypatch.setattr(learner, "build_model", lambda arch, classes, **options: tiny_run.StatelessNet(classes))
    for name, compiled in (("eager", "False"), ("compiled", "True")):
        trainer.train(config(name, "COMPILE", compiled, "MIXING.METHOD", "baseline"), resume=False)
    eager, compiled = (final(config(name))["model"] for name in ("eager", "compiled"))
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-5)


def test_train__keeps_the_best_by_top_1(config, monkeypatch):
    errors = iter([40.0, 20.0, 30.0, 20.0])
    real = trainer.evaluate
    monkeypatch.setattr(trainer, "evaluate", lambda *arguments: real(*arguments) | {"top1_error": next(errors)})
    cfg = config("run", "CHECKPOINT_PERIOD", "100")
    trainer.train(cfg, resume=False)
    best = load_checkpoint(f"{cfg.OUTPUT_DIR}/model_best.pth")
    assert (best["epoch"], best["top1"]) == (2, 80.0)  # the first of equals
    assert final(cfg)["evaluated"]["best_top1_error"] == 20.0


def test_train__a_checkpoint_between_evaluations_claims_no_accuracy(config):
    cfg = config("run", "CHECKPOINT_PERIOD", "11")
    trainer.train(cfg, resume=False)
    state = load_checkpoint(f"{cfg.OUTPUT_DIR}/model_0000011.pth")
    assert state["top1"] is None
    assert state["evaluated"]["iteration"] == 9


def test_train__a_disk_that_fills_up_loses_nothing_that_was_saved(config, tmp_path):
    whole, cfg = config("whole"), config("run")
    trainer.train(whole, resume=False)
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pretrain.run import checkpoint
from pretrain import learner
from pretrain.run.cli import run_tool
sys.path.insert(0, {str(Path(__file__).parent)!r})
import tiny_run
learner.build_model = lambda arch, classes, **options: tiny_run.TinyNet(classes)
save = checkpoint.save_checkpoint
def save_on_a_full_disk(state, path):
    if state["iteration"] == 10:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    save(state, path)
checkpoint.save_checkpoint = save_on_a_full_disk
run_tool(lambda: tiny_run.train({flat(cfg)!r}, resume=False))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # bits depend on it
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 2, result.stderr
    assert re.search(
        r"error: .*model_0000010\.pth could not be written \(.*\); the files before it are whole",
        result.stderr.splitlines()[-1],
    )
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000005.pth"
    trainer.train(cfg, resume=True)
    assert_equal_states(final(whole), final(cfg))


def test_train__damaged_newest_checkpoint_falls_back_and_still_ends_equal(config, tmp_path, tiny_run, caplog):
    whole, cfg = config("whole"), config("run")
    trainer.train(whole, resume=False)
    with pytest.raises(KeyboardInterrupt):
        tiny_run.train(flat(cfg), resume=False, stop=12)
    newest = tmp_path / "run" / "model_0000010.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    trainer.train(cfg, resume=True)
    assert re.search(r"model_0000010\.pth is damaged .*; resuming from .*\.pth instead", caplog.text)
    assert_equal_states(final(whole), final(cfg))
