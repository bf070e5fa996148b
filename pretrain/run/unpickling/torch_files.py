"""PyTorch's files, the zip of today and the older stream, without ``torch.load``: plain values and tensors on the CPU.

Each tensor lies within a storage that the file really has, so that nothing takes more memory than the file itself.
Sparse, quantised and nested tensors and foreign classes are more than plain tensors, and refused.
"""

from __future__ import annotations

import io
import math
import os
import sys
import zipfile
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from pretrain.run.unpickling.plain import Call, PlainUnpickler, UnsafeTypeError, check_amount

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older stream
MAX_DIMENSIONS = 64  # as PyTorch has it
MAX_REPEATED_NUMBERS = 1 << 24  # of a tensor that repeats those of its storage, as torch.expand leaves it
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "ByteStorage": torch.uint8, "CharStorage": torch.int8,
    "ShortStorage": torch.int16, "IntStorage": torch.int32, "LongStorage": torch.int64, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip


class WrongChecksum(ValueError):
    """A member of a zip is not what was written; its name is the text."""


class _StorageType(NamedTuple):
    dtype: torch.dtype | None  # None: bytes, of which each tensor says its own type


class _Storage(NamedTuple):
    values: Tensor  # (N,) of its type, or of bytes
    dtype: torch.dtype | None


def read_torch_file(file: IO[bytes]) -> Any:
    """Return what an opened file holds: nested dicts, lists and tuples of tensors (without gradients) and plain values.

    Raises:
        UnsafeTypeError: more than that, with its name.
        WrongChecksum, and exceptions of any other type: the file is damaged, or none of PyTorch's.
    """
    return _read_zip(file) if file.read(2) == b"PK" else _read_stream(file)


def _read_zip(file: IO[bytes]) -> Any:
    num_bytes = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise ValueError("two of its members have one name")
        root, _, _ = next(iter(members), "").partition("/")
        if f"{root}/constants.pkl" in members:
            raise UnsafeTypeError("TorchScript program")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("its members are compressed, which PyTorch never does; pack them again with `zip -0`")
        if sum(info.file_size for info in members.values()) > num_bytes:
            raise ValueError("its members claim to be larger than the file")
        swapped = False
        if f"{root}/byteorder" in members:
            swapped = bytes(_member(archive, members, f"{root}/byteorder")).decode("ascii") != sys.byteorder

        def storage(key: str, num_bytes: int) -> bytearray:
            data = _member(archive, members, f"{root}/data/{key}")
            if len(data) != num_bytes:
                raise ValueError(f"storage {key} has {len(data)} bytes, where {num_bytes} are said")
            return data

        stream = _member(archive, members, f"{root}/data.pkl")
        return _unpickle(io.BytesIO(stream), _Storages(storage, swapped=swapped), len(stream))


def _member(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str) -> bytearray:
    """Return the bytes of one member, whose checksum is verified: PyTorch does not look at those that it writes."""
    if name not in members:
        raise ValueError(f"it has no member {name!r:.80}")
    data = bytearray(members[name].file_size)
    view, place = memoryview(data), 0
    try:
        with archive.open(members[name]) as member:
            while count := member.readinto(view[place : place + (1 << 20)]):
                place += count
    except zipfile.BadZipFile as error:
        if "CRC" in str(error):
            raise WrongChecksum(name) from error
        raise
    if place != len(data):
        raise EOFError(f"it ends within its member {name!r:.80}")
    return data


def _read_stream(file: IO[bytes]) -> Any:
    file.seek(0)
    no_storages = _Storages(lambda _key, _num_bytes: bytearray(), swapped=False)
    head = [_unpickle(file, no_storages, 0) for _ in range(3)]
    if head[0] != MAGIC or head[1] != PROTOCOL or not isinstance(head[2], dict):
        raise ValueError("its beginning is not that of a PyTorch file")
    if head[2].get("little_endian") is not (sys.byteorder == "little"):
        raise ValueError("its numbers are in the order of another kind of machine")
    start = file.tell()
    num_bytes = file.seek(0, os.SEEK_END)
    file.seek(start)
    data: dict[str, bytearray] = {}

    def storage(key: str, size: int) -> bytearray:  # its bytes come after the pickle
        if sum(map(len, data.values())) + size > num_bytes:
            raise ValueError("its storages claim to be larger than the file")
        return data.setdefault(key, bytearray(size))

    storages = _Storages(storage, swapped=False)
    content = _unpickle(file, storages, num_bytes)
    keys = _unpickle(file, no_storages, num_bytes)
    if type(keys) is not list or sorted(map(str, keys)) != sorted(data):
        raise ValueError("it has other storages than it uses")
    for key in keys:
        item_size = storages.made[key].values.element_size()
        count = int.from_bytes(file.read(8), "little")
        if count * item_size != len(data[key]) or file.readinto(data[key]) != len(data[key]):
            raise EOFError("it ends within a storage")
    return content


def _unpickle(file: IO[bytes], storages: _Storages, num_bytes: int) -> Any:
    unpickler = PlainUnpickler(file, _TABLE, encoding="utf-8")
    unpickler.persistent_load = storages.load
    content = unpickler.load()
    check_amount(content, num_bytes, (Tensor, torch.dtype, torch.device, torch.layout))
    return content


