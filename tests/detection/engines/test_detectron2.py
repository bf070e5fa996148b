import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detection.config import load_detection_config
from detection.datasets.voc import load_voc
from detection.engines import Launch
from detection.engines import detectron2 as engine
from detection.engines import torchvision as other
from detection.run_data import read_run_data
from detection.samples import TrainingSamples, training_loader
from pretrain.run.checkpoint import load_checkpoint, save_checkpoint

SMOKE = Path(__file__).resolve().parents[3] / "detection" / "configs" / "smoke.yaml"


def final(cfg):
    return load_checkpoint(Path(cfg.OUTPUT_DIR) / "model_final.pth")


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_train__leaves_a_run_folder_of_whole_safe_files(configure):
    cfg = configure("SOLVER.CHECKPOINT_PERIOD", 1)
    engine.train(*read_run_data(cfg), resume=False)
    folder = Path(cfg.OUTPUT_DIR)
    assert {path.name for path in folder.iterdir() if "tfevents" not in path.name} == {
        "config.yaml",
        "metrics.json",
        "model_0000000.pth",
        "model_0000001.pth",
        "model_final.pth",
        "last_checkpoint",
    }
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert (folder / "config.yaml").read_text() == cfg.dump() == final(cfg)["config"]
    assert final(cfg)["iteration"] == 1
    assert json.loads((folder / "metrics.json").read_text().splitlines()[-1])["iteration"] == 1


def test_train__killed_and_resumed_ends_bit_equal(configure, monkeypatch):
    opts = (
        "SOLVER.MAX_ITER",
        4,
        "SOLVER.CHECKPOINT_PERIOD",
        2,
        "SOLVER.STEPS",
        "(3,)",
        "DATASETS.TRAIN",
        "('voc_2007_trainval', 'voc_2012_trainval')",
    )
    whole = configure(*opts, run="whole")
    engine.train(*read_run_data(whole), resume=False)

    broken = configure(*opts, run="broken")
    samples = []
    convert = engine.to_detectron2

    def convert_until_killed(sample):
        samples.append(sample)
        if len(samples) > 3 * 2:
            raise KeyboardInterrupt
        return convert(sample)

    monkeypatch.setattr(engine, "to_detectron2", convert_until_killed)
    with pytest.raises(KeyboardInterrupt):
        engine.train(*read_run_data(broken), resume=False)
    monkeypatch.undo()
    assert [path.name for path in Path(broken.OUTPUT_DIR).glob("*.pth")] == ["model_0000001.pth"]
    engine.train(*read_run_data(broken), resume=True)
    assert equal(final(broken)["model"], final(whole)["model"])


@pytest.mark.parametrize("opts", [
    (),
    ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "MODEL.RESNETS.NORM", "FrozenBN"),
    ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2, "TEST.EVAL_PERIOD", 2),
], ids=["plain", "clipped", "precise-bn"])  # fmt: skip
def test_train__same_seed_same_end_as_the_other_engine(configure, opts):
    configs, names = {}, {}
    for module in (engine, other):
        cfg = configs[module] = configure("SOLVER.MAX_ITER", 4, *opts, run=module.__name__)
        module.train(*read_run_data(cfg), resume=False)
        lines = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
        names[module] = {name for line in lines for name in json.loads(line)}
    assert names[other] <= names[engine]
    assert equal(final(configs[engine])["model"], final(configs[other])["model"])


