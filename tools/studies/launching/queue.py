"""What SLURM's queue says of our jobs: one question for all of them, no accounting database needed."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

from pretrain.run.cli import format_seconds, one_line

POLL_SECONDS = 10.0  # between two questions, however many jobs there are
FIELDS = "%i|%T|%r|%V"  # number, state, reason, time of submission
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
GONE = "GONE"  # no word of squeue's: it does not name the job any more
# Reasons for which a job waits until somebody changes it or the cluster (squeue's manual, "job reason codes").
HOPELESS = {
    "AccountNotAllowed", "BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionConfig", "PartitionInactive",
    "PartitionNodeLimit", "PartitionTimeLimit", "QOSNotAllowed", "QOSTimeLimit", "JobHeldAdmin", "JobHeldUser",
    "DependencyNeverSatisfied",
}  # fmt: skip
HOPELESS_LIMITS = ("PerJob", "PerJobLimit", "MaxWallDurationPerJobLimit")  # AssocMaxCpuPerJobLimit, QOSMaxGRESPerJob

logger = logging.getLogger(__name__)


class JobState(NamedTuple):
    """``state`` and ``reason`` in squeue's words; ``seconds`` since the job was submitted."""

    state: str
    reason: str
    seconds: float

    @property
    def ended(self) -> bool:
        return self.state in ENDED or self.state == GONE

    @property
    def hopeless(self) -> bool:
        """Whether it waits for what will not come by itself."""
        return self.state == "PENDING" and (self.reason in HOPELESS or self.reason.endswith(HOPELESS_LIMITS))

    def __str__(self) -> str:
        if self.state != "PENDING":
            return self.state.lower().replace("_", " ")
        return f"waits since {format_seconds(self.seconds)}: {self.reason}"


class SlurmQueue:
    """The states of this user's jobs, as squeue had them at the last look.

    A job that squeue no longer names has ended: it keeps those that ended for ``MinJobAge`` (five minutes by default).
    """

    def __init__(self, *, run: Callable[..., str] | None = None, clock: Callable[[], float] = time.monotonic):
        self._run, self._clock = run or run_squeue, clock
        self._jobs: dict[str, JobState] = {}
        self._asked = self._looked = float("-inf")  # when it was asked last, and when it answered
        self._silent = False

    def state(self, job_id: str, *, submitted: float = float("-inf")) -> JobState | None:
        """Return what is known of a job that was submitted at ``submitted`` of the clock; None before a look at it."""
        if self._clock() - self._asked >= POLL_SECONDS:
            self._look()
        if self._looked < submitted:
            return None
        return self._jobs.get(job_id, JobState(GONE, "", 0.0))

    def now(self) -> float:
        return self._clock()

    def _look(self) -> None:
        self._asked = self._clock()
        try:
            text = self._run()
        except (OSError, subprocess.SubprocessError) as error:
            if not self._silent:  # a controller may be down for a while; nothing is concluded from that
                detail = getattr(error, "stderr", None) or str(error)
                logger.warning("squeue does not answer (%s); the study goes on asking", one_line(detail))
            self._silent = True
            return
        self._silent, self._looked = False, self._asked
        self._jobs = dict(filter(None, map(_read, text.splitlines())))


def run_squeue() -> str:
    """Return squeue's lines of this user's jobs, of those that ended lately too.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be run, or the controller does not answer.
    """
    command = ["squeue", "--noheader", "--me", "--states=all", f"--format={FIELDS}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _read(line: str) -> tuple[str, JobState] | None:
    job_id, *rest = line.strip().split("|")
    if len(rest) != 3:
        return None
    state, reason, submitted = rest
    try:
        seconds = time.time() - time.mktime(time.strptime(submitted, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        seconds = 0.0
    return job_id, JobState(state, reason, max(0.0, seconds))
