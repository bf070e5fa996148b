"""From a picture on disk to a sample for either engine: one data path, by Detectron2's rules.

Boxes leave the XML's 1-based inclusive pixels here: xmin and ymin lose 1, xmax and ymax stay, which makes them 0-based
and half-open. Then the picture is resized, flipped with probability 1/2, and the boxes follow.

What a run sees is a pure function of its seed. Position p of the endless training stream has a fixed picture (from
permutations that one generator draws) and a fixed augmentation (its own generator, seeded with the pair of seed and p);
batches are formed from positions before anything is loaded. So the order depends neither on the number of workers nor
on that of processes, and a resumed run goes on where the other stopped by counting batches.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from detection.config import MAX_CLASSES_TOLD
from detection.datasets.load import read_checked
from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from pretrain.run.loading import Loading, make_loader
from pretrain.run.processes import num_workers

RAREST_TOLD = 5  # classes by name in the log, where there are many
MIN_BOX_SIDE = 1e-5  # input pixels; a side this short is no box (Detectron2's filter_empty_instances)
OPEN_FILES = 65536  # wanted per process: each tensor on its way from a worker holds a file descriptor
Sample = dict[str, Any]

logger = logging.getLogger(__name__)


def training_loader(
    cfg: CfgNode, samples: TrainingSamples, *, start_iteration: int = 0, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """Return an endless loader of batches (lists of ``samples``) for the iterations from ``start_iteration`` on.

    The samples of an iteration are the same for any number of processes; each process gets its share of them.

    Raises:
        ValueError: a batch that the processes cannot share equally.
    """
    batch_size = cfg.SOLVER.IMS_PER_BATCH
    if batch_size % world_size:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {batch_size} is not divisible by {world_size} processes;"
            f" try {max(1, batch_size // world_size) * world_size}"
        )
    batches = TrainingBatches(
        samples.pictures,
        batch_size,
        seed=cfg.SEED,
        group_by_shape=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        start_iteration=start_iteration,
        rank=rank,
        world_size=world_size,
    )
    return make_loader(samples, batch_sampler=batches, **_loader_options(cfg))


def inference_loader(cfg: CfgNode, dataset: DetectionDataset) -> DataLoader:
    """Return a loader of single samples (no batches) without boxes, in the dataset's order."""
    return make_loader(InferenceSamples(cfg, dataset), batch_size=None, **_loader_options(cfg))


def iterate(loader: DataLoader) -> Loading:
    """Return an iterator over what ``loader`` yields, as a context manager; see ``Loading``."""
    return Loading(loader)


class TrainingSamples(Dataset):
    """The pictures of ``datasets``; ``samples[index, position]`` is picture ``index`` augmented for that position.

    A sample is a dict: ``image_id``; ``image``, uint8 (3, H, W) in INPUT.FORMAT order; ``height`` and ``width`` of the
    original picture; ``boxes``, float32 (M, 4) xyxy in pixels of ``image``; ``classes``, int64 (M,). Difficult objects
    are among them, as in Detectron2; crowds and boxes that have no area inside the picture are not.
    """

    def __init__(self, cfg: CfgNode, datasets: Sequence[DetectionDataset]):
        if not datasets:
            raise ValueError("DATASETS.TRAIN is empty; name image sets, for example \"('voc_2007_trainval',)\"")
        names = [dataset.name for dataset in datasets]
        pictures = [picture for dataset in datasets for picture in dataset.pictures]
        self.pictures = [p for p in pictures if _trained(p) or not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS]
        if not self.pictures:
            raise ValueError(f"none of the {len(pictures)} pictures of {', '.join(names)} has an object")
        self.seed = cfg.SEED
        self.input = cfg.INPUT
        self.labels = {name: label for label, name in enumerate(datasets[0].classes)}
        _log_counts(names, pictures, self.pictures, datasets[0].classes)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        index, position = item
        picture = self.pictures[index]
        augmentation = draw_augmentation(self.input, np.random.default_rng((self.seed, position)))
        image = read_checked(picture)
        new_height, new_width = resized_shape(
            image.height, image.width, augmentation.short_side, self.input.MAX_SIZE_TRAIN
        )
        pixels = _pixels(image, new_height, new_width, self.input.FORMAT)
        objects = _trained(picture)
        boxes = np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, :2] -= 1
        boxes[:, 0::2] *= new_width / image.width
        boxes[:, 1::2] *= new_height / image.height
        if augmentation.flip == "horizontal":
            pixels = pixels[:, ::-1]
            boxes[:, [0, 2]] = new_width - boxes[:, [2, 0]]
        elif augmentation.flip == "vertical":
            pixels = pixels[::-1]
            boxes[:, [1, 3]] = new_height - boxes[:, [3, 1]]
        limits = (new_width, new_height, new_width, new_height)
        boxes = torch.from_numpy(np.minimum(boxes.clip(min=0), limits)).float()
        classes = torch.tensor([self.labels[item.name] for item in objects], dtype=torch.int64)
        kept = ((boxes[:, 2:] - boxes[:, :2]) > MIN_BOX_SIDE).all(dim=1)
        return {**_sample(picture.image_id, image, pixels), "boxes": boxes[kept], "classes": classes[kept]}


def count_objects(datasets: Sequence[DetectionDataset]) -> dict[str, int]:
    """Return class -> how many of its objects ``TrainingSamples`` of these datasets has."""
    objects = Counter(item.name for one in datasets for picture in one.pictures for item in _trained(picture))
    return {name: objects[name] for name in datasets[0].classes}


