"""One folder, one run: a file in the run folder that names the process that writes there."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretrain.run.files import named_errors, temporary_neighbour
from pretrain.run.text import read_json

LOCK_FILE = "run.lock"
BEAT = 30.0  # seconds between two signs of life
GIVEN_UP = 300.0  # seconds without one, after which the run of another machine counts as gone

logger = logging.getLogger(__name__)


@contextmanager
def locked_folder(folder: Path | str) -> Iterator[None]:
    """Hold ``folder``, which is created, for this process alone; other runs are refused meanwhile.

    A lock that a killed process of this machine left behind is taken over at once, that of another machine (on a
    network folder) when it gave no sign of life for five minutes, which are waited for.

    Raises:
        ValueError: a run holds the folder; its process and machine are named. Or, at the end of the context, another
            run has taken the folder over, because this one (its machine was asleep) gave no sign of life.
        OSError: the folder cannot be created or written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    own = {**_identity(), "token": uuid.uuid4().hex}
    _acquire(path, own)
    stop, lost = threading.Event(), threading.Event()
    # a daemon: it never keeps the process alive
    beat = threading.Thread(target=_beat, args=(path, own["token"], stop, lost), daemon=True, name="run lock")
    beat.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
    finally:
        stop.set()
        if (_read(path) or {}).get("token") == own["token"]:
            path.unlink(missing_ok=True)
    if lost.is_set():  # said at the end where the process ignores interrupts, as in the background of a script
        raise ValueError(f"{folder} was taken over by another run, because this one seemed gone")


def _acquire(path: Path, own: dict[str, Any]) -> None:
    first_seen: float | None = None
    while not _create(path, own):
        holder = _read(path)
        try:
            beaten = path.stat().st_mtime
        except FileNotFoundError:  # given back in this moment
            continue
        if holder is not None and _is_here(holder):
            if not _is_gone(holder):
                raise ValueError(_held(path, holder))
        else:
            if first_seen is not None and beaten != first_seen:
                raise ValueError(_held(path, holder))
            if first_seen is None:
                first_seen = beaten
                logger.warning(
                    "%s; waiting for its next sign of life, or for five minutes without", _held(path, holder)
                )
            if _now(path.parent) - beaten < GIVEN_UP:
                time.sleep(1)
                continue
        logger.warning("%s: the run of process %s is gone; taking its folder over", path, (holder or {}).get("process"))
        _remove(path, holder)


def _create(path: Path, own: dict[str, Any]) -> bool:
    """Write the lock, unless there is one."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with named_errors(path.parent), open(descriptor, "w", encoding="utf-8") as file:
            json.dump(own, file)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _remove(path: Path, holder: dict[str, Any] | None) -> None:
    """Remove the lock of ``holder``, and no other that took its place in the meantime."""
    aside = temporary_neighbour(path)
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if _read(aside) != holder:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a lock says, or None where it says nothing yet."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _beat(path: Path, token: str, stop: threading.Event, lost: threading.Event) -> None:
    while not stop.wait(BEAT):
        holder = _read(path)
        if holder is not None and holder.get("token") != token:
            lost.set()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # wakes it, whatever it waits for
            return
        with contextlib.suppress(OSError):  # a network folder may be away for a while
            os.utime(path)


def _identity() -> dict[str, Any]:
    return {"process": os.getpid(), "machine": platform.node(), "system": _system(), "started": _started(os.getpid())}


def _system() -> str:
    """Return what tells this machine since its start, and this container's processes, from all others."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(process: int) -> str | None:
    """Return when a process of this machine started, by the system's clock ticks; None where there is none."""
    try:
        # the fields after the name, which is in parentheses: state, ..., start time as the 22nd of all
        fields = Path(f"/proc/{process}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_here(holder: dict[str, Any]) -> bool:
    return holder.get("system") == _system() and isinstance(holder.get("process"), int)


def _is_gone(holder: dict[str, Any]) -> bool:
    if os.path.isdir("/proc/self"):
        return _started(holder["process"]) != holder.get("started")
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _held(path: Path, holder: dict[str, Any] | None) -> str:
    holder = holder or {}
    return (
        f"{path.parent} is in use by the run of process {holder.get('process', 'unknown')} on machine "
        f"{holder.get('machine', 'unknown')}; wait for its end, or choose another OUTPUT_DIR"
    )


def _now(folder: Path) -> float:
    """Return the time by the clock of the machine that keeps ``folder``."""
    probe = temporary_neighbour(folder / LOCK_FILE)
    probe.touch(exist_ok=False)
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
