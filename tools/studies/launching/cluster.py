"""Stages as jobs of a SLURM cluster, or of submitit's executor for trying that out on one machine."""

from __future__ import annotations

import logging
import os
import subprocess
from operator import attrgetter
from pathlib import Path
from typing import Any, TypedDict

from fvcore.common.config import CfgNode

from pretrain.run.cli import one_line
from tools.studies.experiments import ROOT
from tools.studies.launching.gpus import least_used, visible_gpus
from tools.studies.launching.queue import GONE, JobState, SlurmQueue
from tools.studies.planning.stages import Stage
from tools.studies.records import find_record, write_record
from tools.studies.worker import StageJob

JOB = "job.json"  # in a stage's folder: the number of its job in the cluster's queue
SUBMITIT = "submitit"  # in OUTPUT_DIR: the folder of its jobs, which it unpickles
MAX_REQUEUES = 1000  # each goes on where the one before ended
UNKNOWN_MINUTES = 60 * 24 * 365  # submitit's local executor wants a limit
# What a kind of stage asks for: the section with its CPUs, memory and minutes, and whether it uses a GPU.
NEEDS = {
    **dict.fromkeys(("pretrain", "fine_tune", "sweep", "timing"), ("SLURM", True)),
    **dict.fromkeys(("evaluate", "accuracy", "attack", "cam"), ("SLURM.TEST", True)),
    **dict.fromkeys(("data", "convert", "choice", "comparison"), ("SLURM.PREPARE", False)),
}

BY_ITSELF = ("COMPLETED", "FAILED")  # what came of these stands in the stage's folder

logger = logging.getLogger(__name__)


class Job(TypedDict):
    """Which job a stage was given to."""

    cluster: str
    job_id: str


class SubmititLocalLauncher:
    """Jobs of submitit's executor for one machine, to try a cluster's way with stages; ``stop`` ends them.

    Raises:
        ImportError: submitit is not installed.
    """

    def __init__(self, cfg: CfgNode, *, jobs: int, trusted_group: int | None = None):
        self.slots, self.cfg, self.trusted_group = jobs, cfg, trusted_group
        self.gpus = visible_gpus()
        self.jobs: dict[str, tuple[Any, list[str]]] = {}
        self._executor = make_executor("local", cfg, timeout_min=UNKNOWN_MINUTES)

    def start(self, stage: Stage) -> None:
        # Left to itself, submitit shows every job the first GPUs of the machine, or none.
        gpus = least_used(self.gpus, [taken for _, taken in self.jobs.values()], stage.processes)
        self.jobs[stage.name] = self._executor.submit(StageJob(self.trusted_group, gpus), str(stage.folder)), gpus

    def ended(self, stage: Stage) -> bool:
        if not self.jobs[stage.name][0].done():
            return False
        del self.jobs[stage.name]
        return True

    def describe(self, stage: Stage) -> str:
        return ""

    def stop(self) -> None:
        for job, _ in self.jobs.values():
            job.cancel(check=False)


