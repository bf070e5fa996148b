"""Stages as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from tools.studies.experiments import ROOT
from tools.studies.launching.gpus import VISIBLE_GPUS, least_used
from tools.studies.planning.stages import Stage
from tools.studies.worker import GRACE_SECONDS


class LocalLauncher:
    """Processes of this machine, ``jobs`` at a time; each gets GPUs of its own where there are enough.

    ``gpus``: their names, as CUDA_VISIBLE_DEVICES takes them. ``stop`` ends all processes: they were started at this
    terminal.
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

    def describe(self, stage: Stage) -> str:
        return ""

    def stop(self) -> None:
        running = [process for process, _ in self.processes.values() if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)  # the worker passes it on to its command as Ctrl-C
        deadline = time.monotonic() + GRACE_SECONDS + 5
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
