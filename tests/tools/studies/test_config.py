"""What a study's YAML may say, and how it is told what is wrong."""

import pytest
import yaml

from tools.studies.config import load_study
from tools.studies.experiments import ROOT, experiments

CONFIG = "pretrain/configs/imagenet_r50_baseline.yaml"
STUDY = {
    "KIND": "classification",
    "SEEDS": [0, 1],
    "EXPERIMENTS": [{"METHOD": "baseline", "CONFIG": CONFIG}],
    "PRETRAIN": {"DATA_ROOT": "pictures"},
}


@pytest.fixture
def load(tmp_path):
    """Return a function that writes STUDY with changes to mine.yaml and loads that."""

    def load(opts=(), **changes):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(STUDY | changes))
        return load_study(path, opts)

    return load


def test_load_study__takes_lists_for_tuples_and_makes_its_folder_absolute(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load()
    assert cfg.SEEDS == (0, 1)
    assert str(tmp_path / "output" / "studies") == cfg.OUTPUT_DIR
    assert str(tmp_path / "elsewhere") == load(["OUTPUT_DIR", "elsewhere"]).OUTPUT_DIR


def test_experiments__labels_make_the_name_and_options_become_text(load):
    entry = {
        "METHOD": "cutmix",
        "MODEL": "ResNet-50",
        "DATA": "ImageNet",
        "CONFIG": CONFIG,
        "OPTS": ["SOLVER.BASE_LR", 0.2],
        "PAPER": {"top1_error": 21.4},
        "PAPER_STD": {"top1_error": 0.1},
        "PAPER_ONLY": {"hours": 0.9},
    }
    (experiment,) = experiments(load(EXPERIMENTS=[entry]))
    assert experiment.name == "ResNet-50/ImageNet/cutmix"
    assert experiment.config == ROOT / CONFIG
    assert experiment.opts == ("SOLVER.BASE_LR", "0.2")
    assert experiment.paper == {"top1_error": 21.4}
    assert (experiment.paper_std, experiment.paper_only) == ({"top1_error": 0.1}, {"hours": 0.9})


GOOD = {"METHOD": "baseline", "CONFIG": CONFIG}
BAD_EXPERIMENTS = [
    ([], "EXPERIMENTS is empty"),
    (["baseline"], r"EXPERIMENTS, entry 1: expected a mapping with METHOD and CONFIG, but got 'baseline'"),
    ([GOOD, {"METHOD": "cutmix"}], "EXPERIMENTS, entry 2 has no CONFIG"),
    ([{"CONFIG": CONFIG}], "EXPERIMENTS, entry 1 has no METHOD"),
    ([GOOD | {"OPT": []}], "entry 1: unknown key OPT; expected METHOD, MODEL"),
    ([GOOD | {"OPTS": ["SEED"]}], r"entry 1: OPTS expects a list of KEY VALUE pairs, but got \['SEED'\]"),
    ([GOOD | {"OPTS": "SEED 1"}], "entry 1: OPTS expects a list of KEY VALUE pairs, but got 'SEED 1'"),
    ([GOOD | {"PAPER": {"top1_error": "low"}}], "entry 1: PAPER expects a mapping from metrics to numbers"),
    ([GOOD | {"DATA": "CIFAR/10"}], "entry 1: 'CIFAR/10' names a folder and must not hold a slash"),
    ([GOOD | {"METHOD": ".."}], "entry 1: '..' names a folder"),
    ([GOOD, GOOD], "baseline stands there twice; give every row its own METHOD, MODEL or DATA"),
    ([GOOD | {"METHOD": "a b"}, GOOD | {"METHOD": "a_b"}], "a b and a_b would share the folder a_b, or .*; give every"),
    ([GOOD | {"METHOD": "CutMix"}, GOOD | {"METHOD": "cutmix"}], "CutMix and cutmix would share the folder cutmix"),
    ([GOOD | {"METHOD": "caf\u00e9"}, GOOD | {"METHOD": "cafe\u0301"}], "would share the folder cafe_, or do on some"),
    ([GOOD | {"METHOD": "Stra\u00dfe"}, GOOD | {"METHOD": "STRASSE"}], "and STRASSE would share the folder STRASSE"),
    ([GOOD | {"METHOD": "cut\nmix"}], r"entry 1: 'cut\\nmix' names a folder and must not hold a control character"),
    ([GOOD | {"METHOD": " "}], "entry 1: ' ' names a folder and must not begin or end with white space"),
    ([GOOD | {"METHOD": "a "}], "entry 1: 'a ' names a folder and must not begin or end with white space"),
    ([GOOD | {"DATA": "x" * 201}], r"entry 1: 'x{40}'... names a folder and has more than 200 bytes"),
    ([GOOD | {"METHOD": "b", "MODEL": "a"}, GOOD | {"METHOD": "a b"}], "a/b and a b have one name, a b, on the page"),
    ([GOOD | {"OPTS": ["SEED", 1]}], "entry 1: OPTS sets SEED, which the study sets for every run; set SEEDS instead"),
    ([GOOD | {"OPTS": ["OUTPUT_DIR", "x"]}],
     "entry 1: OPTS sets OUTPUT_DIR, which the study sets for every run; set OUTPUT_DIR of the study instead"),
    ([GOOD | {"OPTS": ["DATA.ROOT", "x"]}],
     "entry 1: OPTS sets DATA.ROOT, which the study sets for every run; set PRETRAIN.DATA_ROOT instead"),
    ([GOOD | {"PAPER": {"top1_eror": 20.0}}], "entry 1: PAPER names top1_eror, which no table has; did you mean top1"),
    ([GOOD | {"PAPER": {"top1_error": float("nan")}}], "entry 1: PAPER expects a mapping from metrics to numbers"),
    ([GOOD | {"PAPER": {"top1_error": 20.0}, "PAPER_STD": {"top5_error": 0.1}}],
     "entry 1: PAPER_STD names top5_error, of which PAPER has no number"),
    ([GOOD | {"PAPER": {"top1_error": 20.0}, "PAPER_STD": {"top1_error": -0.1}}],
     "entry 1: PAPER_STD has -0.1 for top1_error; expected at least 0"),
    ([GOOD | {"PAPER": {"top1_error": 20.0}, "PAPER_STD": 0.1}],
     "entry 1: PAPER_STD expects a mapping from metrics to numbers, but got 0.1"),
    ([GOOD | {"PAPER_ONLY": {"hours": "0.83"}}],
     "entry 1: PAPER_ONLY expects a mapping from names of columns to numbers, but got {'hours': '0.83'}"),
    ([GOOD | {"PAPER": {"top1_error": True}}], "entry 1: PAPER expects a mapping from metrics to numbers"),
]  # fmt: skip


@pytest.mark.parametrize("entries, message", BAD_EXPERIMENTS, ids=[message for _, message in BAD_EXPERIMENTS])
def test_load_study__refuses_experiments_by_number(load, entries, message):
    with pytest.raises(ValueError, match=message):
        load(EXPERIMENTS=entries)


@pytest.mark.parametrize("opts, message", [
    (["SEED", "1"], "unknown config key SEED; did you mean SEEDS"),
    (["KIND", "detection"], "KIND is 'detection'; expected one of transfer, classification"),
    (["SEEDS", "()"], r"SEEDS is \(\); expected different whole numbers"),
    (["SEEDS", "(1, 1)"], r"SEEDS is \(1, 1\); expected different whole numbers"),
    (["SEEDS", "(-1,)"], r"SEEDS is \(-1,\); expected different whole numbers"),
    (["THREADS", "-1"], "THREADS is -1; expected at least 0"),
    (["GPUS", "0"], "GPUS is 0; expected at least 1"),
    (["SLURM.MINUTES", "0"], "SLURM.MINUTES is 0; expected at least 1"),
    (["ATTACK.EPSILONS", "(0.0,)"], r"ATTACK.EPSILONS is \(0.0,\); expected different numbers above 0"),
    (["ATTACK.METHODS", "('cw',)"], r"ATTACK.METHODS is \('cw',\); expected one or more of fgsm, pgd"),
    (["CAM.METHODS", "()"], r"CAM.METHODS is \(\); expected one or more of baseline, cutout, mixup"),
    (["CAM.METHODS", "('dropblock',)"], r"CAM.METHODS is \('dropblock',\); expected one or more of baseline, cutout"),
    (["CAM.METHODS", "('mixup', 'mixup')"], r"CAM.METHODS is \('mixup', 'mixup'\); expected .*, each once"),
    (["CAM.METHODS", "(['mixup'],)"], r"CAM.METHODS is \(\['mixup'\],\); expected one or more of baseline"),
    (["CAM.PICTURES", "('a.jpg',)"], r"CAM.PICTURES is \('a.jpg',\); expected files: source, target, source"),
    (["CAM.PICTURES", "('a.jpg', 1)"], r"CAM.PICTURES is \('a.jpg', 1\); expected files"),
    (["PRETRAIN.OPTS", "['SEED']"], r"PRETRAIN.OPTS is \['SEED'\]; expected KEY VALUE pairs"),
    (["PRETRAIN.OPTS", "['SEED', 1]"], "PRETRAIN.OPTS sets SEED, which the study sets .* set SEEDS instead"),
    (["PRETRAIN.OPTS", "['OUTPUT_DIR', 'x']"], "PRETRAIN.OPTS sets OUTPUT_DIR, .* set OUTPUT_DIR of the study"),
    (["PRETRAIN.OPTS", "['DATA.ROOT', 'x']"], "PRETRAIN.OPTS sets DATA.ROOT, .* set PRETRAIN.DATA_ROOT instead"),
    (["DETECTION.OPTS", "['SEED', 1]"], "DETECTION.OPTS sets SEED, .* set SEEDS instead"),
    (["DETECTION.OPTS", "['OUTPUT_DIR', 'x']"], "DETECTION.OPTS sets OUTPUT_DIR, .* set OUTPUT_DIR of the"),
    (["DETECTION.OPTS", "['VOC.ROOT', 'x']"], "DETECTION.OPTS sets VOC.ROOT, .* set DETECTION.VOC_ROOT instead"),
    (["DETECTION.OPTS", "['MODEL.WEIGHTS', 'x']"], "DETECTION.OPTS sets MODEL.WEIGHTS, .* add a row to EXP"),
    (["NOTES", "[1]"], r"NOTES is \[1\]; expected a list of sentences"),
    (["ATTACK.METHODS", "('pgd', 'pgd')"], r"ATTACK.METHODS is \('pgd', 'pgd'\); expected one or more of fgsm, pgd"),
    (["COST.PRETRAIN_RATE", "-1"], "COST.PRETRAIN_RATE is -1.0; expected at least 0"),
    (["DIGITS.SIDE", "15"], "DIGITS.SIDE is 15; expected at least 16"),
    (["DIGITS.SCENE_SIDE", "63"], "DIGITS.SCENE_SIDE is 63; expected at least 64"),
    (["DIGITS.TRAIN_PER_CLASS", "5"], "PRETRAIN.DATA_ROOT and DIGITS.TRAIN_PER_CLASS are both set"),
    (["PRETRAIN.DATA_ROOT", "", "DIGITS.TRAIN_PER_CLASS", "5", "DETECTION.VOC_ROOT", "x"],
     "DETECTION.VOC_ROOT and DIGITS.TRAIN_PER_CLASS are both set"),
    (["PRETRAIN.DATA_ROOT", "", "DIGITS.TRAIN_PER_CLASS", "5"], "DIGITS.VAL_PER_CLASS is 0; expected at least 1"),
    (["PRETRAIN.SEED", "0"], "but KIND classification has no fine-tuning; leave it at -1"),
    (["PRETRAIN.CHECKPOINT", "first"], "PRETRAIN.CHECKPOINT is 'first'; expected one of final, best"),
    (["PRETRAIN.CHECKPOINT", "best"], "CHECKPOINT is best: .* KIND classification shows the errors of both epochs"),
    (["PRETRAIN.CHECKPOINT", "best", "KIND", "timing"], "CHECKPOINT is best: .* KIND timing trains nothing; leave it"),
    (["KIND", "transfer"], "DETECTION.CONFIG is empty; name one, such as detection/configs/voc_r50_c4_paper.yaml"),
    (["DETECTION.ENGINE", "mmdet"], "DETECTION.ENGINE is 'mmdet'; expected one of auto, detectron2, torchvision"),
])  # fmt: skip
def test_load_study__refuses_values_by_name(load, opts, message):
    with pytest.raises(ValueError, match=message):
        load(opts)


def test_load_study__names_that_differ_by_more_stay_different(load):
    rows = [GOOD | {"METHOD": method} for method in ("cut mix", "cutmix", "cut-mix", "caf\u00e9", "cafe", "x" * 200)]
    assert [experiment.method for experiment in experiments(load(EXPERIMENTS=rows))] == [one["METHOD"] for one in rows]


def test_load_study__several_methods_are_for_one_network(load):
    rows = [GOOD, GOOD | {"METHOD": "cutmix"}]
    several = ["KIND", "cam", "CAM.METHODS", "('baseline', 'cutmix')"]
    with pytest.raises(ValueError, match=r"CAM.METHODS are 2 and EXPERIMENTS 2; expected one experiment"):
        load(several, EXPERIMENTS=rows)
    assert load(several).CAM.METHODS == ("baseline", "cutmix")
    assert len(load(["KIND", "cam", "CAM.METHODS", "('cutmix',)"], EXPERIMENTS=rows).EXPERIMENTS) == 2
    assert load(several[2:], EXPERIMENTS=rows).KIND == "classification"  # which draws no map


def test_load_study__made_scenes_are_needed_to_fine_tune(load):
    opts = [
        "KIND",
        "transfer",
        "DETECTION.CONFIG",
        "x.yaml",
        "PRETRAIN.DATA_ROOT",
        "",
        "DIGITS.TRAIN_PER_CLASS",
        "5",
        "DIGITS.VAL_PER_CLASS",
        "5",
    ]
    with pytest.raises(ValueError, match=r"DIGITS.SCENES and DIGITS.TEST_SCENES must be at least 1"):
        load(opts)
