"""Rows of a study whose networks are there already: what their YAML says, and the stages that they consist of."""

import re
import shutil

import pytest

from tools.studies.experiments import experiments
from tools.studies.published import published_cost, published_of
from tools.studies.results import study_result

CONFIG = "pretrain/configs/demo_r18_saliencymix.yaml"


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "moco v2.pth"
    path.write_bytes(b"these are known by their bytes")
    return path


@pytest.fixture
def rows(plan_of, weights):
    """Return a function: kind, further rows, changes of the row with WEIGHTS -> the plan."""

    def rows(kind="transfer", *others, opts=(), **changes):
        row = {"METHOD": "moco", "WEIGHTS": str(weights), **changes}
        return plan_of(["KIND", kind, *opts], EXPERIMENTS=[row, *others])

    return rows


def named(plan):
    return {stage.name: stage for stage in plan.stages}


PRETRAINED = {"METHOD": "cutmix", "CONFIG": CONFIG, "OPTS": ["MIXING.METHOD", "cutmix"]}


def test_transfer__both_kinds_of_rows_and_the_calibrator(rows, weights):
    stages = named(rows("transfer", PRETRAINED, {"METHOD": "random", "WEIGHTS": "random"}))
    tuned = {
        f"{name}/seed{seed}/{kind}"
        for name in ("moco", "random")
        for seed in (0, 1)
        for kind in ("fine_tune", "evaluate")
    }
    assert {name for name in stages if name.startswith(("moco", "random"))} == {*tuned, "moco/convert"}
    assert {f"cutmix/seed{seed}/convert" for seed in (0, 1)} <= stages.keys()

    convert = stages["moco/convert"]
    assert convert.command[-2:] == (str(weights), str(convert.folder / "backbone.pth"))
    assert convert.outputs == ("backbone.pth", "backbone.card.json")
    assert convert.parents == ()
    for seed in (0, 1):
        tuned, random = (stages[f"{name}/seed{seed}/fine_tune"] for name in ("moco", "random"))
        assert [parent.name for parent in tuned.parents] == ["data/VOCdevkit", "moco/convert"]
        assert tuned.command[tuned.command.index("MODEL.WEIGHTS") + 1] == str(convert.folder / "backbone.pth")
        assert [parent.name for parent in random.parents] == ["data/VOCdevkit"]
        assert random.command[random.command.index("MODEL.WEIGHTS") + 1] == ""
    assert len(stages["study/comparison"].parents) == 1 + 6


def test_transfer__weights_are_known_by_what_they_hold(rows, weights, tmp_path):
    before = named(rows())["moco/convert"].fingerprint
    shutil.copy(weights, tmp_path / "other name.pth")
    assert named(rows(WEIGHTS=str(tmp_path / "other name.pth")))["moco/convert"].fingerprint == before
    weights.write_bytes(b"other bytes")
    assert named(rows())["moco/convert"].fingerprint != before
    assert named(rows(EMA=False))["moco/convert"].fingerprint != named(rows(EMA=True))["moco/convert"].fingerprint


def test_transfer__what_the_file_does_not_say_reaches_its_conversion(rows, weights):
    says = {
        "PREFIX": "encoder_k.",
        "EMA": True,
        "PIXEL_MEAN": [0, 0, 0],
        "CHANNEL_ORDER": "BGR",
        "STRIDE_IN_1X1": False,
    }
    convert = named(rows(**says))["moco/convert"]
    flags = convert.command[2:-2]
    assert flags == ("--prefix", "encoder_k.", "--ema", "--pixel-mean", "0", "0", "0", "--channel-order", "BGR")


def test_transfer__a_row_reads_pictures_in_its_own_way(rows):
    other = {"METHOD": "random", "WEIGHTS": "random"}
    stages = named(rows("transfer", other, DETECTION_OPTS=["MODEL.PIXEL_STD", [1.0, 1.0, 1.0], "INPUT.FORMAT", "BGR"]))
    for kind in ("fine_tune", "evaluate"):
        moco, random = (stages[f"{name}/seed1/{kind}"] for name in ("moco", "random"))
        assert list(moco.inputs["MODEL.PIXEL_STD"]) == [1.0, 1.0, 1.0]
        assert (moco.inputs["INPUT.FORMAT"], random.inputs["INPUT.FORMAT"]) == ("BGR", "RGB")
        assert list(random.inputs["MODEL.PIXEL_STD"]) != [1.0, 1.0, 1.0]
        assert "BGR" in moco.command
        assert "BGR" not in random.command


def test_classification__published_weights_are_evaluated_once(rows, weights):
    stages = named(rows("classification", PRETRAINED, EPOCH="best", EVAL_RESIZE=232, INTERPOLATION="bicubic"))
    assert {*stages} == {"data/pictures", "moco/accuracy", "cutmix/seed0/pretrain", "cutmix/seed1/pretrain"}
    stage = stages["moco/accuracy"]
    assert stage.command[1].endswith("tools/evaluate_checkpoint.py")
    assert stage.command[2:7] == (str(weights), "--eval-resize", "232", "--interpolation", "bicubic")
    assert [parent.name for parent in stage.parents] == ["data/pictures"]


