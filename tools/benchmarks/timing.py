"""What the benchmarks share: contenders that take turns under two clocks, and a record of where they ran."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from pretrain.run.cli import Progress
from pretrain.run.run_folder import package_versions


class Seconds(NamedTuple):
    """One contender's seconds, a number for every round.

    ``wall``: that passed. ``cpu``: that this process computed, all its threads added up; neither another program nor
    a data-loading process of ours counts in it.
    """

    wall: list[float]
    cpu: list[float]


def read_clocks() -> tuple[float, float]:
    """Return the seconds of both clocks, in the order of :class:`Seconds`."""
    return time.perf_counter(), time.process_time()


def take_turns(
    calls: Sequence[Callable[[], Any]],
    rounds: int,
    *,
    device: torch.device | str = "cpu",
    clocks: Callable[[], tuple[float, float]] = read_clocks,
) -> list[Seconds]:
    """Time every one of ``calls`` once in each of ``rounds`` rounds; a round before them warms up and does not count.

    What else the machine does falls on all of them, so compare times of the same round. A time ends when ``device`` has
    done all that it was given.
    """
    device = torch.device(device)
    seconds = [Seconds([], []) for _ in calls]
    with Progress(rounds + 1, "rounds", unit="rounds") as progress:
        for number in range(-1, rounds):
            for index in order_of_turns(len(calls), number):
                _finish(device)
                started = clocks()
                calls[index]()
                _finish(device)
                ended = clocks()
                if number >= 0:
                    for column, start, end in zip(seconds[index], started, ended, strict=True):
                        column.append(end - start)
            progress.update()
    return seconds


def order_of_turns(count: int, number: int) -> list[int]:
    """Return the order of ``count`` contenders in round ``number``.

    An odd round is the even one before it backwards, so that a machine that grows steadily slower or faster favours
    nobody over the two. Each pair starts one further on: over ``2 * count`` rounds everyone has every place twice.
    """
    first = number // 2 % count
    order = [*range(first, count), *range(first)]
    return order[::-1] if number % 2 else order


def quartiles(values: Sequence[float]) -> list[float] | None:
    """Return the first and the third quartile, within the values' range; None for one value, which has no spread."""
    return statistics.quantiles(values, n=4, method="inclusive")[::2] if len(values) > 1 else None


def environment() -> dict[str, Any]:
    """Return what the figures depend on besides the code: versions, processor, threads, GPU and other load."""
    versions = package_versions(("python", "torch", "torchvision", "opencv-contrib-python", "pillow"))
    return {
        "opencv": versions.pop("opencv-contrib-python"),
        **versions,
        "machine": platform.platform(),
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
