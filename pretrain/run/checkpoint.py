"""Checkpoint files that are whole, safe to open and describe themselves; both trainers use them.

A file appears under its final name only when it is complete and on the disk. It holds tensors and plain Python values
only, so that ``torch.load(weights_only=True)`` opens it too, and nothing inside is ever executed.
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import IO, Any

from pretrain.run.cli import one_line
from pretrain.run.files import atomic_write

LAST_CHECKPOINT = "last_checkpoint"  # a text file that names the newest checkpoint, as Detectron2 and fvcore have it

logger = logging.getLogger(__name__)


class UnsafeError(ValueError):
    """A file holds more than tensors and plain values; ``what`` names it."""

    def __init__(self, path: Path, what: str):
        super().__init__(f"checkpoint {path} cannot be loaded safely: it holds a {what}; nothing in it was executed")
        self.what = what


def save_checkpoint(state: dict[str, Any], path: Path | str) -> None:
    """Write ``state`` (nested dicts, lists and tuples of tensors and plain values) to ``path``, whole or not at all.

    Raises:
        TypeError: a value that safe loading would refuse; its place in ``state`` is named and nothing is written.
        OSError: the disk is full, say; whatever stood at ``path`` is untouched.
    """
    import torch

    _check_plain(state, "state")
    try:
        with atomic_write(path) as file:
            watched = _Watched(file)
            try:
                torch.save(state, watched)
            except RuntimeError:  # PyTorch's zip writer says what went wrong inside itself, not what the file met
                if watched.error is None:
                    raise
                raise watched.error from None
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            reason = f"no space left in {Path(path).parent}"
        else:
            reason = getattr(error, "strerror", None) or one_line(error)
        raise OSError(f"{path} could not be written ({reason}); the files before it are whole") from error


class _Watched:
    """A file for writing that remembers what ended a write: the system's error, or Ctrl-C."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except BaseException as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_last(state: dict[str, Any], folder: Path | str, name: str) -> Path:
    """Save ``state`` as ``folder/name``, then point ``last_checkpoint`` to it. Returns the file's path."""
    path = Path(folder) / name
    save_checkpoint(state, path)
    with atomic_write(path.parent / LAST_CHECKPOINT, "w") as file:
        file.write(name)
    return path


def load_checkpoint(path: Path | str) -> Any:
    """Return what ``path`` holds, tensors on the CPU and without gradients, without executing anything in it.

    What comes back ends for whoever walks through it, and is not larger than the file.

    Raises:
        FileNotFoundError: no such file.
        UnsafeError: it needs more than tensors and plain values.
        ValueError: the file is damaged (checksums are verified), or none of PyTorch's.
    """
    from pretrain.run.unpickling.plain import UnsafeTypeError, reason
    from pretrain.run.unpickling.torch_files import WrongChecksum, read_torch_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    if path.stat().st_size == 0:
        raise ValueError(f"checkpoint {path} is empty (0 bytes)")
    with open(path, "rb") as file:  # outside the try: a file that may not be read is another error than a damaged one
        try:
            return read_torch_file(file)
        except UnsafeTypeError as error:
            raise UnsafeError(path, str(error)) from error
        except WrongChecksum as error:
            raise ValueError(f"checkpoint {path} is damaged: wrong checksum of {error}") from error
        except Exception as error:  # a cut or altered pickle stream can raise almost anything
            raise ValueError(f"checkpoint {path} is damaged or not a PyTorch file: {reason(error)}") from error


def load_last(folder: Path | str) -> tuple[dict[str, Any], Path] | None:
    """Return the newest readable checkpoint of ``folder`` and its path, or None where there is none.

    The file that ``last_checkpoint`` names comes first, then the other ``*.pth`` files from the newest to the oldest. A
    damaged one is passed over with a warning that names it and the one used instead.

    Raises:
        ValueError: there are checkpoints, but none can be read.
    """
    folder = Path(folder)
    candidates = sorted(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    pointer = folder / LAST_CHECKPOINT
    if pointer.is_file():
        named = folder / pointer.read_text("utf-8", errors="replace").strip()
        if named in candidates:
            candidates.remove(named)
            candidates.insert(0, named)
    failures = []
    for path in candidates:
        try:
            state = load_checkpoint(path)
        except ValueError as error:
            failures.append(str(error))
            continue
        if failures:
            logger.warning("%s; resuming from %s instead", "; ".join(failures), path)
        return state, path
    if failures:
        raise ValueError(f"no checkpoint in {folder} can be read: {'; '.join(failures)}")
    return None


def _check_plain(value: Any, place: str) -> None:
    import torch

    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(key, f"key {key!r} of {place}")
            _check_plain(item, f"{place}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{place}[{index}]")
    elif not (value is None or isinstance(value, torch.Tensor) or type(value) in (bool, int, float, str, bytes)):
        raise TypeError(
            f"{place} is a {type(value).__module__}.{type(value).__name__}; expected tensors and plain values"
        )
