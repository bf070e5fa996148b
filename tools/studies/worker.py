"""Runs one stage in a process of its own, wherever a launcher put it: ``python -m tools.studies.worker FOLDER``.

The worker, not the study, records the result. So a stage that is running when the study dies still ends as done, and
the study finds it so when it is called again.

It runs the command that stands in a file, and so runs none where others could have written it.
"""

from __future__ import annotations

import argparse
import fcntl
import grp
import os
import platform
import pwd
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pretrain.run.cli import one_line
from tools.studies.experiments import ROOT
from tools.studies.planning.code_version import STAGES, stage_version
from tools.studies.planning.provenance import present_versions
from tools.studies.records import (
    FAILURE,
    LOG,
    REQUEST,
    RESULT,
    Request,
    describe_outputs,
    find_record,
    read_result,
    write_record,
)
from tools.studies.values import read_values

RUN = "and what stands there is run"
LOCK, ATTEMPTS = "lock", "attempts"
GRACE_SECONDS = 20  # for a command to end after it was asked to


def run_stage(folder: Path | str, *, trusted_group: int | None = None) -> bool:
    """Run the stage that ``folder/request.json`` asks for, unless it is done; return whether it is done then.

    One process at a time works in ``folder``: another one waits for the first, then finds it done or goes on with what
    it left. The command's output is appended to ``stage.log``. Nothing is run where the request is damaged, or where
    others could have written it (see ``refuse_others``).
    """
    folder = Path(folder)
    try:
        request = _read_request(folder, trusted_group)
    except (OSError, ValueError) as error:
        write_record(folder / FAILURE, {"message": str(error)})
        return False
    with _only_one_in(folder) as lock:
        done = read_result(folder, request["fingerprint"], request["made_from"], outputs=request["outputs"])
        if done is not None:
            return True
        attempts = _count_attempt(folder)
        if stage_version(request["kind"], request["inputs"].get("engine", "")) != request["present_code"]:
            problem = "its code has changed since the study was called; call it again, which plans by the new code"
            write_record(folder / FAILURE, {"message": problem, "attempts": attempts})
            return False
        (folder / FAILURE).unlink(missing_ok=True)
        started, versions = time.time(), present_versions()
        with (folder / LOG).open("ab") as log:
            status = _run(request, log, lock)
        if isinstance(status, str):
            problem = status
        elif status == 0:
            problem = _record(folder, request, attempts, started, versions)
        elif status < 0:
            problem = f"ended by signal {-status}"
        else:
            problem = f"exit status {status}: {_last_line(folder / LOG)}"
        if problem:
            write_record(folder / FAILURE, {"message": problem, "attempts": attempts})
        return not problem


@dataclass(frozen=True)
class StageJob:
    """``run_stage`` as submitit wants it: a job that is preempted, or at its time limit, is put in the queue again."""

    trusted_group: int | None = None
    gpus: Sequence[str] | None = None  # all that the stage may see, as CUDA_VISIBLE_DEVICES names them

    def __call__(self, folder: str) -> bool:
        hear_interrupts()
        if self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        return run_stage(folder, trusted_group=self.trusted_group)

    def checkpoint(self, folder: str) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, folder)


def refuse_others(path: Path, *, trusted_group: int | None = None) -> None:
    """Refuse a file or folder that others than the user and root could have written, or put something else in.

    A group that nobody else is in is the user. Members of the group of that number are trusted too: what belongs to it
    was made by one of them. A folder whose sticky bit keeps others from what is not theirs is as good as closed.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the path, its owner or mode, and how that is mended.
    """
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0) and status.st_gid != trusted_group:
        raise ValueError(
            f"{path} belongs to {_user_name(status.st_uid)}, not to you, {RUN}; remove it, or give an OUTPUT_DIR of "
            "your own"
        )
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX:
        return
    classes = _others(mode, status.st_gid, trusted_group)
    if classes:
        writers = _writers(classes, status.st_gid)
        raise ValueError(
            f"{path} has mode {mode:04o}: {writers} can write there, {RUN}; "
            f"chmod -R {classes}-w {shlex.quote(str(path))} and set umask 022, or {_way_out(classes)}"
        )