class SlurmLauncher:
    """A job of SLURM for every stage, submitted through submitit; what became of it is asked of ``queue``.

    Jobs outlive the study; called again, it finds those that still wait or run and takes them up. ``jobs``: in the
    queue at a time; the order of stages is the study's business, not the queue's.

    Raises:
        ImportError: submitit is not installed.
        ValueError: there is no SLURM here, or it does not know a parameter.
    """

    def __init__(self, cfg: CfgNode, *, jobs: int, trusted_group: int | None = None, queue: SlurmQueue | None = None):
        self.slots, self.cfg, self.trusted_group = jobs, cfg, trusted_group
        self.queue = queue or SlurmQueue()
        self.has_gpus = cfg.SLURM.GPUS == "auto" and cluster_has_gpus(cfg.SLURM.PARTITION)
        self.jobs: dict[str, tuple[str, float]] = {}  # stage -> number of its job, and when it was submitted
        self.ends: dict[str, str] = {}
        self._told: set[str] = set()
        make_executor("slurm", cfg)  # what is missing is said before anything is begun

    def start(self, stage: Stage) -> None:
        """Submit a job for ``stage``, unless an earlier call has one in the queue.

        Raises:
            ValueError: SLURM does not take it.
        """
        if (job_id := self._queued(stage)) is not None:
            self.jobs[stage.name] = job_id, float("-inf")
            return
        from submitit.core.utils import FailedJobError

        submitted = self.queue.now()
        try:
            job = make_executor("slurm", self.cfg, **self.needs(stage)).submit(
                StageJob(self.trusted_group), str(stage.folder)
            )
        except (FailedJobError, subprocess.SubprocessError) as error:
            raise ValueError(f"SLURM does not take the job of {stage.name}: {_refusal(error)}") from error
        write_record(stage.folder / JOB, {"cluster": "slurm", "job_id": job.job_id})
        self.jobs[stage.name] = job.job_id, submitted

    def ended(self, stage: Stage) -> bool:
        job_id, submitted = self.jobs[stage.name]
        state = self.queue.state(job_id, submitted=submitted)
        if state is None:
            return False
        if state.hopeless and job_id not in self._told:
            self._told.add(job_id)
            logger.warning("%s: %s", stage.name, self._hopeless(job_id, state, stage))
        if not state.ended:
            return False
        if state.state not in BY_ITSELF:
            lost = state.state == GONE
            self.ends[stage.name] = f"SLURM has lost its job {job_id}" if lost else f"its job {job_id} ended: {state}"
        del self.jobs[stage.name]
        return True

    def describe(self, stage: Stage) -> str:
        if stage.name not in self.jobs:
            return self.ends.get(stage.name, "")
        job_id, submitted = self.jobs[stage.name]
        state = self.queue.state(job_id, submitted=submitted)
        return f"job {job_id}" if state is None else f"job {job_id} {state}"

    def stop(self) -> None:
        """Leave the jobs where they are: the next call takes them up."""

    def needs(self, stage: Stage) -> dict[str, Any]:
        """Return what the job of ``stage`` asks for, as submitit calls it."""
        section, uses_gpu = NEEDS[stage.kind]
        asked, processes = attrgetter(section)(self.cfg), max(stage.processes // stage.nodes, 1)
        needs = {"cpus_per_task": asked.CPUS * processes, "mem_gb": asked.MEM_GB, "timeout_min": asked.MINUTES}
        if stage.nodes > 1:
            # The worker is one process, on the machine that its job's other steps count from.
            needs |= {"nodes": stage.nodes, "slurm_srun_args": ["--nodes=1", "--ntasks=1", "--relative=0"]}
        return {**needs, **({"gpus_per_node": processes} if uses_gpu and self.has_gpus else {})}

    def _queued(self, stage: Stage) -> str | None:
        """Return the number of an earlier call's job for ``stage``, unless that is known to have ended."""
        record, _ = find_record(stage.folder / JOB, Job)
        if record is None or record["cluster"] != "slurm":
            return None
        state = self.queue.state(record["job_id"])
        return record["job_id"] if state is None or not state.ended else None

    def _hopeless(self, job_id: str, state: JobState, stage: Stage) -> str:
        needs = self.needs(stage)
        asked = f"{needs['cpus_per_task']} CPUs, {needs['mem_gb']} GB, {needs['timeout_min']} minutes"
        asked += f", {needs['gpus_per_node']} GPUs" if "gpus_per_node" in needs else ""
        asked += f" on each of {stage.nodes} machines" if stage.nodes > 1 else ""
        key = f"{NEEDS[stage.kind][0]}.CPUS, MEM_GB or MINUTES"
        return (
            f"job {job_id} cannot start ({state.reason}); it asks for {asked}. Stop the study, scancel {job_id}, "
            f"change {key}, SLURM.PARTITION or SLURM.PARAMETERS, and call it again"
        )


def make_executor(cluster: str, cfg: CfgNode, **needs: Any) -> Any:
    """Return submitit's executor whose jobs ask for ``needs``, in its words; on SLURM, for what ``cfg`` says as well.

    Raises:
        ImportError: submitit is not installed.
        ValueError: there is no such cluster here, or it does not know a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError(f"--launcher {cluster} needs submitit ({error}); pip install submitit") from error
    # Jobs inherit it, and must find this package also where it is not installed.
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if cluster == "slurm":
        slurm = cfg.SLURM
        named = dict(zip(map(str, slurm.PARAMETERS[0::2]), slurm.PARAMETERS[1::2], strict=True))
        needs = {"nodes": 1, **needs, "name": "study", "tasks_per_node": 1}
        needs["slurm_additional_parameters"] = {"requeue": True, **named}  # some clusters do not unless they are asked
        if slurm.PARTITION:
            needs["slurm_partition"] = slurm.PARTITION
    try:
        folder = Path(cfg.OUTPUT_DIR) / SUBMITIT / "%j"
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **{f"{cluster}_max_num_timeout": MAX_REQUEUES})
        executor.update_parameters(**needs)
    except (RuntimeError, ValueError, NameError) as error:
        raise ValueError(f"--launcher {cluster}: {error}") from error
    return executor


def cluster_has_gpus(partition: str) -> bool:
    """Return whether SLURM knows of a GPU in ``partition``, or anywhere where that is empty; yes if it does not say."""
    command = ["sinfo", "--noheader", "--format=%G", *([f"--partition={partition}"] if partition else [])]
    try:
        resources = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return True
    return any(name.strip().startswith("gpu") for line in resources.splitlines() for name in line.split(","))


def _refusal(error: Exception) -> str:
    """Return what sbatch said, without submitit's account of how it was called."""
    text = getattr(error, "stderr", None) or str(error)
    said = [line.partition("error:")[2].strip() for line in str(text).splitlines() if "error:" in line]
    return one_line("; ".join(said) if said else text)
