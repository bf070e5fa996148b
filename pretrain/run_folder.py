"""The files of a run, named as Detectron2 names them: ``config.yaml``, ``metrics.json``, TensorBoard events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from fvcore.common.config import CfgNode

from pretrain.checkpoint import atomic_write


def write_config(cfg: CfgNode, output_dir: Path) -> None:
    """Write the resolved config to ``output_dir/config.yaml``, whole or not at all."""
    with atomic_write(output_dir / "config.yaml", "w") as file:
        file.write(cfg.dump())


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed packages, which numbers depend on; each name once."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            found[name] = "not installed as a package"
    return found


class MetricsWriter:
    """Appends to ``metrics.json`` (one JSON object a line, key ``iteration``) and to TensorBoard. Close it after use.

    ``resume_iteration`` is the number of iterations that the resumed checkpoint has behind it. Lines written after it
    by the run that died are dropped, so that each iteration stands in the file once.
    """

    def __init__(self, output_dir: Path, *, resume_iteration: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        self.path = Path(output_dir) / "metrics.json"
        kept = [line for line in _complete_lines(self.path) if json.loads(line)["iteration"] <= resume_iteration]
        with atomic_write(self.path, "w") as file:
            file.writelines(line + "\n" for line in kept if resume_iteration)
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


def _complete_lines(path: Path) -> list[str]:
    """Return the lines of ``path`` that were written whole; a process killed while writing leaves half a line."""
    if not path.exists():
        return []
    return [line.rstrip("\n") for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("}\n")]
