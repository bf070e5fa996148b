import logging
import re
from pathlib import Path

import pytest
import yaml

from detection.config import (
    EFFECTS,
    RULES,
    class_names,
    get_cfg,
    knows_classes,
    load_detection_config,
    read_detection_config,
)
from detection.datasets.voc import VOC_CLASSES
from detection.defaults import add_voc_config, drop_voc_config
from pretrain.run.settings import ConfigError, get_value, leaves

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "detection" / "configs").glob("*.yaml"))
VOC = ["DATASETS.TRAIN", "('voc_2007_trainval',)", "DATASETS.TEST", "('voc_2007_test',)", "SEED", "0"]
VALID = [*VOC, "MODEL.ROI_HEADS.NUM_CLASSES", "20"]


def test_get_cfg__shares_names_and_defaults_with_detectron2():
    config = pytest.importorskip("detectron2.config", reason="Detectron2 is not installed")
    theirs, cfg = dict(leaves(config.get_cfg())), get_cfg()
    drop_voc_config(cfg)
    ours = dict(leaves(cfg))
    assert ours == {key: theirs.get(key, "absent") for key in ours}
    assert {key: type(value) for key, value in ours.items()} == {key: type(theirs[key]) for key in ours}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs__detectron2_accepts_them(path):
    config = pytest.importorskip("detectron2.config", reason="Detectron2 is not installed")
    theirs = config.get_cfg()
    add_voc_config(theirs)
    theirs.merge_from_file(str(path))
    opts = [] if theirs.DATASETS.TEST else VALID
    theirs.merge_from_list([*opts, "MODEL.DEVICE", "cpu", "SEED", "0"])
    ours = load_detection_config(path, [*opts, "MODEL.DEVICE", "cpu", "SEED", "0"])
    drop_voc_config(ours)
    ours = dict(leaves(ours))
    assert {key: get_value(theirs, key) for key in ours} == ours


