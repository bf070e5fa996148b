"""Exports to Detectron2: DefaultPredictor finds, to the bit, what our engine finds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import yaml

from detection.config import read_detection_config
from detection.detector import detector_config
from detection.export import detectron2 as target_kind
from detection.export import export_detector

CONFIGS = Path(__file__).resolve().parents[3] / "detection" / "configs"
NEEDS_DETECTRON2 = pytest.mark.skipif(not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed")
BGR = {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": [90.0, 110.0, 130.0], "MODEL.RESNETS.STRIDE_IN_1X1": True}
FOUND_WELL = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.2, "TEST.DETECTIONS_PER_IMAGE": 12}


@NEEDS_DETECTRON2
@pytest.mark.parametrize(
    "kind, changes",
    [("fpn", FOUND_WELL), pytest.param("c4", {**BGR, **FOUND_WELL}, marks=pytest.mark.slow)],
    ids=["fpn", "c4"],
)
def test_lines__run_as_printed_and_find_the_same(
    make_detector, tmp_path, load_tool, capsys, run_lines, find, kind, changes
):
    from detection.engines import detectron2 as engine

    weights, target = make_detector(kind, changes), tmp_path / "new" / "a street.pth"
    load_tool("export").main([str(weights), str(target), "--to", "detectron2"])
    proof, files, lines = (part for part in capsys.readouterr().out.split("\n", 2))
    assert proof.endswith("boxes in 2 made pictures, largest difference 0 pixels and 0 of a score")
    assert int(proof.split()[2]) >= 10
    assert files == f"written: {target} and {target.with_suffix('.yaml')}"
    assert {file.name for file in target.parent.iterdir()} == {"a street.pth", "a street.yaml"}
    found = run_lines(lines.partition("without this toolkit:\n\n")[2])
    expected = find(engine, detector_config(weights))
    assert len(found) >= 5
    assert [(one.name, one.box) for one in found] == [(one.name, one.box) for one in expected]
    assert [one.score for one in found] == [round(one.score, 3) for one in expected]


@NEEDS_DETECTRON2
def test_export__what_is_not_equal_to_the_bit_is_not_left(make_detector, tmp_path, monkeypatch):
    cfg = detector_config(make_detector("fpn"))
    name, right = "roi_heads.box_predictor.bbox_pred.bias", target_kind.save_checkpoint

    def save_other(state, path):
        right({"model": {**state["model"], name: state["model"][name] + 1e-5}}, path)

    monkeypatch.setattr(target_kind, "save_checkpoint", save_other)
    with pytest.raises(ValueError, match=r"the exported detector differs: \d+ boxes .*; allowed are 0 and 0$"):
        export_detector(cfg, tmp_path / "new" / "street.pth", "detectron2")
    assert list((tmp_path / "new").iterdir()) == []


def test_export__without_detectron2_is_the_same_and_says_that_nothing_is_proved(
    make_detector, tmp_path, load_tool, capsys, monkeypatch
):
    weights, target = make_detector("fpn"), tmp_path / "street.pth"
    monkeypatch.setitem(sys.modules, "detectron2", None)
    load_tool("export").main([str(weights), str(target), "--to", "detectron2"])
    assert capsys.readouterr().out.startswith("exported, not proved: Detectron2 cannot be imported here\nwritten: ")
    written = torch.load(target, weights_only=True)
    assert written.keys() == {"model"}
    trained = torch.load(weights, weights_only=True)["model"]
    assert written["model"].keys() == trained.keys()
    assert all(torch.equal(written["model"][name], trained[name]) for name in trained)


def test_config_text__detectron2_s_keys_and_nothing_of_this_machine(tmp_path):
    opts = ["VOC.ROOT", "/data/secret", "OUTPUT_DIR", "/home/me/run", "MODEL.WEIGHTS", "/home/me/x.pth"]
    cfg = read_detection_config(CONFIGS / "voc_r50_c4_paper.yaml", [*opts, "MODEL.DEVICE", "cpu"])
    text = target_kind.config_text(cfg, Path("/home/me/street.pth"))
    assert "/" not in text.replace("./output", "")
    first, content = text.partition("\n")[0], yaml.safe_load(text)
    assert first.startswith('# pred_classes 0, 1, ... are ["aeroplane", "bicycle", ')
    assert "VOC" not in content
    assert (content["MODEL"]["WEIGHTS"], content["MODEL"]["DEVICE"]) == ("street.pth", "cuda")
    assert content["TEST"]["DETECTIONS_PER_IMAGE"] == 100
    assert content["MODEL"]["BACKBONE"]["NAME"] == "build_resnet_backbone"


@NEEDS_DETECTRON2
def test_config_text__is_read_by_detectron2_alone(tmp_path):
    from detectron2.config import get_cfg

    for name in ("voc_r50_c4_moco", "voc_r50_fpn_detectron2", "custom_voc"):
        cfg = read_detection_config(CONFIGS / f"{name}.yaml", ["VOC.CLASSES", "('Köln',)", *ONE_CLASS])
        (tmp_path / "street.yaml").write_text(target_kind.config_text(cfg, tmp_path / "street.pth"), "ascii")
        theirs = get_cfg()
        theirs.merge_from_file(str(tmp_path / "street.yaml"))
        assert theirs.MODEL.ROI_HEADS.NUM_CLASSES == 1
        assert theirs.INPUT.FORMAT == cfg.INPUT.FORMAT


ONE_CLASS = ("MODEL.ROI_HEADS.NUM_CLASSES", "1")


def test_export__refuses_by_name_what_is_ours_alone(tmp_path):
    cfg = read_detection_config(CONFIGS / "voc_r50_c4_moco.yaml")
    with pytest.raises(ValueError, match=r"^MODEL.ROI_HEADS.NAME is 'Res5ROIHeadsExtraNorm', which Detectron2 itself "):
        export_detector(cfg, tmp_path / "new" / "street.pth", "detectron2")
    assert not (tmp_path / "new").exists()
