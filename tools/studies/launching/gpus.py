"""Which GPUs this machine gives a study, and which of them a stage is given."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that PyTorch sees here, as CUDA_VISIBLE_DEVICES takes them.

    Where that variable is set already (by a user, or a cluster for this job) they are its own: numbers or UUIDs.
    """
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get(VISIBLE_GPUS)
    names = list(map(str, range(count))) if given is None else [name.strip() for name in given.split(",")]
    return names[:count]


def least_used(gpus: Sequence[str], taken: Iterable[Sequence[str]], count: int) -> list[str]:
    """Return ``count`` of ``gpus`` (one for 0), those that the fewest stages have ``taken``, in their order."""
    load = Counter(name for names in taken for name in names)
    chosen = sorted(gpus, key=load.__getitem__)[: count or 1]
    return [name for name in gpus if name in chosen]
