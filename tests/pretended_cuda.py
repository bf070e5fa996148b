"""A CUDA device that is none: its tensors say ``cuda:0`` and are computed on the CPU.

What only a GPU would show is seen without one: work on tensors of two devices raises as CUDA does, and every kernel
that would be launched and every call that would wait for the GPU is counted. Times are not, and neither is anything
that a kernel itself decides (rounding, the order of sums, autocast's casts).
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ROOT = Path(__file__).resolve().parents[1]

# Operations that answer with a number, or whose result has a size that only the GPU knows.
WAITS = {
    "aten._local_scalar_dense", "aten.is_nonzero", "aten.equal", "aten.nonzero", "aten.masked_select", "aten._unique2",
    "aten.unique_dim", "aten.bincount", "aten.repeat_interleave", "torchvision.nms",
}  # fmt: skip
# Beside views: memory without contents.
FREE = {
    "aten._unsafe_view", "aten._reshape_alias", "aten.lift_fresh", "aten.empty", "aten.empty_like",
    "aten.empty_strided", "aten.new_empty", "aten.new_empty_strided", "aten.set_",
}  # fmt: skip


class PretendedTensor(torch.Tensor):
    """A tensor on ``cuda:0`` whose numbers are those of ``held``, a tensor on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendedTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device="meta",
        )  # fmt: skip
        tensor.held = held
        return tensor

    device = property(lambda self: torch.device("cuda", 0))
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def __repr__(self) -> str:
        return f"PretendedTensor({self.held})"

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(value, Tensor):  # else PyTorch takes the number to the device "meta" first
            value = PretendedTensor(torch.tensor(value, dtype=self.dtype))
        super().__setitem__(index, value)

    def tolist(self) -> Any:
        _active().note_wait("tolist")
        return self.held.tolist()

    def numpy(self) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _active().compute(function, args, kwargs or {})


class PretendedCuda(TorchDispatchMode):
    """Counts what a block does on the pretended device.

    Attributes:
        launches: operation -> how many kernels it would launch at least (views and empty memory launch none).
        waits: "what: where in this repository" -> how often the call would wait for the GPU.
        copies: how many tensors went from the CPU to the device, and what of them was not waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies = 0

    def __enter__(self) -> PretendedCuda:
        _ACTIVE.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _ACTIVE.pop()
        super().__exit__(*error)

    def forget(self) -> None:
        """Count from nothing again: what comes once, such as constants, is over."""
        self.launches.clear()
        self.waits.clear()
        self.copies = 0

    def note_wait(self, what: str) -> None:
        self.waits[f"{what}: {_place()}"] += 1

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.compute(function, args, kwargs or {})

    def compute(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = str(function).rpartition(".")[0]
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        pretended = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
        wanted = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if not pretended and wanted not in ("cuda", "meta"):
            return function(*args, **kwargs)
        leaves = wanted == "cpu"
        if name in ("aten._to_copy", "aten.copy_"):
            self._note_copy(name, args, kwargs, leaves)
        else:
            self._check_devices(name, args, tensors, pretended)
            self._note_waits(name, args)
        known = {id(tensor.held if isinstance(tensor, PretendedTensor) else tensor): tensor for tensor in tensors}
        args, kwargs = tree_map_only(PretendedTensor, lambda tensor: tensor.held, (args, kwargs))
        kwargs = {key: False if key == "pin_memory" else value for key, value in kwargs.items()}
        if wanted and not leaves:
            kwargs["device"] = "cpu"
        result = function(*args, **kwargs)
        if not (function.is_view or name in FREE):
            self.launches[name] += 1
        if leaves:
            return result
        return tree_map_only(Tensor, lambda new: known[id(new)] if id(new) in known else PretendedTensor(new), result)

    def _note_copy(self, name: str, args: Any, kwargs: dict[str, Any], leaves: bool) -> None:
        target, source = (args[0], args[1]) if name == "aten.copy_" else (None, args[0])
        blocks = not (kwargs.get("non_blocking") or (target is not None and len(args) > 2 and args[2]))
        if leaves or (target is not None and not isinstance(target, PretendedTensor)):
            self.note_wait("copy to the CPU")
        elif not isinstance(source, PretendedTensor):
            self.copies += 1
            if blocks:
                self.note_wait("copy from the CPU")

    def _check_devices(self, name: str, args: Any, tensors: list[Tensor], pretended: list[Tensor]) -> None:
        """Raise where CUDA would; a number in a tensor may be anywhere, and an index is copied."""
        elsewhere = [tensor for tensor in tensors if not isinstance(tensor, PretendedTensor) and tensor.dim()]
        if not pretended or not elsewhere:
            return
        if name in ("aten.index", "aten.index_put", "aten.index_put_") and isinstance(args[0], PretendedTensor):
            self.note_wait("index from the CPU")
            return
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in elsewhere)
        raise RuntimeError(f"{name}: expected all tensors on cuda:0, but {shapes} on cpu ({_place()})")

    def _note_waits(self, name: str, args: Any) -> None:
        if name in WAITS:
            self.note_wait(name)
        elif name in ("aten.index", "aten.index_put", "aten.index_put_"):
            masks = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])
            if masks and not (name != "aten.index" and args[2].numel() == 1):  # one value is filled in under the mask
                self.note_wait(f"{name} by a mask")


_ACTIVE: list[PretendedCuda] = []


def _active() -> PretendedCuda:
    if not _ACTIVE:
        raise RuntimeError("a pretended tensor is used outside of its PretendedCuda")
    return _ACTIVE[-1]


def _place() -> str:
    """Return the innermost line of the repository, this file and its tests aside, that is being executed."""
    frames = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(ROOT)]
    ours = [frame for frame in frames if not Path(frame.filename).is_relative_to(ROOT / "tests")] or frames[:1]
    return f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}" if ours else "?"


@contextmanager
def pretended_cuda() -> Iterator[PretendedCuda]:
    """Let PyTorch see one CUDA device, the pretended one, within the block; ``"cuda"`` names it."""
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "is_available": True, "is_bf16_supported": True, "current_device": 0, "device_count": 1,
                "set_device": None, "synchronize": None, "_lazy_init": None, "is_initialized": False,
            }.items():  # fmt: skip
                patch.setattr(torch.cuda, name, lambda *_args, value=value, **_options: value)
            with PretendedCuda() as device:
                yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
