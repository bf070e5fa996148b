"""A config that trains in a second."""

from pathlib import Path

import pytest

from detection.config import load_detection_config

SMOKE = Path(__file__).resolve().parents[2] / "detection" / "configs" / "smoke.yaml"


@pytest.fixture
def configure(voc_root, tmp_path):
    """Return a function from ``KEY VALUE`` pairs to the smoke config on the miniature tree."""

    def load(*opts, run="run"):
        fixed = ["VOC.ROOT", str(voc_root), "OUTPUT_DIR", str(tmp_path / run), "MODEL.DEVICE", "cpu"]
        return load_detection_config(SMOKE, [*fixed, *map(str, opts)])

    return load
