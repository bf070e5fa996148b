"""A trained detector that one can hold: a file of weights becomes a callable that finds objects in pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor, nn

from detection.config import class_names, read_detection_config
from detection.engines import select
from detection.evaluation.detections import PictureDetections
from detection.samples import Sample, inference_sample
from pretrain.run.checkpoint import save_checkpoint
from pretrain.run.pictures import read_picture, upright_rgb
from pretrain.run.settings import Carried
from pretrain.weights.files import read_weights

Picture = Path | str | Image.Image | np.ndarray | Tensor
AHEAD = 2  # pictures that are read while the network is at work on one
DESCRIPTION = ("card", "iteration", "processes")  # what a file of weights says besides weights and config


@dataclass(frozen=True)
class Found:
    """What was found in one picture, the surest first; ``len`` is how many objects that are.

    Attributes:
        boxes: float32 ``(N, 4)``: left, top, right, bottom in pixels of the upright picture, 0-based and half-open.
        scores: float32 ``(N,)`` in 0..1, falling.
        labels: int64 ``(N,)``, places in the detector's ``classes``.
        names: the N names that the labels stand for.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)


def load_detector(
    path: Path | str,
    *,
    device: str = "auto",
    confidence_threshold: float | None = None,
    engine: str = "auto",
    config_file: Path | str | None = None,
    opts: Sequence[str] = (),
) -> Detector:
    """Return the trained detector in ``path``: a file of either engine, with the config and classes that it carries.

    Args:
        path: ``model_final.pth``, a checkpoint on the way to it, or what ``Detector.save`` wrote. Nothing is executed.
        device: "cpu", "cuda", "cuda:<number>"; "auto" is a GPU where PyTorch sees one.
        confidence_threshold: detections must score more; None is the config's, by which the detector was evaluated.
        engine: "detectron2", "torchvision", or "auto": Detectron2 where it can be imported. Both find the same.
        config_file: for files that carry no config, such as Detectron2's own.
        opts: KEY VALUE pairs that differ from the config, such as ``["INPUT.MIN_SIZE_TEST", "600"]``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no trained detector, a config that does not fit it, or a wrong argument.
        ImportError: an engine that is not installed.
    """
    if confidence_threshold is not None and not 0 <= confidence_threshold <= 1:
        raise ValueError(f"the confidence threshold is {confidence_threshold}; expected 0 to 1")
    content, written = _read_detector(path, config_file, opts)
    if confidence_threshold is not None:
        written.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(confidence_threshold)
    cfg = written.clone()
    cfg.MODEL.WEIGHTS = str(path)
    asked = cfg.MODEL.DEVICE if device == "auto" and "MODEL.DEVICE" in opts[::2] else device
    cfg.MODEL.DEVICE = _device(asked)
    module = select(engine)
    model = module.load_model(cfg)
    description = {name: content[name] for name in DESCRIPTION if name in content}
    return Detector(cfg, model.eval(), module, {**description, "config": written.dump()})


