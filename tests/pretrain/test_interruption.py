"""Killed at any moment, and under torchrun: the run goes on and ends as if nothing had happened."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain import learner, trainer
from pretrain.config import load_pretrain_config
from pretrain.run.checkpoint import load_checkpoint

HARNESS = Path(__file__).with_name("tiny_run.py")


@pytest.fixture
def options(image_folder, tmp_path):
    """Return a function that gives the KEY VALUE pairs of a run in the folder ``name``."""

    def make(name, **different):
        keys = {
            "DATA.ROOT": image_folder,
            "OUTPUT_DIR": tmp_path / name,
            "DATA.IMAGE_SIZE": 16,
            "DATA.EVAL_RESIZE": 16,
            "DATA.NUM_WORKERS": 0,
            "SOLVER.EPOCHS": 16,
            "SOLVER.BATCH_SIZE": 4,
            "SOLVER.STEPS": (6,),
            "LOG_PERIOD": 1,
            "CHECKPOINT_PERIOD": 2,
            "MIXING.METHOD": "saliencymix",
            "MIXING.PROB": 0.5,
            "DEVICE": "cpu",
        } | different
        return [str(item) for pair in keys.items() for item in pair]

    return make


def run(tmp_path, command, spec, *launcher):
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HARNESS.parents[2])}
    result = subprocess.run(
        [sys.executable, *launcher, str(HARNESS), command, str(tmp_path / "spec.json")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line["loss"] for line in lines if "loss" in line}


def assert_bit_equal(one, other):
    """Compare two final checkpoints: weights, momenta, random generators, evaluations."""
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"] | other["model"])
    for first, second in zip(*(state["optimizer"]["state"].values() for state in (one, other)), strict=True):
        assert torch.equal(first["momentum_buffer"], second["momentum_buffer"])
    assert torch.equal(one["rng"][0]["cpu"], other["rng"][0]["cpu"])
    assert one["evaluated"] == other["evaluated"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("moments", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_train__killed_at_random_moments_ends_bit_equal(options, tmp_path, moments):
    """Every second moment lies in the writing of a checkpoint: before a flush to the disk, or before a rename."""
    pairs = [
        [options(f"{name}{workers}", **{"DATA.NUM_WORKERS": workers}) for name in ("whole", "killed")]
        for workers in (0, 2)
    ]
    run(tmp_path, "kill", {"moments": moments, "pairs": pairs})
    for workers in (0, 2):
        whole, killed = (tmp_path / f"{name}{workers}" for name in ("whole", "killed"))
        assert_bit_equal(*(load_checkpoint(folder / "model_final.pth") for folder in (whole, killed)))
        assert losses(killed) == losses(whole)
        assert not list(killed.glob(".*.tmp"))  # what was half written is gone


def test_torchrun__two_processes_follow_the_loss_of_one_and_resume_with_another_number(
    options, tmp_path, tiny_run, monkeypatch
):
    """Four runs of one experiment: by one process, by two, begun by one and ended by two, begun by two, ended by one.

    The network has no batch statistics. With BatchNorm each process normalises its own share of the batch, so that its
    activations, and the loss with them, differ from those of the whole batch. A fifth run has it: what two processes
    log of it is what one finds in its checkpoint, because both evaluate with the first one's statistics.
    """
    monkeypatch.setattr(learner, "build_model", lambda arch, classes, **options: tiny_run.StatelessNet(classes))
    names = ("one", "two", "one_then_two", "two_then_one")
    opts = {name: options(name, **{"MIXING.METHOD": "baseline", "SOLVER.EPOCHS": 4}) for name in names}
    tiny_run.train(opts["one"])
    with pytest.raises(KeyboardInterrupt):
        tiny_run.train(opts["one_then_two"], stop=7)
    by_two = [("two", None), ("one_then_two", None), ("two_then_one", 7)]
    spec = [{"opts": opts[name], "stop": stop, "port": free_port(), "network": "stateless"} for name, stop in by_two]
    parts = {"SOLVER.ACCUMULATION": 2}  # gives each process a batch of the evaluation
    normalised = options("normalised", **{"SOLVER.EPOCHS": 2, "MIXING.METHOD": "baseline"}, **parts)
    spec.append({"opts": normalised, "stop": None, "port": free_port(), "network": "tiny"})
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run(tmp_path, "train", {"runs": spec}, *launcher)
    tiny_run.train(opts["two_then_one"])

    expected = losses(tmp_path / "one")
    assert len(expected) == 12  # 4 epochs of 3 iterations
    reference = load_checkpoint(tmp_path / "one" / "model_final.pth")
    for name in names[1:]:
        assert losses(tmp_path / name) == pytest.approx(expected, rel=1e-5)  # sums in another order
        state = load_checkpoint(tmp_path / name / "model_final.pth")
        torch.testing.assert_close(state["model"], reference["model"], rtol=1e-4, atol=1e-6)
        assert state["evaluated"]["metrics"]["top1_error"] == reference["evaluated"]["metrics"]["top1_error"]
        assert len(state["rng"]) == (1 if name == "two_then_one" else 2)

    monkeypatch.setattr(learner, "build_model", lambda arch, classes, **options: tiny_run.TinyNet(classes))
    found = trainer.evaluate_checkpoint(load_pretrain_config(None, normalised))
    logged = load_checkpoint(tmp_path / "normalised" / "model_final.pth")["evaluated"]["metrics"]
    assert found == pytest.approx(logged, rel=1e-6)  # the loss is summed in another order; the errors are equal
    assert found["top1_error"] == logged["top1_error"]
