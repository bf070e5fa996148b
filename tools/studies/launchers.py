"""Where stages run: as processes of this machine, or as jobs of a SLURM cluster through submitit.

A launcher starts ``tools.studies.worker`` on a stage's folder and says when that has ended; the folder tells how.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypedDict

from fvcore.common.config import CfgNode

from tools.studies.experiments import ROOT
from tools.studies.planning.stages import Stage
from tools.studies.records import find_record, write_record
from tools.studies.worker import GRACE_SECONDS, StageJob

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
LAUNCHERS = ("local", "slurm", "submitit-local")
JOB = "job.json"  # in a stage's folder: the number of its job in the cluster's queue
SUBMITIT = "submitit"  # in OUTPUT_DIR: the folder of its jobs, which it unpickles
NO_LIMIT = 10**6  # stages at a time: the cluster's queue has its own
MAX_REQUEUES = 1000  # each goes on where the one before ended
UNKNOWN_MINUTES = 60 * 24 * 365  # submitit's local executor wants a limit


class Job(TypedDict):
    """Which job a stage was given to."""

    cluster: str
    job_id: str


class Launcher(Protocol):
    """Starts stages and knows which have ended."""

    slots: int  # stages at a time

    def start(self, stage: Stage) -> None: ...

    def ended(self, stage: Stage) -> bool: ...

    def stop(self) -> None:
        """End what should not outlive the study."""


class LocalLauncher:
    """Processes of this machine, ``jobs`` at a time; each gets GPUs of its own where there are enough.

    ``stop`` ends them all: they were started at this terminal.
    """

    def __init__(self, jobs: int, *, gpus: Sequence[str] = (), trusted_group: int | None = None):
        self.slots, self.gpus, self.trusted_group = jobs, gpus, trusted_group
        self.processes: dict[str, tuple[subprocess.Popen[bytes], list[str]]] = {}

    def start(self, stage: Stage) -> None:
        environment = dict(os.environ)
        taken = least_used(self.gpus, [taken for _, taken in self.processes.values()], stage.processes)
        if taken:
            environment[VISIBLE_GPUS] = ",".join(taken)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tools.studies.worker", str(stage.folder)),
                *([] if self.trusted_group is None else ["--trusted-group", str(self.trusted_group)]),
            ],
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the study, which passes it on once
        )
        self.processes[stage.name] = process, taken

    def ended(self, stage: Stage) -> bool:
        if self.processes[stage.name][0].poll() is None:
            return False
        del self.processes[stage.name]
        return True

    def stop(self) -> None:
        running = [process for process, _ in self.processes.values() if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)  # the worker passes it on to its command as Ctrl-C
        deadline = time.monotonic() + GRACE_SECONDS + 5
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()


class SubmititLauncher:
    """Jobs of a cluster (``slurm``), or of submitit's executor for trying that out on one machine (``local``).

    Jobs outlive the study; called again, it finds those of SLURM that still wait or run and takes them up.

    Raises:
        ImportError: submitit is not installed.
        ValueError: there is no SLURM here, or it does not know a parameter.
    """

    def __init__(self, cluster: str, cfg: CfgNode, *, jobs: int, trusted_group: int | None = None):
        try:
            import submitit
        except ImportError as error:
            raise ImportError(f"--launcher {cluster} needs submitit ({error}); pip install submitit") from error
        self.cluster, self.slots, self.cfg, self.trusted_group = cluster, jobs, cfg, trusted_group
        self.folder = Path(cfg.OUTPUT_DIR) / SUBMITIT
        # Jobs inherit it, and must find this package also where it is not installed.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            self.executor = submitit.AutoExecutor(
                folder=self.folder / "%j", cluster=cluster, **{f"{cluster}_max_num_timeout": MAX_REQUEUES}
            )
            self._configure(1)
        except (RuntimeError, ValueError, NameError) as error:
            raise ValueError(f"--launcher {cluster}: {error}") from error
        self.jobs: dict[str, Any] = {}
        self.gpus, self.taken = visible_gpus() if cluster == "local" else [], {}

    def start(self, stage: Stage) -> None:
        job = self._waiting_job(stage)
        if job is None:
            self._configure(stage.processes)
            gpus = None
            if self.cluster == "local":  # whose jobs would all see the first GPUs of the machine, or none
                gpus = least_used(self.gpus, self.taken.values(), stage.processes)
                self.taken[stage.name] = gpus
            job = self.executor.submit(StageJob(self.trusted_group, gpus), str(stage.folder))
            write_record(stage.folder / JOB, {"cluster": self.cluster, "job_id": job.job_id})
        self.jobs[stage.name] = job

    def ended(self, stage: Stage) -> bool:
        if not self.jobs[stage.name].done():
            return False
        del self.jobs[stage.name]
        self.taken.pop(stage.name, None)
        return True

    def stop(self) -> None:
        if self.cluster == "local":
            for job in self.jobs.values():
                job.cancel(check=False)

    def _configure(self, processes: int) -> None:
        slurm = self.cfg.SLURM
        if self.cluster == "local":
            self.executor.update_parameters(timeout_min=UNKNOWN_MINUTES)
            return
        named = dict(zip(map(str, slurm.PARAMETERS[0::2]), slurm.PARAMETERS[1::2], strict=True))
        self.executor.update_parameters(
            name="study",
            nodes=1,
            tasks_per_node=1,
            gpus_per_node=processes,
            cpus_per_task=slurm.CPUS * max(processes, 1),
            mem_gb=slurm.MEM_GB,
            timeout_min=slurm.MINUTES,
            slurm_additional_parameters=named,
            **({"slurm_partition": slurm.PARTITION} if slurm.PARTITION else {}),
        )

    def _waiting_job(self, stage: Stage) -> Any:
        """Return the job that an earlier call put in SLURM's queue for ``stage``, if it still waits or runs."""
        record, _ = find_record(stage.folder / JOB, Job)
        if self.cluster != "slurm" or record is None or record["cluster"] != "slurm":
            return None
        from submitit import SlurmJob

        job = SlurmJob(folder=self.folder / "%j", job_id=record["job_id"])
        return None if job.done(force_check=True) else job


