"""A trained detector on any pictures: what it finds, as JSON and drawn on copies of them."""

from __future__ import annotations

import colorsys
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from PIL import Image, ImageDraw, ImageFont

from detection.config import class_names, load_detection_config
from detection.datasets.types import AnnotatedPicture, DetectionDataset
from detection.engines import select
from detection.evaluation.detections import PictureDetections
from pretrain.run.files import atomic_write, same_file_names
from pretrain.run.pictures import displayed_size, pictures_in, read_picture
from pretrain.run.settings import recorded_leaves
from pretrain.run.text import read_json
from pretrain.weights.files import read_weights

RESULTS = "predictions.json"
TEXT_SHARE = 40  # the picture's longer side is so many times as long as a letter is high

logger = logging.getLogger(__name__)


def load_config_of(weights: Path | str, config_file: str | None, opts: Sequence[str]) -> CfgNode:
    """Return the config of a trained detector: ``config_file`` or, without one, what the weights file carries.

    ``opts`` are KEY VALUE pairs; MODEL.WEIGHTS becomes ``weights``.

    Raises:
        FileNotFoundError, ValueError: no such file, no weights, or a config that is needed and not there.
    """
    if config_file is not None:
        return load_detection_config(config_file, [*opts, "MODEL.WEIGHTS", str(weights)])
    content = read_weights(weights)
    if not isinstance(content, dict) or not isinstance(content.get("config"), str):
        raise ValueError(f"{weights} does not carry the config of its detector; give it with --config-file")
    recorded = [part for pair in recorded_leaves(content["config"], f"config in {weights}").items() for part in pair]
    return load_detection_config(None, [*recorded, *opts, "MODEL.WEIGHTS", str(weights)])


def collect_pictures(paths: Sequence[Path | str], classes: Sequence[str]) -> DetectionDataset:
    """Return the picture files in ``paths``, files or folders, as a dataset without objects; ids are file names.

    Raises:
        FileNotFoundError, ValueError: a path or a picture cannot be read, nothing to do, or two files of one name.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += pictures_in(path)
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"picture {path} does not exist")
    by_name: dict[str, Path] = {}
    for file in files:
        if by_name.setdefault(file.stem, file) != file:
            raise ValueError(f"{by_name[file.stem]} and {file} would both become {file.stem}.png; do one at a time")
    if pair := same_file_names(by_name):
        raise ValueError(f"{pair[0]}.png and {pair[1]}.png would be one file; do one at a time")
    pictures = [AnnotatedPicture(name, file, file, *displayed_size(file), ()) for name, file in by_name.items()]
    return DetectionDataset("pictures", Path(), "pictures", tuple(classes), tuple(pictures))


def predict(
    cfg: CfgNode, paths: Sequence[Path | str], output_dir: Path | str, *, engine: str = "auto", min_score: float = 0.5
) -> list[dict[str, Any]]:
    """Detect objects in pictures; write ``<name>.png`` of each and ``predictions.json``, whose content is returned.

    What stands in ``output_dir`` and is not from such a call is never overwritten.

    An entry is ``{"file", "width", "height", "detections"}``, a detection ``{"class", "score", "box"}`` with the box's
    left, top, right and bottom in pixels of the upright picture from 0; the surest first, none below ``min_score``.

    Raises:
        ImportError, FileNotFoundError, ValueError: engine, weights, config or a picture are wrong.
        FileExistsError: ``output_dir`` holds a file of a name that is needed; said before anything is computed.
    """
    if not 0 <= min_score <= 1:
        raise ValueError(f"the lowest score is {min_score}; expected 0 to 1")
    cfg = cfg.clone()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(min_score)
    module = select(engine)
    module.check_config(cfg)
    dataset = collect_pictures(paths, class_names(cfg))
    output_dir = Path(output_dir)
    _refuse_to_overwrite(dataset, output_dir)
    found = module.detect(cfg, dataset)
    output_dir.mkdir(parents=True, exist_ok=True)
    entries = []
    for picture in dataset.pictures:
        detections = found[picture.image_id]
        with atomic_write(output_dir / f"{picture.image_id}.png") as file:
            draw(read_picture(picture.path), detections, dataset.classes).save(file, "PNG")
        entries.append(
            {
                "file": str(picture.path),
                "width": picture.width,
                "height": picture.height,
                "detections": _as_json(detections, dataset.classes),
            }
        )
    with atomic_write(output_dir / RESULTS, "w") as file:
        file.write(json.dumps(entries, indent=2) + "\n")
    return entries


def _refuse_to_overwrite(dataset: DetectionDataset, output_dir: Path) -> None:
    """Raise FileExistsError where a file is in the way that no earlier call drew, a picture to look at above all."""
    try:
        drawn = {Path(entry["file"]).stem for entry in read_json(output_dir / RESULTS)}
    except (OSError, ValueError, LookupError, TypeError):
        drawn = set()
    inputs = {picture.path.resolve() for picture in dataset.pictures}
    for picture in dataset.pictures:
        target = output_dir / f"{picture.image_id}.png"
        if target.resolve() in inputs or (target.exists() and picture.image_id not in drawn):
            raise FileExistsError(f"{target} is there already, and would be overwritten; choose another --output")


def draw(image: Image.Image, detections: PictureDetections, classes: Sequence[str]) -> Image.Image:
    """Return a copy of ``image`` (RGB) with a box and a label for each detection, the surest on top."""
    image = image.copy()
    canvas = ImageDraw.Draw(image)
    height = max(10, max(image.size) // TEXT_SHARE)
    font, line = ImageFont.load_default(height), max(1, height // 6)
    for place in np.argsort(detections.scores, kind="stable").tolist():
        label = int(detections.classes[place])
        colour = class_colour(label, len(classes))
        left, top, right, bottom = detections.boxes[place].tolist()
        # Pillow's corners are pixels, both inclusive; ours are lines between pixels
        last = (max(left, min(right, image.width) - 1), max(top, min(bottom, image.height) - 1))
        canvas.rectangle((left, top, *last), outline=colour, width=line)
        text = f"{classes[label]} {detections.scores[place]:.2f}"
        at = (left, top - height - line if top > height + line else top)
        canvas.rectangle(canvas.textbbox(at, text, font=font), fill=colour)
        canvas.text(at, text, fill="black", font=font)
    return image


def class_colour(label: int, count: int) -> tuple[int, int, int]:
    """Return a bright colour, as far from those of the other ``count`` labels as hues allow."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(label / count, 0.75, 1.0))


def _as_json(detections: PictureDetections, classes: Sequence[str]) -> list[dict[str, Any]]:
    order = np.argsort(-detections.scores, kind="stable")
    return [
        {
            "class": classes[int(detections.classes[place])],
            "score": float(detections.scores[place]),
            "box": detections.boxes[place].tolist(),
        }
        for place in order
    ]
