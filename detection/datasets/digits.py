"""The demo's data, made without a download: real handwriting on photographs, as class folders, VOCdevkit or COCO.

The handwriting is scikit-learn's ``load_digits`` (1797 digits by 43 writers, UCI ML repository), the backgrounds are
photographs that scikit-learn and scikit-image carry in their packages. Held-out pictures (``val``, VOC2007 ``test``)
use handwriting and photographs that no training picture uses. Everything is a pure function of the seed, and the scenes
are the same in either format.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pretrain.run.cli import Progress
from pretrain.run.files import named_errors

DIGIT_CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAIN_HANDWRITING = slice(0, 1300)  # the digits come writer by writer, so the held-out writers are other people
TEST_HANDWRITING = slice(1300, 1797)
TRAIN_PHOTOS = ("astronaut", "coffee", "motorcycle_left", "brick", "china.jpg")
TEST_PHOTOS = ("chelsea", "rocket", "grass", "flower.jpg")
INK = 0.35  # a pixel with at least this much ink counts as part of a digit; its box is tight around these
DIFFICULT_SIDE = 15  # a digit whose box is lower than this many pixels is marked difficult
MIN_SIDE, MIN_SCENE_SIDE = 16, 64  # pixels
CATEGORIES = [{"id": number, "name": name} for number, name in enumerate(DIGIT_CLASSES, start=1)]  # of a COCO file


class SceneSet(NamedTuple):
    """An image set of the VOCdevkit."""

    year: str
    image_set: str
    held_out: bool


SCENE_SETS = (
    SceneSet("VOC2007", "trainval", False),
    SceneSet("VOC2007", "test", True),
    SceneSet("VOC2012", "trainval", False),
)


class Digit(NamedTuple):
    """Where a digit stands in a scene; the box is VOC's: xmin, ymin, xmax, ymax, 1-based inclusive pixels."""

    name: str
    box: tuple[int, int, int, int]

    @property
    def difficult(self) -> bool:
        return self.box[3] - self.box[1] + 1 < DIFFICULT_SIDE


class Material(NamedTuple):
    """What a split's pictures are made of."""

    digits: np.ndarray  # float (N, 8, 8) ink in 0..1
    labels: np.ndarray  # int (N,)
    photos: list[np.ndarray]  # uint8 (H, W, 3)


def write_image_folder(folder: Path, *, seed: int, train_per_class: int, val_per_class: int, side: int) -> None:
    """Write ``folder/train`` and ``folder/val``, a sub-folder per digit class, as square JPEGs of ``side`` pixels.

    ``folder`` appears only when it is complete; an existing one is left alone.
    """

    def write(target: Path) -> None:
        with Progress(10 * (train_per_class + val_per_class), "draw digits", unit="picture") as progress:
            for split, count, held_out in (("train", train_per_class, False), ("val", val_per_class, True)):
                material = _material(held_out=held_out)
                rng = np.random.default_rng([seed, held_out])
                for label, name in enumerate(DIGIT_CLASSES):
                    (target / split / name).mkdir(parents=True)
                    chosen = np.flatnonzero(material.labels == label)
                    for number in range(count):
                        picture = _background(rng, material.photos, side, side)
                        height = rng.uniform(0.5, 0.95) * side
                        _paste(rng, picture, material.digits[rng.choice(chosen)], height, [])
                        _save(picture, target / split / name / f"{number:04d}.jpg")
                        progress.update()

    _write_whole(folder, write)


def write_devkit(folder: Path, *, seed: int, trainval: int, test: int, side: int) -> None:
    """Write a VOCdevkit: VOC2007 ``trainval`` and ``test``, VOC2012 ``trainval``.

    ``trainval`` and ``test`` are the numbers of scenes of each such set. The longer side of a scene is ``side`` pixels;
    it holds one to five digits of different sizes, the smallest marked difficult. ``folder`` appears only when it is
    complete; an existing one is left alone.
    """

    def write(target: Path) -> None:
        with Progress(2 * trainval + test, "draw scenes", unit="scene") as progress:
            for one in SCENE_SETS:
                root = target / one.year
                for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
                    (root / name).mkdir(parents=True, exist_ok=True)
                ids = []
                for image_id, picture, digits in _scenes(one, test if one.held_out else trainval, side, seed, progress):
                    _save(picture, root / "JPEGImages" / f"{image_id}.jpg")
                    (root / "Annotations" / f"{image_id}.xml").write_text(
                        _annotation(image_id, picture, digits), "utf-8"
                    )
                    ids.append(image_id)
                list_of_ids = root / "ImageSets" / "Main" / f"{one.image_set}.txt"
                list_of_ids.write_text("".join(f"{image_id}\n" for image_id in ids), "utf-8")

    _write_whole(folder, write)


