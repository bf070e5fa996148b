"""Read what a weights file holds without executing anything in it.

The file's first bytes, not its name, say what it is: PyTorch's zip or its older pickle, a plain pickle of NumPy arrays
(Detectron2's model zoo), or safetensors.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np

from pretrain.run.settings import refuse_faults
from pretrain.run.unpickling.plain import Call, PlainUnpickler, UnsafeTypeError, check_amount, reason

TORCH, PICKLE, SAFETENSORS = "torch", "pickle", "safetensors"
_TORCH_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # torch.serialization.MAGIC_NUMBER, little-endian

# the modules of which DeepMind's BYOL release names classes; its program pickles with dill
_JAX_PROGRAM = re.compile(r"(byol|dill|haiku|jax|jaxlib)\..+")


def read_weights(path: Path | str) -> Any:
    """Return the file's content: usually a dict of tensors, or one of plain values and such dicts; on the CPU.

    A safetensors file gives one flat dict; the arrays of a NumPy pickle come as they are.

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty, truncated, not a weights file, or one that needs more than tensors and plain values; the text
            then names the type and a command that makes a safe copy.
        ImportError: a safetensors file, and the package of that name is not installed.
    """
    refuse_address(path)
    path = Path(path)
    kind = file_kind(path)
    return {TORCH: _read_torch, PICKLE: _read_pickle, SAFETENSORS: _read_safetensors}[kind](path)


def refuse_address(path: Path | str) -> None:
    """Refuse an address where a file is meant: nothing is fetched behind the user's back.

    Raises:
        ConfigError: as ``address_faults`` says it.
    """
    refuse_faults(address_faults(str(path)))


def address_faults(path: str) -> list[str]:
    """Return, for an address, that it is one and the line that fetches it; nothing for a path."""
    found = re.fullmatch(r"(https?|detectron2|hf):/{1,2}(.+)", path)  # a Path has lost one of the slashes
    if not found:
        return []
    scheme, rest = found.groups()
    if scheme == "detectron2":
        scheme, rest = "https", f"dl.fbaipublicfiles.com/detectron2/{rest}"
    file = rest.partition("?")[0].rpartition("/")[2]
    fetch = f"curl --fail --location --output {_quoted(file)} {_quoted(f'{scheme}://{rest}')}"
    if scheme == "hf":
        owner, _, name = rest.partition("/")
        name, _, file = name.partition("/")
        fetch = f"hf download {_quoted(f'{owner}/{name}')} {_quoted(file)} --local-dir ."
    return [
        f"{path} is an address, and nothing is fetched unasked; fetch it, then name the file {_quoted(file)}:",
        fetch,
    ]


def file_kind(path: Path) -> str:
    """Return which of `TORCH`, `PICKLE` and `SAFETENSORS` the first bytes of a file show.

    Raises:
        FileNotFoundError, ValueError: as `read_weights`.
    """
    refuse_address(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a weights file")
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} {'is no regular file' if path.exists() else 'does not exist'}")
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        raise ValueError(f"{path} is empty (0 bytes)")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} is a web page, not weights: the download probably ended at an error or login page")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not weights; fetch the file itself with `git lfs pull`")
    if head.startswith(b"PK") or (head.startswith(b"\x80") and _TORCH_LEGACY_MAGIC in head):
        return TORCH
    has_json = head[8:9] == b"{"  # after the header's length in eight bytes
    # A length may begin as a pickle does, whose own first eight bytes are no length of anything in the file.
    if head.startswith(b"\x80") and not (has_json and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8):
        return PICKLE
    if has_json:
        return SAFETENSORS
    raise ValueError(
        f"{path} is not a weights file: it starts with {head[:12]!r}; "
        "expected a PyTorch, safetensors or NumPy pickle file"
    )


def _read_torch(path: Path) -> Any:
    from pretrain.run.checkpoint import UnsafeError, load_checkpoint

    try:
        return load_checkpoint(path)
    except UnsafeError as error:
        raise ValueError(_unsafe(path, error.what)) from error


class _Dtype:
    """Stands for a NumPy dtype in a pickle; only one of plain numbers or text becomes real.

    NumPy believes the state that a pickle has for a dtype or an array, and raw bytes become addresses.
    """

    def __init__(self, spec: Any, *_how: bool):
        if type(spec) is not str or not re.fullmatch(r"[<>=|]?[?A-Za-z][0-9]{0,9}", spec):
            raise ValueError("an array is of no type that NumPy has")
        self.dtype = np.dtype(spec)
        if self.dtype.kind not in "biufcSU":
            raise UnsafeTypeError(f"numpy array of type {self.dtype.str.lstrip('|<>=')}")

    def set_state(self, state: tuple[Any, ...]) -> None:
        _version, byte_order, *rest = state
        if any(part is not None for part in rest[:3]):
            raise UnsafeTypeError(f"numpy array of type V{self.dtype.itemsize}")
        self.dtype = self.dtype.newbyteorder(byte_order)


def _array_of(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    raw = raw.encode("latin1") if isinstance(raw, str) else bytes(memoryview(raw))  # text is what Python 2 wrote
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"{shape!r} is no shape of an array")
    if len(raw) != math.prod(shape) * dtype.dtype.itemsize:
        raise ValueError(f"{len(raw)} bytes are no array of shape {shape} and type {dtype.dtype}")
    return np.ndarray(shape, dtype.dtype, bytearray(raw), order=order)


class _ArrayUnpickler(PlainUnpickler):
    """Unpickles plain values and NumPy arrays."""

    def __init__(self, file: IO[bytes]):
        super().__init__(file, _ARRAY_TABLE, encoding="latin1")  # arrays written by Python 2

    def size_of(self, made: Any) -> int:
        return made.nbytes if type(made) is np.ndarray else super().size_of(made)

    def build(self, instance: Any, state: Any) -> None:
        if type(instance) is _Dtype:
            instance.set_state(state)
        elif type(instance) is np.ndarray:
            shape, dtype, is_fortran, raw = state[-4:]  # a version may stand in front
            array = _array_of(raw, dtype, shape, "F" if is_fortran else "C")
            self.account(array.nbytes)
            instance.__setstate__((1, array.shape, array.dtype, bool(is_fortran), array.tobytes("A")))
        else:
            super().build(instance, state)


def _arrays_in(module: str) -> dict[tuple[str, str], Any]:
    return {
        (module, "_reconstruct"): Call(lambda *_type_shape_code: np.ndarray(0)),
        (module, "_frombuffer"): Call(_array_of),
    }


_ARRAY_TABLE = {
    ("numpy", "ndarray"): "numpy.ndarray",  # an argument of _reconstruct; never called
    ("numpy", "dtype"): Call(_Dtype),
    **_arrays_in("numpy.core.multiarray"), **_arrays_in("numpy._core.multiarray"),  # NumPy 1 and 2
    **_arrays_in("numpy.core.numeric"), **_arrays_in("numpy._core.numeric"),
}  # fmt: skip


def _read_pickle(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file).load()
            check_amount(content, path.stat().st_size, (np.ndarray,))
            return content
    except UnsafeTypeError as error:
        raise ValueError(_unsafe(path, str(error))) from error
    except OSError:
        raise
    except Exception as error:  # a cut or altered pickle stream can raise almost anything
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{path} is a safetensors file; reading it needs `pip install safetensors`") from error
    try:
        return load_file(path)
    except (SafetensorError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged or cut short: {reason(error)}")


def _unsafe(path: Path, what: str) -> str:
    if _JAX_PROGRAM.fullmatch(what):
        return (
            f"{path} holds a {what}: a pickle of a JAX program, such as DeepMind's BYOL, never unpickled here. "
            "Its ResNet pads as TensorFlow does (SAME, more on one side), so that torchvision's with its weights sees "
            "shifted windows. Take a BYOL trained with PyTorch (solo-learn, lightly, mmselfsup); to compare this one "
            "even so, convert it with ssl-transfer's download_and_prepare_models.py, which needs jax, haiku and dill "
            "(github.com/linusericsson/ssl-transfer), and give the file that it writes"
        )
    path = path.absolute()  # the line works wherever it is pasted, and no name looks like an option
    script = Path(__file__).with_name("safe_copy.py")
    line = " ".join(map(_quoted, (sys.executable or "python", script, path, f"{path}.safe.pth")))
    return (
        f"{path} holds a {what}, which is more than tensors and plain values; nothing in it was executed. "
        f"Only if you trust where it comes from (this line executes what it holds), make a safe copy: {line}"
    )


def _quoted(word: Any) -> str:
    """Quote for a shell; between two blanks stand empty quotes, since an error's line has only single blanks."""
    return re.sub(" (?= )", " ''", shlex.quote(str(word)))
