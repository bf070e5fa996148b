"""Where the time of a pretraining run goes: data alone, mixing, the step alone, and both together."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from pretrain.config import load_pretrain_config
from pretrain.data.augmentation import after_crop, train_size, train_transform
from pretrain.data.batches import Unreadable, load_splits
from pretrain.data.decoding import read_picture
from pretrain.data.sources import ClassFolders
from pretrain.learner import Learner, build_mixing
from pretrain.run.cli import Progress
from pretrain.run.processes import Processes, num_workers, select_device
from pretrain.trainer import batches_of, training_batches
from tools.benchmarks.timing import environment, order_of_turns, take_turns

WIDTH, HEIGHT, QUALITY = 500, 375, 90  # about 110 KB a picture, as in ImageNet
COMPARED = 16  # pictures that every decoder's pixels are compared on


def benchmark(
    config_file: Path | str, opts: Sequence[str], *, num_pictures: int, rounds: int, iterations: int
) -> dict[str, Any]:
    """Measure data, mixing and step of the run of a config, on ``num_pictures`` made JPEGs where DATA.ROOT is not set.

    Contenders take turns in ``rounds`` rounds; ``iterations`` is how many training steps a round has.

    Returns:
        ``{"environment", "data", "pixel_differences", "mixing", "run"}``, ready for JSON: where and with which settings
        it was measured, and what ``measure_data`` (two), ``measure_mixing`` and ``measure_run`` return.

    Raises:
        FileNotFoundError, ValueError: the config is wrong, or is not one for pictures in class folders.
    """
    load_pretrain_config(config_file, opts)  # mistakes are refused before anything is made
    with tempfile.TemporaryDirectory() as folder:
        made = ["DATA.ROOT", str(make_pictures(Path(folder), num_pictures))]
        cfg = load_pretrain_config(config_file, [*made, *opts])  # a DATA.ROOT of one's own comes last
        if cfg.DATA.DATASET != "image_folder":
            raise ValueError(f"DATA.DATASET is {cfg.DATA.DATASET}; only pictures in class folders are decoded")
        data, differences = measure_data(cfg, num_pictures, rounds)
        return {
            "environment": {**environment(), **settings_of(cfg), "gpu": gpu_name(select_device(cfg.DEVICE))},
            "data": data,
            "pixel_differences": differences,
            "mixing": measure_mixing(cfg, rounds, iterations),
            "run": measure_run(cfg, rounds * iterations),
        }


def make_pictures(folder: Path, count: int) -> Path:
    """Write JPEGs with the spectrum of photographs (power falls with the frequency squared) as two classes.

    ``count`` in ``folder/train`` and the first two of them in ``folder/val``; returns ``folder``.
    """
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(WIDTH), np.fft.fftfreq(HEIGHT)))
    frequency[0, 0] = 1.0
    for number in range(count):
        spectrum = np.fft.rfft2(rng.standard_normal((3, HEIGHT, WIDTH))) / frequency
        channels = np.fft.irfft2(spectrum, (HEIGHT, WIDTH))
        channels = channels.mean(axis=0) + 0.3 * channels  # the colours of a photograph go together
        pixels = np.clip(128 + 50 * channels / channels.std(), 0, 255).astype(np.uint8)
        for split in ("train", "val"):
            path = folder / split / str(number % 2) / f"{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if split == "train" or number < 2:
                Image.fromarray(pixels.transpose(1, 2, 0)).save(path, quality=QUALITY)
    return folder


class Contenders:
    """Ways from a file to a training picture and, for the pixels alone, from a file to a picture of 8 bits.

    Attributes:
        loaders: name -> path -> training picture; the first is torchvision's reference pipeline.
        decoders: name -> path -> ``uint8 (H, W, 3)``, for the decoders that are compared with Pillow.
    """

    def __init__(self, cfg: CfgNode):
        self._size = train_size(cfg)
        mean, std = ([value / 255 for value in values] for values in (cfg.DATA.PIXEL_MEAN, cfg.DATA.PIXEL_STD))
        floats = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
        self.crop = v2.RandomResizedCrop(self._size, scale=cfg.DATA.CROP_SCALE, antialias=True)
        self._after_crop = after_crop(cfg)
        crop, rest, ours = self.crop, self._after_crop, train_transform(cfg)
        self.loaders: dict[str, Callable[[str], Tensor]] = {
            "reference: Pillow, PIL transforms, normalised": lambda path: floats(rest(crop(pillow(path)))),
            "the same, 8-bit": lambda path: rest(crop(pillow(path))),
            "Pillow, draft mode, 8-bit": self._draft,
            "DATA.DECODER pillow": lambda path: ours(read_picture(path, "pillow")),
            "DATA.DECODER opencv": lambda path: ours(read_picture(path, "opencv")),
        }
        self.decoders: dict[str, Callable[[str], np.ndarray]] = {
            "opencv": lambda path: read_picture(path, "opencv").permute(1, 2, 0).numpy(),
        }
        try:
            import simplejpeg
        except ImportError:
            print("simplejpeg is not installed: it is left out", file=sys.stderr)
        else:
            decode = self.decoders["simplejpeg"] = lambda path: simplejpeg.decode_jpeg(Path(path).read_bytes())
            self.loaders["simplejpeg, tensor transforms"] = lambda path: ours(
                torch.from_numpy(decode(path)).permute(2, 0, 1)
            )

    def _draft(self, path: str) -> Tensor:
        """Draw the crop first, then let the decoder halve the picture as often as the crop stays large enough."""
        with Image.open(path) as file:
            width, height = file.size
            top, left, rows, cols = self.crop.make_params([torch.empty(3, height, width)]).values()
            times = max(1.0, min(rows, cols) / self._size)
            file.draft("RGB", (int(width / times), int(height / times)))
            across, down = file.size[0] / width, file.size[1] / height
            right, bottom = (left + cols) * across, (top + rows) * down
            box = (left * across, top * down, min(right, file.size[0]), min(bottom, file.size[1]))  # min: rounding
            picture = file.convert("RGB").resize((self._size,) * 2, Image.Resampling.BILINEAR, box=box)
        return self._after_crop(picture)


def pillow(path: str) -> Image.Image:
    """Read a picture as torchvision's reference does: RGB, not turned."""
    with Image.open(path) as file:
        return file.convert("RGB")


