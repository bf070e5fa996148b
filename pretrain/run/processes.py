"""The processes of one run: one by itself, or as many as ``torchrun`` started on one or more machines.

No process management of our own: everything comes from the environment variables that ``torchrun`` sets.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Processes:
    """This process's place among ``size`` of them, and what they tell each other. Every one must make every call.

    ``device`` is where this process computes.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over the processes, on ``device``; the input is left as it is."""
        total = values.to(self.device, copy=True)
        if self.size == 1:
            return total
        torch.distributed.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Return every process's ``value`` (anything that can be pickled) in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def from_main(self, make: Callable[[], Any]) -> Any:
        """Return what ``make()`` returns in the main process, in every process."""
        if self.size == 1:
            return make()
        box = [make() if self.is_main else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def agree(self, key: str, value: str) -> None:
        """Check that all processes were called with the same ``value`` of the config key ``key``.

        Raises:
            ValueError: they were not; in all of them, with the values.
        """
        values = sorted(set(self.gather(value)))
        if len(values) > 1:
            raise ValueError(f"{key} must be the same for all processes, but they have {' and '.join(values)}")

    def copy_buffers(self, model: nn.Module) -> None:
        """Give every process the main one's buffers, such as the running statistics of BatchNorm."""
        if self.size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)


# How long one process may be busy alone, with a download or an evaluation; torchrun ends the others of one that died.
PATIENCE = timedelta(hours=2)
SINGLE_CPU_PROCESS = Processes(torch.device("cpu"))


@contextmanager
def join_processes(device_name: str) -> Iterator[Processes]:
    """Join the other processes that ``torchrun`` started; the value is this one's place among them.

    ``device_name`` is the config key DEVICE. Each process of a machine takes a CUDA device of its own, by its local
    rank; on the CPU they share the cores. Without ``torchrun`` there is one process, and nothing is joined. Within
    another such context nothing is joined anew: several runs of the same processes need one around them all.

    Raises:
        ValueError: the device is not there, or there are more processes than GPUs.
        ConnectionError: the others cannot be met, or one of them is lost on the way.
    """
    device = select_device(device_name)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and device.type == "cuda":
        local_rank, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if device.index is not None or here > torch.cuda.device_count():
            raise ValueError(
                f"{here} processes were started on a machine with {torch.cuda.device_count()} GPUs and DEVICE "
                f"{device_name!r}; start at most one a GPU, with DEVICE auto or cuda"
            )
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # else what names no device, such as pinning, opens a context on the first GPU
    if size == 1:
        yield Processes(device)
        return
    if torch.distributed.is_initialized():  # a group that has ended leaves its keys behind: none can be made again
        yield Processes(device, torch.distributed.get_rank(), size)
        return
    on_gpu = {"backend": "cpu:gloo,cuda:nccl", "device_id": device}  # Python objects go by the CPU and need no GPU
    options: dict[str, Any] = on_gpu if device.type == "cuda" else {"backend": "gloo"}
    try:
        torch.distributed.init_process_group(**options, timeout=PATIENCE)
        yield Processes(device, torch.distributed.get_rank(), size)
    except RuntimeError as error:  # PyTorch has no error of its own for a connection of gloo's
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise ConnectionError(
            "another process of this run has ended, or its machine cannot be reached; see what it said, then start all "
            "of them again with --resume"
        ) from error
    torch.distributed.destroy_process_group()  # not after an error: the others may be waiting; torchrun ends them


def num_workers(setting: int) -> int:
    """Return how many loading processes each process has: ``setting``, or for -1 the cores left beside training.

    Those are the cores this process may use, divided by the processes of the machine, less one, at least one.
    """
    if setting != -1:
        return setting
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)


def select_device(name: str) -> torch.device:
    """Return the device of config key ``DEVICE``; ``auto`` is CUDA where PyTorch sees one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"DEVICE is {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"DEVICE is {name!r}, but PyTorch sees no CUDA device; use auto or cpu")
    return device


@contextmanager
def explained_memory(advice: str) -> Iterator[None]:
    """Turn a GPU's lack of memory into a ``ValueError`` that ends with ``advice``, the keys to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". GPU")[0].strip()
        raise ValueError(f"the GPU has too little memory ({reason}); {advice}") from error


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of PyTorch's generators that this process draws from: the CPU's and, if it is one, the GPU's."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore what ``random_state`` returned; the GPU's only where there was one, else a warning says so."""
    torch.set_rng_state(state["cpu"])
    cuda = state["cuda"]
    if isinstance(cuda, list):  # detectors of version 0.1 kept those of all GPUs
        cuda = cuda[device.index or 0] if len(cuda) > (device.index or 0) else None
    if device.type != "cuda":
        return
    if cuda is None:
        logger.warning("no state of the random generator of %s was saved: what is drawn there starts anew", device)
    else:
        torch.cuda.set_rng_state(cuda, device)
