"""What the pages of a report and of a comparison are made of."""

from __future__ import annotations

import numpy as np
import pytest

from detection.datasets.voc import load_voc
from detection.evaluation.detections import PictureDetections


@pytest.fixture
def dataset(voc_root):
    return load_voc("voc_2007_test", root=voc_root, classes=("dog", "person", "car"))


@pytest.fixture
def detections():
    boxes = np.float32([[9, 9, 40, 40], [0, 0, 9, 9]])
    return {"000005": PictureDetections(boxes, np.float32([0.5, 0.7]), np.array([0, 2]))}
