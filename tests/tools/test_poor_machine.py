"""Tools where the machine gives too little: one line that names the cause and the remedy, and status 2; never a wait.

Small file systems are mounted for the tool alone, in name spaces of its own, which not every system permits.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.run.lock import LOCK_FILE

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "detection" / "configs" / "smoke.yaml"
DEMO = ROOT / "pretrain" / "configs" / "demo_r18_saliencymix.yaml"
PATIENCE = 200  # for a machine that is busy otherwise; each takes a few seconds
ENGINES = [
    "torchvision",
    pytest.param(
        "detectron2",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed"),
        ],
    ),
]


def in_shell(script, *command):
    """Return the command that runs ``command`` after ``script``."""
    return ["sh", "-c", f'{script} && exec "$@"', "sh", *map(str, command)]


def may_mount():
    if shutil.which("unshare") is None:
        return False
    trial = ["unshare", "-rm", *in_shell("mount -t tmpfs -o size=64k none /tmp", "true")]
    return not subprocess.run(trial, capture_output=True, check=False).returncode


needs_mount = pytest.mark.skipif(not may_mount(), reason="no file system can be mounted here")


def mounted(size, folder, *command):
    return ["unshare", "-rm", *in_shell(f"mount -t tmpfs -o size={size} none {shlex.quote(str(folder))}", *command)]


def start(command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def fault(command):
    """Run ``command``, which must end with status 2, and return the one line that is not of its log."""
    process = start(command)
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if "error: " in line]
    assert len(lines) == 1, errors
    return lines[0]


@pytest.fixture
def pretrain(tmp_path):
    """Return a function that gives the command of a short pretraining on eight pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for number, picture in enumerate(pixels):
            folder = tmp_path / "data" / split / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{number}.png")
    keys = ("DATA.ROOT", tmp_path / "data", "OUTPUT_DIR", tmp_path / "run", "DEVICE", "cpu", "SOLVER.BATCH_SIZE", 4)

    def make(*opts, flags=()):
        return [sys.executable, "tools/pretrain.py", "--config-file", DEMO, *flags, *keys, *opts]

    return make


@pytest.fixture
def train_net(voc_root, tmp_path):
    """Return a function that gives the command of a short training of a detector."""
    keys = ("VOC.ROOT", voc_root, "OUTPUT_DIR", tmp_path / "run", "MODEL.DEVICE", "cpu")

    def make(engine, *opts, flags=()):
        given = ["--config-file", SMOKE, "--engine", engine, *flags]
        return [sys.executable, "tools/train_net.py", *given, *keys, *opts]

    return make


@needs_mount
def test_pretrain__too_little_shared_memory(pretrain):
    line = fault(mounted("64k", "/dev/shm", *pretrain("DATA.NUM_WORKERS", 2)))
    assert "/dev/shm, where loading processes leave their batches, has too little room" in line
    assert "set DATA.NUM_WORKERS 0" in line


@needs_mount
@pytest.mark.parametrize("engine", ENGINES)
def test_train_net__too_little_shared_memory(train_net, engine):
    line = fault(mounted("64k", "/dev/shm", *train_net(engine, "DATALOADER.NUM_WORKERS", 2)))
    assert "/dev/shm, where loading processes leave their batches, has too little room" in line
    assert "set DATALOADER.NUM_WORKERS 0" in line


@needs_mount
@pytest.mark.parametrize("size, message", [
    ("2m", "{}: a checkpoint takes 85 MiB, but only 2 MiB are free; make room or choose another OUTPUT_DIR"),
    pytest.param("120m", "could not be written (no space left in {}); the files before it are whole",
                 marks=pytest.mark.slow),
])  # fmt: skip
def test_pretrain__too_little_disk(pretrain, tmp_path, size, message):
    folder = tmp_path / "run"
    folder.mkdir()
    line = fault(mounted(size, folder, *pretrain("DATA.NUM_WORKERS", 0, "CHECKPOINT_PERIOD", 1)))
    assert message.format(folder) in line


def wait_for(path, process):
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_train_net__a_second_run_in_the_folder_is_refused_and_a_killed_one_is_no_hindrance(train_net, tmp_path):
    first = start(train_net("torchvision", "SOLVER.MAX_ITER", 100000, "SOLVER.CHECKPOINT_PERIOD", 1))
    try:
        wait_for(tmp_path / "run" / "last_checkpoint", first)
        line = fault(train_net("torchvision", "SOLVER.MAX_ITER", 100000, flags=["--resume"]))
        assert f"process {first.pid} " in line
        assert str(tmp_path / "run") in line
    finally:
        first.kill()
        first.communicate()
    assert (tmp_path / "run" / LOCK_FILE).exists()
    line = fault(train_net("torchvision"))  # refused for what stands there, and no longer for who is there
    assert "--resume" in line
    assert str(first.pid) not in line


def test_pretrain__interrupted_with_its_loading_processes(pretrain, tmp_path):
    """A terminal sends Ctrl-C to every process of the tool."""
    command = ["setsid", *pretrain("DATA.NUM_WORKERS", 2, "CHECKPOINT_PERIOD", 1, "SOLVER.EPOCHS", 10000)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, by children too
    process = start(command)
    signal.signal(signal.SIGINT, before)
    try:
        wait_for(tmp_path / "run" / "last_checkpoint", process)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("pretrain.py: interrupted")


@needs_mount
def test_train_net__a_folder_that_may_not_be_written(train_net, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    line = fault(mounted("64k,ro", folder, *train_net("torchvision", "OUTPUT_DIR", folder / "new")))
    assert line == f"train_net.py: error: {folder / 'new'}: Read-only file system"
