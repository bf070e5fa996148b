"""Training that starts from a detector of other classes: all of it but the layers whose outputs are classes."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import pytest
import torch

from detection.engines.torchvision.model import build_model
from detection.run_data import read_run_data
from pretrain.run.checkpoint import load_checkpoint, save_checkpoint

CLASS_LAYERS = {
    f"roi_heads.box_predictor.{layer}.{part}" for layer in ("cls_score", "bbox_pred") for part in ("weight", "bias")
}
LIKE_WEIGHTS = ["MODEL.ROI_HEADS.NUM_CLASSES", 3, "VOC.CLASSES", "('dog', 'person', 'car')"]
REORDERED = ["MODEL.ROI_HEADS.NUM_CLASSES", 3, "VOC.CLASSES", "('person', 'dog', 'car')"]


@pytest.fixture(params=("torchvision", "detectron2"))
def start(request):
    """Return a function: config -> the state that the engine's training starts from, before its first step."""
    if request.param == "torchvision":
        from detection.engines.torchvision.inference import load_weights

        def load(cfg):
            model = build_model(cfg)
            load_weights(model, cfg)
            return model.detectron2_state_dict()
    else:
        pytest.importorskip("detectron2")
        from detectron2.modeling import build_model as build

        from detection.engines.detectron2 import detectron2_config, load_weights
        from detection.engines.initial_weights import draw_initial_weights

        def load(cfg):
            model = build(detectron2_config(cfg))
            draw_initial_weights(model.state_dict(), cfg.SEED)
            load_weights(model, cfg)
            return model.state_dict()

    return load


def differing(one, other):
    assert set(one) == set(other)
    return {name for name in one if not torch.equal(one[name], torch.as_tensor(other[name]))}


def said(caplog):
    return [record.message for record in caplog.records if "start at random" in record.message]


def test_load_weights__other_classes_begin_anew_and_the_rest_is_kept(start, configure, weights, caplog):
    cfg = configure("MODEL.WEIGHTS", weights, "SEED", 5)
    fresh = build_model(cfg).detectron2_state_dict()
    file = load_checkpoint(weights)["model"]
    with caplog.at_level(logging.INFO):
        state = start(cfg)
    kept = {name: value for name, value in state.items() if name not in CLASS_LAYERS}
    assert not differing(kept, {name: file[name] for name in kept})
    assert not differing({name: state[name] for name in CLASS_LAYERS}, {name: fresh[name] for name in CLASS_LAYERS})
    assert said(caplog)[0] == f"{weights}: 3 -> 20 classes: 4 tensors start at random"


def test_load_weights__the_same_classes_are_kept(start, configure, weights, caplog):
    with caplog.at_level(logging.INFO):
        state = start(configure("MODEL.WEIGHTS", weights, *LIKE_WEIGHTS))
    assert not differing(state, load_checkpoint(weights)["model"])
    assert not said(caplog)


def test_load_weights__as_many_classes_of_another_order_are_others(start, configure, weights, caplog):
    with caplog.at_level(logging.INFO):
        state = start(configure("MODEL.WEIGHTS", weights, "SEED", 5, *REORDERED))
    changed = differing(state, load_checkpoint(weights)["model"])
    assert {"roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.bbox_pred.weight"} <= changed
    assert changed <= CLASS_LAYERS
    assert said(caplog)[0] == f"{weights}: 3 -> 3 other classes: 4 tensors start at random"


def test_load_weights__a_file_that_does_not_say_its_classes(start, configure, weights, tmp_path, caplog):
    """As Detectron2's own: as many classes are taken to be the same, another number are others."""
    path = tmp_path / "theirs.pth"
    save_checkpoint({"model": load_checkpoint(weights)["model"]}, path)
    assert not differing(start(configure("MODEL.WEIGHTS", path, *REORDERED)), load_checkpoint(weights)["model"])
    with caplog.at_level(logging.INFO):
        start(configure("MODEL.WEIGHTS", path))
    assert said(caplog)[0] == f"{path}: 3 -> 20 classes: 4 tensors start at random"


def test_detect__other_classes_are_still_refused(configure, weights):
    from detection.engines import torchvision as engine

    with pytest.raises(ValueError, match=r"was trained for the classes dog, person, car, but the config has"):
        engine.load_model(configure("MODEL.WEIGHTS", weights, *REORDERED))


def test_train__from_other_classes_both_engines_end_equal(configure, weights):
    pytest.importorskip("detectron2")
    finals = []
    for engine in ("torchvision", "detectron2"):
        cfg = configure("MODEL.WEIGHTS", weights, "SOLVER.MAX_ITER", 3, "SEED", 5, run=engine)
        importlib.import_module(f"detection.engines.{engine}").train(*read_run_data(cfg), resume=False)
        finals.append(load_checkpoint(Path(cfg.OUTPUT_DIR) / "model_final.pth")["model"])
    assert not differing(*finals)
    assert "roi_heads.box_predictor.cls_score.weight" in differing(
        {name: finals[0][name] for name in CLASS_LAYERS},
        {name: build_model(cfg).detectron2_state_dict()[name] for name in CLASS_LAYERS},
    )
