"""Files that are whole or not there, written beside their name and renamed; their names and their SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

_HASH_CHUNK = 1 << 20
MAX_NAME_BYTES = 255  # of a file or folder, on nearly every file system
FOLDS_CASE = sys.platform in ("darwin", "win32")  # their file systems take Car and car for one name
RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE | re.DOTALL)


def file_name_fault(name: str, *, longest: int = MAX_NAME_BYTES) -> str | None:
    """Return what keeps ``name`` from being a file's or folder's, or a part of one, on any system; None if nothing.

    ``longest`` is in bytes of UTF-8, less than MAX_NAME_BYTES where more stands beside it in the whole name.
    """
    if not name.strip(". "):
        return "is empty, or nothing but dots and blanks"
    if "/" in name or "\\" in name:
        return "holds a slash"
    if any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one == "\ufeff" for one in name):
        return "holds a control character"
    if name != name.strip() or name.endswith("."):
        return "begins with a blank, or ends in a blank or a dot"
    if RESERVED.fullmatch(name):
        return "is a device's on Windows"
    if len(name.encode("utf-8")) > longest:
        return f"is longer than {longest} bytes"
    return None


def same_file_names(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two different ``names`` that would be one file's, if any.

    How an accent is written makes no difference anywhere; case does, where FOLDS_CASE is not set.
    """
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold() if FOLDS_CASE else name)
        if seen.setdefault(key, name) != name:
            return seen[key], name
    return None


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
    start = path.name.encode()[: MAX_NAME_BYTES // 2].decode(errors="ignore")  # a longest name has no room for more
    return path.with_name(f".{start}.{secrets.token_hex(8)}.tmp")


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


def open_to_append(path: Path | str) -> TextIO:
    """Open a text file, made if absent, to go on at its end; a link of its name would lead to another file.

    Raises:
        OSError: it is a link, or cannot be written.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)  # which Windows lacks

    return open(path, "a", encoding="utf-8", opener=opener)


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