def least_used(gpus: Sequence[str], taken: Iterable[Sequence[str]], count: int) -> list[str]:
    """Return ``count`` of ``gpus`` (one for 0), those that the fewest stages have ``taken``, in their order."""
    load = Counter(name for names in taken for name in names)
    chosen = sorted(gpus, key=load.__getitem__)[: count or 1]
    return [name for name in gpus if name in chosen]


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that PyTorch sees here, as CUDA_VISIBLE_DEVICES takes them.

    Where that variable is set already (by a user, or a cluster for this job) they are its own: numbers or UUIDs.
    """
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get(VISIBLE_GPUS)
    names = list(map(str, range(count))) if given is None else [name.strip() for name in given.split(",")]
    return names[:count]


def make_launcher(name: str, cfg: CfgNode, *, jobs: int, trust_group: bool = False) -> Launcher:
    """Return the launcher ``name``, whose workers trust the group of OUTPUT_DIR with ``trust_group``.

    With ``jobs`` 0 it chooses how many stages run at a time.

    Locally that is one per group of GPUS GPUs, without GPUs one per THREADS cores (one, where THREADS is 0); on a
    cluster all that can.

    Raises:
        ImportError, ValueError: as SubmititLauncher; or a stage wants more GPUs than this machine has.
    """
    trusted_group = os.stat(cfg.OUTPUT_DIR).st_gid if trust_group else None
    if name != "local":
        cluster, jobs = name.removeprefix("submitit-"), jobs or _cluster_jobs(name, cfg)
        return SubmititLauncher(cluster, cfg, jobs=jobs, trusted_group=trusted_group)
    gpus = visible_gpus()
    if 0 < len(gpus) < cfg.GPUS:
        raise ValueError(f"GPUS is {cfg.GPUS}, but there are {len(gpus)} here; set GPUS to at most that")
    jobs = jobs or (len(gpus) // cfg.GPUS if gpus else _cpu_jobs(cfg))
    return LocalLauncher(jobs, gpus=gpus, trusted_group=trusted_group)


def _cluster_jobs(name: str, cfg: CfgNode) -> int:
    return NO_LIMIT if name == "slurm" else _cpu_jobs(cfg)


def _cpu_jobs(cfg: CfgNode) -> int:
    return max(1, _cores() // cfg.THREADS) if cfg.THREADS else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