def refuse_open_umask(output_dir: Path, *, trusted_group: int | None = None) -> None:
    """Refuse a umask by which others could write what this process makes in ``output_dir``, there or not yet.

    Raises:
        ValueError: the umask, and what would be right.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    number = group_of_new(output_dir)
    classes = _others(0o777 & ~mask, number, trusted_group)
    if classes:
        writers = _writers(classes, number)
        raise ValueError(
            f"the umask is {mask:04o}: {writers} could write what a study makes in {output_dir}, {RUN}; set umask 022, "
            f"or {_way_out(classes)}"
        )


def group_of_new(folder: Path) -> int:
    """Return the number of the group that what this process makes in ``folder`` belongs to."""
    while not folder.exists():
        folder = folder.parent
    status = folder.stat()
    return status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()


def _others(mode: int, group: int, trusted_group: int | None) -> str:
    """Return ``g``, ``o`` or both, as chmod calls those that the ``mode`` lets write, and who are not trusted."""
    by_group = mode & stat.S_IWGRP and group != trusted_group and not _is_own_group(group)
    return "g" * bool(by_group) + "o" * bool(mode & stat.S_IWOTH)


def _writers(classes: str, group: int) -> str:
    name = f"its group {_group_name(group)}"
    return {"g": name, "o": "everybody", "go": f"{name} and everybody else"}[classes]


def _way_out(classes: str) -> str:
    return "trust the group with --trust-group" if classes == "g" else "give another OUTPUT_DIR"


def _is_own_group(number: int) -> bool:
    """Return whether a group is the user's own, as many systems give everybody one."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:  # a container knows no names
        return False
    return (group.gr_gid, group.gr_name) == (user.pw_gid, user.pw_name) and set(group.gr_mem) <= {user.pw_name}


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _read_request(folder: Path, trusted_group: int | None) -> Request:
    """Return what to do, once nobody else can have written it: in the stage's folder or any other of the study."""
    for path in (folder, folder / REQUEST):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; call tools/study.py again, which writes it")
        refuse_others(path, trusted_group=trusted_group)
    request, fault = find_record(folder / REQUEST, Request)
    if request is None:
        raise ValueError(f"{fault}; call tools/study.py again, which writes it")
    if request["kind"] not in STAGES:
        raise ValueError(f"{folder / REQUEST}: kind is {request['kind']!r}; expected one of {', '.join(STAGES)}")
    for parent in list(folder.parents)[: request["name"].count("/") + 1]:  # the last one is OUTPUT_DIR
        refuse_others(parent, trusted_group=trusted_group)
    return request


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
    with (folder / ATTEMPTS).open("a+", encoding="utf-8", errors="replace") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {platform.node()}\n")
        file.seek(0)
        return len(file.readlines())


def _run(request: Request, log: IO[bytes], lock: IO[bytes]) -> int | str:
    """Run the command and return its exit status, negative for a signal; or why it cannot be started.

    The command inherits the lock: if it outlives a worker that was killed, the next worker waits for its end.
    """
    environment = dict(os.environ)
    if request["threads"]:
        environment["OMP_NUM_THREADS"] = str(request["threads"])
    command = request["command"]
    log.write(f"\n$ {' '.join(command)}\n".encode())
    log.flush()
    try:
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
    except (OSError, ValueError) as error:  # no such program; a NUL byte in an argument
        return f"its command cannot be started: {error}"
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


def _record(folder: Path, request: Request, attempts: int, started: float, versions: dict[str, str]) -> str:
    """Write result.json and clear up; return what is wrong if the command said success but left no such thing."""
    try:
        outputs = describe_outputs(folder, request["outputs"])
        values, link = read_values(request["kind"], folder, request["outputs"])
    except (OSError, ValueError) as error:
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
            "versions": versions,
            "data": request.get("data", ""),
        },
    )
    for checkpoint in folder.glob("model_[0-9]*.pth"):  # to resume from, which is over; they are most of a study's size
        checkpoint.unlink()
    return ""


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--trusted-group", type=int, metavar="NUMBER")
    args = parser.parse_args(argv)
    hear_interrupts()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return 0 if run_stage(args.folder, trusted_group=args.trusted_group) else 1
    except OSError as error:  # not even why it failed can be written
        print(f"worker.py: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
