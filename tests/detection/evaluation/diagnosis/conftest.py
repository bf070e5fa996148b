"""What the tests of diagnoses share."""

import importlib.util
from pathlib import Path

import pytest

from detection.evaluation.matching import match_detections


@pytest.fixture(scope="session")
def made():
    """The module ``made.py`` beside this one."""
    spec = importlib.util.spec_from_file_location("made", Path(__file__).with_name("made.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make(made):
    """Return a function: the data set of ``made.scene``, and its matches."""

    def make(*scene, **options):
        dataset, detections = made.scene(*scene, **options)
        return dataset, match_detections(dataset, detections)

    return make
