"""What made a stage's numbers, besides settings and code: the versions of packages, and what the data held.

Neither is part of a stage's fingerprint, or what earlier versions made, which recorded neither, would be lost. Both
stand in result.json, and a stage is not done where one is known to differ from what is here now.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from detection.datasets.coco import COCO_NAME, is_coco
from detection.datasets.pictures import memory_folder
from detection.datasets.voc import VOC_NAME
from pretrain.run.files import sha256
from pretrain.run.pictures import is_no_data
from pretrain.run.run_folder import package_versions
from pretrain.run.text import read_record, read_text
from tools.studies.experiments import ROOT
from tools.studies.records import Made, write_record

PACKAGES = (
    "python", "detection-transfer-toolkit", "torch", "torchvision", "detectron2", "numpy", "opencv-contrib-python",
    "pillow",
)  # fmt: skip
COMPUTED = (
    "pretrain",
    "fine_tune",
    "sweep",
    "evaluate",
    "accuracy",
    "attack",
    "timing",
    "cam",
)  # kinds of stages that PyTorch computes
OF_SCENES = {
    "fine_tune": "DATASETS.TRAIN",
    "sweep": "sets",
    "evaluate": "DATASETS.TEST",
    "comparison": "split",
}  # kind -> input
BUILT_FOR = re.compile(r"\+(cpu|xpu|cu\d+|rocm[\d.]+)$")
MANY_FILES = 100_000  # after which reading them is worth a word
SETTLED_NS = 2_000_000_000  # a folder that was changed just now may change again at the same time of its clock

logger = logging.getLogger(__name__)


def present_versions() -> dict[str, str]:
    """Return the versions of what a stage computes with, here and now, and the state of the code in Git, if it is."""
    versions = package_versions(PACKAGES) | {"torch": torch_version()}
    git = _git_state()
    return versions | ({"git": git} if git else {})


@cache
def torch_version() -> str:
    """Return PyTorch's version as it says it itself (2.6.0+cu124) without the seconds that importing it takes."""
    spec = importlib.util.find_spec("torch") if "torch" not in sys.modules else None
    file = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    if file is None or not file.is_file():
        return package_versions(["torch"])["torch"]
    return str(runpy.run_path(str(file))["__version__"])


def release(version: str) -> str:
    """Return a version of PyTorch without what it was built for: 2.6.0 of 2.6.0+cu124."""
    return BUILT_FOR.sub("", version)


def _git_state() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        # without the lock: the user's own Git may be at work
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60)
    except (OSError, subprocess.SubprocessError):  # no Git, no repository, or one of somebody else
        return ""
    return said.stdout.strip()


def differences(made: Made, kind: str, data: str, *, accept_code: bool, accept_data: bool) -> list[str]:
    """Return in words by which ``made``, a record of a stage of ``kind``, differs from what is here now.

    ``data`` is the present identity of its data. What the record, or the present, does not know is no difference.
    """
    found = []
    before, now = made.get("versions", {}).get("torch", ""), torch_version()
    if kind in COMPUTED and before and not accept_code and release(before) != release(now):
        found.append(f"it is by PyTorch {before}, and this is {now} (--accept-code takes it as it is)")
    known = made.get("data", "")
    if known and data and not accept_data and known != data:
        found.append("its data have changed since (--accept-data takes it as it is)")
    return found


