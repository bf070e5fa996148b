"""A miniature classification data set and a miniature network."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain import learner
from pretrain.config import load_pretrain_config


@pytest.fixture
def image_folder(tmp_path):
    """Write train/ (12 pictures) and val/ (4 pictures) of two classes, dark and bright; return their parent."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name, level in (("bright", 160), ("dark", 0)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(level, level + 96, (24, 20 + number, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture(scope="session")
def tiny_run():
    """Return the module ``tiny_run.py``: networks that train in milliseconds, and runs of them."""
    spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("tiny_run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny_net(monkeypatch, tiny_run):
    """Let every run train the network of ``tiny_run.py``."""
    monkeypatch.setattr(learner, "build_model", lambda arch, num_classes, **options: tiny_run.TinyNet(num_classes))


@pytest.fixture
def config(image_folder, tmp_path):
    """Return a function name, KEY VALUE pairs -> the config of a run of 12 iterations in the folder of that name."""

    def make(name, *opts):
        fixed = {
            "DATA.ROOT": image_folder,
            "OUTPUT_DIR": tmp_path / name,
            "DATA.IMAGE_SIZE": 16,
            "DATA.EVAL_RESIZE": 16,
            "DATA.NUM_WORKERS": 0,
            "SOLVER.EPOCHS": 4,
            "SOLVER.BATCH_SIZE": 4,
            "SOLVER.STEPS": (2,),
            "LOG_PERIOD": 2,
            "CHECKPOINT_PERIOD": 5,
            "MIXING.METHOD": "saliencymix",
            "MIXING.PROB": 0.5,
            "DEVICE": "cpu",
        }
        return load_pretrain_config(None, [str(item) for pair in fixed.items() for item in pair] + list(opts))

    return make
