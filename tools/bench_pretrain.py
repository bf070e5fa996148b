#!/usr/bin/env python3
"""Measure where the time of a pretraining run goes: data alone, step alone, both together; print a table, then JSON.

Pictures per second of data alone, by each way to decode, beside torchvision's reference pipeline (Pillow, PIL
transforms, normalised floats); of the step on synthetic pictures, which is the ceiling; and of both together, with the
share of time spent waiting for data. Contenders take turns, so that what else the machine does falls on all of them,
and what one process does on the CPU is timed by that process's own clock. Without DATA.ROOT it makes JPEGs of 500 x 375
pixels.

Example:
  python tools/bench_pretrain.py --config-file pretrain/configs/imagenet_r50_saliencymix.yaml \\
      SOLVER.BATCH_SIZE 32 DATA.NUM_WORKERS 2 DATA.COLOR_JITTER 0 DATA.PCA_LIGHTING 0
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.cli import add_config_arguments, make_parser, run_tool, setup_logging

WIDTH, HEIGHT, QUALITY = 500, 375, 90  # about 110 KB a picture, as in ImageNet


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=128, metavar="N", help="that are made or taken from DATA.ROOT")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of every contender; the median counts")
    parser.add_argument("--iterations", type=int, default=4, metavar="N", help="in a round of steps")
    add_config_arguments(parser, example="pretrain/configs/imagenet_r50_saliencymix.yaml")
    args = parser.parse_args(argv)
    for name in ("pictures", "rounds", "iterations"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, but got {getattr(args, name)}")
    setup_logging()

    from pretrain.config import load_pretrain_config
    from pretrain.timing import environment

    load_pretrain_config(args.config_file, args.opts)  # mistakes are refused before anything is made
    with tempfile.TemporaryDirectory() as folder:
        made = ["DATA.ROOT", str(make_pictures(Path(folder), args.pictures))]
        cfg = load_pretrain_config(args.config_file, [*made, *args.opts])  # a DATA.ROOT of one's own comes last
        if cfg.DATA.DATASET != "image_folder":
            raise ValueError(f"DATA.DATASET is {cfg.DATA.DATASET}; only pictures in class folders are decoded")
        data, differences = measure_data(cfg, args.pictures, args.rounds)
        report = {
            "environment": {**environment(), **settings(cfg)}, "data": data, "pixel_differences": differences,
            "mixing": measure_mixing(cfg, args.rounds, args.iterations),
            "run": measure_run(cfg, args.rounds * args.iterations),
        }  # fmt: skip
    print_table(report)
    print(json.dumps(report))


def make_pictures(folder: Path, count: int) -> Path:
    """Write JPEGs with the spectrum of photographs (power falls with the frequency squared) as two classes."""
    import numpy as np
    from PIL import Image

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


def measure_data(cfg: Any, count: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Time one process's way from file to training picture by each decoder; compare what they make of a picture."""
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.transforms import v2

    from pretrain.augmentation import train_transform
    from pretrain.data import ClassFolders
    from pretrain.decoding import read_picture
    from pretrain.timing import take_turns

    paths = [path for path, _ in ClassFolders(Path(cfg.DATA.ROOT) / "train", "pillow").samples][:count]
    ours = train_transform(cfg)
    mean, std = ([value / 255 for value in values] for values in (cfg.DATA.PIXEL_MEAN, cfg.DATA.PIXEL_STD))
    floats = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    crop = v2.RandomResizedCrop(cfg.DATA.IMAGE_SIZE, scale=cfg.DATA.CROP_SCALE, antialias=True)
    flip_and_convert = v2.Compose([v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def pillow(path: str) -> Image.Image:
        with Image.open(path) as file:
            return file.convert("RGB")

    def draft(path: str) -> torch.Tensor:
        """Draw the crop first, then let the decoder halve the picture as often as the crop stays large enough."""
        with Image.open(path) as file:
            width, height = file.size
            top, left, rows, cols = crop.make_params([torch.empty(3, height, width)]).values()
            times = max(1.0, min(rows, cols) / cfg.DATA.IMAGE_SIZE)
            file.draft("RGB", (int(width / times), int(height / times)))
            across, down = file.size[0] / width, file.size[1] / height
            right, bottom = (left + cols) * across, (top + rows) * down
            box = (left * across, top * down, min(right, file.size[0]), min(bottom, file.size[1]))  # min: rounding
            picture = file.convert("RGB").resize((cfg.DATA.IMAGE_SIZE,) * 2, Image.Resampling.BILINEAR, box=box)
        return flip_and_convert(picture)

    contenders: dict[str, Callable[[str], Any]] = {
        "reference: Pillow, PIL transforms, normalised": lambda path: floats(flip_and_convert(crop(pillow(path)))),
        "the same, 8-bit": lambda path: flip_and_convert(crop(pillow(path))),
        "Pillow, draft mode, 8-bit": draft,
        "DATA.DECODER pillow": lambda path: ours(read_picture(path, "pillow")),
        "DATA.DECODER opencv": lambda path: ours(read_picture(path, "opencv")),
    }
    decoders: dict[str, Callable[[str], np.ndarray]] = {
        "opencv": lambda path: read_picture(path, "opencv").permute(1, 2, 0).numpy(),
    }
    try:
        import simplejpeg
    except ImportError:
        print("simplejpeg is not installed: it is left out", file=sys.stderr)
    else:
        decoders["simplejpeg"] = lambda path: simplejpeg.decode_jpeg(Path(path).read_bytes())
        contenders["simplejpeg, tensor transforms"] = lambda path: ours(
            torch.from_numpy(decoders["simplejpeg"](path)).permute(2, 0, 1)
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loading process
    try:
        loops = [lambda one=one: [one(path) for path in paths] for one in contenders.values()]
        times = [seconds.cpu for seconds in take_turns(loops, rounds)]
    finally:
        torch.set_num_threads(threads)
    rates = [
        {
            "contender": name,
            "pictures_per_second": len(paths) / median(seconds),
            "times_the_reference": median(a / b for a, b in zip(times[0], seconds, strict=True)),
        }
        for name, seconds in zip(contenders, times, strict=True)
    ]

    def resampled(picture: Any) -> np.ndarray:
        torch.manual_seed(0)  # the same crop for all
        return v2.functional.to_image(crop(picture)).numpy()

    differences = {}
    for name, decode in decoders.items():
        pairs = [(decode(path), np.asarray(pillow(path))) for path in paths[:16]]
        differences[f"{name}, decoded"] = difference(pairs)
        pairs = [
            (resampled(torch.from_numpy(one).permute(2, 0, 1)), resampled(Image.fromarray(two))) for one, two in pairs
        ]
        differences[f"{name}, cropped and resampled"] = difference(pairs)
    return rates, differences


def difference(pairs: list[tuple[Any, Any]]) -> dict[str, float]:
    """Return the largest and the mean difference of pairs of 8-bit pictures, in levels of 255."""
    import numpy as np

    gaps = [np.abs(one.astype(int) - two.astype(int)) for one, two in pairs]
    return {"max": int(max(gap.max() for gap in gaps)), "mean": float(np.mean([gap.mean() for gap in gaps]))}


def measure_mixing(cfg: Any, rounds: int, iterations: int) -> dict[str, float]:
    """Time a training step with CutMix, and what mixing takes of it by CutMix and by SaliencyMix, in every batch.

    The steps themselves vary by more than mixing takes, so the difference of the two is set against the step.
    """
    import torch

    from pretrain.learner import build_mixing
    from pretrain.processes import select_device
    from pretrain.timing import take_turns

    device = select_device(cfg.DEVICE)
    count, side = cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATION, cfg.DATA.IMAGE_SIZE
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 1000, (count,), device=device)

    def mixing(method: str) -> Callable[[], None]:
        mix = build_mixing(with_method(cfg, method), 1000)

        def run() -> None:
            for _ in range(iterations * cfg.SOLVER.ACCUMULATION):
                mix(images, labels)

        return run

    steps = synthetic_steps(with_method(cfg, "cutmix"), iterations)
    times = take_turns([steps, mixing("cutmix"), mixing("saliencymix")], rounds, device=device)
    step, cutmix, saliencymix = (
        median(seconds.cpu if device.type == "cpu" else seconds.wall) / iterations for seconds in times
    )
    return {
        "step_with_cutmix_ms": 1000 * step,
        "cutmix_ms": 1000 * cutmix,
        "saliencymix_ms": 1000 * saliencymix,
        "saliencymix_extra_percent": 100 * (saliencymix - cutmix) / step,
    }


def with_method(cfg: Any, method: str) -> Any:
    changed = cfg.clone()
    changed.defrost()
    changed.MIXING.METHOD, changed.MIXING.PROB = method, 1.0
    return changed


def synthetic_steps(cfg: Any, iterations: int) -> Callable[[], None]:
    """Return a function that does ``iterations`` training steps on one synthetic batch."""
    import torch

    from pretrain.learner import Learner
    from pretrain.processes import Processes, select_device

    device = select_device(cfg.DEVICE)
    learner = Learner(cfg, 1000, Processes(device))
    learner.network.train()
    size = cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATION
    images = torch.randint(0, 256, (size, 3, cfg.DATA.IMAGE_SIZE, cfg.DATA.IMAGE_SIZE), dtype=torch.uint8)
    labels = torch.randint(0, 1000, (size,))
    if device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()

    def steps() -> None:
        for _ in range(iterations):
            learner.step([(images, labels)] * cfg.SOLVER.ACCUMULATION, lr=0.01, progress=0.5)

    return steps


def measure_run(cfg: Any, iterations: int) -> dict[str, float]:
    """Return pictures per second of the synthetic ceiling, of the loader alone and of the fed step."""
    import torch

    from pretrain.data import Unreadable, load_splits
    from pretrain.learner import Learner
    from pretrain.processes import Processes, select_device
    from pretrain.timing import take_turns
    from pretrain.trainer import batches_of, training_batches

    processes = Processes(select_device(cfg.DEVICE))
    pictures, _ = load_splits(cfg)
    pictures_in_all = cfg.SOLVER.BATCH_SIZE * iterations
    (ceiling,) = take_turns([synthetic_steps(cfg, iterations)], 1, device=processes.device)
    (synthetic,) = ceiling.wall

    learner = Learner(cfg, len(pictures.classes), processes)
    learner.network.train()
    seconds = {}
    waited = 0.0
    for fed in (False, True):
        order = training_batches(cfg, pictures, processes, start=0, stop=iterations + 2)
        with closing(iter(batches_of(cfg, pictures, order, Unreadable(0), processes))) as samples:
            for iteration in range(iterations + 2):
                if iteration == 2:  # the workers have started, the network is warm
                    synchronize(processes.device)
                    waited, started = 0.0, time.perf_counter()
                before = time.perf_counter()
                parts = [next(samples) for _ in range(cfg.SOLVER.ACCUMULATION)]
                waited += time.perf_counter() - before
                if fed:
                    learner.step(parts, lr=0.01, progress=0.5)
            synchronize(processes.device)
            seconds[fed] = time.perf_counter() - started
    memory = torch.cuda.max_memory_allocated() / 2**30 if processes.device.type == "cuda" else None
    return {
        "synthetic_pictures_per_second": pictures_in_all / synthetic,
        "data_pictures_per_second": pictures_in_all / seconds[False],
        "pictures_per_second": pictures_in_all / seconds[True],
        "share_of_ceiling": synthetic / seconds[True],
        "share_waiting_for_data": waited / seconds[True],
        "gpu_memory_gib": memory,
    }


def synchronize(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def settings(cfg: Any) -> dict[str, Any]:
    return {
        "arch": cfg.MODEL.ARCH, "batch": cfg.SOLVER.BATCH_SIZE, "precision": cfg.PRECISION,
        "channels_last": cfg.CHANNELS_LAST, "compile": cfg.COMPILE, "workers": cfg.DATA.NUM_WORKERS,
    }  # fmt: skip


def print_table(report: dict[str, Any]) -> None:
    print(f"{'file to training picture, one process':<48}{'pictures/s':>12}{'x reference':>13}")
    for row in report["data"]:
        print(f"{row['contender']:<48}{row['pictures_per_second']:>12.0f}{row['times_the_reference']:>13.2f}")
    print(f"\n{'difference from Pillow, levels of 255':<48}{'largest':>12}{'mean':>13}")
    for name, values in report["pixel_differences"].items():
        print(f"{name:<48}{values['max']:>12}{values['mean']:>13.5f}")
    mixing, run = report["mixing"], report["run"]
    print(
        f"\na step with CutMix takes {mixing['step_with_cutmix_ms']:.0f} ms, {mixing['cutmix_ms']:.1f} of it mixing; "
        f"SaliencyMix takes {mixing['saliencymix_ms']:.1f}: {mixing['saliencymix_extra_percent']:+.1f} % of the step"
    )
    print(f"\n{'the run of this config':<48}{'pictures/s':>12}")
    for name, key in (
        ("step on synthetic pictures (the ceiling)", "synthetic_pictures_per_second"),
        ("data alone", "data_pictures_per_second"),
        ("both together", "pictures_per_second"),
    ):
        print(f"{name:<48}{run[key]:>12.1f}")
    ceiling, waiting = 100 * run["share_of_ceiling"], 100 * run["share_waiting_for_data"]
    print(f"{ceiling:.1f} % of the ceiling; {waiting:.1f} % of the time spent waiting for data")


if __name__ == "__main__":
    run_tool(main)
