"""The files of a run, named as Detectron2 names them: ``config.yaml``, ``metrics.json``, TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.run.files import atomic_write, named_errors, open_to_append
from pretrain.run.settings import is_number

METRICS_FILE = "metrics.json"


def write_config(cfg: CfgNode, output_dir: Path) -> None:
    """Write the resolved config to ``output_dir/config.yaml``, whole or not at all."""
    with atomic_write(output_dir / "config.yaml", "w") as file:
        file.write(cfg.dump())


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed packages, and of "python", which numbers depend on; each name once.

    A package that is imported says it itself: only PyTorch knows which CUDA it was built for.
    """
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    if name == "python":
        return platform.python_version()
    own = getattr(sys.modules.get(name), "__version__", None)
    if own is not None:
        return str(own)
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "not installed as a package"


def drop_later(output_dir: Path | str, last: int | None) -> None:
    """Remove from ``metrics.json`` and from the TensorBoard events all that came after step ``last``.

    ``last`` is the resumed checkpoint's own step, as these files number it, which stays; None, of a run that starts
    anew, removes everything. So each step stands in either file once. Nobody may be writing there.
    """
    output_dir = Path(output_dir)
    limit = -1 if last is None else last
    path = output_dir / METRICS_FILE
    if path.is_file():
        kept = [entry for entry in read_metrics(output_dir) if entry["iteration"] <= limit]
        with atomic_write(path, "w") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in kept)
    for events in sorted(output_dir.glob("events.out.tfevents.*")):
        _drop_later_events(events, limit)


def _drop_later_events(path: Path, limit: int) -> None:
    # Removed from the file itself: TensorBoard's readers differ in what a purge step, its own means, hides.
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    records = list(RawEventFileLoader(str(path)).Load())  # up to what a killed process has not written to its end
    events = [Event.FromString(record) for record in records]
    kept = [
        record
        for record, event in zip(records, events, strict=True)
        if not event.HasField("summary") or event.step <= limit
    ]
    if len(kept) == len(records):
        return
    if any(event.HasField("summary") and event.step <= limit for event in events):
        with atomic_write(path) as file:
            writer = RecordWriter(file)
            for record in kept:
                writer.write(record)
    else:
        path.unlink()


class MetricsWriter:
    """Appends to ``metrics.json`` (one JSON object a line, key ``iteration``) and to TensorBoard. Close it after use.

    ``resume_iteration`` is the resumed checkpoint's own step, as ``write`` numbers it, None without one; what the run
    that died wrote after it is dropped (see ``drop_later``).
    """

    def __init__(self, output_dir: Path, *, resume_iteration: int | None = None):
        from torch.utils.tensorboard import SummaryWriter

        drop_later(output_dir, resume_iteration)
        self.path = Path(output_dir) / METRICS_FILE
        self._file = open_to_append(self.path)
        self._events = SummaryWriter(str(output_dir))

    def write(self, iteration: int, values: dict[str, float | int | None]) -> None:
        """Record ``values`` (name -> plain number) at ``iteration``.

        Raises:
            OSError: the disk is full, say; the folder is named.
        """
        with named_errors(self.path.parent):
            self._file.write(json.dumps({"iteration": iteration, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                if value is not None:
                    self._events.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flush both files to the disk."""
        with named_errors(self.path.parent), contextlib.ExitStack() as both:
            both.callback(self._events.close)
            both.callback(self._file.close)
            self._file.flush()
            os.fsync(self._file.fileno())


def read_metrics(output_dir: Path | str) -> list[dict[str, Any]]:
    """Return the objects of ``metrics.json`` in ``output_dir`` in order, each with a number ``iteration``.

    There is none without the file. Lines that were not written to their end (by a process that was killed) or are no
    such object are left out.
    """
    path = Path(output_dir) / METRICS_FILE
    if not path.is_file():
        return []
    entries = (_parse(line) for line in path.read_text("utf-8", errors="replace").splitlines())
    return [entry for entry in entries if entry is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and is_number(entry.get("iteration")) else None
