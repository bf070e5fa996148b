"""Files that are whole or not there: written beside their name and renamed, and known by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_HASH_CHUNK = 1 << 20


@contextmanager
def named_errors(folder: Path) -> Iterator[None]:
    """Give an error of writing into ``folder`` (a full disk) that says no file the name of the folder."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(folder)) from error


def temporary_neighbour(path: Path) -> Path:
    """Return a path beside ``path`` that nobody can foresee and no other process takes, on any machine."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


@contextmanager
def atomic_write(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of ``path`` for writing; on success flush it to the disk and rename it to ``path``.

    After an exception (a full disk, Ctrl-C) the temporary file is removed and whatever stood at ``path`` is untouched.
    The folder must exist.
    """
    path = Path(path)
    temporary = temporary_neighbour(path)
    try:
        with named_errors(path.parent):
            # "x": a file or a link that somebody else has put there is an error, and not written through
            with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut (not every file system of every OS can open a folder)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path | str) -> None:
    """Delete what processes that were killed while saving left in ``folder``; nobody else may be writing there."""
    for path in Path(folder).glob(".*.tmp"):
        if re.fullmatch(r"\..+\.(\d+|[0-9a-f]{16})\.tmp", path.name):  # earlier versions had process numbers
            path.unlink()


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