def detector_config(path: Path | str, *, config_file: Path | str | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Return the config of the trained detector in ``path``, its MODEL.WEIGHTS; arguments as ``load_detector``.

    Raises:
        FileNotFoundError, ValueError: as ``load_detector``.
    """
    _, cfg = _read_detector(path, config_file, opts)
    cfg.MODEL.WEIGHTS = str(path)
    return cfg


class Detector:
    """Finds objects in pictures; ``load_detector`` makes one.

    Attributes:
        classes: the names of the labels 0, 1, ...
        config: every setting, as a CfgNode that nobody should write to.
        engine: "detectron2" or "torchvision".
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, engine: ModuleType, description: dict[str, Any]):
        self.config, self.classes = cfg, class_names(cfg)
        self.engine = engine.__name__.rpartition(".")[2]
        self._model, self._engine, self._description = model, engine, description

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Found | list[Found]:
        """Return what is found in a picture, or in each of a list (or tuple) of them.

        A picture is a path, a PIL image, a uint8 array ``(H, W, 3)`` or a uint8 tensor ``(3, H, W)``, both in RGB. What
        a camera has noted of its orientation is applied to paths and PIL images. The numbers are those of an evaluation
        to the last bit: pictures go through the network one by one, since padding to a common size would change them.

        Raises:
            FileNotFoundError, ValueError, TypeError: no picture; the text names the file, or its place in the list.
        """
        if isinstance(pictures, (list, tuple)):
            return list(self.stream(pictures))
        return self._find(self._prepare(pictures, "the picture"))

    def stream(self, pictures: Iterable[Picture]) -> Iterator[Found]:
        """Yield what is found in each of ``pictures`` (as for a call) in turn, for folders and films of any length.

        The next pictures are read, in a thread, while the network is at work; errors arrive at the picture's turn.
        """
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[Future[Sample]] = deque()
            try:
                for place, picture in enumerate(pictures, 1):
                    waiting.append(pool.submit(self._prepare, picture, f"picture {place}"))
                    if len(waiting) > AHEAD:
                        yield self._find(waiting.popleft().result())
                while waiting:
                    yield self._find(waiting.popleft().result())
            finally:
                for future in waiting:
                    future.cancel()

    def save(self, path: Path | str) -> None:
        """Write the detector with its config and without what only training needs, a quarter of the size.

        ``load_detector`` reads the file, and so does whatever takes a trained detector; it is safe to load. Settings
        given to ``load_detector`` are in it, but for the device.

        Raises:
            OSError: it could not be written; what stood at ``path`` is untouched.
        """
        save_checkpoint({"model": self._engine.model_state(self._model), **self._description}, path)

    def _prepare(self, picture: Picture, what: str) -> Sample:
        if isinstance(picture, (str, Path)):
            return inference_sample(self.config.INPUT, read_picture(picture))
        try:
            return inference_sample(self.config.INPUT, _as_image(picture))
        except (ValueError, TypeError, OSError) as error:
            raise type(error)(f"{what}: {error}") from error

    @torch.no_grad()
    def _find(self, sample: Sample) -> Found:
        found: PictureDetections = self._engine.detect_sample(self._model, sample)
        labels = found.classes.astype(np.int64)
        return Found(found.boxes, found.scores, labels, tuple(self.classes[label] for label in labels))


def _read_detector(
    path: Path | str, config_file: Path | str | None, opts: Sequence[str]
) -> tuple[dict[str, Any], CfgNode]:
    """Return what the file holds and its config; what never was a detector is refused before that is asked for."""
    content = read_weights(path)
    names = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(names, dict) or not any(str(name).startswith("roi_heads.box_predictor.") for name in names):
        what = "a backbone or a classifier" if isinstance(names, dict) and names else "something else"
        raise ValueError(
            f"{path} is no trained detector, but {what}: no tensor of it is called roi_heads.box_predictor...; "
            "tools/train_net.py trains one"
        )
    carried = None
    if config_file is None:
        if not isinstance(content.get("config"), str):
            raise ValueError(f"{path} does not carry the config of its detector; give it with --config-file")
        carried = Carried(content["config"], f"config in {path}")
    return content, read_detection_config(config_file, opts, carried=carried)


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        kind = None
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"the device is {device!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:<number>'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"the device is {device!r}, but PyTorch sees no GPU here; use 'cpu'")
    return device


def _as_image(picture: Image.Image | np.ndarray | Tensor) -> Image.Image:
    if isinstance(picture, Image.Image):
        return upright_rgb(picture)
    if isinstance(picture, Tensor):
        expected, dtype, right = (
            "a uint8 tensor (3, H, W) in RGB",
            picture.dtype,
            picture.ndim == 3 and len(picture) == 3,
        )
    elif isinstance(picture, np.ndarray):
        expected, dtype, right = "a uint8 array (H, W, 3) in RGB", picture.dtype, picture.shape[2:] == (3,)
    else:
        raise TypeError(
            f"expected a path, a PIL image, an array or a tensor, but got {type(picture).__name__}; "
            "several pictures are a list"
        )
    if not right or str(dtype).removeprefix("torch.") != "uint8" or 0 in picture.shape:
        raise ValueError(f"expected {expected}, but got {dtype} of shape {tuple(picture.shape)}")
    pixels = picture.permute(1, 2, 0).cpu().numpy() if isinstance(picture, Tensor) else picture
    return Image.fromarray(np.ascontiguousarray(pixels))
