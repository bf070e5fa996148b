import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from detection.datasets.voc import load_voc
from detection.engines import Launch, select
from detection.engines.torchvision import detect, train, trainer
from detection.engines.torchvision.model import build_model
from detection.run_data import read_run_data
from pretrain.run.checkpoint import load_checkpoint, load_last, save_checkpoint


def final(cfg):
    return load_checkpoint(Path(cfg.OUTPUT_DIR) / "model_final.pth")


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "iteration, expected",
    [
        (0, 0.02 * 0.001),  # WARMUP_FACTOR
        (50, 0.02 * (0.001 * 0.5 + 0.5)),  # half-way
        (100, 0.02),
        (11999, 0.02),
        (12000, 0.002),  # GAMMA at the step itself
        (16000, 0.0002),
        (17999, 0.0002),
    ],
)
def test_learning_rate__table(configure, iteration, expected):
    cfg = configure(
        "SOLVER.BASE_LR", 0.02, "SOLVER.WARMUP_ITERS", 100, "SOLVER.STEPS", "(12000, 16000)", "SOLVER.MAX_ITER", 18000
    )
    assert trainer.learning_rate(cfg.SOLVER, iteration) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup, steps", [(100, (12, 16)), (10, (12, 16)), (0, (12, 16)), (14, (12, 16)), (7, ())])
def test_learning_rate__is_detectron2s(configure, warmup, steps):
    solver = pytest.importorskip("detectron2.solver", reason="Detectron2 is not installed")
    cfg = configure("SOLVER.WARMUP_ITERS", warmup, "SOLVER.STEPS", str(steps), "SOLVER.MAX_ITER", 18)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    schedule = solver.build_lr_scheduler(cfg, optimizer)
    for iteration in range(18):
        assert trainer.learning_rate(cfg.SOLVER, iteration) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_build_optimizer__norms_have_a_decay_of_their_own(configure):
    cfg = configure("SOLVER.WEIGHT_DECAY", 0.3, "SOLVER.WEIGHT_DECAY_NORM", 0.1)
    model = build_model(cfg)
    norms, others = sorted(trainer.build_optimizer(cfg, model).param_groups, key=lambda group: group["weight_decay"])
    assert (others["weight_decay"], norms["weight_decay"]) == (0.3, 0.1)
    batch_norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms["params"]) == 2 * len(batch_norms) > 0
    assert len(others["params"]) + len(norms["params"]) == len(list(model.parameters()))


def test_train__leaves_a_run_folder(configure):
    cfg = configure()
    train(*read_run_data(cfg), resume=False)
    folder = Path(cfg.OUTPUT_DIR)
    assert {path.name for path in folder.iterdir() if "tfevents" not in path.name} == {
        "config.yaml",
        "metrics.json",
        "model_final.pth",
        "last_checkpoint",
    }
    assert len(list(folder.glob("events.out.tfevents*"))) == 1
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    (line,) = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    assert set(line) == {
        "iteration",
        "total_loss",
        "loss_cls",
        "loss_box_reg",
        "loss_rpn_cls",
        "loss_rpn_loc",
        "lr",
        "time",
        "data_time",
        "eta_seconds",
    }
    assert line["iteration"] == 1
    assert line["eta_seconds"] == 0
    state = final(cfg)
    assert state["iteration"] == 1
    assert state["config"] == cfg.dump() == (folder / "config.yaml").read_text()
    assert "backbone.bottom_up.res2.0.conv1.weight" in state["model"]
    assert load_last(folder)[1].name == "model_final.pth"


@pytest.mark.parametrize("workers", [0, 2])
def test_train__killed_and_resumed_ends_bit_equal(configure, monkeypatch, workers):
    opts = (
        "SOLVER.MAX_ITER",
        4,
        "SOLVER.CHECKPOINT_PERIOD",
        2,
        "SOLVER.STEPS",
        "(3,)",
        "MODEL.BACKBONE.FREEZE_AT",
        2,
        "DATASETS.TRAIN",
        "('voc_2007_trainval', 'voc_2012_trainval')",
        "DATALOADER.NUM_WORKERS",
        workers,
    )
    whole = configure(*opts, run="whole")
    train(*read_run_data(whole), resume=False)

    broken = configure(*opts, run="broken")
    true_rate = trainer.learning_rate

    def rate_until_killed(solver, iteration):
        if iteration == 3:
            raise KeyboardInterrupt
        return true_rate(solver, iteration)

    monkeypatch.setattr(trainer, "learning_rate", rate_until_killed)
    with pytest.raises(KeyboardInterrupt):
        train(*read_run_data(broken), resume=False)
    monkeypatch.undo()
    assert sorted(path.name for path in Path(broken.OUTPUT_DIR).glob("*.pth")) == ["model_0000001.pth"]
    torch.manual_seed(999)  # nothing may depend on what happened before
    train(*read_run_data(broken), resume=True)

    assert equal(final(broken)["model"], final(whole)["model"])
    momenta = [state["momentum_buffer"] for state in final(broken)["optimizer"]["state"].values()]
    expected = [state["momentum_buffer"] for state in final(whole)["optimizer"]["state"].values()]
    assert all(map(torch.equal, momenta, expected))
    moved = final(whole)["model"]["backbone.bottom_up.res5.1.conv2.weight"]
    assert not torch.equal(
        moved,
        load_checkpoint(Path(broken.OUTPUT_DIR) / "model_0000001.pth")["model"][
            "backbone.bottom_up.res5.1.conv2.weight"
        ],
    )


