import logging
from pathlib import Path

import pytest

from detection.config import add_voc_config, class_names, get_cfg, get_key, load_detection_config
from detection.voc import VOC_CLASSES

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "detection" / "configs").glob("*.yaml"))
VOC = ["DATASETS.TRAIN", "('voc_2007_trainval',)", "DATASETS.TEST", "('voc_2007_test',)", "SEED", "0"]
VALID = [*VOC, "MODEL.ROI_HEADS.NUM_CLASSES", "20"]


def leaves(cfg, prefix=""):
    for name, value in cfg.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_get_cfg__shares_names_and_defaults_with_detectron2():
    config = pytest.importorskip("detectron2.config", reason="Detectron2 is not installed")
    theirs = dict(leaves(config.get_cfg()))
    ours = {key: value for key, value in leaves(get_cfg()) if not key.startswith("VOC.")}
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
    ours = dict(leaves(load_detection_config(path, [*opts, "MODEL.DEVICE", "cpu", "SEED", "0"])))
    assert {key: get_key(theirs, key) for key in ours} == ours


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs__the_torchvision_engine_supports_them(path):
    from detection.engines.torchvision import check_config

    opts = [] if "DATASETS" in path.read_text() or path.name.startswith(("voc_r50", "digits")) else VALID
    cfg = load_detection_config(path, opts)
    check_config(cfg)
    assert path.name.startswith("base_") or cfg.DATASETS.TRAIN


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


def test_class_names__own_or_the_challenges():
    assert class_names(load_detection_config(None, VALID)) == VOC_CLASSES
    own = load_detection_config(None, [*VALID, "VOC.CLASSES", "('b', 'a')", "MODEL.ROI_HEADS.NUM_CLASSES", "2"])
    assert class_names(own) == ("b", "a")


def test_load_detection_config__finds_the_classes_of_own_data(voc_tree, caplog):
    caplog.set_level(logging.INFO, "detection")
    own = [*VALID, "VOC.ROOT", str(voc_tree.folder()), "DATASETS.TRAIN", "('trainval',)"]
    cfg = load_detection_config(None, [*own, "MODEL.ROI_HEADS.NUM_CLASSES", "3"])
    assert cfg.VOC.CLASSES == ("car", "dog", "person")
    assert "classes found in trainval: car, dog, person" in caplog.text
    with pytest.raises(ValueError, match=r"is 20, but trainval \(car, dog, person\) has 3 classes; write .* 3"):
        load_detection_config(None, own)
    with pytest.raises(FileNotFoundError, match=r"Main/train.txt does not exist; this folder has test, trainval"):
        load_detection_config(None, [*own, "DATASETS.TRAIN", "('train',)"])


@pytest.mark.parametrize(
    "opts, text",
    [
        (["SOLVER.BASE_LRR", "1"], r"unknown config key SOLVER.BASE_LRR; did you mean SOLVER.BASE_LR\?"),
        (["DATASETS.TRAIN", "voc_2007_test"], r"DATASETS.TRAIN expects tuple .* but got 'voc_2007_test'"),
        (["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"], r"DATASETS.TRAIN and DATASETS.TEST are empty; name"),
        (["DATASETS.TRAIN", "('a/b',)"], r"DATASETS.TRAIN must be different names of image sets, .*\('train.json',\)"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "80"],
         r"NUM_CLASSES is 80, but the VOC challenge has 20 classes; write MODEL.ROI_HEADS.NUM_CLASSES 20"),
        (["VOC.CLASSES", "('cat', 'dog')"],
         r"NUM_CLASSES is 20, but VOC.CLASSES has 2 classes; write MODEL.ROI_HEADS.NUM_CLASSES 2"),
        (["VOC.CLASSES", "('cat', 'cat')"], r"VOC.CLASSES must be different names, such as"),
        (["INPUT.FORMAT", "GBR"], r"INPUT.FORMAT must be 'RGB' or 'BGR', but is 'GBR'"),
        (["INPUT.MIN_SIZE_TRAIN", "()"], r"INPUT.MIN_SIZE_TRAIN must be one or more sizes in pixels"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], r"must be the smallest and the largest size, .* but is \(800,\)"),
        (["INPUT.CROP.ENABLED", "True"], r"INPUT.CROP.ENABLED must be False: cropping is not implemented, but is True"),
        (["MODEL.MASK_ON", "True"], r"MODEL.MASK_ON must be False: the toolkit trains box detectors"),
        (["MODEL.PIXEL_STD", "[1.0, 1.0, 0.0]"], r"MODEL.PIXEL_STD must be three numbers more than 0"),
        (["MODEL.RESNETS.DEPTH", "51"], r"MODEL.RESNETS.DEPTH must be 18 or 34 or 50 or 101 or 152, but is 51"),
        (["MODEL.RESNETS.DEPTH", "18"], r"RES2_OUT_CHANNELS must be 64 for depth 18, but is 256"),
        (["MODEL.DEVICE", "gpu"], r"MODEL.DEVICE must be 'cuda', 'cuda:<number>' or 'cpu', but is 'gpu'"),
        (["SOLVER.REFERENCE_WORLD_SIZE", "8"], r"SOLVER.REFERENCE_WORLD_SIZE must be 0: nothing is scaled behind your"),
        (["SOLVER.BASE_LR", "-0.1"], r"SOLVER.BASE_LR must be more than 0, but is -0.1"),
        (["SOLVER.MOMENTUM", "1"], r"SOLVER.MOMENTUM must be from 0 to less than 1, but is 1.0"),
        (["SOLVER.STEPS", "(16000, 12000)"], r"SOLVER.STEPS must be iterations in increasing order"),
        (["SOLVER.IMS_PER_BATCH", "0"], r"SOLVER.IMS_PER_BATCH must be more than 0, but is 0"),
    ],
)  # fmt: skip
def test_load_detection_config__names_the_key_and_what_would_be_right(opts, text):
    with pytest.raises(ValueError, match=text):
        load_detection_config(None, [*VALID, *opts])


def test_load_detection_config__not_a_number_is_out_of_every_range(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("SOLVER: {BASE_LR: .nan}")
    with pytest.raises(ValueError, match=r"SOLVER.BASE_LR must be more than 0, but is nan"):
        load_detection_config(path, VALID)
