"""From pinned memory to the device: on a GPU beside what it computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def mover(device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what copies a tensor to ``device``; one that is there is returned as it is. Nobody waits for a copy."""
    if device.type == "cuda" and torch.cuda.is_initialized():
        return SideStream(device)
    return lambda tensor: tensor.to(device, non_blocking=True)


class SideStream:
    """Copies to a CUDA device in a stream of its own.

    The training process is steps ahead of its GPU, which therefore copies a batch while it computes the one before; in
    the stream of the computation the copy would wait its turn.
    """

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)

    def __call__(self, tensor: Tensor) -> Tensor:
        with torch.cuda.stream(self._stream):
            copied = tensor.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        copied.record_stream(computing)  # its memory is free again when that stream is done with it
        return copied
