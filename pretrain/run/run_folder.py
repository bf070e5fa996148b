"""The files of a run, named as Detectron2 names them: ``config.yaml``, ``metrics.json``, TensorBoard events."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.run.files import atomic_write
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


class MetricsWriter:
    """Appends to ``metrics.json`` (one JSON object a line, key ``iteration``) and to TensorBoard. Close it after use.

    ``resume_iteration`` is the number of iterations that the resumed checkpoint has behind it. Lines written after it
    by the run that died are dropped, so that each iteration stands in the file once.
    """

    def __init__(self, output_dir: Path, *, resume_iteration: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        self.path = Path(output_dir) / METRICS_FILE
        kept = [entry for entry in read_metrics(output_dir) if entry["iteration"] <= resume_iteration]
        with atomic_write(self.path, "w") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in kept if resume_iteration)
        self._file = self.path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(output_dir), purge_step=resume_iteration or None)

    def write(self, iteration: int, values: dict[str, float | int | None]) -> None:
        """Record ``values`` (name -> plain number) at ``iteration``, the number of iterations done so far."""
        self._file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if value is not None:
                self._events.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flush both files to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._events.close()


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