def write_coco(folder: Path, *, seed: int, trainval: int, test: int, side: int) -> None:
    """Write the scenes of ``write_devkit`` in COCO's format: both trainval sets as ``train2017``, test as ``val2017``.

    ``folder`` is the ``coco`` of ``coco_2017_train`` and ``coco_2017_val``. COCO knows no difficult objects: the
    smallest digits count as all others.
    """

    def write(target: Path) -> None:
        (target / "annotations").mkdir()
        with Progress(2 * trainval + test, "draw scenes", unit="scene") as progress:
            for part, held_out in (("train2017", False), ("val2017", True)):
                (target / part).mkdir()
                content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": CATEGORIES}
                for one in SCENE_SETS:
                    if one.held_out != held_out:
                        continue
                    count = test if held_out else trainval
                    for image_id, picture, digits in _scenes(one, count, side, seed, progress):
                        _save(picture, target / part / f"{image_id}.jpg")
                        _add_to_coco(content, f"{image_id}.jpg", picture, digits)
                file = target / "annotations" / f"instances_{part}.json"
                file.write_text(json.dumps(content), "utf-8")

    _write_whole(folder, write)


def _add_to_coco(
    content: dict[str, list[dict[str, Any]]], file_name: str, picture: np.ndarray, digits: list[Digit]
) -> None:
    """Add a scene to the content of a COCO file; everything is numbered from 1."""
    height, width, _ = picture.shape
    number = len(content["images"]) + 1
    content["images"].append({"id": number, "file_name": file_name, "width": width, "height": height})
    for digit in digits:
        left, top, right, bottom = digit.box[0] - 1, digit.box[1] - 1, digit.box[2], digit.box[3]
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": DIGIT_CLASSES.index(digit.name) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
            }
        )


def _scenes(
    one: SceneSet, count: int, side: int, seed: int, progress: Progress
) -> Iterator[tuple[str, np.ndarray, list[Digit]]]:
    """Yield id, picture and digits of ``count`` scenes."""
    material = _material(held_out=one.held_out)
    rng = np.random.default_rng([seed, 2 + SCENE_SETS.index(one)])
    for number in range(count):
        yield f"{one.year[3:]}_{one.image_set}_{number:05d}", *_scene(rng, material, side)
        progress.update()