@pytest.mark.parametrize("ours, theirs", [
    ("coco_r50_c4", "COCO-Detection/faster_rcnn_R_50_C4_1x"),
    ("coco_r50_fpn", "COCO-Detection/faster_rcnn_R_50_FPN_1x"),
    ("voc_r50_c4_detectron2", "PascalVOC-Detection/faster_rcnn_R_50_C4"),
])  # fmt: skip
def test_configs__detectron2s_protocols_differ_from_its_files_by_the_weights_alone(ours, theirs):
    config = pytest.importorskip("detectron2.config", reason="Detectron2 is not installed")
    shipped = Path(config.__file__).parents[1] / "model_zoo" / "configs" / f"{theirs}.yaml"
    if not shipped.is_file():
        pytest.skip("this Detectron2 was installed without its configs")
    upstream = config.get_cfg()
    upstream.merge_from_file(str(shipped))
    resolved = read_detection_config(next(path for path in CONFIGS if path.stem == ours))
    drop_voc_config(resolved)
    different = {key for key, value in leaves(resolved) if value != get_value(upstream, key)}
    of_weights = {"WEIGHTS", "PIXEL_MEAN", "PIXEL_STD", "RESNETS.STRIDE_IN_1X1"}
    assert different == {"INPUT.FORMAT", *(f"MODEL.{key}" for key in of_weights)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs__the_torchvision_engine_supports_them(path):
    from detection.engines.torchvision import check_config

    opts = [] if "DATASETS" in path.read_text() or path.name.startswith(("voc_r50", "digits")) else VALID
    cfg = load_detection_config(path, opts)
    check_config(cfg)
    assert path.name.startswith("base_") or cfg.DATASETS.TRAIN


@pytest.mark.parametrize("name", ["voc_r50_c4_paper", "voc_r50_c4_paper_jwyang"])
def test_configs__the_papers_protocol_says_what_is_known_and_what_is_not(name):
    head = next(path for path in CONFIGS if path.stem == name).read_text("utf-8").partition("_BASE_")[0]
    assert re.findall(r"# (Known|Inferred|Assumed)\b", head) == ["Known", "Inferred", "Assumed"]


def test_load_detection_config__falls_back_to_the_cpu_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    caplog.set_level(logging.INFO, "detection")
    assert load_detection_config(None, VALID).MODEL.DEVICE == "cpu"
    assert "MODEL.DEVICE cuda: PyTorch sees no GPU here, using cpu" in caplog.text
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert load_detection_config(None, VALID).MODEL.DEVICE == "cuda"


def test_load_detection_config__draws_a_seed_and_finds_it_again(tmp_path):
    opts = [*VALID, "SEED", "-1", "OUTPUT_DIR", str(tmp_path)]
    drawn = load_detection_config(None, opts)
    assert drawn.SEED > 0
    assert load_detection_config(None, opts).SEED != drawn.SEED
    (tmp_path / "config.yaml").write_text(drawn.dump())
    assert load_detection_config(None, opts, resume=True).SEED == drawn.SEED


def test_load_detection_config__says_everything_at_once():
    bad = ["MODEL.WEIGHTS", "none.pth", "SOLVER.STEPS", "(1, 90000)", "MODEL.RESNETS.DEPTH", "51", "SOLVER.BASE", "1"]
    with pytest.raises(ConfigError) as caught:
        load_detection_config(None, [*VALID, *bad], check_weights=True)
    text = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 4
    assert all(part in text for part in ("none.pth", "SOLVER.STEPS", "MODEL.RESNETS.DEPTH", "key SOLVER.BASE"))


def test_load_detection_config__0_is_a_seed_that_a_resumed_run_finds_again(tmp_path):
    opts = [*VALID, "SEED", "-1", "OUTPUT_DIR", str(tmp_path)]
    (tmp_path / "config.yaml").write_text("SEED: 0\n")
    assert load_detection_config(None, opts, resume=True).SEED == 0


def test_load_detection_config__several_machines_do_not_draw_a_seed_each(tmp_path):
    opts = [*VALID, "SEED", "-1", "OUTPUT_DIR", str(tmp_path)]
    with pytest.raises(ValueError, match=r"each of --num-machines 2 would draw its own .* for example SEED 1"):
        load_detection_config(None, opts, machines=2)
    assert load_detection_config(None, [*opts, "SEED", "5"], machines=2).SEED == 5
    (tmp_path / "config.yaml").write_text("SEED: 7\n")
    assert load_detection_config(None, opts, machines=2, resume=True).SEED == 7


def test_load_detection_config__weights_are_not_needed_to_go_on(tmp_path):
    opts = [*VALID, "OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", "gone.pth"]
    (tmp_path / "model_0000001.pth").touch()
    assert load_detection_config(None, opts, resume=True, check_weights=True).MODEL.WEIGHTS == "gone.pth"


def test_class_names__own_or_the_challenges():
    assert class_names(load_detection_config(None, VALID)) == VOC_CLASSES
    own = load_detection_config(None, [*VALID, "VOC.CLASSES", "('b', 'a')", "MODEL.ROI_HEADS.NUM_CLASSES", "2"])
    assert class_names(own) == ("b", "a")


def test_knows_classes__unless_the_data_has_to_name_them():
    own = [*VALID, "DATASETS.TRAIN", "('voc_train',)"]
    assert not knows_classes(read_detection_config(None, [*own, "MODEL.ROI_HEADS.NUM_CLASSES", "3"]))
    assert knows_classes(read_detection_config(None, VALID))


def test_effects__name_keys_that_exist_once():
    known = [key for key, _ in leaves(get_cfg())]
    named = [*EFFECTS.place, *EFFECTS.speed, *EFFECTS.test]
    assert set(named) <= set(known)
    assert len(named) == len(set(named))
    assert set(RULES) <= set(known)
    assert {key for key in known if key.endswith("_TEST")} | {"DATASETS.TEST"} <= EFFECTS.test


@pytest.mark.parametrize(
    "opts, text",
    [
        (["SOLVER.BASE_LRR", "1"], r"unknown config key SOLVER.BASE_LRR; did you mean SOLVER.BASE_LR\?"),
        (["DATASETS.TRAIN", "voc_2007_test"], r"DATASETS.TRAIN expects tuple .* but got 'voc_2007_test'"),
        (["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"], r"DATASETS.TRAIN and DATASETS.TEST are empty; name"),
        (["DATASETS.TRAIN", "('a/b',)"], r"DATASETS.TRAIN is .*; expected .* image sets, .*\('train.json',\)"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "80"],
         r"NUM_CLASSES is 80, but the VOC challenge has 20 classes; write MODEL.ROI_HEADS.NUM_CLASSES 20"),
        (["VOC.CLASSES", "('cat', 'dog')"],
         r"NUM_CLASSES is 20, but VOC.CLASSES has 2 classes; write MODEL.ROI_HEADS.NUM_CLASSES 2"),
        (["VOC.CLASSES", "('cat', 'cat')"], r"VOC.CLASSES is .*; expected different names without a slash, such as"),
        (["VOC.CLASSES", "('cat', 'nul')"], r"VOC.CLASSES is .*; expected different names"),
        (["DATASETS.TEST", "('..',)"], r"DATASETS.TEST is .*; expected"),
        (["DATASETS.TEST", "('\xe9.json', 'e\u0301.json')"], r"DATASETS.TEST is .*; expected"),
        (["INPUT.FORMAT", "GBR"], r"INPUT.FORMAT is 'GBR'; expected one of RGB, BGR"),
        (["INPUT.MIN_SIZE_TRAIN", "()"], r"INPUT.MIN_SIZE_TRAIN is \(\); expected one or more sizes"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], r"\(800,\); expected the smallest and the largest size"),
        (["INPUT.CROP.ENABLED", "True"], r"INPUT.CROP.ENABLED is True; expected False: cropping is not implemented"),
        (["MODEL.MASK_ON", "True"], r"MODEL.MASK_ON is True; expected False: the toolkit trains box detectors"),
        (["MODEL.PIXEL_STD", "[1.0, 1.0, 0.0]"], r"MODEL.PIXEL_STD is .*; expected three numbers more than 0"),
        (["MODEL.RESNETS.DEPTH", "51"], r"MODEL.RESNETS.DEPTH is 51; expected 18 or 34 or 50 or 101 or 152"),
        (["MODEL.RESNETS.DEPTH", "18"], r"RES2_OUT_CHANNELS is 256; expected 64 for MODEL.RESNETS.DEPTH 18"),
        (
            ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NUM_GROUPS", "32"],
            r"NUM_GROUPS is 32; expected 1 for MODEL.RESNETS.DEPTH 18",
        ),
        (["DATALOADER.NUM_WORKERS", "-2"], r"NUM_WORKERS is -2; expected 0 or more, or -1: by the cores"),
        (["SOLVER.AMP.DTYPE", "half"], r"SOLVER.AMP.DTYPE is 'half'; expected one of auto, float16, bfloat16"),
        (["MODEL.DEVICE", "gpu"], r"MODEL.DEVICE is 'gpu'; expected 'cuda', 'cuda:<number>' or 'cpu'"),
        (["SOLVER.REFERENCE_WORLD_SIZE", "8"], r"SOLVER.REFERENCE_WORLD_SIZE is 8; expected 0: nothing is scaled"),
        (["SOLVER.BASE_LR", "-0.1"], r"SOLVER.BASE_LR is -0.1; expected more than 0"),
        (["SOLVER.MOMENTUM", "1"], r"SOLVER.MOMENTUM is 1.0; expected from 0 to less than 1"),
        (["SOLVER.STEPS", "(16000, 12000)"], r"SOLVER.STEPS is .*; expected iterations in increasing order"),
        (["SOLVER.STEPS", "(10,)", "SOLVER.MAX_ITER", "10"],
         r"SOLVER.STEPS is \(10,\), but training ends at SOLVER.MAX_ITER 10; write steps below it"),
        (["SOLVER.STEPS", "(-5,)"], r"SOLVER.STEPS is \(-5,\); expected iterations in increasing order"),
        (["SEED", str(2**63)], r"SEED is 9223372036854775808; expected a whole number below 2\*\*63"),
        (["MODEL.WEIGHTS", "nowhere.pth"], r"MODEL.WEIGHTS: weights file nowhere.pth does not exist"),
        (["MODEL.WEIGHTS", "/"], r"MODEL.WEIGHTS / is a folder; expected a file"),
        (["MODEL.WEIGHTS", "https://a/b.pkl"], r"is an address, and nothing is fetched unasked"),
        (["SOLVER.IMS_PER_BATCH", "0"], r"SOLVER.IMS_PER_BATCH is 0; expected more than 0"),
    ],
)  # fmt: skip
def test_load_detection_config__names_the_key_and_what_would_be_right(opts, text):
    with pytest.raises(ValueError, match=text):
        load_detection_config(None, [*VALID, *opts], check_weights=True)


def test_load_detection_config__not_a_number_is_out_of_every_range(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("SOLVER: {BASE_LR: .nan}")
    with pytest.raises(ValueError, match=r"SOLVER.BASE_LR is nan; expected more than 0"):
        load_detection_config(path, VALID)


def test_first_defaults__are_those_of_today_or_are_declared():
    """A key that a run or stage lacks had its first default; whoever changes a default declares the old one."""
    first = yaml.safe_load((Path(__file__).resolve().parents[1] / "first_defaults.yaml").read_text())["detection"]
    assert EFFECTS.first_values(get_cfg()) == first
