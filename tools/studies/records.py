"""What a stage leaves about itself in its folder, and whether what it made is still there and still the same.

``request.json`` says what is to be made, from what and by which command; ``result.json`` appears when it is made, with
the hash of every output and the numbers for the table; ``failure.json`` says why it was not. ``stage.log`` holds what
the command wrote.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.run.files import atomic_write, sha256

REQUEST, RESULT, FAILURE, LOG = "request.json", "result.json", "failure.json", "stage.log"
RESULT_OF_STUDY = "study.json"  # in the study's own folder


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON, whole or not at all."""
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the content of a record; None where there is none or it is no longer one."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_result(folder: Path, fingerprint: str, made_from: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Return result.json of a stage that is done: it is the one meant, and its outputs are what they were then.

    With ``made_from`` (see ``identity``) it must have been made from just those outputs of its parents.
    """
    result = read_record(folder / RESULT)
    if result is None or result.get("fingerprint") != fingerprint:
        return None
    if made_from is not None and result["made_from"] != made_from:
        return None
    return result if not changed_outputs(folder, result["outputs"]) else None


def identity(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the outputs of a stage are, without when they were written: output -> hash, or size of a folder."""
    return {name: output.get("sha256", output["bytes"]) for name, output in result["outputs"].items()}


def made_from(folders: Mapping[str, Path]) -> dict[str, Any] | None:
    """Return what a stage is made from, parent -> ``identity``, by its parents' folders; None before all are done."""
    results = {name: read_record(folder / RESULT) for name, folder in folders.items()}
    return None if None in results.values() else {name: identity(result) for name, result in results.items()}


def describe_outputs(folder: Path, outputs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return of each of ``outputs`` size, time and SHA-256, or how many files a folder has, and their size.

    Raises:
        FileNotFoundError: one is missing.
    """
    return {name: _describe(folder / name) for name in outputs}


def changed_outputs(folder: Path, outputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
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
                    status.st_mtime_ns == before["mtime_ns"] or sha256(path) == before["sha256"]
                )
        except (OSError, KeyError):
            same = False
        if not same:
            changed.append(name)
    return changed


def find_accepted(folder: Path, is_meant: Callable[[Mapping[str, Any]], bool]) -> tuple[Path, str, str] | None:
    """Return folder, fingerprint and code version of the same stage as another version of the code made, or began it.

    ``folder`` is where this version would put it; ``is_meant`` judges a request. Among several, one that is done comes
    first, then the newest.
    """
    stem = folder.name.rpartition("-")[0]
    found = []
    for request in folder.parent.glob(f"{stem}-????????/{REQUEST}"):
        content = read_record(request)
        if content is not None and is_meant(content):
            done = read_result(request.parent, content["fingerprint"]) is not None
            found.append((done, request.stat().st_mtime_ns, request.parent, content["fingerprint"], content["code"]))
    return max(found)[2:] if found else None


def _describe(path: Path) -> dict[str, Any]:
    if path.is_dir():
        sizes = [os.stat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names]
        return {"files": len(sizes), "bytes": sum(sizes)}
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(path)}
