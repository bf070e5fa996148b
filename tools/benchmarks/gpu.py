"""What a GPU makes of it all: saliency, mixing, pretraining fed and unfed, detectors, and the tests that need one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from detection.config import load_detection_config
from detection.engines import detectron2 as theirs
from detection.engines.torchvision.solver import MixedPrecision, build_optimizer
from detection.samples import Sample
from pretrain.config import load_pretrain_config
from pretrain.data.augmentation import train_size
from pretrain.run.cli import Progress
from pretrain.run.processes import select_device
from pretrain.saliency import FUNCTIONS
from pretrain.saliency.basnet import CHUNK, BASNet, basnet_saliency
from tools.benchmarks.engines import CONFIGS, KINDS, LEARNING_RATE, build_models, make_pictures
from tools.benchmarks.pretrain import gpu_name, measure_run, settings_of, synthetic_steps, with_method
from tools.benchmarks.pretrain import make_pictures as write_pictures
from tools.benchmarks.timing import environment

ROOT = Path(__file__).resolve().parents[2]
PRETRAINING = ROOT / "pretrain/configs/imagenet_r50_saliencymix.yaml"
# What one H100 is asked for: 256 maps of 224 px, SaliencyMix in a bfloat16 channels-last step, data beside the ceiling.
TARGETS = {"fine_grained_ms": 3.0, "saliencymix_percent_of_step": 2.0, "percent_of_ceiling": 95.0}


def benchmark(
    opts: Sequence[str],
    *,
    num_pictures: int,
    rounds: int,
    iterations: int,
    detector_size: tuple[int, int],
    detector_batch: int,
    tests: bool = True,
) -> dict[str, Any]:
    """Measure on the device of ``opts``, KEY VALUE pairs of the pretraining config (DEVICE, SOLVER.BATCH_SIZE, ...).

    Args:
        num_pictures: JPEGs of ImageNet's size that are made and read again and again.
        rounds: of every measurement; the median counts.
        iterations: training steps in a round, of pretraining and of the detectors.
        detector_size, detector_batch: height and width, and how many, of a detector's pictures.
        tests: run the GPU tests as well, in a process of their own.

    Returns:
        ``{"environment", "saliency", "mixing", "run", "detectors", "tests", "targets", "seconds"}``, ready for JSON;
        ``tests`` is None where they are not run.

    Raises:
        ValueError: a config key is wrong.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        settings = ["PRECISION", "bfloat16", "CHANNELS_LAST", "True", *opts]
        load_pretrain_config(PRETRAINING, settings)  # mistakes are refused before anything is made
        root = write_pictures(Path(folder), num_pictures)
        cfg = load_pretrain_config(PRETRAINING, [*settings, "DATA.ROOT", str(root)])
        device = select_device(cfg.DEVICE)
        report = {
            "environment": {**environment(), **settings_of(cfg), "gpu": gpu_name(device), "device": str(device)},
            "saliency": measure_saliency(cfg.SOLVER.BATCH_SIZE, train_size(cfg), device, rounds),
            "mixing": measure_mixing(cfg, device, rounds, iterations),
            "run": measure_run(cfg, rounds * iterations),
        }
    report["detectors"] = measure_detectors(
        device, rounds=rounds, iterations=iterations, size=detector_size, batch=detector_batch
    )
    report["tests"] = run_tests() if tests else None
    return {**report, "targets": TARGETS, "seconds": time.monotonic() - started}


def milliseconds(calls: Sequence[Callable[[], Any]], rounds: int, device: torch.device) -> list[float]:
    """Return the median milliseconds of each of ``calls``, which take turns; on a GPU by the GPU's own clock.

    A round before them warms up. Nothing waits within a call: what the CPU does beside the GPU does not count.
    """
    times: list[list[float]] = [[] for _ in calls]
    with Progress((rounds + 1) * len(calls), "rounds", unit="calls") as progress:
        for number in range(rounds + 1):
            for call, its in zip(calls, times, strict=True):
                if device.type == "cuda":
                    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    start.record()
                    call()
                    end.record()
                    torch.cuda.synchronize(device)
                    passed = start.elapsed_time(end)
                else:
                    before = time.perf_counter()
                    call()
                    passed = 1000 * (time.perf_counter() - before)
                if number:
                    its.append(passed)
                progress.update()
    return [median(its) for its in times]