def measure_data(cfg: CfgNode, count: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Time one process's way from file to training picture by each decoder; compare what they make of a picture.

    The first ``count`` training pictures are read. Returns the rows ``{"contender", "pictures_per_second",
    "times_the_reference"}``, the reference first, and what ``pixel_differences`` returns.
    """
    paths = [path for path, _ in ClassFolders(Path(cfg.DATA.ROOT) / "train", "pillow").samples][:count]
    contenders = Contenders(cfg)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loading process
    try:
        loops = [lambda one=one: [one(path) for path in paths] for one in contenders.loaders.values()]
        times = [seconds.cpu for seconds in take_turns(loops, rounds)]
    finally:
        torch.set_num_threads(threads)
    rates = [
        {
            "contender": name,
            "pictures_per_second": len(paths) / median(seconds),
            "times_the_reference": median(a / b for a, b in zip(times[0], seconds, strict=True)),
        }
        for name, seconds in zip(contenders.loaders, times, strict=True)
    ]
    return rates, pixel_differences(contenders, paths[:COMPARED])


def pixel_differences(contenders: Contenders, paths: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return ``difference`` of each decoder from Pillow: of the pictures, and of one crop of each after resampling."""

    def resampled(picture: Tensor | Image.Image) -> np.ndarray:
        torch.manual_seed(0)  # the same crop for all
        return v2.functional.to_image(contenders.crop(picture)).numpy()

    differences = {}
    for name, decode in contenders.decoders.items():
        pairs = [(decode(path), np.asarray(pillow(path))) for path in paths]
        differences[f"{name}, decoded"] = difference(pairs)
        pairs = [
            (resampled(torch.from_numpy(one).permute(2, 0, 1)), resampled(Image.fromarray(two))) for one, two in pairs
        ]
        differences[f"{name}, cropped and resampled"] = difference(pairs)
    return differences


def difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Return the largest and the mean difference of pairs of 8-bit pictures, in levels of 255."""
    gaps = [np.abs(one.astype(int) - two.astype(int)) for one, two in pairs]
    return {"max": int(max(gap.max() for gap in gaps)), "mean": float(np.mean([gap.mean() for gap in gaps]))}


def measure_mixing(cfg: CfgNode, rounds: int, iterations: int) -> dict[str, float]:
    """Time a training step with CutMix, and what mixing takes of it by CutMix and by SaliencyMix, in every batch.

    The steps themselves vary by more than mixing takes, so the difference of the two is set against the step. On a GPU
    mixing counts as the GPU's time behind a step (see ``gpu_seconds``). Returns milliseconds a step, and that
    difference in percent of the step with CutMix.
    """
    device = select_device(cfg.DEVICE)
    count, side = cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATION, train_size(cfg)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 1000, (count,), device=device)

    def mixing(method: str) -> Callable[[], None]:
        mix = build_mixing(with_method(cfg, method), 1000)

        def run() -> None:
            for _ in range(iterations * cfg.SOLVER.ACCUMULATION):
                mix(images, labels)

        return run

    steps = synthetic_steps(with_method(cfg, "cutmix"), iterations)
    mixings = [mixing("cutmix"), mixing("saliencymix")]
    if device.type == "cuda":
        times = [take_turns([steps], rounds, device=device)[0].wall, *gpu_seconds(mixings, rounds, ahead=steps)]
    else:
        times = [seconds.cpu for seconds in take_turns([steps, *mixings], rounds)]
    step, cutmix, saliencymix = (median(seconds) / iterations for seconds in times)
    return {
        "step_with_cutmix_ms": 1000 * step,
        "cutmix_ms": 1000 * cutmix,
        "saliencymix_ms": 1000 * saliencymix,
        "saliencymix_extra_percent": 100 * (saliencymix - cutmix) / step,
    }


def gpu_seconds(calls: Sequence[Callable[[], None]], rounds: int, *, ahead: Callable[[], None]) -> list[list[float]]:
    """Return each call's seconds on the GPU, a number for every round, in turns after a round that does not count.

    ``ahead`` gives the GPU work before each of them: while it is busy with that, this process launches what is timed,
    as it does in training, where nobody waits for a launch.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(-1, rounds):
        for index in order_of_turns(len(calls), number):
            started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            ahead()
            started.record()
            calls[index]()
            ended.record()
            ended.synchronize()
            if number >= 0:
                seconds[index].append(started.elapsed_time(ended) / 1000)
    return seconds


def with_method(cfg: CfgNode, method: str) -> CfgNode:
    """Return a copy of ``cfg`` that mixes every batch by ``method``."""
    changed = cfg.clone()
    changed.defrost()
    changed.MIXING.METHOD, changed.MIXING.PROB = method, 1.0
    return changed


def synthetic_steps(cfg: CfgNode, iterations: int) -> Callable[[], None]:
    """Return a function that does ``iterations`` training steps on one synthetic batch."""
    device = select_device(cfg.DEVICE)
    learner = Learner(cfg, 1000, Processes(device))
    learner.network.train()
    size = cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATION
    images = torch.randint(0, 256, (size, 3, train_size(cfg), train_size(cfg)), dtype=torch.uint8)
    labels = torch.randint(0, 1000, (size,))
    if device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()

    def steps() -> None:
        for _ in range(iterations):
            learner.step([(images, labels)] * cfg.SOLVER.ACCUMULATION, lr=0.01, progress=0.5)

    return steps


def measure_run(cfg: CfgNode, iterations: int) -> dict[str, float | None]:
    """Time ``iterations`` training steps on a synthetic batch (the ceiling), loading alone, and both together.

    With loading processes there are more: the batches that these hold when the clock starts, up to three each, are
    used up before it does, and ten of each are timed, or a rate would be measured that nobody can sustain.

    Returns pictures per second of the three, the third as a share of the first, the share of its time that this process
    waits for data, and the most GPU memory taken (None on a CPU). On a GPU that share is an upper bound of what data
    cost: the process runs ahead of the GPU, which computes while it waits.
    """
    processes = Processes(select_device(cfg.DEVICE))
    device, workers, parts = processes.device, num_workers(cfg.DATA.NUM_WORKERS), cfg.SOLVER.ACCUMULATION
    warm = max(2, math.ceil(3 * workers / parts))
    timed = max(iterations, math.ceil(10 * workers / parts))
    pictures, _ = load_splits(cfg)
    (ceiling,) = take_turns([synthetic_steps(cfg, iterations)], 1, device=device)
    synthetic = cfg.SOLVER.BATCH_SIZE * iterations / ceiling.wall[0]

    learner = Learner(cfg, len(pictures.classes), processes)
    learner.network.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rates = {}
    waited = started = 0.0
    for fed in (False, True):
        order = training_batches(cfg, pictures, processes, start=0, stop=warm + timed)
        with (
            Progress(warm + timed, "steps" if fed else "batches") as progress,
            closing(iter(batches_of(cfg, pictures, order, Unreadable(0), processes))) as samples,
        ):
            for iteration in range(warm + timed):
                if iteration == warm:
                    synchronize(device)
                    waited, started = 0.0, time.perf_counter()
                before = time.perf_counter()
                batch = [next(samples) for _ in range(parts)]
                waited += time.perf_counter() - before
                if fed:
                    learner.step(batch, lr=0.01, progress=0.5)
                progress.update()
            synchronize(device)
            seconds = time.perf_counter() - started
            rates[fed] = cfg.SOLVER.BATCH_SIZE * timed / seconds
    return {
        "synthetic_pictures_per_second": synthetic,
        "data_pictures_per_second": rates[False],
        "pictures_per_second": rates[True],
        "share_of_ceiling": rates[True] / synthetic,
        "share_waiting_for_data": waited / seconds,
        "gpu_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
    }


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """Return the settings that the figures depend on, beside where they were measured."""
    return {
        "arch": cfg.MODEL.ARCH,
        "batch": cfg.SOLVER.BATCH_SIZE,
        "precision": cfg.PRECISION,
        "channels_last": cfg.CHANNELS_LAST,
        "compile": cfg.COMPILE,
        "workers": num_workers(cfg.DATA.NUM_WORKERS),
    }


def gpu_name(device: torch.device) -> str | None:
    """Return the name of the GPU that was measured; None on a CPU, whatever else the machine has."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def table(report: Mapping[str, Any]) -> list[str]:
    """Return a report of ``benchmark`` as lines of text."""
    mixing, run = report["mixing"], report["run"]
    lines = [f"{'file to training picture, one process':<48}{'pictures/s':>12}{'x reference':>13}"]
    for row in report["data"]:
        lines.append(f"{row['contender']:<48}{row['pictures_per_second']:>12.0f}{row['times_the_reference']:>13.2f}")
    lines += ["", f"{'difference from Pillow, levels of 255':<48}{'largest':>12}{'mean':>13}"]
    for name, values in report["pixel_differences"].items():
        lines.append(f"{name:<48}{values['max']:>12}{values['mean']:>13.5f}")
    lines += [
        "",
        f"a step with CutMix takes {mixing['step_with_cutmix_ms']:.0f} ms, {mixing['cutmix_ms']:.1f} of it mixing; "
        f"SaliencyMix takes {mixing['saliencymix_ms']:.1f}: {mixing['saliencymix_extra_percent']:+.1f} % of the step",
        "",
        f"{'the run of this config':<48}{'pictures/s':>12}",
    ]
    for name, key in (
        ("step on synthetic pictures (the ceiling)", "synthetic_pictures_per_second"),
        ("data alone", "data_pictures_per_second"),
        ("both together", "pictures_per_second"),
    ):
        lines.append(f"{name:<48}{run[key]:>12.1f}")
    ceiling, waiting = 100 * run["share_of_ceiling"], 100 * run["share_waiting_for_data"]
    on_gpu = ", while the GPU computes" if report["environment"]["gpu"] else ""
    return [*lines, f"{ceiling:.1f} % of the ceiling; {waiting:.1f} % of the time spent waiting for data{on_gpu}"]