class DataIdentities:
    """What the data sets of a study hold, as hashes; each is found once, and only when somebody asks for it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[str, ...]], str] = {}

    def of_stage(self, kind: str, inputs: Mapping[str, Any]) -> str:
        """Return the identity of the data that a stage reads itself; empty for data that are made, or not there."""
        root = inputs.get("data", "")
        if not root:
            return ""
        named = inputs[OF_SCENES[kind]] if kind in OF_SCENES else ()
        key = (root, (named,) if isinstance(named, str) else tuple(named))
        if key not in self._known:
            self._known[key] = _identity(*key)
        return self._known[key]


def _identity(root: str, names: Sequence[str]) -> str:
    """Return the identity of the data sets ``names`` below ``root``, or of the pictures of class folders there."""
    if not os.path.isdir(root):
        return ""
    memory = _Memory(root, names)
    try:
        if names:
            parts = [part for name in names for part in (f"{name}\n", _scenes(Path(root), name, memory))]
        else:
            splits = [split for split in ("train", "val") if os.path.isdir(os.path.join(root, split))]
            parts = list(_folders(root, splits or [""], memory))
    except (OSError, ValueError) as error:  # what is wrong with data is for the commands that use them to say
        logger.debug("%s: what the data hold is not known (%s)", root, error)
        return ""
    memory.write()
    return _hash(parts)


def _folders(root: str, below: Sequence[str], memory: _Memory) -> Iterator[str]:
    """Yield name and contents of every folder ``below`` those of ``root``: the names and sizes of its files.

    A folder whose time of change is the remembered one is not read again.
    """
    waiting, seen = list(below), set()
    while waiting:
        folder = waiting.pop()
        path = os.path.join(root, folder)
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above it
            continue
        seen.add((status.st_dev, status.st_ino))
        mark = f"{path} {status.st_mtime_ns}"
        known = memory.get(mark)
        if known is None:
            with os.scandir(path) as listing:
                entries = sorted((one for one in listing if not is_no_data(one.name)), key=lambda one: one.name)
            inside = [one.name for one in entries if one.is_dir()]
            files = [f"{one.name} {one.stat().st_size}\n" for one in entries if not one.is_dir()]
            memory.tell(len(files))
            known = [_hash(files), *inside]
        memory.keep(mark, known, settled=time.time_ns() - status.st_mtime_ns > SETTLED_NS)
        yield f"{folder} {known[0]}\n"
        waiting += sorted((os.path.join(folder, name) for name in known[1:]), reverse=True)


def _scenes(root: Path, name: str, memory: _Memory) -> str:
    """Return the identity of one data set: the contents of its annotations, the names and sizes of its pictures.

    Of one in COCO's format it is the content of its file. Annotations are not read again while their sizes and times
    of change are the remembered ones.
    """
    if is_coco(name):
        named = COCO_NAME.fullmatch(name)
        files = [root / "coco" / "annotations" / f"instances_{named[2]}{named[1]}.json" if named else root / name]
        pictures: list[str] = []
    else:
        files, pictures = _voc_files(root, name)
    stats = [(file, os.stat(file)) for file in files]
    mark = _hash([*(f"{file} {status.st_size} {status.st_mtime_ns}\n" for file, status in stats), *pictures])
    known = memory.get(mark)
    if known is None:
        memory.tell(len(files))
        known = [_hash([*(f"{file.name} {sha256(file)}\n" for file in files), *pictures])]
    newest = max(status.st_mtime_ns for _, status in stats)
    memory.keep(mark, known, settled=time.time_ns() - newest > SETTLED_NS)
    return known[0]


def _voc_files(root: Path, name: str) -> tuple[list[Path], list[str]]:
    """Return the image set's file and its annotations, and name and size of its pictures; as ``load_voc`` has them."""
    named = VOC_NAME.fullmatch(name)
    folder = root
    if named:
        folders = [root / f"VOC{named[1]}", root / "VOCdevkit" / f"VOC{named[1]}"]
        folder = next((one for one in folders if one.is_dir()), folders[0])
    set_file = folder / "ImageSets" / "Main" / f"{named[2] if named else name}.txt"
    ids = {words[0]: None for line in read_text(set_file).splitlines() if (words := line.split())}
    places = {os.path.dirname(one) for one in ids}
    pictures = []
    for place in sorted(places):
        with os.scandir(folder / "JPEGImages" / place) as listing:
            pictures += [
                f"{os.path.join(place, one.name)} {one.stat().st_size}\n"
                for one in listing
                if os.path.join(place, os.path.splitext(one.name)[0]) in ids
            ]
    return [set_file, *(folder / "Annotations" / f"{one}.xml" for one in sorted(ids))], sorted(pictures)


class _Memory:
    """What was found in the data sets ``names`` below ``root`` before: mark -> a hash and names of folders.

    It lies below the user's cache folder; one that cannot be read or written is no error.
    """

    def __init__(self, root: str, names: Sequence[str]):
        folder = memory_folder().with_name("data")
        self._path = folder / f"{_hash([os.path.abspath(root), *(f'{chr(10)}{name}' for name in names)])[:24]}.json"
        self._used: dict[str, list[str]] = {}
        self._files = 0
        try:
            self._known = read_record(self._path, dict[str, list[str]], "what a study remembers of its data")
        except (OSError, ValueError):
            self._known = {}

    def get(self, mark: str) -> list[str] | None:
        return self._known.get(mark) or None

    def keep(self, mark: str, found: list[str], *, settled: bool) -> None:
        if settled:
            self._used[mark] = found

    def tell(self, num_files: int) -> None:
        """Say once that it takes its time."""
        if self._files < MANY_FILES <= self._files + num_files:
            logger.warning("reading names and sizes of the files of the data; the next call remembers them")
        self._files += num_files

    def write(self) -> None:
        if self._used == self._known:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_record(self._path, self._used)
        except OSError as error:
            logger.debug("%s: what the data hold is not remembered (%s)", self._path, error)


def _hash(parts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(os.fsencode(part))
    return digest.hexdigest()
