#!/usr/bin/env python3
"""Copy what is plain of a weights file that holds more than that: every tensor and every plain value, nothing else.

This EXECUTES what SOURCE holds; do it only where you trust who made it. TARGET then opens safely, and is converted or
refused as SOURCE would be. Objects become the dict of their attributes, networks their state dict.

Example:
  python pretrain/weights/safe_copy.py downloads/checkpoint.pth.tar downloads/checkpoint.pth.tar.safe.pth
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository: this file runs from wherever it is called

from pretrain.run.cli import make_parser, one_line, run_tool
from pretrain.weights.files import PICKLE, file_kind

MAX_SHOWN = 10  # names of what was left out, in one line
_NOTHING = object()


def copy_safely(source: Path | str, target: Path | str) -> list[str]:
    """Execute what ``source`` holds and write what is plain of it to ``target``, whole or not at all.

    ``target`` holds dicts, lists and tuples of tensors (on the CPU), text, numbers, bytes and None under their names in
    ``source``. NumPy's numbers become Python's, its arrays tensors. An object becomes the dict of its attributes, a
    network its state dict; an architecture that the network itself names becomes ``arch`` where the file has none.

    Returns:
        The places of what was left out, each with its type: functions, classes, sets, sparse tensors and the like.

    Raises:
        FileNotFoundError, ValueError: no such file, it cannot be opened even so, or holds nothing plain.
    """
    from pretrain.run.checkpoint import save_checkpoint

    source, target = Path(source), Path(target)
    kind = file_kind(source)
    if target.exists() and target.samefile(source):
        raise ValueError(f"source and target are the same file, {source}")
    content = _execute(source, kind)
    copier = _Copier()
    copy = copier.plain(content, "")
    if copy is _NOTHING or not isinstance(copy, dict):
        raise ValueError(f"{source} holds no tensors and no plain values, but a {_type_name(content)}")
    if copier.architectures and "arch" not in copy:
        copy = copy if isinstance(content, Mapping) else {"state_dict": copy}
        copy["arch"] = ", ".join(sorted(copier.architectures))
    save_checkpoint(copy, target)
    return copier.left_out


def _execute(source: Path, kind: str) -> Any:
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old layouts and TorchScript, of no use to who wants the tensors
            if kind == PICKLE:
                with open(source, "rb") as file:
                    return pickle.load(file, encoding="latin1")
            return torch.load(source, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{source} needs the module {error.name!r} of the code that made it: "
            "put the folder of that code on PYTHONPATH, or install it"
        ) from error
    except OSError:
        raise
    except Exception as error:  # a pickle calls whatever it likes
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ValueError(f"{source} cannot be opened even so: {type(error).__name__}: {reason}") from error


class _Copier:
    """Copies values and remembers what it left out, and which architectures the networks say they have."""

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self.architectures: set[str] = set()
        self._open: set[int] = set()  # what lies around the value at hand, to notice circles

    def plain(self, value: Any, place: str) -> Any:
        """Return ``value`` in tensors and plain values, or ``_NOTHING``."""
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if id(value) in self._open:
            return self._leave_out(place, "a circle")
        self._open.add(id(value))
        try:
            return self._inside(value, place)
        except Exception as error:  # properties and iterators of foreign types do whatever they like
            return self._leave_out(place, f"{_type_name(value)}: {one_line(error)}")
        finally:
            self._open.discard(id(value))

    def _inside(self, value: Any, place: str) -> Any:
        import enum
        import types

        import numpy as np
        import torch

        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_quantized or value.is_nested:
                return self._leave_out(place, "a sparse, quantised or nested tensor")  # the copy would not open either
            return value.detach().as_subclass(torch.Tensor)
        if isinstance(value, torch.nn.Module):
            self.architectures |= _architectures(value)
            return self._dict(value.state_dict(), place)
        if isinstance(value, Mapping):
            return self._dict(value, place)
        if isinstance(value, enum.Enum):
            return self.plain(value.value, place)
        if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):  # a long double has no equal
            return self.plain(value.item(), place)
        for base in (bool, int, float, str, bytes):
            if isinstance(value, base):
                return base(value)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=True))
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            return self._dict(value._asdict(), place)
        if isinstance(value, (list, tuple)):
            items = [self.plain(item, _inner(place, index)) for index, item in enumerate(value)]
            return (tuple if isinstance(value, tuple) else list)(item for item in items if item is not _NOTHING)
        nameable = isinstance(value, (type, types.FunctionType, types.ModuleType))
        if attributes := {} if nameable else dict(getattr(value, "__dict__", {})):
            return self._dict(attributes, place)
        return self._leave_out(place, _type_name(value))

    def _dict(self, values: Mapping[Any, Any], place: str) -> dict[Any, Any]:
        copy = {}
        for key, value in values.items():
            plain_key = key.item() if type(key).__module__ == "numpy" and hasattr(key, "item") else key
            if isinstance(plain_key, str):
                plain_key = str(plain_key)
            if not (plain_key is None or type(plain_key) in (bool, int, float, str, bytes)):
                self._leave_out(_inner(place, key), f"its key is a {_type_name(key)}")
            elif (item := self.plain(value, _inner(place, plain_key))) is not _NOTHING:
                copy[plain_key] = item
        return copy

    def _leave_out(self, place: str, what: str) -> Any:
        self.left_out.append(f"{place or 'the whole'} ({what})")
        return _NOTHING


def _architectures(network: Any) -> set[str]:
    """Return the names of architectures that a network or its parts carry, in the way of timm."""
    found = set()
    for module in network.modules():
        for name in ("pretrained_cfg", "default_cfg"):
            config = getattr(module, name, None)
            architecture = config.get("architecture") if isinstance(config, Mapping) else None
            if isinstance(architecture, str):
                found.add(architecture)
    return found


def _inner(place: str, name: Any) -> str:
    return f"{place}.{name}" if place else str(name)


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("source", metavar="SOURCE", type=Path, help="weights file; what it holds is executed")
    parser.add_argument("target", metavar="TARGET", type=Path, help="a .pth that opens safely")
    args = parser.parse_args(argv)
    left_out = copy_safely(args.source, args.target)
    if left_out:
        more = f" and {len(left_out) - MAX_SHOWN} more" if len(left_out) > MAX_SHOWN else ""
        print(f"left out, as neither tensors nor plain values: {', '.join(left_out[:MAX_SHOWN])}{more}")
    print(f"written: {args.target}")
    return 0


if __name__ == "__main__":
    run_tool(main)
