"""The device of a process, and what is said where the machine has none or too little."""

from __future__ import annotations

import pytest
import torch

from pretrain.run.processes import explained_memory, select_device


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
