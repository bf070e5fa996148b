"""The order of samples: a pure function of the seed and the epoch, whoever asks and from wherever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class TrainBatches(Sampler[list[tuple[int, int]]]):
    """Batches of ``(index, seed)`` for iterations ``start`` .. ``stop``, across epochs, without the last partial batch.

    The order of an epoch is a pure function of (seed, epoch) and the seed of a sample one of (seed, epoch, index):
    a resumed run goes on with the very next sample, on any number of workers. ``batch_size`` is that of all
    ``world_size`` processes together: process ``rank`` gets its consecutive share of each batch, in ``parts`` lists.

    Raises:
        ValueError: the batch cannot be divided so, or is larger than the data.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
    ):
        self.num_samples, self.batch_size, self.seed, self.start, self.stop = num_samples, batch_size, seed, start, stop
        self.rank, self.parts = rank, parts
        self.batches_per_epoch = num_samples // batch_size
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"SOLVER.BATCH_SIZE is {batch_size}, but there are only {num_samples} training pictures; "
                f"expected at most {num_samples}"
            )
        if batch_size % (world_size * parts):
            near = max(1, round(batch_size / (world_size * parts))) * world_size * parts
            raise ValueError(
                f"SOLVER.BATCH_SIZE is {batch_size}, which {world_size} processes with SOLVER.ACCUMULATION {parts} "
                f"cannot share equally; try {near}"
            )
        self.part_size = batch_size // (world_size * parts)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order, seeds = -1, torch.empty(0), torch.empty(0)
        for iteration in range(self.start, self.stop):
            if iteration // self.batches_per_epoch != epoch:
                epoch = iteration // self.batches_per_epoch
                generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
                order = torch.randperm(self.num_samples, generator=generator)
                seeds = torch.randint(2**62, (self.num_samples,), generator=generator)
            first = iteration % self.batches_per_epoch * self.batch_size + self.rank * self.parts * self.part_size
            for part in range(self.parts):
                batch = order[first + part * self.part_size :][: self.part_size]
                yield list(zip(batch.tolist(), seeds[batch].tolist(), strict=True))


class EvalBatches(Sampler[list[tuple[int, int]]]):
    """Every sample once, in order; the seed is unused, because evaluation draws nothing.

    Of ``world_size`` processes each takes every ``world_size``-th batch: a batch holds the same pictures, and gives the
    same answers, however many processes there are.
    """

    def __init__(self, num_samples: int, batch_size: int, *, rank: int = 0, world_size: int = 1):
        self.num_samples, self.batch_size = num_samples, batch_size
        self._firsts = range(rank * batch_size, num_samples, world_size * batch_size)

    def __len__(self) -> int:
        return len(self._firsts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in self._firsts:
            yield [(index, 0) for index in range(first, min(first + self.batch_size, self.num_samples))]


def mix_seed(*parts: int) -> int:
    """Return a 63-bit seed that depends on every one of the non-negative ``parts`` and on their order."""
    state = 0x9E3779B97F4A7C15
    for part in parts:  # splitmix64's finaliser: neighbouring seeds give unrelated streams
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1


def spread_over_classes(labels: Sequence[int], *, seed: int) -> list[int]:
    """Return the indices of ``labels`` in an order drawn from ``seed`` that goes round the classes.

    Each round has one picture of every class that has any left, so that the first N of the order are spread as evenly
    as N and the data allow, and fewer of them are a part of more.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    seen: Counter[int] = Counter()
    rounds = {}
    for index in order:
        rounds[index] = seen[labels[index]]
        seen[labels[index]] += 1
    return sorted(order, key=rounds.__getitem__)
