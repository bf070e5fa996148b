"""A trained detector on any pictures: what it finds, as JSON and drawn on copies of them."""

from __future__ import annotations

import colorsys
import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from detection.detector import Detector, Found
from pretrain.run.cli import Progress
from pretrain.run.files import atomic_write, same_file_names
from pretrain.run.pictures import displayed_size, pictures_in, read_picture
from pretrain.run.text import read_json

RESULTS = "predictions.json"
TEXT_SHARE = 40  # the picture's longer side is so many times as long as a letter is high


def collect_pictures(paths: Sequence[Path | str]) -> dict[str, Path]:
    """Return the picture files in ``paths``, files, folders or patterns such as ``holidays/*.jpg``, by their stem.

    Raises:
        FileNotFoundError, ValueError: a path or a picture cannot be read, nothing to do, or two files of one name.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += pictures_in(path)
        elif path.is_file():
            files.append(path)
        elif fitting := sorted(glob.glob(str(path), recursive=True)):
            files += [Path(one) for one in fitting if Path(one).is_file()]
        else:
            raise FileNotFoundError(f"picture {path} does not exist")
    by_name: dict[str, Path] = {}
    for file in files:
        if by_name.setdefault(file.stem, file) != file:
            raise ValueError(f"{by_name[file.stem]} and {file} would both become {file.stem}.png; do one at a time")
        displayed_size(file)
    if pair := same_file_names(by_name):
        raise ValueError(f"{pair[0]}.png and {pair[1]}.png would be one file; do one at a time")
    return by_name


def predict(detector: Detector, paths: Sequence[Path | str], output_dir: Path | str) -> list[dict[str, Any]]:
    """Detect objects in pictures; write ``<name>.png`` of each and ``predictions.json``, whose content is returned.

    What stands in ``output_dir`` and is not from such a call is never overwritten.

    An entry is ``{"file", "width", "height", "detections"}``, a detection ``{"class", "score", "box"}`` with the box's
    left, top, right and bottom in pixels of the upright picture from 0; the surest first.

    Raises:
        FileNotFoundError, ValueError: a picture is wrong.
        FileExistsError: ``output_dir`` holds a file of a name that is needed; said before anything is computed.
    """
    pictures = collect_pictures(paths)
    output_dir = Path(output_dir)
    _refuse_to_overwrite(pictures, output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    entries = []
    with Progress(len(pictures), "detect", unit="picture") as progress:
        for (name, path), found in zip(pictures.items(), detector.stream(pictures.values()), strict=True):
            image = read_picture(path)
            with atomic_write(output_dir / f"{name}.png") as file:
                draw(image, found, detector.classes).save(file, "PNG")
            size = {"width": image.width, "height": image.height}
            entries.append({"file": str(path), **size, "detections": _as_json(found)})
            progress.update()
    with atomic_write(output_dir / RESULTS, "w") as file:
        file.write(json.dumps(entries, indent=2) + "\n")
    return entries


def _refuse_to_overwrite(pictures: dict[str, Path], output_dir: Path) -> None:
    """Raise FileExistsError where a file is in the way that no earlier call drew, a picture to look at above all."""
    try:
        drawn = {Path(entry["file"]).stem for entry in read_json(output_dir / RESULTS)}
    except (OSError, ValueError, LookupError, TypeError):
        drawn = set()
    inputs = {path.resolve() for path in pictures.values()}
    for name in pictures:
        target = output_dir / f"{name}.png"
        if target.resolve() in inputs or (target.exists() and name not in drawn):
            raise FileExistsError(f"{target} is there already, and would be overwritten; choose another --output")


def draw(image: Image.Image, found: Found, classes: Sequence[str]) -> Image.Image:
    """Return a copy of ``image`` (RGB) with a box and a label for each object found, the surest on top."""
    image = image.copy()
    canvas = ImageDraw.Draw(image)
    height = max(10, max(image.size) // TEXT_SHARE)
    font, line = ImageFont.load_default(height), max(1, height // 6)
    for place in reversed(range(len(found))):
        label = int(found.labels[place])
        colour = class_colour(label, len(classes))
        left, top, right, bottom = found.boxes[place].tolist()
        # Pillow's corners are pixels, both inclusive; ours are lines between pixels
        last = (max(left, min(right, image.width) - 1), max(top, min(bottom, image.height) - 1))
        canvas.rectangle((left, top, *last), outline=colour, width=line)
        text = f"{found.names[place]} {found.scores[place]:.2f}"
        at = (left, top - height - line if top > height + line else top)
        canvas.rectangle(canvas.textbbox(at, text, font=font), fill=colour)
        canvas.text(at, text, fill="black", font=font)
    return image


def class_colour(label: int, count: int) -> tuple[int, int, int]:
    """Return a bright colour, as far from those of the other ``count`` labels as hues allow."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(label / count, 0.75, 1.0))


def _as_json(found: Found) -> list[dict[str, Any]]:
    return [
        {"class": name, "score": float(score), "box": box.tolist()}
        for name, score, box in zip(found.names, found.scores, found.boxes, strict=True)
    ]