def _trained(picture: AnnotatedPicture) -> list[AnnotatedObject]:
    return [item for item in picture.objects if not item.crowd]


class InferenceSamples(Dataset):
    """The pictures of one dataset, resized for inference: samples as in training, without boxes and classes."""

    def __init__(self, cfg: CfgNode, dataset: DetectionDataset):
        self.input = cfg.INPUT
        self.pictures = dataset.pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        picture = self.pictures[index]
        return inference_sample(self.input, read_checked(picture), picture.image_id)


def inference_sample(settings: CfgNode, image: Image.Image, image_id: str = "") -> Sample:
    """Return the sample of an upright picture (RGB), resized as the INPUT section ``settings`` says for testing."""
    shape = resized_shape(image.height, image.width, settings.MIN_SIZE_TEST, settings.MAX_SIZE_TEST)
    return _sample(image_id, image, _pixels(image, *shape, settings.FORMAT))


class TrainingBatches(Sampler):
    """Yields, without end, batches of (picture index, position in the stream) pairs: this process's share of each.

    The stream is one random permutation of the pictures after another. With ``group_by_shape`` positions wait in one of
    two lines, wide (width > height) or not, and a line that holds a batch leaves.
    """

    def __init__(
        self,
        pictures: Sequence[AnnotatedPicture],
        batch_size: int,
        *,
        seed: int,
        group_by_shape: bool,
        start_iteration: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.group = [group_by_shape and picture.width > picture.height for picture in pictures]
        self.batch_size, self.seed, self.start_iteration = batch_size, seed, start_iteration
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration, batch in enumerate(self._batches()):
            if iteration >= self.start_iteration:
                yield batch[self.rank :: self.world_size]

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        lines: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for position, index in enumerate(self._indices()):
            group = self.group[index]
            lines[group].append((index, position))
            if len(lines[group]) == self.batch_size:
                yield lines[group]
                lines[group] = []

    def _indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(len(self.group), generator=generator).tolist()


class Augmentation(NamedTuple):
    """What chance decides about a training sample."""

    short_side: int
    flip: str  # "horizontal", "vertical" or "none"


def draw_augmentation(settings: CfgNode, rng: np.random.Generator) -> Augmentation:
    """Draw the short side, then the flip, as the INPUT section ``settings`` allows."""
    sizes = settings.MIN_SIZE_TRAIN
    if settings.MIN_SIZE_TRAIN_SAMPLING == "range":
        short_side = int(rng.integers(sizes[0], sizes[1], endpoint=True))
    else:
        short_side = sizes[rng.integers(len(sizes))]
    return Augmentation(short_side, settings.RANDOM_FLIP if rng.random() < 0.5 else "none")


def resized_shape(height: int, width: int, short_side: int, max_size: int) -> tuple[int, int]:
    """Return the height and width at which the shorter side is ``short_side`` and the longer at most ``max_size``.

    Detectron2's ResizeShortestEdge: same order of operations, rounded by adding 1/2. ``short_side`` 0 changes nothing.
    A very thin picture keeps at least one pixel.
    """
    if short_side == 0:
        return height, width
    scale = short_side / min(height, width)
    new_height, new_width = (short_side, scale * width) if height < width else (scale * height, short_side)
    if max(new_height, new_width) > max_size:
        shrink = max_size / max(new_height, new_width)
        new_height, new_width = new_height * shrink, new_width * shrink
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def _pixels(image: Image.Image, height: int, width: int, channel_order: str) -> np.ndarray:
    """Return (H, W, 3) uint8, resized by Pillow as Detectron2 does."""
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return pixels[:, :, ::-1] if channel_order == "BGR" else pixels


def _sample(image_id: str, image: Image.Image, pixels: np.ndarray) -> Sample:
    return {
        "image_id": image_id,
        "image": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
        "height": image.height,
        "width": image.width,
    }


def _loader_options(cfg: CfgNode) -> dict[str, Any]:
    _allow_open_files()
    return {
        "num_workers": num_workers(cfg.DATALOADER.NUM_WORKERS),
        "pin_memory": torch.device(cfg.MODEL.DEVICE).type == "cuda",  # so that copies to the GPU need not be waited for
        "key": "DATALOADER.NUM_WORKERS",
        "collate": _as_it_is,
        "generator": torch.Generator(),  # PyTorch draws a seed for its workers; it must not come from the run's stream
    }


def _as_it_is(samples: Any) -> Any:
    return samples


def _allow_open_files() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _log_counts(
    names: Sequence[str], found: Sequence[AnnotatedPicture], kept: Sequence[AnnotatedPicture], classes: Sequence[str]
):
    objects = Counter(item.name for picture in kept for item in picture.objects)
    logger.info(
        "training data %s: %d pictures, of which %d without objects are left out",
        ", ".join(names),
        len(found),
        len(found) - len(kept),
    )
    if len(classes) <= MAX_CLASSES_TOLD:
        logger.info("objects by class: %s", ", ".join(f"{name} {objects[name]}" for name in classes))
    else:
        rarest = sorted(classes, key=lambda name: objects[name])[:RAREST_TOLD]
        told = ", ".join(f"{name} {objects[name]}" for name in rarest)
        logger.info("%d objects of %d classes, the rarest %s", sum(objects.values()), len(classes), told)
