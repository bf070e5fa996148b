"""The pretraining loop: resume, evaluation and refusals, on a miniature network."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pretrain import learner, run_state, trainer
from pretrain.config import load_pretrain_config
from pretrain.names import METHODS
from pretrain.run.checkpoint import load_checkpoint, save_checkpoint
from pretrain.run.lock import locked_folder
from pretrain.run.run_folder import read_metrics
from pretrain.saliency import FUNCTIONS

MODERN = [
    "SOLVER.SCHEDULE", "cosine", "SOLVER.WARMUP_EPOCHS", "1", "SOLVER.LABEL_SMOOTHING", "0.1",
    "SOLVER.WEIGHT_DECAY_NORM", "0", "SOLVER.WEIGHT_DECAY_BIAS", "0.1", "SOLVER.EMA_DECAY", "0.5",
    "DATA.TRIVIAL_AUGMENT", "True", "DATA.ERASE_PROB", "0.5", "DATA.TRAIN_SIZE", "12",
]  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_net(monkeypatch, tiny_run):
    monkeypatch.setattr(learner, "build_model", lambda arch, num_classes, **options: tiny_run.TinyNet(num_classes))


@pytest.fixture
def config(image_folder, tmp_path):
    def make(name, *opts):
        fixed = {
            "DATA.ROOT": image_folder,
            "OUTPUT_DIR": tmp_path / name,
            "DATA.IMAGE_SIZE": 16,
            "DATA.EVAL_RESIZE": 16,
            "DATA.NUM_WORKERS": 0,
            "SOLVER.EPOCHS": 4,
            "SOLVER.BATCH_SIZE": 4,
            "SOLVER.STEPS": (2,),
            "LOG_PERIOD": 2,
            "CHECKPOINT_PERIOD": 5,
            "MIXING.METHOD": "saliencymix",
            "MIXING.PROB": 0.5,
            "DEVICE": "cpu",
        }
        return load_pretrain_config(None, [str(item) for pair in fixed.items() for item in pair] + list(opts))

    return make


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


def test_train__refuses_to_mix_single_pictures(config):
    message = r"cutmix needs two pictures to mix, but SOLVER\.BATCH_SIZE 4 gives 1 processes 1 at a time; try 8"
    with pytest.raises(ValueError, match=message):
        trainer.train(config("run", "MIXING.METHOD", "cutmix", "SOLVER.ACCUMULATION", "4"), resume=False)


def test_train__refuses_weights_to_start_from(config):
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is 'a\.pth'; training starts from random weights"):
        trainer.train(config("run", "MODEL.WEIGHTS", "a.pth"), resume=False)


def test_train__refuses_a_disk_without_room_for_a_checkpoint(config, monkeypatch):
    monkeypatch.setattr(run_state.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"run: a checkpoint takes 0 MiB, but only 0 MiB are free; make room or choose"):
        trainer.train(config("run"), resume=False)


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


def test_train__unreadable_pictures_are_replaced_counted_and_named_once(config, image_folder, tmp_path, caplog):
    for name in ("train/dark/0.png", "val/dark/1.png"):
        (image_folder / name).write_bytes(b"not a picture")
    metrics = [trainer.train(config(name, "DATA.NUM_WORKERS", n), resume=False) for name, n in (("a", "0"), ("b", "2"))]
    assert metrics[0] == metrics[1]
    assert metrics[0]["num_images"] == 3  # an evaluation does not count what it could not see
    warnings = [record.message for record in caplog.records if "cannot be read" in record.message]
    assert len(warnings) == 4  # two pictures, two runs
    assert warnings[0].endswith("number 1")
    line = json.loads((tmp_path / "a" / "metrics.json").read_text().splitlines()[-2])
    assert line["unreadable_pictures"] == 2


def test_train__too_many_unreadable_pictures_stop_the_run_with_the_list(config, image_folder):
    for number in range(3):
        (image_folder / "train" / "dark" / f"{number}.png").write_bytes(b"")
    message = r"3 unreadable pictures, where DATA\.MAX_UNREADABLE allows 2: .*png.*png.*png"
    with pytest.raises(ValueError, match=message):
        trainer.train(config("run", "DATA.MAX_UNREADABLE", "2"), resume=False)


def test_evaluate_checkpoint__refuses_another_class_count(config, image_folder):
    cfg = config("run")
    trainer.train(cfg, resume=False)
    for split in ("train", "val"):
        shutil.copytree(image_folder / split / "dark", image_folder / split / "night")
    with pytest.raises(ValueError, match=r"model_final\.pth knows 2 classes, the data has 3: only in the data night"):
        trainer.evaluate_checkpoint(cfg)


def test_train__resuming_names_every_changed_key(config):
    trainer.train(config("run"), resume=False)
    message = r"MIXING\.METHOD was 'saliencymix', is 'cutmix'; SOLVER\.BASE_LR was 0\.1, is 0\.2\); set these keys back"
    with pytest.raises(ValueError, match=message):
        trainer.train(config("run", "MIXING.METHOD", "cutmix", "SOLVER.BASE_LR", "0.2"), resume=True)


def test_train__batch_norm_over_one_picture_names_the_keys(config, monkeypatch):
    monkeypatch.setattr(learner, "build_model", lambda arch, classes, **options: NormOfOne(classes))
    message = r"one picture here: SOLVER.BATCH_SIZE is 1, SOLVER.ACCUMULATION 1; raise the one or lower the other"
    with pytest.raises(ValueError, match=message):
        trainer.train(config("run", "MIXING.METHOD", "baseline", "SOLVER.BATCH_SIZE", "1"), resume=False)


class NormOfOne(torch.nn.Module):
    """BatchNorm over cells of one pixel, as a ResNet has it at the end of small pictures."""

    def __init__(self, classes):
        super().__init__()
        self.norm, self.fc = torch.nn.BatchNorm2d(3), torch.nn.Linear(3, classes)

    def forward(self, images):
        return self.fc(self.norm(images.mean((2, 3), keepdim=True)).flatten(1))


def test_train__a_second_run_in_the_folder_is_refused(config, tmp_path):
    with (
        locked_folder(tmp_path / "run"),
        pytest.raises(ValueError, match=r"in use by the run of process \d+"),
    ):
        trainer.train(config("run"), resume=True)
    assert not (tmp_path / "run" / "metrics.json").exists()
