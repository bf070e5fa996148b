"""Saliency and mixing timed beside OpenCV, torchvision, the package mixup and GuidedMixup, and the memory they need."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import itertools
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from pretrain.mixing import make_mixing
from pretrain.mixing.saliencymix import SaliencyMix
from pretrain.names import LABELS, PATCHES
from pretrain.saliency import FUNCTIONS, fine_grained, make_saliency
from pretrain.saliency.batches import chunk_size
from pretrain.saliency.centre_surround import BYTES_PER_PIXEL
from tools.benchmarks.timing import environment, take_turns

SIZE, SMALL_SIZE, RESOLUTION = 224, 32, 112
GPU_PICTURES = 256
MIXUP_VERSION = "0.2.2"
# How long what differs in patch or label may take: a fifth more than SaliencyMix, and ResizeMix three times CutMix.
OF_SALIENCYMIX, OF_CUTMIX = 1 / 1.2, 1 / 3


def benchmark(count: int, size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Time every case on ``count`` pictures of ``size`` x ``size`` pixels; measure memory, also on a GPU.

    Sets the number of ``threads`` of PyTorch and of OpenCV and the seed of PyTorch, and leaves them so.

    Returns:
        ``{"environment", "cases", "left_out", "memory"}``, ready for JSON: what ``cpu_cases`` and ``memory_case`` (one
        for each device) return, and sentences that say which case is missing and why.

    Raises:
        ValueError: as ``mixup_package`` and ``guided_mixup``.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    torch.manual_seed(0)
    cases, left_out = cpu_cases(count, size, rounds)
    memory = [memory_case("cpu", count, size)]
    report = {
        "environment": {**environment(), "pictures": count, "rounds": rounds},
        "cases": cases,
        "left_out": left_out,
        "memory": memory,
    }
    if torch.cuda.is_available():
        report["memory"].append(memory_case("cuda", GPU_PICTURES, size))
    return report


def cpu_cases(count: int, size: int, rounds: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Time every case, and say which are left out; a ratio above 1 says how many times as fast as the other ours is.

    A case is ``{"case", "ms_per_picture", "other", "other_ms_per_picture", "ratio", "target"}``; the ratio is the
    median over the rounds, and the target is the ratio asked for, None where none is.
    """
    large = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    small = torch.randint(0, 256, (count, 3, SMALL_SIZE, SMALL_SIZE), dtype=torch.uint8)
    labels = torch.randint(0, 1000, (count,))
    reduced = make_saliency("fine_grained", resolution=max(2, size * RESOLUTION // SIZE))

    def opencv(images: Tensor, name: str = "FineGrained") -> Callable[[], Any]:
        detector = getattr(cv2.saliency, f"StaticSaliency{name}_create")()
        pictures = [picture.flip(0).permute(1, 2, 0).contiguous().numpy() for picture in images]
        return lambda: [detector.computeSaliency(picture) for picture in pictures]

    def case(name: str, ours: Callable[[], Any], other: str, theirs: Callable[[], Any], target: float | None = None):
        own, their = (seconds.wall for seconds in take_turns([ours, theirs], rounds))
        return row(name, own, other, their, target)

    def row(name: str, own: list[float], other: str, their: list[float], target: float | None) -> dict[str, Any]:
        return {
            "case": name,
            "ms_per_picture": 1000 * median(own) / count,
            "other": other,
            "other_ms_per_picture": 1000 * median(their) / count,
            "ratio": median(b / a for a, b in zip(own, their, strict=True)),
            "target": target,
        }

    loop = "loop over OpenCV"
    cases = [
        case(f"fine_grained, {size}", lambda: fine_grained(large), loop, opencv(large), 4.0),
        case(f"fine_grained, {SMALL_SIZE}", lambda: fine_grained(small), loop, opencv(small), 4.0),
        case(f"fine_grained, {size} at half size", lambda: reduced(large), loop, opencv(large), 12.0),
        case(
            f"spectral_residual, {size}",
            lambda: FUNCTIONS["spectral_residual"](large),
            loop,
            opencv(large, "SpectralResidual"),
        ),
    ]
    for name in ("frequency_tuned", "background_subtraction", "official"):
        cases.append(
            case(f"{name}, {size}", lambda name=name: FUNCTIONS[name](large), f"{loop}'s fine-grained", opencv(large))
        )
    mix, cutmix = SaliencyMix(1000), v2.CutMix(num_classes=1000)
    theirs = mixup_package(large, labels)
    left_out = []
    if theirs is not None:
        cases.append(case(f"SaliencyMix, {size}", lambda: mix(large, labels), f"mixup {MIXUP_VERSION}", theirs, 6.0))
    else:
        left_out.append(f"mixup {MIXUP_VERSION} is not installed: SaliencyMix is not compared with it")
    batched = guided_mixup(large)
    if batched is not None:
        ours = FUNCTIONS["spectral_residual"]
        cases.append(case(f"spectral_residual, {size}", lambda: ours(large), "GuidedMixup's, batched", batched))
    else:
        left_out.append(
            "spectral_residual of 3neutronstar/GuidedMixup is not on PYTHONPATH: ours is not compared with it"
        )
    cases.append(
        case(f"SaliencyMix, {size}", lambda: mix(large, labels), "torchvision's CutMix", lambda: cutmix(large, labels))
    )
    resizemix = make_mixing("resizemix", num_classes=1000)
    cases.append(
        case(
            f"ResizeMix, {size}",
            lambda: resizemix(large, labels),
            "torchvision's CutMix",
            lambda: cutmix(large, labels),
            OF_CUTMIX,
        )
    )
    combinations = {
        f"{patch}, {label}": SaliencyMix(1000, patch=patch, label=label)
        for patch, label in itertools.product(PATCHES, LABELS)
        if (patch, label) != ("resized", "relative")
    }
    together = [lambda one=one: one(large, labels) for one in (mix, *combinations.values())]
    reference, *times = (seconds.wall for seconds in take_turns(together, rounds))
    for name, own in zip(combinations, times, strict=True):
        cases.append(row(name, own, "SaliencyMix", reference, OF_SALIENCYMIX))
    return cases, left_out


def mixup_package(images: Tensor, labels: Tensor) -> Callable[[], Any] | None:
    """Return a call of the package mixup's SaliencyMix on the batch as floats, None where it is not installed.

    ``images``: ``uint8 (B, 3, H, W)``; ``labels``: ``int64 (B,)``.

    Raises:
        ValueError: it is installed in another version than the comparison is with.
    """
    try:
        version = metadata.version("mixup")
    except metadata.PackageNotFoundError:
        return None
    if version != MIXUP_VERSION:
        raise ValueError(f"the package mixup is at version {version}, the comparison is with {MIXUP_VERSION}")
    from mixup.methods import SaliencyMix as TheirSaliencyMix

    transform, floats, soft_labels = TheirSaliencyMix(), images.float() / 255, functional.one_hot(labels, 1000).float()
    return lambda: transform(floats, soft_labels)


def guided_mixup(images: Tensor) -> Callable[[], Any] | None:
    """Return a call of GuidedMixup's batched spectral residual on the batch as floats, None where it is not found.

    Its variant is another one than OpenCV's and ours: at 128 x 128 pixels, the magnitude not squared. ``images``:
    ``uint8 (B, 3, H, W)``.

    Raises:
        ValueError: a module of that name is found that has no such class.
    """
    if importlib.util.find_spec("spectral_residual") is None:
        return None
    module = importlib.import_module("spectral_residual")
    if not hasattr(module, "SpectralResidual"):
        raise ValueError(f"{module.__file__} has no SpectralResidual; expected that of 3neutronstar/GuidedMixup")
    residual, floats = module.SpectralResidual(device="cpu"), images.float() / 255
    return lambda: residual.transform_spectral_residual(floats)


def memory_case(device: str, count: int, size: int) -> dict[str, Any]:
    """Measure what ``fine_grained`` needs beside pictures and result, for the batch and for one four times as large."""
    extra = []
    for factor in (1, 4):
        images = torch.randint(0, 256, (factor * count, 3, size, size), dtype=torch.uint8, device=device)
        fine_grained(images[:1])
        peak = peak_extra_bytes(lambda images=images: fine_grained(images), device)
        extra.append(None if peak is None else peak - 4 * images[:, 0].numel())
    bound = BYTES_PER_PIXEL * min(chunk_size(images), count) * size**2
    within = None if None in extra else max(extra) <= bound
    return {
        "device": device,
        "pictures": [count, 4 * count],
        "extra_bytes": extra,
        "bound_bytes": bound,
        "within_bound": within,
    }


def peak_extra_bytes(function: Callable[[], Any], device: str) -> int | None:
    """Return how far memory rises during ``function``; on a CPU only Linux says so (None elsewhere)."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before must not hide what is taken now
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    except OSError:
        return None

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

    before = status("VmRSS")
    function()
    return status("VmHWM") - before


def table(report: Mapping[str, Any]) -> list[str]:
    """Return a report of ``benchmark`` as lines of text."""
    lines = [f"{'':34}{'ms/picture':>12}{'other':>10}{'ratio':>8}{'target':>8}  compared with"]
    for case in report["cases"]:
        target = "" if case["target"] is None else f"{case['target']:.2g}x"
        lines.append(
            f"{case['case']:34}{case['ms_per_picture']:12.3f}{case['other_ms_per_picture']:10.3f}"
            f"{case['ratio']:7.3g}x{target:>8}  {case['other']}"
        )
    lines += [f"left out: {reason}" for reason in report["left_out"]]
    for memory in report["memory"]:
        shown = " and ".join("unknown" if extra is None else f"{extra / 1e6:.1f}" for extra in memory["extra_bytes"])
        first, second = memory["pictures"]
        lines.append(
            f"fine_grained on {memory['device']}: {shown} MB extra for {first} and {second} pictures, "
            f"bound {memory['bound_bytes'] / 1e6:.1f} MB"
        )
    return lines
