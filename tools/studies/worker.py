"""Runs one stage in a process of its own, wherever a launcher put it: ``python -m tools.studies.worker FOLDER``.

The worker, not the study, records the result. So a stage that is running when the study dies still ends as done, and
the study finds it so when it is called again.
"""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tools.studies.code_version import stage_version
from tools.studies.config import ROOT
from tools.studies.records import (
    FAILURE,
    LOG,
    REQUEST,
    RESULT,
    describe_outputs,
    read_record,
    read_result,
    write_record,
)
from tools.studies.values import read_values

LOCK, ATTEMPTS = "lock", "attempts"
GRACE_SECONDS = 20  # for a command to end after it was asked to


def run_stage(folder: Path | str) -> bool:
    """Run the stage that ``folder/request.json`` asks for, unless it is done; return whether it is done then.

    One process at a time works in ``folder``: another one waits for the first, then finds it done or goes on with what
    it left. The command's output is appended to ``stage.log``.
    """
    folder = Path(folder)
    request = read_record(folder / REQUEST)
    if request is None:
        raise FileNotFoundError(f"{folder / REQUEST} is missing or damaged; call tools/study.py again, which writes it")
    with _only_one_in(folder) as lock:
        if read_result(folder, request["fingerprint"], request["made_from"]) is not None:
            return True
        attempts = _count_attempt(folder)
        if stage_version(request["kind"], request["inputs"].get("engine", "")) != request["present_code"]:
            problem = "its code has changed since the study was called; call it again, which plans by the new code"
            write_record(folder / FAILURE, {"message": problem, "attempts": attempts})
            return False
        (folder / FAILURE).unlink(missing_ok=True)
        started = time.time()
        with (folder / LOG).open("ab") as log:
            status = _run(request, log, lock)
        if status == 0:
            problem = _record(folder, request, attempts, started)
        elif status < 0:
            problem = f"ended by signal {-status}"
        else:
            problem = f"exit status {status}: {_last_line(folder / LOG)}"
        if problem:
            write_record(folder / FAILURE, {"message": problem, "attempts": attempts})
        return not problem


class StageJob:
    """``run_stage`` as submitit wants it: a job that is preempted, or at its time limit, is put in the queue again."""

    def __call__(self, folder: str) -> bool:
        hear_interrupts()
        return run_stage(folder)

    def checkpoint(self, folder: str) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, folder)


def hear_interrupts() -> None:
    """Make this process, and the command that it starts, hear Ctrl-C's signal again.

    What a shell script puts in the background ignores it, and so does everything started from there.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def is_running(folder: Path) -> bool:
    """Return whether some process works in ``folder``; on a cluster, as far as its file system shares locks."""
    try:
        with (folder / LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def _only_one_in(folder: Path) -> Iterator[IO[bytes]]:
    with (folder / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _count_attempt(folder: Path) -> int:
    with (folder / ATTEMPTS).open("a+") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {platform.node()}\n")
        file.seek(0)
        return len(file.readlines())


def _run(request: dict[str, Any], log: IO[bytes], lock: IO[bytes]) -> int:
    """Run the command and return its exit status, negative for a signal.

    The command inherits the lock: if it outlives a worker that was killed, the next worker waits for its end.
    """
    environment = dict(os.environ)
    if request["threads"]:
        environment["OMP_NUM_THREADS"] = str(request["threads"])
    command = request["command"]
    log.write(f"\n$ {' '.join(command)}\n".encode())
    log.flush()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[lock.fileno()],
        start_new_session=True,  # SLURM's warning before the limit is for the worker alone
    )
    try:
        return process.wait()
    except BaseException:  # asked to stop: pass it on as Ctrl-C, so that nothing goes on behind the user's back
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise


def _record(folder: Path, request: dict[str, Any], attempts: int, started: float) -> str:
    """Write result.json and clear up; return what is wrong if the command said success but left no such thing."""
    try:
        outputs = describe_outputs(folder, request["outputs"])
        values, link = read_values(request["kind"], folder, request["outputs"])
    except (OSError, ValueError, KeyError) as error:
        return f"the command succeeded, but its output is not what was expected: {error}"
    write_record(
        folder / RESULT,
        {
            "fingerprint": request["fingerprint"],
            "made_from": request["made_from"],
            "outputs": outputs,
            "values": values,
            "link": link,
            "attempts": attempts,
            "seconds": time.time() - started,  # of the last attempt
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
            "machine": platform.node(),
            "processes": request["processes"],
            "threads": request["threads"],
        },
    )
    for checkpoint in folder.glob("model_[0-9]*.pth"):  # to resume from, which is over; they are most of a study's size
        checkpoint.unlink()
    return ""


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


if __name__ == "__main__":
    hear_interrupts()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(0 if run_stage(sys.argv[1]) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