def measure_saliency(count: int, side: int, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Return a row ``{"saliency", "pictures", "ms", "maps_per_second"}`` for every saliency function.

    BASNet's weights are random: its time does not depend on them.
    """
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=device)
    few = images[:CHUNK]  # its network is three orders of magnitude larger than the other saliency functions
    network = BASNet().eval().requires_grad_(False).to(device)
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        name: (count, lambda function=function: function(images)) for name, function in FUNCTIONS.items()
    }
    calls["basnet"] = (len(few), lambda: basnet_saliency(few, network))
    times = milliseconds([call for _, call in calls.values()], rounds, device)
    return [
        {"saliency": name, "pictures": pictures, "ms": ms, "maps_per_second": 1000 * pictures / ms}
        for (name, (pictures, _)), ms in zip(calls.items(), times, strict=True)
    ]


def measure_mixing(cfg: CfgNode, device: torch.device, rounds: int, iterations: int) -> dict[str, float]:
    """Return milliseconds of a training step with each of three methods, and what mixing adds in percent of it.

    Steps follow each other without a pause, as in training: on a GPU what the CPU does meanwhile is hidden.
    """
    methods = ("baseline", "cutmix", "saliencymix")
    calls = [synthetic_steps(with_method(cfg, method), iterations) for method in methods]
    step, *mixed = (ms / iterations for ms in milliseconds(calls, rounds, device))
    report = {"step_ms": step}
    for method, ms in zip(methods[1:], mixed, strict=True):
        report |= {f"{method}_step_ms": ms, f"{method}_percent_of_step": 100 * (ms - step) / step}
    return report


def measure_detectors(
    device: torch.device, *, rounds: int, iterations: int, size: tuple[int, int], batch: int
) -> list[dict[str, Any]]:
    """Return a row ``{"detector", "precision", "engine", "iterations_per_second", "gpu_memory_gib"}`` for each of
    C4 and FPN in float32 and bfloat16 by each engine that is installed."""
    engines = ["torchvision"] + ["detectron2"] * (importlib.util.find_spec("detectron2") is not None)
    rows = []
    for kind, name in KINDS.items():
        for precision in ("float32", "bfloat16"):
            opts = ["MODEL.DEVICE", str(device), "SEED", "1", "SOLVER.BASE_LR", str(LEARNING_RATE)]
            if precision != "float32":
                opts += ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", precision]
            cfg = load_detection_config(CONFIGS / name, opts)
            samples = make_pictures(batch, size, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
            for engine in engines:
                model = build_models(cfg, [engine])[engine]
                reset_memory(device)
                step = detector_step(cfg, model, engine, samples)
                (ms,) = milliseconds([lambda step=step: [step() for _ in range(iterations)]], rounds, device)
                rows.append(
                    {
                        "detector": kind,
                        "precision": precision,
                        "engine": engine,
                        "iterations_per_second": 1000 * iterations / ms,
                        "gpu_memory_gib": peak_memory(device),
                    }
                )
    return rows


def detector_step(cfg: CfgNode, model: nn.Module, engine: str, samples: list[Sample]) -> Callable[[], None]:
    """Return a function that takes one training step of ``model``, which is ``engine``'s, on ``samples``."""
    inputs, around = samples, nullcontext
    if engine == "detectron2":
        from detectron2.utils.events import EventStorage as around

        inputs = [theirs.to_detectron2(sample) for sample in samples]
    model.train()
    optimizer, precision = build_optimizer(cfg, model), MixedPrecision(cfg)

    def step() -> None:
        with around(), precision.forward():
            loss = sum(model(inputs).values())
        precision.backward(loss, optimizer)
        precision.step(optimizer)

    return step


def run_tests() -> dict[str, Any]:
    """Run the tests that need a GPU; return their exit status and pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return {"status": done.returncode, "summary": lines[-1] if lines else done.stderr[-200:]}


def reset_memory(device: torch.device) -> None:
    """Begin to measure the most memory that is taken on a GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float | None:
    """Return the most memory taken on a GPU since ``reset_memory``, in GiB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def table(report: Mapping[str, Any]) -> list[str]:
    """Return a report of ``benchmark`` as lines of text, with its targets where they apply."""
    where, mixing, run, targets = report["environment"], report["mixing"], report["run"], report["targets"]
    lines = [
        f"{where['gpu'] or 'no GPU'}, batch {where['batch']}, {where['precision']}, {where['workers']} workers",
        "",
    ]
    lines.append(f"{'saliency':24}{'pictures':>10}{'ms':>10}{'maps/s':>10}")
    for row in report["saliency"]:
        target = f"  (target {targets['fine_grained_ms']:g} ms)" if row["saliency"] == "fine_grained" else ""
        lines.append(
            f"{row['saliency']:24}{row['pictures']:>10}{row['ms']:>10.2f}{row['maps_per_second']:>10.0f}{target}"
        )
    lines += [
        "",
        f"training step {mixing['step_ms']:.1f} ms; CutMix adds {mixing['cutmix_percent_of_step']:.2f} %, SaliencyMix "
        f"{mixing['saliencymix_percent_of_step']:.2f} % (target {targets['saliencymix_percent_of_step']:g} %)",
        f"pictures/s: step alone {run['synthetic_pictures_per_second']:.0f}, data alone "
        f"{run['data_pictures_per_second']:.0f}, both {run['pictures_per_second']:.0f}: "
        f"{100 * run['share_of_ceiling']:.1f} % of the ceiling (target {targets['percent_of_ceiling']:g} %)",
        "",
        f"{'detector':10}{'precision':12}{'engine':14}{'iterations/s':>13}{'GiB':>8}",
    ]
    for row in report["detectors"]:
        memory = "-" if row["gpu_memory_gib"] is None else f"{row['gpu_memory_gib']:.1f}"
        rate = row["iterations_per_second"]
        lines.append(f"{row['detector']:10}{row['precision']:12}{row['engine']:14}{rate:>13.2f}{memory:>8}")
    if report["tests"]:
        lines += ["", f"GPU tests: {report['tests']['summary']}"]
    return [*lines, f"{report['seconds']:.0f} s in all"]