def test_train__a_finished_run_has_nothing_to_resume(configure, caplog):
    cfg = configure()
    train(*read_run_data(cfg), resume=True)
    caplog.set_level(logging.INFO, "detection")
    train(*read_run_data(cfg), resume=True)
    assert "all 2 iterations are done" in caplog.text


def test_train__starts_from_a_backbone_and_passes_its_card_on(configure, tmp_path, caplog):
    cfg = configure()
    model = build_model(cfg)
    prefix = "backbone.bottom_up."
    backbone = {
        name.removeprefix(prefix): torch.full_like(tensor, 0.01)
        for name, tensor in model.detectron2_state_dict().items()
        if name.startswith(prefix)
    }
    card = {
        "channel_order": "RGB",
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
        "stride_in_1x1": False,
        "depth": 18,
        "res2_out_channels": 64,
    }
    path = tmp_path / "backbone.pth"
    save_checkpoint({"model": backbone, "matching_heuristics": True, "card": card}, path)
    caplog.set_level(logging.INFO, "detection")
    cfg = configure("MODEL.WEIGHTS", path, "MODEL.BACKBONE.FREEZE_AT", 1)
    train(*read_run_data(cfg), resume=False)
    state = final(cfg)
    assert state["card"] == card
    assert (state["model"]["backbone.bottom_up.stem.conv1.weight"] == 0.01).all()
    assert "of the heads are not in the file and start at random" in caplog.text

    with pytest.raises(ValueError, match=r"INPUT.FORMAT is 'BGR' in the config, but the backbone's card says 'RGB'"):
        train(*read_run_data(configure("MODEL.WEIGHTS", path, "INPUT.FORMAT", "BGR", run="bgr")), resume=False)
    with pytest.raises(ValueError, match=r"backbone.pth is not a trained detector: .* missing from it"):
        detect(cfg_with(cfg, path), load_voc("voc_2007_test", root=cfg.VOC.ROOT))


def cfg_with(cfg, weights):
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(weights)
    return cfg