def test_robustness__published_weights_are_attacked_once(rows, weights):
    stages = named(rows("robustness", PRETRAINED, PREFIX=""))
    assert {name for name in stages if "attack" in name} == {
        "moco/seed0/attack", "cutmix/seed0/attack", "cutmix/seed1/attack"
    }  # fmt: skip
    stage = stages["moco/seed0/attack"]
    assert stage.command[2:5] == (str(weights), "--prefix", "")
    assert [parent.name for parent in stage.parents] == ["data/pictures"]
    assert "weights" in stage.inputs
    assert "CHECKPOINT" not in stage.inputs


def test_cam__published_weights_beside_those_pretrained_here(rows, weights):
    stages = named(rows("cam", PRETRAINED))
    assert {*stages} == {"data/pictures", "cutmix/seed0/pretrain", "study/cam"}
    stage = stages["study/cam"]
    assert f"moco={weights}" in stage.command
    assert stage.inputs["weights"].keys() == {"moco"}
    before = stage.fingerprint
    weights.write_bytes(b"other bytes")
    assert named(rows("cam", PRETRAINED))["study/cam"].fingerprint != before


GOOD = {"METHOD": "moco", "WEIGHTS": "random"}


@pytest.mark.parametrize("kind, entry, message", [
    ("transfer", {"METHOD": "a"}, "entry 1 has no CONFIG; expected a CONFIG of pretraining, or WEIGHTS"),
    ("transfer", {**GOOD, "CONFIG": CONFIG}, "entry 1 has both CONFIG and WEIGHTS"),
    ("transfer", {**GOOD, "OPTS": ["SOLVER.EPOCHS", 1]}, "OPTS is for a row with a CONFIG, which this one has not"),
    ("transfer", {"METHOD": "a", "CONFIG": CONFIG, "EMA": True}, "EMA is for a row with WEIGHTS, which this one has"),
    ("transfer", {**GOOD, "WEIGHTS": "no/such.pth"}, r"WEIGHTS /.*/no/such\.pth does not exist"),
    ("transfer", {**GOOD, "WEIGHTS": "."}, r"WEIGHTS /.* is no file"),
    ("transfer", {**GOOD, "EMA": True}, "EMA says what a file does not, but WEIGHTS is random"),
    ("classification", GOOD, "WEIGHTS random are for KIND transfer"),
    ("timing", GOOD, "KIND timing measures steps of pretraining; give a CONFIG"),
    ("transfer", {**GOOD, "WEIGHTS": "F", "IMAGE_SIZE": 224}, "IMAGE_SIZE is nothing that KIND transfer reads"),
    ("cam", {**GOOD, "WEIGHTS": "F", "PREFIX": "a."}, "PREFIX is nothing that KIND cam reads"),
    ("transfer", {**GOOD, "WEIGHTS": "F", "EMA": "yes"}, "EMA is 'yes'; expected True or False"),
    ("transfer", {**GOOD, "WEIGHTS": "F", "PIXEL_STD": [1, 1]}, r"PIXEL_STD is \[1, 1\]; expected three numbers"),
    ("transfer", {**GOOD, "WEIGHTS": "F", "CHANNEL_ORDER": "RBG"}, "CHANNEL_ORDER is 'RBG'; expected RGB or BGR"),
    ("robustness", {**GOOD, "WEIGHTS": "F", "EVAL_RESIZE": 0}, "EVAL_RESIZE is 0; expected a whole number of pixels"),
    ("robustness", {**GOOD, "WEIGHTS": "F", "EPOCH": "best"}, "EPOCH is for KIND classification"),
    ("classification", {**GOOD, "WEIGHTS": "F", "EPOCH": "first"}, "EPOCH is 'first'; expected one of last, best"),
    ("transfer", {**GOOD, "DETECTION_OPTS": ["SOLVER.BASE_LR", 1]}, "DETECTION_OPTS sets SOLVER.BASE_LR; a row may"),
    ("transfer", {**GOOD, "DETECTION_OPTS": ["INPUT.FORMAT"]}, "DETECTION_OPTS expects a list of KEY VALUE pairs"),
    ("robustness", {**GOOD, "WEIGHTS": "F", "DETECTION_OPTS": ["INPUT.FORMAT", "BGR"]}, "has no fine-tuning"),
])  # fmt: skip
def test_experiments__refuses(plan_of, weights, kind, entry, message):
    entry = {key: str(weights) if value == "F" else value for key, value in entry.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        plan_of(["KIND", kind], EXPERIMENTS=[entry])


@pytest.mark.parametrize("address, fetch, file", [
    ("https://a.org/x/resnet50-0676ba61.pth", "curl --fail --location --output resnet50-0676ba61.pth https://a.org/x/resnet50-0676ba61.pth",
     "resnet50-0676ba61.pth"),
    ("detectron2://ImageNetPretrained/MSRA/R-50.pkl",
     "curl --fail --location --output R-50.pkl "
     "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl",
     "R-50.pkl"),
    ("hf://timm/resnet50.a1_in1k/model.safetensors",
     "hf download timm/resnet50.a1_in1k model.safetensors --local-dir .", "model.safetensors"),
])  # fmt: skip
def test_experiments__an_address_is_answered_with_what_fetches_it(plan_of, address, fetch, file):
    with pytest.raises(ValueError, match=f"^{re.escape(address)} is an address") as error:
        plan_of(EXPERIMENTS=[{**GOOD, "WEIGHTS": address}])
    assert error.value.faults[0].endswith(f"fetch it, then name the file {file}:")
    assert error.value.faults[1:] == (fetch,)


@pytest.mark.parametrize("opts, kept", [
    (["MODEL.RESNETS.NORM", "FrozenBN"], "MODEL.RESNETS.NORM is FrozenBN"),
    (["MODEL.BACKBONE.FREEZE_AT", "2"], "MODEL.BACKBONE.FREEZE_AT is 2"),
])  # fmt: skip
def test_transfer__random_weights_want_a_config_that_trains_all(plan_of, opts, kept):
    with pytest.raises(ValueError, match=f"DETECTION: {kept}: .* such as detection/configs/voc_r50_c4_moco.yaml"):
        plan_of(["DETECTION.OPTS", str(opts)], EXPERIMENTS=[GOOD])
    plan_of(["DETECTION.OPTS", str(opts)], EXPERIMENTS=[{"METHOD": "cutmix", "CONFIG": CONFIG}])


def test_experiments__a_path_is_that_of_the_working_folder(plan_of, weights, monkeypatch):
    monkeypatch.chdir(weights.parent)
    (experiment,) = experiments(plan_of(EXPERIMENTS=[{"METHOD": "moco", "WEIGHTS": weights.name}]).cfg)
    assert experiment.weights == str(weights)


def test_study_result__published_weights_stand_in_the_column_of_their_epoch(plan_of, weights):
    rows = [
        {"METHOD": name, "WEIGHTS": str(weights), "PREFIX": name, "EPOCH": epoch}
        for name, epoch in (("theirs", "best"), ("torchvision", "last"))
    ]
    plan = plan_of(["KIND", "classification"], EXPERIMENTS=rows)
    values = {"top1_error": 21.5, "top5_error": 5.5}
    results = {
        f"{name}/accuracy": {"values": values, "link": "accuracy.json", "seconds": 1.0, "attempts": 1}
        for name in ("theirs", "torchvision")
    }
    told = study_result(plan, results, {})
    assert [len(row["runs"]) for row in told["rows"]] == [1, 1]  # of two seeds
    assert told["rows"][0]["runs"][0]["values"] == {"best_top1_error": 21.5, "best_top5_error": 5.5}
    assert told["rows"][1]["runs"][0]["values"] == values


def test_study_result__says_what_varies_where_weights_were_there_already(plan_of, weights):
    row = {"METHOD": "moco", "WEIGHTS": str(weights)}
    (alone,) = (note for note in study_result(plan_of(EXPERIMENTS=[row]), {}, {})["notes"] if "runs of a row" in note)
    assert "the seed of fine-tuning alone" in alone
    both = study_result(plan_of(EXPERIMENTS=[row, PRETRAINED]), {}, {})["notes"]
    assert "The runs of a row that is pretrained differ in the seeds of pretraining and of fine-tuning." in both
    assert alone in both


def test_published_of__only_under_the_very_protocol(plan_of, weights):
    moco = {"CONFIG": "detection/configs/voc_r50_c4_moco.yaml", "ENGINE": "torchvision"}
    rows = [{"METHOD": "moco", "WEIGHTS": str(weights)}, {"METHOD": "random", "WEIGHTS": "random"}]
    found = published_of(plan_of(EXPERIMENTS=rows, DETECTION=moco, DIGITS={}))
    assert {"NAME": "random weights", "AP50": 60.2, "AP": 33.8, "AP75": 33.1, "SOURCE": "MoCo's detection/README"} in (
        found["rows"]
    )
    for other in (["SOLVER.BASE_LR", "0.03"], ["MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.3"]):
        assert (
            published_of(plan_of(["DETECTION.OPTS", str(other)], EXPERIMENTS=rows, DETECTION=moco, DIGITS={})) is None
        )
    assert published_of(plan_of(EXPERIMENTS=rows)) is None
    assert published_of(plan_of(["KIND", "classification"], EXPERIMENTS=rows[:1])) is None


def test_published_cost__of_the_config_alone():
    assert published_cost("detection/configs/voc_r50_c4_moco.yaml")["FINE_TUNE_RATE"] == 3.7
    assert published_cost("detection/configs/voc_r50_c4_paper.yaml") == {}
