"""Exports to torchvision: its FasterRCNN finds what our engine finds, whatever the config, or is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from detection.config import read_detection_config
from detection.detector import detector_config
from detection.engines import torchvision as engine
from detection.export import export_detector, faster_rcnn
from detection.export import torchvision as target_kind
from detection.samples import resized_shape

CONFIGS = Path(__file__).resolve().parents[3] / "detection" / "configs"
R50 = {"MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.RES2_OUT_CHANNELS": 256}
UNUSUAL = {  # away from the default wherever FasterRCNN can follow
    "INPUT.FORMAT": "BGR",
    "INPUT.MIN_SIZE_TEST": 0,
    "MODEL.PIXEL_MEAN": [90.0, 110.0, 130.0],
    "MODEL.PIXEL_STD": [40.0, 50.0, 70.0],
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[20.5, 31], [40, 70], [90, 150], [180, 240]],
    "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6"],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.4, 1.3]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    "MODEL.RPN.NMS_THRESH": 0.5,
    "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4"],
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.15,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.3,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (9.0, 11.0, 4.0, 6.3),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 5,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 3,
    "TEST.DETECTIONS_PER_IMAGE": 17,
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}, {**R50, **UNUSUAL}],
    ids=["r18", "r18-bgr", "r50-unusual"],
)
def test_export__finds_the_same(make_detector, tmp_path, changes):
    cfg = detector_config(make_detector("fpn", changes))
    exported = export_detector(cfg, tmp_path / "new" / "street.pth", "torchvision")
    assert [file.name for file in exported.files] == ["street.pth", "street.py"]
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"street.pth", "street.py"}
    assert exported.proof.pictures == 2
    assert exported.proof.boxes >= 10
    content = torch.load(exported.files[0], weights_only=True)
    assert content.keys() == {"model", "description"}
    assert str(tmp_path) not in repr(content["description"]) + exported.files[1].read_text()


def test_lines__run_as_printed_and_find_the_same(make_detector, tmp_path, load_tool, capsys, run_lines, find):
    weights = make_detector("fpn", {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.2, "TEST.DETECTIONS_PER_IMAGE": 12})
    load_tool("export").main([str(weights), str(tmp_path / "street.pth"), "--to", "torchvision"])
    printed = capsys.readouterr().out
    assert re.match(r"proved equal: \d+ boxes in 2 made pictures, largest difference \S+ pixels and \S+ of a", printed)
    found = run_lines(printed.partition("without this toolkit:\n\n")[2])
    expected = find(engine, detector_config(weights))
    assert len(found) >= 5
    assert [one.name for one in found] == [one.name for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=6e-4)  # three decimals
    assert np.allclose([one.box for one in found], [one.box for one in expected], rtol=0, atol=1e-3)


def unturned(state):
    """Tensors with the background's score last, where ours has it."""
    name = "roi_heads.box_predictor.cls_score.weight"
    return {**state, name: state[name].roll(-1, dims=0)}


def unshifted(description):
    """A description without the shift by half a pixel."""
    return {**description, "box_roi_pool": {**description["box_roi_pool"], "aligned": False}}


@pytest.mark.parametrize("part, wrong", [
    ("convert", unturned), ("describe", unshifted),
])  # fmt: skip
def test_export__what_is_not_equal_is_not_left(make_detector, tmp_path, monkeypatch, part, wrong):
    cfg = detector_config(make_detector("fpn"))
    right = getattr(target_kind, part)
    monkeypatch.setattr(target_kind, part, lambda *args: wrong(right(*args)))
    with pytest.raises(ValueError, match=r"the exported detector (differs: \d+ boxes|finds other classes)"):
        export_detector(cfg, tmp_path / "new" / "street.pth", "torchvision")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("config, opts, fault", [
    ("smoke", ["MODEL.RPN.BBOX_REG_WEIGHTS", "(2.0, 1.0, 1.0, 1.0)"], r"expected \(1.0, 1.0, 1.0, 1.0\)"),
    ("smoke", ["MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "4"], "expected 0"),
    ("voc_r50_c4_paper", ["MODEL.BACKBONE.NAME", "build_resnet_backbone"],
     "expected build_resnet_fpn_backbone: it has no C4 detectors"),
])  # fmt: skip
def test_export__refuses_by_name_what_faster_rcnn_does_not_have(tmp_path, config, opts, fault):
    cfg = read_detection_config(CONFIGS / f"{config}.yaml", opts)
    with pytest.raises(ValueError, match=rf"^{opts[0]} is .*, which torchvision's FasterRCNN does not have; {fault}$"):
        export_detector(cfg, tmp_path / "new" / "street.pth", "torchvision")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("width, fault", [
    (128, None), (96, "MODEL.RESNETS is a wide_resnet50_1.5, which torchvision has no function for"),
])  # fmt: skip
def test_faults__a_network_that_torchvision_has_no_function_for(make_config, tmp_path, width, fault):
    cfg = make_config("fpn", {**R50, "MODEL.RESNETS.WIDTH_PER_GROUP": width})
    assert target_kind.faults(cfg, tmp_path / "street.pth") == ([] if fault is None else [fault])


@pytest.mark.parametrize("name, fault", [
    ("voc-r50", r"voc-r50.py could not be imported; use letters, digits and underscores"),
    ("class", r"class.py could not be imported; use letters, digits and underscores"),
    ("random", r"random.py would stand in the way of the module random; choose another name"),
    ("torch", r"torch.py would stand in the way of the module torch; choose another name"),
])  # fmt: skip
def test_export__refuses_names_that_are_no_module_s_own(tmp_path, name, fault):
    with pytest.raises(ValueError, match=rf"^target .*{name}.pth: {fault}$"):
        export_detector(read_detection_config(CONFIGS / "smoke.yaml"), tmp_path / f"{name}.pth", "torchvision")


def test_transform__sides_as_our_samples_have_them():
    """At sizes so small that every rounding and the limit of the long side occur."""
    for short, longest in ((17, 29), (40, 45), (0, 10)):
        transform = faster_rcnn.Transform(
            "RGB", min_size=short, max_size=longest, image_mean=[0] * 3, image_std=[1] * 3
        )
        sizes = [(height, width) for height in range(1, 60, 3) for width in range(2, 70, 5)]
        images, _ = transform([torch.zeros(3, *size) for size in sizes])
        assert images.image_sizes == [resized_shape(*size, short, longest) for size in sizes]


def test_transform__refuses_to_train():
    transform = faster_rcnn.Transform("RGB", min_size=8, max_size=9, image_mean=[0] * 3, image_std=[1] * 3)
    with pytest.raises(ValueError, match="this FasterRCNN detects; it would train with other norms and losses"):
        transform([torch.zeros(3, 8, 8)], [{"boxes": torch.zeros(0, 4)}])
