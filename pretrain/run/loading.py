"""Loading processes that nobody waits for in vain: a batch arrives, or the reason why there is none.

PyTorch's loading processes pickle a batch in a thread of their queue. What fails there (/dev/shm is full, no file
descriptor is left) is printed and forgotten, and the training process waits for ever. Here a batch is pickled where it
is made, so that a failure takes the way of every other error of a loading process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils.pin_memory import pin_memory
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

SHARED_MEMORY = "/dev/shm"
REAPING = 0.5  # seconds until a process whose connection broke is known to be gone


class LoadingError(OSError):
    """The machine gives loading processes less than they need, or has ended one."""


def make_loader(
    dataset: Dataset, *, num_workers: int, key: str, collate: Callable[[Any], Any], **options: Any
) -> DataLoader:
    """Return PyTorch's loader, to be used through ``Loading``.

    ``key`` is the config key of ``num_workers``, which errors name; ``options`` are further ones of ``DataLoader``.
    Ctrl-C, which a terminal sends to every process, is left to the process that iterates.
    """
    return _Loader(
        dataset,
        num_workers=num_workers,
        collate_fn=_Packer(collate, key),
        worker_init_fn=_leave_interrupts_to_the_parent,
        **options,
    )


class _Loader(DataLoader):
    def _get_iterator(self) -> Any:
        if not self.num_workers:
            return super()._get_iterator()
        self.check_worker_number_rationality()
        return _Processes(self)


class _Processes(_MultiProcessingDataLoaderIter):
    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # where it was not made to its end, for lack of shared memory
            super().__del__()


class Loading(Iterator[Any]):
    """Iterates once over a loader of ``make_loader``; as a context manager around all that its batches are used for.

    ``take``, if given, makes of each batch what is yielded. The loading processes start with the first batch and end
    with the last one, at an error, or at ``close``. Left to the garbage collector, which frees their queues in any
    order, each would hold up the end of the program for five seconds. PyTorch has no public call to end them.

    Raises:
        LoadingError: a loading process was killed (PyTorch says so wherever the program is, so also within the
            context), or has no shared memory; other errors of a loading process arrive as they are.
    """

    def __init__(self, loader: DataLoader, take: Callable[[Any], Any] | None = None):
        self._loader, self._take = loader, take
        self._samples: Any = None
        self._closed = False

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        try:
            if self._samples is None:
                self._samples = iter(self._loader)
            batch = next(self._samples)
            if isinstance(batch, _Parcel):
                batch = batch.unpack()
            return batch if self._take is None else self._take(batch)
        except StopIteration:
            self.close()
            raise
        except Exception as error:
            explained = self._explain(error)
            self.close()
            if explained is None:
                raise
            raise explained from error

    def __enter__(self) -> Loading:
        return self

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        explained = self._explain(error) if isinstance(error, Exception) else None
        self.close()
        if explained is not None:
            raise explained from error

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the loading processes; nothing more is yielded."""
        self._closed = True
        if self._samples is not None and self._loader.num_workers:
            self._samples._shutdown_workers()
        self._samples = None

    def _explain(self, error: Exception) -> LoadingError | None:
        """Return what ``error`` means where the machine is to blame, else None."""
        if isinstance(error, LoadingError):
            return None
        key, count = self._loader.collate_fn.key, self._loader.num_workers
        if self._samples is None:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC and count:
                return _no_shared_memory(key)
            if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN, errno.EMFILE):
                return LoadingError(f"{count} loading processes could not be started ({error.strerror}); lower {key}")
            return None
        for process in self._samples._workers if count else ():
            if isinstance(error, (EOFError, ConnectionError)):
                process.join(REAPING)
            code = process.exitcode
            if code == -signal.SIGBUS:
                return _no_shared_memory(key)
            if code:
                how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
                return LoadingError(
                    f"a loading process {how}; the machine may have run out of memory: lower {key}, which is {count}"
                )
        return None


def _leave_interrupts_to_the_parent(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _tell_no_lost_connection


def _tell_no_lost_connection(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """Write an error that a thread of multiprocessing met, but not that the parent left in the middle of a batch.

    The parent itself says why it did.
    """
    if not isinstance(error, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, traceback)


def opened(batches: Iterable[Any]) -> AbstractContextManager[Iterator[Any]]:
    """Return the context of an iteration over ``batches``, which need not come from loading processes."""
    samples = iter(batches)
    return samples if isinstance(samples, Loading) else nullcontext(samples)


@dataclass(frozen=True)
class _Parcel:
    """A pickled batch, whose tensors are in shared memory: a queue's thread finds nothing in it that could fail."""

    content: bytes

    def unpack(self) -> Any:
        return ForkingPickler.loads(self.content)

    def pin_memory(self) -> Any:
        """Return the batch in pinned memory; PyTorch's pinning thread calls this."""
        return pin_memory(self.unpack())


@dataclass(frozen=True)
class _Packer:
    """Makes a batch of samples, and in a loading process a parcel of the batch."""

    collate: Callable[[Any], Any]
    key: str

    def __call__(self, samples: Any) -> Any:
        if get_worker_info() is None:
            return self.collate(samples)
        try:
            return _Parcel(bytes(ForkingPickler.dumps(self.collate(samples))))
        except (RuntimeError, OSError) as error:  # PyTorch has no error of its own for either
            text = str(error)
            if "Too many open files" in text:
                raise LoadingError(
                    f"a loading process may not open more files ({text}); raise `ulimit -n` or lower {self.key}"
                ) from error
            if "No space left on device" in text or "Cannot allocate memory" in text:
                raise _no_shared_memory(self.key) from error
            raise


def _no_shared_memory(key: str) -> LoadingError:
    room = ""
    if os.path.isdir(SHARED_MEMORY):
        status = os.statvfs(SHARED_MEMORY)
        free, size = (blocks * status.f_frsize / 2**20 for blocks in (status.f_bavail, status.f_blocks))
        room = f" ({free:.3g} of {size:.3g} MiB are free)"
    return LoadingError(
        f"{SHARED_MEMORY}, where loading processes leave their batches, has too little room{room}; "
        f"make it larger (docker run --shm-size=8g, or --ipc=host), or set {key} 0"
    )
