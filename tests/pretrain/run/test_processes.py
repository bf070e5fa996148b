"""The device of a process, its place among others, and what is said where the machine has none or too little."""

from __future__ import annotations

import os

import pytest
import torch

from pretrain.run.processes import (
    PATIENCE,
    Processes,
    explained_memory,
    join_processes,
    num_workers,
    select_device,
    set_random_state,
)


def test_explained_memory__names_the_keys_to_change():
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4.00 GiB of which 1 is free."
    )
    with (
        pytest.raises(ValueError, match=r"memory \(CUDA out of memory. Tried to allocate 2.00 GiB\); lower BATCH$"),
        explained_memory("lower BATCH"),
    ):
        raise error


def test_explained_memory__another_error_stays():
    with pytest.raises(RuntimeError, match=r"^ours$"), explained_memory("lower BATCH"):
        raise RuntimeError("ours")


def test_select_device__refuses_an_unknown_device():
    with pytest.raises(ValueError, match=r"DEVICE is 'tpu!'; expected auto, cpu, cuda or cuda:N"):
        select_device("tpu!")


def test_select_device__refuses_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"DEVICE is 'cuda', but PyTorch sees no CUDA device"):
        select_device("cuda")


@pytest.mark.parametrize("setting, cores, processes, expected", [
    (0, 16, None, 0), (4, 1, None, 4),  # as set
    (-1, 16, None, 15), (-1, 16, 8, 1), (-1, 128, 8, 15), (-1, 12, 5, 1),  # one core is for training itself
    (-1, 1, None, 1), (-1, 4, 8, 1),
])  # fmt: skip
def test_num_workers__table(monkeypatch, setting, cores, processes, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert num_workers(setting) == expected


@pytest.fixture
def joined(monkeypatch):
    """Return what is asked of PyTorch's processes and GPUs, eight of which are pretended."""
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.update(set_device=device))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **options: asked.update(options))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    for name, value in {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    return asked


def test_join_processes__each_takes_its_gpu_and_python_objects_go_by_the_cpu(joined):
    with join_processes("cuda") as processes:
        assert processes == Processes(torch.device("cuda", 3), 3, 8)
    gpu = torch.device("cuda", 3)
    assert joined == {"set_device": gpu, "backend": "cpu:gloo,cuda:nccl", "device_id": gpu, "timeout": PATIENCE}


def test_join_processes__the_cpu_needs_gloo_only(joined):
    with join_processes("cpu"):
        pass
    assert joined == {"backend": "gloo", "timeout": PATIENCE}


def test_join_processes__one_process_opens_no_other_gpu_than_its_own(joined, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE")
    with join_processes("cuda:1") as processes:
        assert processes == Processes(torch.device("cuda", 1))
    assert joined == {"set_device": torch.device("cuda", 1)}


@pytest.mark.parametrize("saved, restored", [
    (None, None), ([b"of 0", b"of 1"], b"of 1"), ([b"of 0"], None), (b"own", b"own"),
])  # fmt: skip
def test_set_random_state__says_when_nothing_is_known_of_the_gpu(monkeypatch, caplog, saved, restored):
    done = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: done.append(state))
    set_random_state({"cpu": torch.get_rng_state(), "cuda": saved}, torch.device("cuda", 1))
    assert done == ([restored] if restored else [])
    assert ("random generator of cuda:1" in caplog.text) == (restored is None)