def _write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a neighbouring folder, then give it its name."""
    if folder.exists():
        return
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with named_errors(unfinished):
        unfinished.mkdir(parents=True)
        write(unfinished)
        unfinished.rename(folder)


def _material(*, held_out: bool) -> Material:
    try:
        import skimage.data
        from sklearn.datasets import load_digits, load_sample_image
    except ImportError as error:
        raise ImportError(
            f'the demo needs scikit-learn and scikit-image ({error}); pip install -e ".[demo]"'
        ) from error

    handwriting = load_digits()
    part = TEST_HANDWRITING if held_out else TRAIN_HANDWRITING
    photos = []
    for name in TEST_PHOTOS if held_out else TRAIN_PHOTOS:
        if name.endswith(".jpg"):
            photo = load_sample_image(name)
        else:  # read from the package's folder: skimage.data's own functions may want to download
            photo = np.asarray(Image.open(_skimage_file(Path(skimage.data.__file__).parent, name)).convert("RGB"))
        photos.append(photo)
    return Material(handwriting.images[part] / 16.0, handwriting.target[part], photos)


def _skimage_file(folder: Path, name: str) -> Path:
    for suffix in (".png", ".jpg"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise FileNotFoundError(
        f"scikit-image's photograph {name!r} is not in {folder}; the demo was made with scikit-image 0.25"
    )


def _scene(rng: np.random.Generator, material: Material, side: int) -> tuple[np.ndarray, list[Digit]]:
    other = int(side * rng.uniform(0.7, 1.0))
    height, width = (side, other) if rng.random() < 0.5 else (other, side)
    picture = _background(rng, material.photos, height, width)
    digits: list[Digit] = []
    for _ in range(rng.integers(1, 6)):
        chosen = rng.integers(len(material.digits))
        digit_height = side * np.exp(rng.uniform(np.log(0.1), np.log(0.5)))
        box = _paste(rng, picture, material.digits[chosen], digit_height, [digit.box for digit in digits])
        if box is not None:
            digits.append(Digit(DIGIT_CLASSES[material.labels[chosen]], box))
    return picture, digits


def _background(rng: np.random.Generator, photos: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Return a random crop of a random photograph, resized to ``uint8 (height, width, 3)``."""
    photo = photos[rng.integers(len(photos))]
    zoom = rng.uniform(1.0, min(photo.shape[0] / height, photo.shape[1] / width))
    crop_height, crop_width = int(height * zoom), int(width * zoom)
    top = rng.integers(photo.shape[0] - crop_height + 1)
    left = rng.integers(photo.shape[1] - crop_width + 1)
    crop = Image.fromarray(photo[top : top + crop_height, left : left + crop_width])
    return np.asarray(crop.resize((width, height), Image.Resampling.BILINEAR)).copy()


def _paste(
    rng: np.random.Generator,
    picture: np.ndarray,
    digit: np.ndarray,
    height: float,
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int] | None:
    """Write ``digit`` into ``picture`` in a colour that stands out, clear of the ``taken`` boxes; return its VOC box.

    Returns None, with the picture unchanged, where no free place turns up in 20 tries.
    """
    size = (max(6, round(height * rng.uniform(0.7, 1.0))), max(8, round(height)))
    ink = np.asarray(Image.fromarray(np.float32(digit)).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    rows, cols = np.flatnonzero((ink >= INK).any(axis=1)), np.flatnonzero((ink >= INK).any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    ink_height, ink_width = ink.shape
    for _ in range(20):
        top = rng.integers(picture.shape[0] - ink_height + 1)
        left = rng.integers(picture.shape[1] - ink_width + 1)
        box = (int(left) + 1, int(top) + 1, int(left) + ink_width, int(top) + ink_height)
        if all(box[0] > b[2] or box[2] < b[0] or box[1] > b[3] or box[3] < b[1] for b in taken):
            break
    else:
        return None
    patch = picture[top : top + ink_height, left : left + ink_width]
    alpha = np.clip(ink * 1.6, 0, 1)[..., None]
    patch[:] = (patch * (1 - alpha) + _ink_colour(rng, patch) * alpha).round().astype(np.uint8)
    return box


def _ink_colour(rng: np.random.Generator, patch: np.ndarray) -> np.ndarray:
    """Return a random colour at least 90 grey levels brighter or darker than the mean of ``patch``."""
    luma = np.array([0.299, 0.587, 0.114])
    mean = float(patch.reshape(-1, 3).mean(axis=0) @ luma)
    for _ in range(100):
        colour = rng.uniform(0, 255, 3)
        if abs(colour @ luma - mean) >= 90:
            return colour
    return np.full(3, 255.0 if mean < 128 else 0.0)


def _save(picture: np.ndarray, path: Path) -> None:
    Image.fromarray(picture).save(path, quality=92)


def _annotation(image_id: str, picture: np.ndarray, digits: list[Digit]) -> str:
    """Return the scene's VOC XML."""
    objects = "".join(
        f"  <object>\n    <name>{digit.name}</name>\n    <pose>Unspecified</pose>\n    <truncated>0</truncated>\n"
        f"    <difficult>{int(digit.difficult)}</difficult>\n"
        f"    <bndbox>{_box_xml(digit.box)}</bndbox>\n  </object>\n"
        for digit in digits
    )
    height, width, _ = picture.shape
    return (
        f"<annotation>\n  <folder>digits</folder>\n  <filename>{image_id}.jpg</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n{objects}</annotation>\n"
    )


def _box_xml(box: tuple[int, int, int, int]) -> str:
    return "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