def test_detect__every_picture_in_order_and_repeatable(configure):
    cfg = configure("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    train(*read_run_data(cfg), resume=False)
    dataset = load_voc("voc_2007_test", root=cfg.VOC.ROOT)
    cfg = cfg_with(cfg, Path(cfg.OUTPUT_DIR) / "model_final.pth")
    found = detect(cfg, dataset)
    assert list(found) == ["000005", "000006", "000007"]
    for picture in dataset.pictures:
        boxes, scores, classes = found[picture.image_id]
        assert len(boxes) == len(scores) == len(classes) > 0
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= picture.width
        assert boxes[:, 3].max() <= picture.height
        assert set(classes) <= set(range(20))
    again = detect(cfg, dataset)
    assert all((again[name].boxes == found[name].boxes).all() for name in found)


def test_train__evaluates_periodically_without_disturbing_the_run(configure):
    plain, watched = (
        configure("SOLVER.MAX_ITER", 3, run="plain"),
        configure("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 2, run="watched"),
    )
    train(*read_run_data(plain), resume=False)
    train(*read_run_data(watched), resume=False)
    assert equal(final(plain)["model"], final(watched)["model"])
    first = json.loads((Path(watched.OUTPUT_DIR) / "metrics.json").read_text().splitlines()[0])
    assert first["iteration"] == 1
    assert {"voc_2007_test/voc07/AP50", "voc_2007_test/voc10/AP"} <= set(first)


def test_train__precise_bn_replaces_the_statistics_only(configure):
    plain = configure(run="plain")
    precise = configure("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2, run="precise")
    train(*read_run_data(plain), resume=False)
    train(*read_run_data(precise), resume=False)
    before, after = final(plain)["model"], final(precise)["model"]
    changed = {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("kind, value", [("value", 1e-4), ("norm", 1e-3)])
def test_clip_gradients__each_parameter_by_itself(configure, kind, value):
    cfg = configure(
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        kind,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
        value,
    )
    model = nn.Linear(2, 3)
    for parameter, gradient in zip(model.parameters(), (1.0, 2.0), strict=True):
        parameter.grad = torch.full_like(parameter, gradient)
    trainer.clip_gradients(cfg.SOLVER.CLIP_GRADIENTS, model)
    for parameter in model.parameters():
        size = parameter.grad.max() if kind == "value" else parameter.grad.norm()
        assert size.item() == pytest.approx(value, rel=1e-3)


def test_train__stops_at_a_loss_that_is_not_finite(configure):
    cfg = configure("SOLVER.CHECKPOINT_PERIOD", 1, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 1e39)
    with pytest.raises(FloatingPointError, match=r"the loss of iteration 0 is not finite \(total_loss inf, loss_"):
        train(*read_run_data(cfg), resume=False)
    assert not list(Path(cfg.OUTPUT_DIR).glob("*.pth"))


def test_train__names_the_first_loss_that_was_not_finite_when_losses_are_read(configure, monkeypatch):
    true_rate, seen = trainer.learning_rate, []

    def rate_that_explodes(solver, iteration):
        seen.append(iteration)
        return 1e30 if iteration == 1 else true_rate(solver, iteration)

    monkeypatch.setattr(trainer, "learning_rate", rate_that_explodes)
    cfg = configure("SOLVER.MAX_ITER", 9, "SOLVER.CHECKPOINT_PERIOD", 4)
    with pytest.raises(FloatingPointError, match=r"the loss of iteration 2 is not finite \(total_loss nan, loss_cls "):
        train(*read_run_data(cfg), resume=False)
    assert seen == [0, 1, 2, 3]  # up to the checkpoint, which is not written
    assert not list(Path(cfg.OUTPUT_DIR).glob("*.pth"))


@pytest.mark.parametrize(
    "opts, text",
    [
        (("MODEL.RESNETS.NORM", "GN"), r"MODEL.RESNETS.NORM is 'GN', which the torchvision engine does not support"),
        (("DATASETS.TRAIN", "()"), r"DATASETS.TRAIN is empty"),
        (("MODEL.WEIGHTS", "detectron2://a.pkl"), r"detectron2://a.pkl is an address, and nothing is fetched unasked"),
    ],
)
def test_train__refuses_by_name(configure, opts, text):
    cfg = configure(*opts)
    with pytest.raises(ValueError, match=text):
        train(*read_run_data(cfg), resume=False)
    assert not Path(cfg.OUTPUT_DIR).exists()


def test_train__starts_no_processes(configure):
    with pytest.raises(ValueError, match=r"--num-gpus 2 --num-machines 3 asks for 6; .* `torchrun --nproc-per-node 2"):
        train(*read_run_data(configure()), resume=False, launch=Launch(num_gpus=2, num_machines=3))


def test_train__resume_refuses_another_experiment(configure):
    train(*read_run_data(configure()), resume=False)
    with pytest.raises(ValueError, match=r"already holds model_final.pth; use --resume, or another OUTPUT_DIR"):
        train(*read_run_data(configure()), resume=False)
    with pytest.raises(ValueError, match=r"cannot resume: .*SOLVER.BASE_LR was 0.01, is 0.5"):
        train(*read_run_data(configure("SOLVER.BASE_LR", 0.5, "DATALOADER.NUM_WORKERS", 1)), resume=True)


def damaged(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("backbone.bottom_up.res4.1.conv2")}


@pytest.mark.parametrize(
    "content, text",
    [
        (lambda state: {"model": damaged(state)},
         r"weights.pth fills only a part of the model: backbone.bottom_up.res4.1.conv2\S+, .* missing from it"),
        (lambda state: {"model": {**state, "backbone.bottom_up.res4.2.conv1.weight": torch.zeros(1)}},
         r"weights.pth does not fit the model, which has no place for backbone.bottom_up.res4.2.conv1.weight"),
        (lambda state: {"model": {"conv1.weight": torch.zeros(64, 3, 7, 7)}},
         r"weights.pth: none of the weights' names is a Detectron2 name .* tools/convert_checkpoint.py"),
        (lambda state: {"model": {**state, "backbone.fpn_lateral2.bias": torch.zeros(4)}},
         r"weights.pth: backbone.fpn_lateral2.bias has shape \(4,\), but the model needs \(32,\)"),
        (lambda state: [1, 2], r"weights.pth holds no weights, but a list"),
    ],
)  # fmt: skip
def test_train__weights_that_do_not_fit(configure, tmp_path, content, text):
    state = dict(build_model(configure()).detectron2_state_dict())
    save_checkpoint(content(state), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=text):
        train(*read_run_data(configure("MODEL.WEIGHTS", tmp_path / "weights.pth")), resume=False)


def test_train__weights_that_are_not_there(configure, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights file .*none.pth does not exist"):
        train(*read_run_data(configure("MODEL.WEIGHTS", tmp_path / "none.pth")), resume=False)


def test_select__names(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "detection")
    assert select("torchvision").__name__ == "detection.engines.torchvision"
    assert "engine: torchvision" in caplog.text
    with pytest.raises(ValueError, match=r"unknown engine 'mmdet'; the engines are auto, detectron2, torchvision"):
        select("mmdet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert select("auto").__name__ == "detection.engines.torchvision"
    assert "engine: torchvision (--engine auto)" in caplog.text
    monkeypatch.setitem(__import__("sys").modules, "detectron2", None)
    with pytest.raises(ImportError, match=r"Install it as https://\S+install.html says \(tested with commit 02b5c4e\)"):
        select("detectron2")
