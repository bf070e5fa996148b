"""What the processes of a run say when the machine is too small."""

from __future__ import annotations

import pytest
import torch

from pretrain.run.processes import explained_memory


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
