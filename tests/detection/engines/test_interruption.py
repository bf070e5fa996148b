"""Runs that are killed, damaged or shared among processes end as they should have; each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detection.config import load_detection_config
from detection.engines.initial_weights import draw_initial_weights
from detection.engines.torchvision.model import build_model

ROOT = Path(__file__).resolve().parents[3]
SMOKE = ROOT / "detection" / "configs" / "smoke.yaml"
ENGINES = [
    "torchvision",
    pytest.param("detectron2", marks=pytest.mark.skipif(
        not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed")),
]  # fmt: skip
PATIENCE = 100  # seconds, on a machine that does much else


@pytest.fixture
def command(voc_root, tmp_path):
    """Return a function from the name of a run to the arguments of tools/train_net.py, without the interpreter."""

    def make(run, *opts, engine="torchvision", flags=()):
        fixed = ["VOC.ROOT", voc_root, "OUTPUT_DIR", tmp_path / run, "MODEL.DEVICE", "cpu", "DATASETS.TEST", "()"]
        return [
            str(part)
            for part in (
                ROOT / "tools" / "train_net.py",
                "--config-file",
                SMOKE,
                "--engine",
                engine,
                *flags,
                *fixed,
                *opts,
            )
        ]

    return make


@pytest.fixture
def one_thread():
    """Compute here as the processes started below do: the number of threads decides how sums are rounded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(*arguments):
    process = start(*arguments)
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes then
        raise
    assert process.returncode == 0, output
    return output


def load(path):
    return torch.load(path, weights_only=True)


