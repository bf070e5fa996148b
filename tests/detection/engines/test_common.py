"""What both engines say alike."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.engines.common import evaluation_metrics, find_in_dataset, say_random_weights
from detection.evaluation.detections import PictureDetections
from detection.run_data import read_run_data
from pretrain.run.processes import Processes


@pytest.mark.parametrize("norm, freeze_at, keys", [
    ("FrozenBN", 2, ["MODEL.RESNETS.NORM is FrozenBN", "MODEL.BACKBONE.FREEZE_AT is 2"]),
    ("FrozenBN", 0, ["MODEL.RESNETS.NORM is FrozenBN"]),
    ("BN", 1, ["MODEL.BACKBONE.FREEZE_AT is 1"]),
    ("BN", 0, []),
])  # fmt: skip
def test_say_random_weights__warns_of_what_never_learns(make_config, caplog, norm, freeze_at, keys):
    caplog.set_level(logging.INFO, "detection")
    say_random_weights(make_config("c4", {"MODEL.RESNETS.NORM": norm, "MODEL.BACKBONE.FREEZE_AT": freeze_at}))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (1 if keys else 0)
    assert all(key in warnings[0] for key in keys)
    assert ("FREEZE_AT" in caplog.text) == (freeze_at > 0)


@pytest.mark.parametrize("categories, area, metrics, said", [
    (None, None, {"voc07", "voc10"}, "d: AP50 100.00 (VOC2007), 100.00 (area)"),
    (((4, "dog"),), 900.0, {"coco", "voc07", "voc10"}, "d: COCO AP 70.00, AP50 100.00 (VOC2007), 100.00 (area)"),
    (((4, "dog"),), 2e10, {"voc07", "voc10"}, "d: COCO AP undefined, AP50 100.00 (VOC2007), 100.00 (area)"),
])  # fmt: skip
def test_evaluation_metrics__lead_with_those_of_the_format(caplog, categories, area, metrics, said):
    """A dog of 100 x 100 found with an IoU of .82: seven thresholds of ten."""
    caplog.set_level(logging.INFO, "detection")
    dog = AnnotatedObject("dog", (1.0, 1.0, 100.0, 100.0), False, area=area)
    picture = AnnotatedPicture("1", Path("x.jpg"), Path("x.json"), 400, 400, (dog,))
    dataset = DetectionDataset("d", Path("d"), "d", ("dog",), (picture,), categories)
    found = PictureDetections(np.float32([[0, 0, 82, 100]]), np.float32([0.9]), np.array([0]))
    result = evaluation_metrics([dataset], lambda _: {"1": found})
    assert result.keys() == {f"d/{metric}/{name}" for metric in metrics for name in ("AP", "AP50", "AP75")}
    assert result.get("d/coco/AP", 70.0) == pytest.approx(70)
    assert caplog.messages == [said]


class OneOfTwo(Processes):
    """A process that is handed what the other one has found; without that, it only shows its own."""

    def gather(self, value):
        return [self.others, value] if self.rank else [value, self.others]


def test_find_in_dataset__each_process_looks_at_a_share_and_has_all(configure):
    cfg, data = read_run_data(configure())
    (dataset,) = data.test
    found, seen = {}, []
    for rank in (0, 1):
        process = OneOfTwo(torch.device("cpu"), rank, 2)
        names = [picture.image_id for picture in dataset.pictures]
        object.__setattr__(process, "others", {name: name for name in names[1 - rank :: 2]})

        def note(_model, sample):
            seen.append(sample["image_id"])
            return sample["image_id"]

        found[rank] = find_in_dataset(nn.Identity(), note, cfg, dataset, process)
        assert list(found[rank].items()) == [(name, name) for name in names]
    assert sorted(seen) == names == ["000005", "000006", "000007"]
    assert seen[:2] == ["000005", "000007"]
