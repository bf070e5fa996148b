"""Fixtures that several test folders need."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.run.cli import LOGGER_NAMES, set_thread_waiting

set_thread_waiting()  # as the tools do, and before a test imports PyTorch

ROOT = Path(__file__).resolve().parents[1]
Box = tuple[float, float, float, float]
COLOURS = {"dog": (220, 60, 40), "person": (40, 200, 70), "car": (50, 80, 230)}


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="also run the slow tests")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--runslow"):
            item.add_marker(pytest.mark.skip(reason="takes long; run with --runslow"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and PyTorch sees none"))


@pytest.fixture(autouse=True)
def untouched_loggers():
    """Undo what a tool's ``main`` does to loggers, because caplog listens at the root and files go with their test."""
    yield
    for name in (*LOGGER_NAMES, "detectron2", "fvcore"):  # whose log an engine sends to the toolkit's files
        logger = logging.getLogger(name)
        logger.propagate = True
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture
def load_tool():
    """Return a function that imports ``tools/NAME.py`` as a module, so that its ``main(argv)`` runs in this process."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        path = list(sys.path)
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path[:] = path  # a tool puts the repository's root first
        return module

    return load


def neighbour(name):
    """The module NAME.py beside this one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def hostile():
    """The module ``hostile.py``."""
    return neighbour("hostile")


@pytest.fixture(scope="session")
def coco_files():
    """The module ``coco_files.py``."""
    return neighbour("coco_files")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Yield the one ``Browser`` of ``chromium.py`` for all tests of pages."""
    chromium = neighbour("chromium")
    if chromium.EXECUTABLE is None:
        pytest.skip("there is no Chromium to open the page in")
    browser = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


class VocTree:
    """Writes pictures with XML into ``root/VOC<year>`` and lists them in image sets, in the order of the calls."""

    def __init__(self, root: Path):
        self.root = root

    def folder(self, year: int = 2007) -> Path:
        return self.root / f"VOC{year}"

    def annotation(self, image_id: str, year: int = 2007) -> Path:
        return self.folder(year) / "Annotations" / f"{image_id}.xml"

    def picture(self, image_id: str, year: int = 2007) -> Path:
        return self.folder(year) / "JPEGImages" / f"{image_id}.jpg"

    def image_set(self, name: str, year: int = 2007) -> Path:
        return self.folder(year) / "ImageSets" / "Main" / f"{name}.txt"

    def add(
        self,
        image_set: str,
        image_id: str,
        size: tuple[int, int],
        objects: list[tuple[str, Box, bool]],
        *,
        year: int = 2007,
    ) -> None:
        """Write one picture of ``size`` (width, height) with ``objects`` (name, box as in the XML, difficult)."""
        width, height = size
        for path in (self.annotation("x", year), self.picture("x", year), self.image_set("x", year)):
            path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(int(image_id[-6:])).integers(90, 160, (height, width, 3))
        pixels = noise.astype(np.uint8)
        tags = []
        for name, (xmin, ymin, xmax, ymax), difficult in objects:
            pixels[int(ymin) - 1 : int(ymax), int(xmin) - 1 : int(xmax)] = COLOURS[name]
            tags.append(
                f"  <object>\n    <name>{name}</name>\n    <difficult>{int(difficult)}</difficult>\n"
                f"    <bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>\n"
                "  </object>\n"
            )
        Image.fromarray(pixels).save(self.picture(image_id, year), quality=95)
        self.annotation(image_id, year).write_text(
            f"<annotation>\n  <filename>{image_id}.jpg</filename>\n"
            f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
            f"{''.join(tags)}</annotation>\n"
        )
        with self.image_set(image_set, year).open("a") as file:
            file.write(f"{image_id}\n")


@pytest.fixture
def voc_tree(tmp_path: Path) -> VocTree:
    """VOC2007 trainval (4 pictures) and test (3), VOC2012 trainval (2): dog, person and car; 17 classes are absent.

    Among them a picture without objects in each split of 2007, and a difficult object in each.
    """
    tree = VocTree(tmp_path / "datasets")
    tree.add("trainval", "000001", (64, 48), [("dog", (5, 6, 30, 40), False), ("person", (34, 3, 60, 44), False)])
    tree.add("trainval", "000002", (48, 64), [("car", (4, 20, 44, 50), False), ("dog", (6, 2, 20, 16), True)])
    tree.add("trainval", "000003", (64, 48), [])
    tree.add("trainval", "000004", (64, 48), [("person", (1, 1, 64, 48), False)])
    tree.add("test", "000005", (64, 48), [("dog", (10, 10, 40, 40), False), ("person", (44, 4, 62, 40), True)])
    tree.add("test", "000006", (48, 64), [])
    tree.add("test", "000007", (64, 48), [("car", (3, 12, 50, 36), False)])
    tree.add("trainval", "2008_000001", (64, 48), [("car", (8, 10, 40, 34), False)], year=2012)
    tree.add("trainval", "2008_000002", (48, 64), [("dog", (3, 5, 40, 55), False)], year=2012)
    return tree


@pytest.fixture
def voc_root(voc_tree: VocTree) -> Path:
    """The folder of ``voc_tree`` that holds VOC2007 and VOC2012, as VOC.ROOT and load_voc(root=...) want it."""
    return voc_tree.root


def random_resnet(depth: int | str | torch.nn.Module, *, seed: int = 0, num_classes: int = 10) -> dict:
    """A ResNet, by its depth, torchvision's name or itself, in whose norm layers no statistic is 0 or 1."""
    import torch
    import torchvision

    with torch.device("meta"):
        name = f"resnet{depth}" if isinstance(depth, int) else depth
        known = isinstance(name, torch.nn.Module)
        shapes = (name if known else torchvision.models.get_model(name, num_classes=num_classes)).state_dict()
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000)
        elif value.dim() == 4:
            state[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("running_mean", "bias")):
            state[name] = torch.randn(value.shape, generator=generator) * 0.1
        else:
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
    return state


@pytest.fixture(name="random_resnet", scope="session")
def random_resnet_fixture():
    return random_resnet


@pytest.fixture(scope="session")
def resnet18():
    """One ResNet-18 for all tests that leave it alone."""
    return random_resnet(18)


@pytest.fixture
def weights(tmp_path):
    """The file of a detector that finds persons, as training would leave it."""
    import torch

    from detection.config import load_detection_config
    from detection.engines.torchvision.model import build_model
    from pretrain.run.checkpoint import save_checkpoint

    opts = ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "3", "VOC.CLASSES", "('dog', 'person', 'car')"]
    cfg = load_detection_config(
        ROOT / "detection" / "configs" / "smoke.yaml", [*opts, "MODEL.WEIGHTS", "backbone.pth", "SEED", "7"]
    )
    path = tmp_path / "model_final.pth"
    model = build_model(cfg)
    model.roi_heads.box_predictor.cls_score.bias.data[1] = 3.0
    state = {"model": model.detectron2_state_dict(), "config": cfg.dump(), "iteration": 1, "card": None, "processes": 1}
    save_checkpoint({**state, "optimizer": {"state": {0: torch.zeros(2, 3)}}, "rng": [torch.zeros(4)]}, path)
    return path