def assert_equal(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("engine", ENGINES)
def test_train_net__killed_and_damaged_run_ends_bit_equal(command, load_tool, one_thread, capsys, tmp_path, engine):
    main = load_tool("train_net").main
    opts = (
        "SOLVER.MAX_ITER",
        9,
        "SOLVER.CHECKPOINT_PERIOD",
        2,
        "DATASETS.TRAIN",
        "('voc_2007_trainval', 'voc_2012_trainval')",
    )
    main(command("whole", *opts, engine=engine)[1:])

    process = start(*command("broken", *opts, engine=engine))
    pointer = tmp_path / "broken" / "last_checkpoint"
    deadline = time.monotonic() + PATIENCE
    while not pointer.exists() or pointer.read_text() == "model_0000001.pth":
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)  # whatever it is doing; at most the work since the last checkpoint is lost
    process.communicate()
    newest = pointer.with_name(pointer.read_text())
    os.truncate(newest, newest.stat().st_size // 2)

    capsys.readouterr()
    main(command("broken", *opts, engine=engine, flags=["--resume"])[1:])
    output = capsys.readouterr().err
    assert f"{newest.name} is damaged or not a PyTorch file" in " ".join(output.split())
    assert "resumed from" in output
    whole, broken = (load(tmp_path / name / "model_final.pth") for name in ("whole", "broken"))
    assert_equal(broken["model"], whole["model"])
    assert broken["iteration"] == whole["iteration"] == 8
    assert not list((tmp_path / "broken").glob(".*.tmp"))
    lines = [json.loads(line) for line in (tmp_path / "broken" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == sorted({line["iteration"] for line in lines})


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_train_net__a_resumed_run_has_each_step_once_in_both_files(command, load_tool, tmp_path, engine):
    """The checkpoint's own step stays; what the run that died wrote after it, and only that, is written again."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    main, folder = load_tool("train_net").main, tmp_path / "run"
    opts = ("SOLVER.MAX_ITER", 41, "SOLVER.CHECKPOINT_PERIOD", 20, "SOLVER.BASE_LR", 1e-4)
    main(command("run", *opts, engine=engine)[1:])
    for name in ("model_final.pth", "last_checkpoint", "model_0000039.pth"):  # as if it had died in iteration 40
        (folder / name).unlink()
    main(command("run", *opts, engine=engine, flags=["--resume"])[1:])
    lines = [json.loads(line)["iteration"] for line in (folder / "metrics.json").read_text().splitlines()]
    assert lines == [19, 39, 40]
    events = [event for path in folder.glob("events.out.tfevents.*") for event in EventFileLoader(str(path)).Load()]
    losses = [event.step for event in events if any(value.tag == "total_loss" for value in event.summary.value)]
    assert sorted(losses) == [19, 39, 40]


@pytest.mark.slow
def test_train_net__torchrun_repeats(command, tmp_path):
    """The processes meet once around all runs: a second meeting under one torchrun waits for ever."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    opts = ("DATASETS.TEST", "('voc_2007_test',)", "SEED", -1)  # which one process draws for both
    run(*torchrun, *command("repeated", *opts, flags=["--repeat", "3"]))
    assert len(json.loads((tmp_path / "repeated" / "repeats.json").read_text())["seeds"]) == 3
    assert not list((tmp_path / "repeated").rglob("run.lock"))


@pytest.mark.slow
def test_train_net__torchrun_trains_evaluates_and_resumes_bit_equal(command, tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    opts = (
        "SOLVER.MAX_ITER",
        4,
        "SOLVER.CHECKPOINT_PERIOD",
        2,
        "MODEL.RESNETS.NORM",
        "naiveSyncBN",
        "SOLVER.BASE_LR",
        0.001,
        "TEST.EVAL_PERIOD",
        3,
        "TEST.PRECISE_BN.ENABLED",
        True,
        "TEST.PRECISE_BN.NUM_ITER",
        1,
        "DATASETS.TEST",
        "('voc_2007_test',)",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        0.01,
        "SEED",
        -1,
    )
    output = run(*torchrun, *command("pair", *opts))
    folder = tmp_path / "pair"
    assert output.count("voc_2007_test: mAP") == 1  # one process reports
    assert "2 process(es) on cpu" in (folder / "log.txt").read_text()
    final = load(folder / "model_final.pth")
    assert len(final["rng"]) == 2
    assert not torch.equal(final["rng"][0]["cpu"], final["rng"][1]["cpu"])
    names = {name for line in (folder / "metrics.json").read_text().splitlines() for name in json.loads(line)}
    assert {"voc_2007_test/voc07/AP50", "total_loss"} <= names

    evaluated = command("alone", *opts, "MODEL.WEIGHTS", folder / "model_final.pth", flags=["--eval-only"])
    run(*evaluated)
    found, expected = (
        {path.name: path.read_text() for path in (tmp_path / name / "inference" / "voc_2007_test").glob("*.txt")}
        for name in ("pair", "alone")
    )
    assert found == expected  # the processes share the pictures
    assert any(found.values())

    for name in ("model_final.pth", "last_checkpoint"):
        (folder / name).unlink()
    run(*torchrun, *command("pair", *opts, flags=["--resume"]))
    assert_equal(load(folder / "model_final.pth")["model"], final["model"])


def test_train_net__two_processes_take_the_steps_of_one(command, load_tool, one_thread, tmp_path):
    # More anchors and RoIs are wanted than there are, so that nothing is left to draw.
    opts = (
        "SOLVER.MAX_ITER",
        2,
        "MODEL.RESNETS.NORM",
        "FrozenBN",
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
        100000,
        "MODEL.RPN.POSITIVE_FRACTION",
        1.0,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
        100000,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION",
        1.0,
        "SOLVER.BASE_LR",
        0.01,
        "DATASETS.TRAIN",
        "('voc_2007_trainval', 'voc_2012_trainval')",
    )
    run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command("pair", *opts))
    load_tool("train_net").main(command("one", *opts)[1:])
    losses = [json.loads((tmp_path / name / "metrics.json").read_text().splitlines()[-1]) for name in ("pair", "one")]
    for name in ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"):
        assert losses[0][name] == pytest.approx(losses[1][name], rel=0.02), name
    pair, one = (load(tmp_path / name / "model_final.pth") for name in ("pair", "one"))
    start = build_model(load_detection_config(SMOKE, ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.DEVICE", "cpu"]))
    start = start.detectron2_state_dict()
    draw_initial_weights(start, 1)
    for name in (
        "backbone.fpn_output3.weight",
        "proposal_generator.rpn_head.conv.weight",
        "roi_heads.box_head.fc1.weight",
    ):
        step = one["model"][name] - start[name]
        assert step.norm() > 1e-5  # far more than rounding
        # not to the bit: the two shares of RoIs are not equally large
        assert (pair["model"][name] - one["model"][name]).norm() < 0.1 * step.norm(), name
