"""Where stages run: as processes of this machine, or as jobs of a SLURM cluster through submitit.

A launcher starts ``tools.studies.worker`` on a stage's folder and says when that has ended; the folder tells how.
"""

from __future__ import annotations

import os
from typing import Protocol

from fvcore.common.config import CfgNode

from tools.studies.launching.cluster import SlurmLauncher, SubmititLocalLauncher
from tools.studies.launching.gpus import visible_gpus
from tools.studies.launching.local import LocalLauncher
from tools.studies.planning.stages import Stage

LAUNCHERS = ("local", "slurm", "submitit-local")
NO_LIMIT = 10**6  # stages at a time: the cluster's queue has its own


class Launcher(Protocol):
    """Starts stages and knows which have ended."""

    slots: int  # stages at a time

    def start(self, stage: Stage) -> None: ...

    def ended(self, stage: Stage) -> bool: ...

    def describe(self, stage: Stage) -> str:
        """Return what is known of a stage that was started beside what its folder tells; empty where that is nothing.

        Of one that has ended: what ended it, in the launcher's words.
        """

    def stop(self) -> None:
        """End what should not outlive the study."""


def make_launcher(name: str, cfg: CfgNode, *, jobs: int, trust_group: bool = False) -> Launcher:
    """Return the launcher ``name``, whose workers trust the group of OUTPUT_DIR with ``trust_group``.

    With ``jobs`` 0 it chooses how many stages run at a time.

    Locally that is one per group of GPUS GPUs, without GPUs one per THREADS cores (one, where THREADS is 0); on a
    cluster all that can.

    Raises:
        ImportError, ValueError: as SlurmLauncher; or a stage wants more GPUs than this machine has, or several
            machines.
    """
    trusted_group = os.stat(cfg.OUTPUT_DIR).st_gid if trust_group else None
    if name == "slurm":
        return SlurmLauncher(cfg, jobs=jobs or cfg.SLURM.MAX_JOBS or NO_LIMIT, trusted_group=trusted_group)
    if cfg.NODES > 1:
        raise ValueError(f"NODES is {cfg.NODES}, but --launcher {name} has this machine alone; take --launcher slurm")
    if name == "submitit-local":
        return SubmititLocalLauncher(cfg, jobs=jobs or _cpu_jobs(cfg), trusted_group=trusted_group)
    gpus = visible_gpus()
    if 0 < len(gpus) < cfg.GPUS:
        raise ValueError(f"GPUS is {cfg.GPUS}, but there are {len(gpus)} here; set GPUS to at most that")
    jobs = jobs or (len(gpus) // cfg.GPUS if gpus else _cpu_jobs(cfg))
    return LocalLauncher(jobs, gpus=gpus, trusted_group=trusted_group)


def _cpu_jobs(cfg: CfgNode) -> int:
    return max(1, _cores() // cfg.THREADS) if cfg.THREADS else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