class _Storages:
    """The storages that a pickle asks for by their keys, each read once."""

    def __init__(self, read: Callable[[str, int], bytearray], *, swapped: bool):
        self._read, self._swapped = read, swapped
        self.made: dict[str, _Storage] = {}

    def load(self, wanted: Any) -> _Storage:
        what, kind, key, _device, count, *view = wanted
        if what not in ("storage", b"storage") or type(kind) is not _StorageType or type(key) is not str:
            raise ValueError("it asks for something that is no storage")
        if type(count) is not int or count < 0:
            raise ValueError(f"a storage has {count!r:.80} numbers")
        if key not in self.made:
            data = self._read(key, count * (kind.dtype or torch.uint8).itemsize)
            self.made[key] = _Storage(_values(data, kind.dtype or torch.uint8, swapped=self._swapped), kind.dtype)
        storage = self.made[key]
        if storage.dtype != kind.dtype or len(storage.values) != count:
            raise ValueError(f"storage {key!r:.80} is used as two different ones")
        if not view or view[0] is None:
            return storage
        _key, offset, size = view[0]
        _check_sizes((offset, size))
        return storage._replace(values=_within(storage.values, offset, (size,), (1,)))


def _values(data: bytearray, dtype: torch.dtype, *, swapped: bool) -> Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    values = torch.frombuffer(data, dtype=dtype)
    if swapped:
        values.untyped_storage().byteswap(dtype)
    return values


def _check_sizes(sizes: Any) -> None:
    if type(sizes) is not tuple or not all(type(size) is int and 0 <= size < 1 << 48 for size in sizes):
        raise ValueError(f"{sizes!r:.80} are no sizes of a tensor")


def _within(values: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Return the view of ``values`` (N,) that these numbers say, where it lies within and repeats nothing at large."""
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count and (last >= len(values) or count > max(len(values), MAX_REPEATED_NUMBERS)):
        raise ValueError(f"a tensor of shape {size} asks for more than its storage of {len(values)} numbers has")
    if not count:
        return torch.empty(size, dtype=values.dtype)
    return values.as_strided(size, stride, values.storage_offset() + offset)


def _tensor(
    storage: _Storage, offset: int, size: Any, stride: Any, _gradient: Any = None, _hooks: Any = None, view: Any = None
) -> Tensor:
    if type(storage) is not _Storage or storage.dtype is None:
        raise ValueError("a tensor has no storage")
    for sizes in ((offset,), size, stride):
        _check_sizes(sizes)
    if len(size) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {len(size)} dimensions")
    return _seen_as(_within(storage.values, offset, size, stride), view)


def _seen_as(tensor: Tensor, view: Any) -> Tensor:
    """Return the conjugate or the negative of a tensor, which PyTorch writes as the numbers themselves and a flag."""
    if view is None:
        return tensor
    if type(view) is not dict or any(key not in ("conj", "neg") or type(on) is not bool for key, on in view.items()):
        raise ValueError("a tensor is seen in a way that PyTorch has not")
    tensor = tensor.conj() if view.get("conj") else tensor
    return torch._neg_view(tensor) if view.get("neg") else tensor


def _device(kind: Any, index: Any = None) -> torch.device:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise ValueError("it names no device")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _layout(name: Any) -> torch.layout:
    layout = getattr(torch, name.removeprefix("torch."), None) if type(name) is str else None
    if not isinstance(layout, torch.layout):
        raise ValueError("it names no layout of a tensor")
    return layout


def _tensor_of_bytes(
    storage: _Storage,
    offset: int,
    size: Any,
    stride: Any,
    _gradient: Any,
    _hooks: Any,
    dtype: torch.dtype,
    view: Any = None,
) -> Tensor:
    if type(storage) is not _Storage or storage.dtype is not None or not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor has no storage of bytes")
    return _tensor(_Storage(storage.values.view(dtype), dtype), offset, size, stride, view=view)


def _same_tensor(tensor: Any, *_gradient_hooks_state: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"a {type(tensor).__name__} is no tensor")
    return tensor


def _tensor_with_attributes(function: Any, kind: Any, arguments: Any, _state: Any) -> Tensor:
    if type(function) is not Call or kind not in ("torch.Tensor", "torch.Parameter"):
        raise ValueError("a tensor is made by no function of PyTorch's")
    return _same_tensor(function.function(*arguments))


def _tensor_without_values(dtype: Any, size: Any, *_stride_gradient: Any) -> Tensor:
    """Return a tensor of shape alone, so that whoever needs it can say which one has no values."""
    _check_sizes(size)
    return torch.empty(size, dtype=dtype, device="meta")


_TABLE = {
    **{(module, name): _StorageType(dtype) for module in ("torch", "torch.cuda") for name, dtype in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): _StorageType(None),
    ("torch._utils", "_rebuild_tensor"): Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Call(_tensor_of_bytes),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): Call(_tensor_without_values),
    ("torch._utils", "_rebuild_parameter"): Call(_same_tensor),
    ("torch._utils", "_rebuild_parameter_with_state"): Call(_same_tensor),
    ("torch._tensor", "_rebuild_from_type_v2"): Call(_tensor_with_attributes),
    ("torch", "Tensor"): "torch.Tensor",  # arguments of the last one; never called
    ("torch.nn.parameter", "Parameter"): "torch.Parameter",
    ("torch", "device"): Call(_device),
    ("torch.serialization", "_get_layout"): Call(_layout),
    ("torch", "Size"): Call(lambda sizes=(): tuple(sizes)),
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}