@pytest.mark.parametrize("trained_by", [engine, other], ids=["detectron2", "torchvision"])
def test_detect__either_engine_runs_the_other_ones_detector(configure, trained_by):
    cfg = configure("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.01)
    trained_by.train(*read_run_data(cfg), resume=False)
    cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    dataset = load_voc("voc_2007_test", root=cfg.VOC.ROOT)
    found, expected = engine.detect(cfg, dataset), other.detect(cfg, dataset)
    assert list(found) == list(expected) == ["000005", "000006", "000007"]
    assert any(len(picture.scores) for picture in found.values())
    for image_id in found:
        for ours, theirs in zip(found[image_id], expected[image_id], strict=True):
            assert ours.dtype == theirs.dtype
            assert (ours == theirs).all()


def test_train__evaluates_periodically(configure):
    cfg = configure("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 2)
    engine.train(*read_run_data(cfg), resume=False)
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    names = {name for line in lines for name in json.loads(line)}
    assert {"voc_2007_test/voc07/AP50", "total_loss"} <= names


def test_check_config__seeds_that_detectron2_takes(configure):
    with pytest.raises(ValueError, match=r"SEED is 4294967296, but Detectron2's generators take seeds below 2\*\*32"):
        engine.check_config(configure("SEED", 2**32))
    engine.check_config(configure("SEED", 2**31))


def test_check_config__refuses_a_layout_that_detectron2_lacks(configure):
    with pytest.raises(ValueError, match=r"MODEL.CHANNELS_LAST is True, which the detectron2 engine does not support"):
        engine.check_config(configure("MODEL.CHANNELS_LAST", True))


@pytest.mark.filterwarnings("ignore:.*GradScaler")
@pytest.mark.parametrize("dtype, expected", [("auto", torch.bfloat16), ("float16", torch.float16)])
def test_make_trainer__computes_in_the_type_of_the_config(configure, dtype, expected):
    trainer = engine.make_trainer(*read_run_data(configure("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype)))
    assert trainer._trainer.precision == expected


def test_detectron2_config__has_a_number_of_loading_processes(configure, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(6), raising=False)
    assert engine.detectron2_config(configure("DATALOADER.NUM_WORKERS", -1)).DATALOADER.NUM_WORKERS == 5
    assert engine.detectron2_config(configure("DATALOADER.NUM_WORKERS", 2)).DATALOADER.NUM_WORKERS == 2


def test_to_detectron2__keeps_boxes_and_labels(configure):
    cfg, data = read_run_data(configure())
    sample = next(iter(training_loader(cfg, TrainingSamples(cfg, data.train))))[0]
    record = engine.to_detectron2(sample)
    assert torch.equal(record["instances"].gt_boxes.tensor, sample["boxes"])
    assert torch.equal(record["instances"].gt_classes, sample["classes"])
    assert record["instances"].image_size == tuple(sample["image"].shape[1:])
    assert (record["height"], record["width"]) == (sample["height"], sample["width"])


def test_register_extra_norm__builds_mocos_head(configure):
    from detectron2.modeling import build_model

    engine.register_extra_norm()
    engine.register_extra_norm()
    path = SMOKE.with_name("voc_r50_c4_moco.yaml")
    cfg = load_detection_config(path, ["MODEL.DEVICE", "cpu", "SEED", "0"])
    names = build_model(engine.detectron2_config(cfg)).state_dict()
    assert "roi_heads.res5.norm.running_mean" in names


def without_res4(state):
    return {"model": {name: tensor for name, tensor in state.items() if "res4" not in name}}


def with_a_wrong_shape(state):
    return {"model": {**state, "backbone.fpn_lateral2.bias": torch.zeros(4)}}


@pytest.mark.parametrize(
    "content, text",
    [
        (without_res4, r"weights.pth fills only a part of the model: backbone.bottom_up.res4\S+, .* missing from it"),
        (with_a_wrong_shape, r"fpn_lateral2.bias has shape \(4,\), but the model needs \(32,\)"),
        (lambda state: {"model": {"conv1.weight": torch.zeros(64, 3, 7, 7)}},
         r"none of its tensors fits the model; tools/convert_checkpoint.py converts"),
    ],
)  # fmt: skip
def test_train__weights_that_do_not_fit(configure, tmp_path, content, text):
    from detection.engines.torchvision.model import build_model

    save_checkpoint(content(dict(build_model(configure()).detectron2_state_dict())), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=text):
        engine.train(*read_run_data(configure("MODEL.WEIGHTS", tmp_path / "weights.pth")), resume=False)


def test_train__resume_refuses_the_other_engines_run(configure):
    other.train(*read_run_data(configure()), resume=False)
    with pytest.raises(ValueError, match=r"cannot resume from .*model_final.pth: the other engine made it"):
        engine.train(*read_run_data(configure()), resume=True)
    with pytest.raises(ValueError, match=r"already holds model_final.pth; use --resume"):
        engine.train(*read_run_data(configure()), resume=False)


def test_detect__needs_a_whole_detector(configure, tmp_path):
    cfg = configure()
    from detection.engines.torchvision.model import build_model

    state = build_model(cfg).detectron2_state_dict()
    backbone = {name: tensor for name, tensor in state.items() if name.startswith("backbone.bottom_up")}
    save_checkpoint({"model": backbone}, tmp_path / "backbone.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=r"backbone.pth is not a trained detector"):
        engine.detect(cfg, load_voc("voc_2007_test", root=cfg.VOC.ROOT))


def test_check_config__several_processes_without_gpus_are_refused(configure):
    refused = r"--num-gpus 1 --num-machines 2 ask for 2 processes, which Detectron2 has on GPUs only, .* 'cpu'"
    with pytest.raises(ValueError, match=refused):
        engine.check_config(configure(), Launch(num_machines=2))
