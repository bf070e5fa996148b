"""One run on two machines: two network namespaces of this one, joined by a virtual cable."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from pretrain.run.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = ["tools/pretrain.py", "--config-file", "pretrain/configs/demo_r18_saliencymix.yaml"]
ADDRESSES = ("10.99.77.1", "10.99.77.2")
SECONDS = 90  # within which the other machine ends when one is killed


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def machines():
    """Return the names of two network namespaces that reach each other, and of their interfaces."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces may not be made here (needs iproute2)")
    names = [f"dtt{os.getpid()}{side}" for side in "ab"]
    cables = [f"dtt{side}{os.getpid() % 10**6}" for side in "ab"]
    try:
        if ip("netns", "add", names[0]).returncode or ip("netns", "add", names[1]).returncode:
            pytest.skip("network namespaces may not be made here (needs root and iproute2)")
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, cables, strict=True))
    finally:
        for name in names:
            kill((name, ""))
            ip("netns", "del", name)


@pytest.fixture
def options(image_folder, tmp_path):
    def make(name, **different):
        keys = {
            "DATA.ROOT": image_folder, "OUTPUT_DIR": tmp_path / name, "DATA.IMAGE_SIZE": 16, "DATA.EVAL_RESIZE": 16,
            "DATA.NUM_WORKERS": 0, "SOLVER.EPOCHS": 2, "SOLVER.BATCH_SIZE": 4, "SOLVER.STEPS": (1,), "LOG_PERIOD": 1,
            "MODEL.ARCH": "resnet18_cifar", "MIXING.METHOD": "saliencymix", "DEVICE": "cpu",
        } | different  # fmt: skip
        return [str(item) for pair in keys.items() for item in pair]

    return make


def start(machines, commands):
    """Start a command on each machine, the first of which has rank 0."""
    processes = []
    for (name, cable), command in zip(machines, commands, strict=True):
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": cable, "TP_SOCKET_IFNAME": cable, "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *command],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
    return processes


def torchrun(rank, *command):
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank)]
    meeting += ["--master-addr", ADDRESSES[0], "--master-port", "29533"]
    return [sys.executable, "-m", "torch.distributed.run", *meeting, *command]


def pretrain(machines, *options, resume=False):
    flags = ["--resume"] if resume else []
    commands = [torchrun(rank, *PRETRAIN, *flags, *opts) for rank, opts in enumerate(options)]
    return start(machines, commands)


def finish(processes):
    told = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    return told


def kill(machine):
    """Kill all that runs on a machine, torchrun's processes too, which have sessions of their own."""
    for number in ip("netns", "pids", machine[0]).stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGKILL)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_pretrain__two_machines_are_two_processes_and_resume(machines, options, tmp_path):
    together = options("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, *PRETRAIN, *together], cwd=ROOT, check=True, capture_output=True)
    apart = options("apart")
    finish(pretrain(machines, apart, apart))
    assert losses(tmp_path / "apart") == losses(tmp_path / "together")
    (tmp_path / "apart" / "model_final.pth").unlink()
    (tmp_path / "apart" / "last_checkpoint").write_text("model_0000003.pth")
    finish(pretrain(machines, apart, apart, resume=True))
    ends = [load_checkpoint(tmp_path / name / "model_final.pth")["model"] for name in ("together", "apart")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_pretrain__one_machine_killed_ends_the_other(machines, options, tmp_path, killed):
    apart = options("apart", **{"SOLVER.EPOCHS": 10000, "LOG_PERIOD": 1, "CHECKPOINT_PERIOD": 5})
    processes = pretrain(machines, apart, apart)
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "apart").glob("model_*.pth")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kill(machines[killed])
        told, _ = processes[1 - killed].communicate(timeout=SECONDS)
    finally:
        for machine in machines:
            kill(machine)
    assert processes[1 - killed].returncode != 0
    said = [line for line in told.splitlines() if line.startswith("pretrain.py: error: ")]
    assert said == ["pretrain.py: error: another process of this run has ended, or its machine cannot be reached; "
                    "see what it said, then start all of them again with --resume"]  # fmt: skip


@pytest.mark.slow
def test_pretrain__machines_with_folders_of_their_own_are_refused(machines, options, tmp_path):
    processes = pretrain(machines, options("one"), options("other"))
    told = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode for process in processes)
    assert all("OUTPUT_DIR must be the same for all processes, but they have" in text for text in told), told
