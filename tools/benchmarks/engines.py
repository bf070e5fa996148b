"""The two engines' steps timed side by side: the same weights and pictures, turn by turn in one process."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from detection.config import load_detection_config
from detection.engines import detectron2 as theirs
from detection.engines.initial_weights import draw_initial_weights
from detection.engines.torchvision.model import build_model
from detection.engines.torchvision.solver import build_optimizer
from detection.samples import Sample
from tools.benchmarks import timing

CONFIGS = Path(__file__).parents[2] / "detection" / "configs"
KINDS = {"c4": "voc_r50_c4_detectron2.yaml", "fpn": "voc_r50_fpn_detectron2.yaml"}
ENGINES = ("torchvision", "detectron2")
LEARNING_RATE = 1e-9  # the weights are random: a larger one would let the losses run away
Step = Callable[[], dict[str, Tensor]]


def benchmark(
    kinds: Sequence[str], *, opts: Sequence[str] = (), size: tuple[int, int], batch: int, rounds: int
) -> list[dict[str, Any]]:
    """Time a training step (``batch`` pictures) and an inference step (one) of both engines, for each of ``kinds``.

    Pictures are noise of ``size`` (height, width), as the data path would hand them over. The engines take turns, and
    the first of a round alternates; one round goes before, unmeasured.

    Returns:
        A row for each kind and step: ``{"detector", "step", "device": its name, "seconds": {engine: [...]},
        "cpu_seconds": likewise, "median": {engine: s}, "ratio": torchvision / detectron2 of the medians,
        "ratio_quartiles": of the single rounds, "cpu_ratio": of the medians of CPU seconds, "equal": whether losses or
        detections were bit-equal in every round}``. CPU seconds are those of this process: on a busy machine without a
        GPU they say more.

    Raises:
        ImportError: Detectron2 is not installed.
        ValueError: a config key is wrong.
    """
    rows = []
    for kind in kinds:
        cfg = load_detection_config(CONFIGS / KINDS[kind], [*opts, "SEED", "1"])
        pictures = make_pictures(batch, size, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        for name, steps in make_steps(cfg, pictures).items():
            row = {"detector": kind, "step": name, "device": device_name(cfg.MODEL.DEVICE)}
            rows.append({**row, **take_turns(steps, rounds, cfg.MODEL.DEVICE)})
    return rows


def device_name(device: str) -> str:
    """Return the name of the GPU that MODEL.DEVICE ``device`` is, or how many threads compute on the CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return f"{torch.get_num_threads()} CPU thread(s)"


def make_pictures(count: int, size: tuple[int, int], num_classes: int) -> list[Sample]:
    """Return samples of noise with five boxes each."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    samples = []
    for number in range(count):
        corners = torch.rand(5, 2, 2, generator=generator).sort(dim=1).values  # (box, near or far, x or y) in 0..1
        boxes = (corners * 0.9 + torch.tensor([[[0.0], [0.1]]])).flatten(1) * torch.tensor([width, height] * 2)
        samples.append(
            {
                "image_id": str(number),
                "height": height,
                "width": width,
                "boxes": boxes,
                "image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
                "classes": torch.randint(0, num_classes, (5,), generator=generator),
            }
        )
    return samples


def build_models(cfg: CfgNode, engines: Sequence[str] = ENGINES) -> dict[str, nn.Module]:
    """Return torchvision's detector and that of each other of ``engines``, all with the same random weights.

    With others the proposals, and so the work, may be others.
    """
    models: dict[str, nn.Module] = {"torchvision": build_model(cfg)}
    state = models["torchvision"].detectron2_state_dict()
    draw_initial_weights(state, cfg.SEED)
    if "detectron2" in engines:
        from detectron2.modeling import build_model as build_theirs

        models["detectron2"] = build_theirs(theirs.detectron2_config(cfg))
        models["detectron2"].load_state_dict(state)
    return models


def make_steps(cfg: CfgNode, samples: list[Sample]) -> dict[str, dict[str, Step]]:
    """Return step name -> engine -> a function that takes the step and returns its losses or detections."""
    from detectron2.solver import build_optimizer as build_their_optimizer
    from detectron2.utils.events import EventStorage

    cfg = cfg.clone()
    cfg.SOLVER.BASE_LR = LEARNING_RATE
    their_cfg = theirs.detectron2_config(cfg)
    models = build_models(cfg)
    optimizers = {
        "torchvision": build_optimizer(cfg, models["torchvision"]),
        "detectron2": build_their_optimizer(their_cfg, models["detectron2"]),
    }
    inputs = {"torchvision": samples, "detectron2": [theirs.to_detectron2(sample) for sample in samples]}

    def training(engine: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        with EventStorage() if engine == "detectron2" else nullcontext():
            losses = models[engine].train()(inputs[engine])
        optimizers[engine].zero_grad()
        sum(losses.values()).backward()
        optimizers[engine].step()
        return {name: loss.detach() for name, loss in sorted(losses.items())}

    @torch.no_grad()
    def inference(engine: str) -> dict[str, Tensor]:
        (found,) = models[engine].eval()(inputs[engine][:1])
        if engine == "torchvision":
            return found
        instances = found["instances"]
        return {"boxes": instances.pred_boxes.tensor, "scores": instances.scores, "classes": instances.pred_classes}

    steps = {"training": training, "inference": inference}
    return {
        name: {engine: lambda step=step, engine=engine: step(engine) for engine in ENGINES}
        for name, step in steps.items()
    }


def take_turns(steps: Mapping[str, Step], rounds: int, device: str) -> dict[str, Any]:
    """Time ``steps`` (engine -> step) in ``rounds`` rounds and return the rest of a row of ``benchmark``."""
    results: dict[str, list[dict[str, Tensor]]] = {engine: [] for engine in steps}
    calls = [lambda step=step, its=results[engine]: its.append(step()) for engine, step in steps.items()]
    times = dict(zip(steps, timing.take_turns(calls, rounds, device=device), strict=True))
    equal = all(
        torch.equal(ours[name], theirs[name]) for ours, theirs in zip(*results.values(), strict=True) for name in ours
    )
    seconds, cpu_seconds = ({engine: getattr(its, clock) for engine, its in times.items()} for clock in ("wall", "cpu"))
    median, cpu_median = (
        {engine: statistics.median(values) for engine, values in clock.items()} for clock in (seconds, cpu_seconds)
    )
    ratios = [ours / other for ours, other in zip(*(seconds[engine] for engine in ENGINES), strict=True)]
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "median": median,
        "ratio": median["torchvision"] / median["detectron2"],
        "ratio_quartiles": timing.quartiles(ratios),
        "cpu_ratio": cpu_median["torchvision"] / cpu_median["detectron2"],
        "equal": equal,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows as lines of text."""
    lines = ["detector  step       torchvision  detectron2   ratio  (quartiles)    CPU ratio  bit-equal"]
    for row in rows:
        ours, other = (row["median"][engine] for engine in ENGINES)
        quartiles = "-" if row["ratio_quartiles"] is None else "{:.3f}..{:.3f}".format(*row["ratio_quartiles"])
        lines.append(
            f"{row['detector']:8}  {row['step']:9}  {ours:9.4f} s  {other:8.4f} s  {row['ratio']:6.3f}  "
            f"{quartiles:13}  {row['cpu_ratio']:9.3f}  {'yes' if row['equal'] else 'no'}"
        )
    return lines
