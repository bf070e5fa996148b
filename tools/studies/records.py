"""What a stage leaves about itself in its folder, and whether what it made is still there and still the same.

``request.json`` says what is to be made, from what and by which command; ``result.json`` appears when it is made, with
the hash of every output and the numbers for the table; ``failure.json`` says why it was not. ``stage.log`` holds what
the command wrote. A record that is not what it should be counts as none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec

from pretrain.run.files import atomic_write, sha256
from pretrain.run.text import Finite, read_record

REQUEST, RESULT, FAILURE, LOG = "request.json", "result.json", "failure.json", "stage.log"
RESULT_OF_STUDY = "study.json"  # in the study's own folder

Identity = dict[str, str | int]  # output -> hash, or size of a folder
Number = Finite | None
Values = dict[str, Number | dict[str, Number]]  # metric -> number; of timing, run name -> metric -> number
Words = Annotated[list[str], msgspec.Meta(min_length=1)]
T = TypeVar("T")


class _FileOnly(TypedDict, total=False):
    mtime_ns: int
    sha256: str


class _FolderOnly(TypedDict, total=False):
    files: int


class Output(_FileOnly, _FolderOnly):
    """What an output was when it was made."""

    bytes: int


class Made(TypedDict, total=False):
    """What made a stage, or was to make it, besides settings and code; earlier versions recorded neither."""

    versions: dict[str, str]
    data: str  # hash of what the real data hold that the stage itself reads; empty where it reads none


class Begun(Made):
    """What a study asks of a request that an earlier call left; requests of earlier versions hold it too."""

    kind: str
    inputs: dict[str, Any]
    fingerprint: str
    meaning: str
    code: str
    made_from: dict[str, Identity]  # of each parent


class Request(Begun):
    """What a worker is to do."""

    name: str
    present_code: str
    command: Words
    outputs: Words
    threads: int
    processes: int


class _LaterResult(Made, total=False):
    """What the first versions did not record."""

    machine: str
    processes: int
    threads: int


class Result(_LaterResult):
    """What a worker says of a stage that is done."""

    fingerprint: str
    made_from: dict[str, Identity]
    outputs: dict[str, Output]
    values: Values
    link: str | None
    attempts: int
    seconds: Finite  # of the last attempt
    finished: str


class Failure(TypedDict):
    """Why a stage is not done."""

    message: str


class _LaterStudy(TypedDict, total=False):
    config_path: str


class Study(_LaterStudy):
    """What a study asks of the page that stands where its own goes."""


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON, whole or not at all."""
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")


def find_record(path: Path, kind: type[T]) -> tuple[T | None, str]:
    """Return a record and "", or None and what is wrong with it, which is nothing where there is no such file."""
    try:
        return read_record(path, kind, f"a {path.stem}"), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return None, str(error)


def read_result(
    folder: Path,
    fingerprint: str,
    made_from: Mapping[str, Any] | None = None,
    *,
    outputs: Sequence[str] = (),
) -> Result | None:
    """Return result.json of a stage that is done: it is the one meant, and its outputs are what they were then.

    With ``made_from`` (see ``identity``) it must have been made from just those outputs of its parents, and
    ``outputs`` must be among its own.
    """
    result, _ = find_record(folder / RESULT, Result)
    if result is None or result["fingerprint"] != fingerprint or not set(outputs) <= set(result["outputs"]):
        return None
    if made_from is not None and result["made_from"] != made_from:
        return None
    return result if not changed_outputs(folder, result["outputs"]) else None


def failure_message(folder: Path) -> str:
    """Return why the stage of ``folder`` failed, as it says itself; empty where it does not."""
    failure, fault = find_record(folder / FAILURE, Failure)
    return failure["message"] if failure is not None else fault and f"it failed, and why is lost: {fault}"


def identity(result: Result, outputs: Sequence[str]) -> Identity:
    """Return what those ``outputs`` of a stage are, without when they were written; another study may want more."""
    described = {name: result["outputs"][name] for name in outputs}
    return {name: output.get("sha256", output["bytes"]) for name, output in described.items()}


def made_from(parents: Mapping[str, tuple[Path, Sequence[str]]]) -> dict[str, Identity] | None:
    """Return what a stage is made from, parent -> ``identity``, by its parents' folders and outputs.

    None before all are done.
    """
    known = {}
    for name, (folder, outputs) in parents.items():
        result, _ = find_record(folder / RESULT, Result)
        if result is None or not set(outputs) <= set(result["outputs"]):
            return None
        known[name] = identity(result, outputs)
    return known


def describe_outputs(folder: Path, outputs: Sequence[str]) -> dict[str, Output]:
    """Return of each of ``outputs`` size, time and SHA-256, or how many files a folder has, and their size.

    Raises:
        FileNotFoundError: one is missing.
    """
    return {name: _describe(folder / name) for name in outputs}


def changed_outputs(folder: Path, outputs: Mapping[str, Output]) -> list[str]:
    """Return the names of those ``outputs`` that are missing, or are not what ``describe_outputs`` saw.

    A file of the same size and time is taken to be the same; only one with another time (a copy, say) is read again.
    """
    changed = []
    for name, before in outputs.items():
        path = folder / name
        try:
            if path.is_dir():
                same = _describe(path) == before
            else:
                status = path.stat()
                same = status.st_size == before["bytes"] and (
                    status.st_mtime_ns == before.get("mtime_ns") or sha256(path) == before.get("sha256")
                )
        except (OSError, ValueError):  # a NUL byte in a name is a ValueError
            same = False
        if not same:
            changed.append(name)
    return changed


def find_accepted(folder: Path, is_meant: Callable[[Begun], bool]) -> tuple[Path, str, str] | None:
    """Return folder, fingerprint and code version of the same stage as another version of the code made, or began it.

    ``folder`` is where this version would put it; ``is_meant`` judges a request. Among several, one that is done comes
    first, then the newest.
    """
    stem = folder.name.rpartition("-")[0]
    found = []
    for path in folder.parent.glob(f"{stem}-????????/{REQUEST}"):
        request, _ = find_record(path, Begun)
        if request is not None and is_meant(request):
            done = read_result(path.parent, request["fingerprint"]) is not None
            found.append((done, path.stat().st_mtime_ns, path.parent, request["fingerprint"], request["code"]))
    return max(found)[2:] if found else None


def _describe(path: Path) -> Output:
    if path.is_dir():
        sizes = [os.stat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names]
        return {"files": len(sizes), "bytes": sum(sizes)}
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(path)}
