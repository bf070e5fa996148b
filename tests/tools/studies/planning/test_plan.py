"""Stages, their fingerprints, and which of them a change reaches."""

import pytest

import detection.config
import pretrain.config
import tools.studies.planning.detectors
import tools.studies.planning.networks
import tools.studies.planning.plan
import tools.studies.planning.stages
from detection.config import load_detection_config
from pretrain.config import load_pretrain_config
from tools.studies.records import REQUEST, write_record

CONFIG = "pretrain/configs/demo_r18_saliencymix.yaml"
ALL_OF_CUTMIX = {
    f"cutmix/seed{seed}/{kind}" for seed in (0, 1) for kind in ("pretrain", "convert", "fine_tune", "evaluate")
}


def names(plan):
    return {stage.name for stage in plan.stages}


def changed_names(before, after):
    """The stages that both plans have, under different fingerprints."""
    prints = {stage.name: stage.fingerprint for stage in before.stages}
    return {stage.name for stage in after.stages if prints.get(stage.name, stage.fingerprint) != stage.fingerprint}


def test_make_plan__of_a_transfer(plan_of):
    plan = plan_of()
    chain = ("pretrain", "convert", "fine_tune", "evaluate")
    expected = {f"{method}/seed{seed}/{kind}" for method in ("baseline", "cutmix") for seed in (0, 1) for kind in chain}
    assert names(plan) == {"data/pictures", "data/VOCdevkit", "study/comparison", *expected}
    assert plan.folder.name == "study"
    stages = {stage.name: stage for stage in plan.stages}
    order = [stage.name for stage in plan.stages]
    for stage in plan.stages:
        assert all(order.index(parent.name) < order.index(stage.name) for parent in stage.parents)
        assert stage.folder == plan.folder.parent / f"{stage.name}-{stage.fingerprint[:8]}"
    parents = {name: [parent.name for parent in stages[f"cutmix/seed1/{name}"].parents] for name in chain}
    assert parents == {
        "pretrain": ["data/pictures"],
        "convert": ["cutmix/seed1/pretrain"],
        "fine_tune": ["data/VOCdevkit", "cutmix/seed1/convert"],
        "evaluate": ["data/VOCdevkit", "cutmix/seed1/fine_tune"],
    }
    compared = [parent.name for parent in stages["study/comparison"].parents]
    runs = [f"{method}/seed{seed}/evaluate" for seed in (0, 1) for method in ("baseline", "cutmix")]
    assert compared == ["data/VOCdevkit", *runs]


def test_make_plan__commands_say_what_the_fingerprint_says(plan_of):
    opts = [
        "PRETRAIN.OPTS",
        "['SOLVER.EPOCHS', '2', 'SOLVER.STEPS', '()']",
        "DETECTION.OPTS",
        "['SOLVER.MAX_ITER', '7', 'SOLVER.STEPS', '()']",
    ]
    stages = {stage.name: stage for stage in plan_of(opts).stages}
    pretrain, data = stages["cutmix/seed1/pretrain"], stages["data/pictures"]
    words = list(pretrain.command)
    cfg = load_pretrain_config(words[words.index("--config-file") + 1], words[words.index("--resume") + 1 :])
    assert cfg.MIXING.METHOD == "cutmix"
    assert (cfg.SEED, cfg.SOLVER.EPOCHS) == (1, 2)
    assert str(data.folder / "pictures") == cfg.DATA.ROOT
    assert str(pretrain.folder) == cfg.OUTPUT_DIR
    assert pretrain.inputs["MIXING.METHOD"] == "cutmix"
    assert not {"OUTPUT_DIR", "DATA.ROOT", "DEVICE"} & set(pretrain.inputs)

    fine_tune = stages["cutmix/seed1/fine_tune"]
    words = list(fine_tune.command)
    cfg = load_detection_config(words[words.index("--config-file") + 1], words[words.index("--config-file") + 2 :])
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.DATASETS.TEST) == (1, 7, ())
    assert str(stages["cutmix/seed1/convert"].folder / "backbone.pth") == cfg.MODEL.WEIGHTS
    assert "--resume" in words
    assert "--eval-only" in stages["cutmix/seed1/evaluate"].command


def coco_study(plan_of, **changes):
    detection = {"CONFIG": "detection/configs/custom_coco.yaml", "ENGINE": "torchvision"}
    return plan_of(["DIGITS.TRAIN_PER_CLASS", "0", "PRETRAIN.DATA_ROOT", "/a"], DETECTION=detection | changes)


def test_make_plan__of_a_coco_data_set_looks_where_the_report_is(plan_of):
    stages = {stage.name: stage for stage in coco_study(plan_of, VOC_ROOT="/b").stages}
    assert stages["cutmix/seed0/evaluate"].outputs == ("inference/annotations_test/report.json",)
    assert word_after(stages["study/comparison"], "--dataset") == "annotations/test.json"


def test_make_plan__made_scenes_have_the_format_that_fine_tuning_names(plan_of):
    names_coco = ["DATASETS.TRAIN", "('coco_2017_train',)", "DATASETS.TEST", "('coco_2017_val',)"]
    stages = {stage.name: stage for stage in plan_of(["DETECTION.OPTS", str(names_coco)]).stages}
    made = stages["data/coco"]
    assert (made.outputs, word_after(made, "--format")) == (("coco",), "coco")
    fine_tune, evaluate = (stages[f"cutmix/seed0/{kind}"] for kind in ("fine_tune", "evaluate"))
    assert made in fine_tune.parents
    assert (
        word_after(fine_tune, "VOC.ROOT") == word_after(stages["study/comparison"], "--data-root") == str(made.folder)
    )
    assert evaluate.outputs == ("inference/coco_2017_val/report.json",)
    assert "--format" not in next(stage for stage in plan_of().stages if stage.name == "data/VOCdevkit").command


def word_after(stage, flag):
    return stage.command[stage.command.index(flag) + 1]


def test_make_plan__the_detection_data_are_those_of_the_study_or_of_its_config(plan_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for root, expected in (("/b", "/b"), ("", str(tmp_path / "datasets" / "cells"))):  # custom_coco.yaml names that one
        stages = {stage.name: stage for stage in coco_study(plan_of, VOC_ROOT=root).stages}
        assert word_after(stages["cutmix/seed0/fine_tune"], "VOC.ROOT") == expected
        assert word_after(stages["study/comparison"], "--data-root") == expected


@pytest.mark.parametrize("opts, message", [
    ("['DATASETS.TEST', '()']", r"DATASETS.TEST is \(\); expected a data set to test the detectors of a study on"),
    ("['DATASETS.TRAIN', '()']", r"DATASETS.TRAIN is \(\); expected data sets to train the detectors of a study on"),
])  # fmt: skip
def test_make_plan__refuses_a_detection_config_without_data(plan_of, opts, message):
    with pytest.raises(ValueError, match=message):
        plan_of(["DETECTION.OPTS", opts])


def test_make_plan__one_run_is_compared_with_nothing(plan_of):
    rows = [{"METHOD": "baseline", "CONFIG": CONFIG, "OPTS": ["MIXING.METHOD", "baseline"]}]
    alone, two = (names(plan_of(["SEEDS", seeds], EXPERIMENTS=rows)) for seeds in ("(0,)", "(0, 1)"))
    assert "study/comparison" not in alone
    assert "study/comparison" in two


def test_make_plan__a_class_with_a_comma_reaches_the_comparison(plan_of):
    opts = ["VOC.CLASSES", "('dog, large', 'cat')", "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
    stages = {stage.name: stage for stage in plan_of(["DETECTION.OPTS", str(opts)]).stages}
    words = stages["study/comparison"].command
    assert words[words.index("--classes") + 1] == '["dog, large", "cat"]'


def test_make_plan__a_method_s_options_reach_only_that_method(plan_of):
    def with_options(*opts):
        return plan_of(
            EXPERIMENTS=[
                {"METHOD": "baseline", "CONFIG": CONFIG, "OPTS": ["MIXING.METHOD", "baseline"]},
                {"METHOD": "cutmix", "CONFIG": CONFIG, "OPTS": ["MIXING.METHOD", "cutmix", *opts]},
            ]
        )

    before = with_options()
    assert changed_names(before, with_options("MIXING.ALPHA", 0.5)) == {*ALL_OF_CUTMIX, "study/comparison"}
    assert changed_names(before, with_options("MIXING.ALPHA", 1.0)) == set()  # says what is so already
    assert changed_names(before, with_options("LOG_PERIOD", 7, "DATA.NUM_WORKERS", 2)) == set()  # changes no result


@pytest.mark.parametrize("opts, kinds", [
    (["DETECTION.OPTS", "['SOLVER.MAX_ITER', '9', 'SOLVER.STEPS', '()']"], {"fine_tune", "evaluate", "comparison"}),
    (["DETECTION.OPTS", "['TEST.DETECTIONS_PER_IMAGE', '9']"], {"evaluate", "comparison"}),
    (["DETECTION.OPTS", "['TEST.EVAL_PERIOD', '2']"], {"evaluate", "comparison"}),
    (["DETECTION.OPTS", "['TEST.PRECISE_BN.ENABLED', 'True']"], {"fine_tune", "evaluate", "comparison"}),
    (["DETECTION.OPTS", "['MODEL.RPN.POST_NMS_TOPK_TEST', '9']"], {"evaluate", "comparison"}),
    (["DETECTION.OPTS", "['MODEL.DEVICE', 'cpu', 'SOLVER.CHECKPOINT_PERIOD', '1']"], set()),
    (["GPUS", "2"], {"pretrain", "convert", "fine_tune", "evaluate", "comparison"}),
    (["DETECTION.OPTS", "['INPUT.MIN_SIZE_TEST', '99']"], {"evaluate", "comparison"}),
    (["DETECTION.ENGINE", "detectron2"], {"fine_tune", "evaluate", "comparison"}),
    (["PRETRAIN.OPTS", "['SOLVER.BASE_LR', '0.5']"], {"pretrain", "convert", "fine_tune", "evaluate", "comparison"}),
    (["DIGITS.SIDE", "64"], {"pictures", "pretrain", "convert", "fine_tune", "evaluate", "comparison"}),
    (["DIGITS.TEST_SCENES", "5"], {"VOCdevkit", "fine_tune", "evaluate", "comparison"}),
    (["THREADS", "2"], set()),
    (["TITLE", "mine"], set()),
    (["COST.PRETRAIN_RATE", "5"], set()),
])  # fmt: skip
def test_make_plan__a_setting_reaches_what_depends_on_it(plan_of, opts, kinds):
    changed = changed_names(plan_of(), plan_of(opts))
    assert {name.rpartition("/")[2] for name in changed} == kinds


def test_make_plan__another_seed_leaves_the_others_alone(plan_of):
    before, after = plan_of(), plan_of(["SEEDS", "(0, 1, 2)"])
    assert changed_names(before, after) == {"study/comparison"}
    assert names(after) - names(before) == {
        f"{method}/seed2/{kind}"
        for method in ("baseline", "cutmix")
        for kind in ("pretrain", "convert", "fine_tune", "evaluate")
    }


@pytest.mark.parametrize("opts", [
    ["PRETRAIN.OPTS", "['CHANNELS_LAST', 'False']"], ["PRETRAIN.OPTS", "['DEVICE', 'cpu']"],
    ["PRETRAIN.OPTS", "['DATA.NUM_WORKERS', '1']"], ["PRETRAIN.OPTS", "['SOLVER.BATCH_SIZE', '8']"], ["THREADS", "2"],
])  # fmt: skip
def test_make_plan__a_timing_depends_on_what_changes_the_speed(plan_of, opts):
    assert changed_names(plan_of(["KIND", "timing"]), plan_of(["KIND", "timing", *opts])) == {"study/timing"}


def test_make_plan__a_new_key_makes_nothing_stale(plan_of, monkeypatch):
    before = plan_of()
    for module in (pretrain.config, detection.config):
        monkeypatch.setattr(module, "get_cfg", with_new_key(module.get_cfg))
    for module in (tools.studies.planning.plan, tools.studies.planning.networks):
        monkeypatch.setattr(module, "get_pretrain_cfg", pretrain.config.get_cfg)
    monkeypatch.setattr(tools.studies.planning.detectors, "get_detection_cfg", detection.config.get_cfg)
    assert changed_names(before, plan_of()) == set()
    set_it = plan_of(["PRETRAIN.OPTS", "['SOLVER.NEW', '1']"])
    assert "cutmix/seed0/pretrain" in changed_names(before, set_it)


def with_new_key(get_cfg):
    def get():
        cfg = get_cfg()
        cfg.SOLVER.NEW = 0
        return cfg

    return get


def test_make_plan__the_code_of_a_stage_reaches_it_and_what_follows(plan_of, monkeypatch):
    before = plan_of()
    real = tools.studies.planning.stages.stage_version
    monkeypatch.setattr(
        tools.studies.planning.stages,
        "stage_version",
        lambda kind, engine: "changed" if kind == "convert" else real(kind, engine),
    )
    changed = changed_names(before, plan_of())
    assert {name.rpartition("/")[2] for name in changed} == {"convert", "fine_tune", "evaluate", "comparison"}


def test_make_plan__one_pretraining_for_all_seeds(plan_of):
    plan = plan_of(["PRETRAIN.SEED", "5"])
    stages = {stage.name: stage for stage in plan.stages}
    assert {"cutmix/seed5/pretrain", "cutmix/seed5/convert", "cutmix/seed0/fine_tune"} <= set(stages)
    assert stages["cutmix/seed0/fine_tune"].parents == stages["cutmix/seed1/fine_tune"].parents
    assert list(stages["cutmix/seed5/pretrain"].command)[-2:] == ["SEED", "5"]
    assert len([name for name in stages if name.endswith("pretrain")]) == 2
    alone = {stage.name: stage for stage in plan_of(["SEEDS", "(5,)"]).stages}
    assert alone["cutmix/seed5/pretrain"].folder == stages["cutmix/seed5/pretrain"].folder


def test_make_plan__the_last_checkpoint_is_what_conversions_had_before_there_was_a_choice(plan_of):
    stage = next(stage for stage in plan_of().stages if stage.kind == "convert")
    before = {"kind": "convert", "inputs": {}, "parents": [parent.meaning for parent in stage.parents]}
    assert stage.meaning == tools.studies.planning.stages._hash(before)


@pytest.mark.parametrize("kind, changed", [
    ("transfer", {"convert", "fine_tune", "evaluate", "comparison"}), ("robustness", {"attack"}), ("cam", {"cam"}),
])  # fmt: skip
def test_make_plan__the_best_epoch_goes_on_if_asked(plan_of, kind, changed):
    final, best = (plan_of(["KIND", kind, "PRETRAIN.CHECKPOINT", which]) for which in ("final", "best"))
    assert changed_names(plan_of(["KIND", kind]), final) == set()
    assert {name.rpartition("/")[2] for name in changed_names(final, best)} == changed
    for plan, taken, other in (
        (final, "model_final.pth", "model_best.pth"),
        (best, "model_best.pth", "model_final.pth"),
    ):
        for stage in plan.stages:
            text = " ".join(stage.command)
            if stage.kind in ("convert", "attack", "cam"):
                (pretrained, *_) = (parent for parent in stage.parents if parent.kind == "pretrain")
                assert f"{pretrained.folder}/{taken}" in text
                assert f"{pretrained.folder}/{other}" not in text
            if stage.kind == "pretrain":
                assert stage.outputs == (
                    ("model_final.pth",) if plan is final else ("model_final.pth", "model_best.pth")
                )


@pytest.mark.parametrize("kind, expected", [
    ("classification", {"data/pictures", *(f"{m}/seed{s}/pretrain" for m in ("baseline", "cutmix") for s in (0, 1))}),
    ("robustness", {"data/pictures", *(f"{m}/seed{s}/{k}" for m in ("baseline", "cutmix") for s in (0, 1)
                              for k in ("pretrain", "attack"))}),
    ("timing", {"data/pictures", "study/timing"}),
    ("cam", {"data/pictures", "study/cam", "baseline/seed0/pretrain", "cutmix/seed0/pretrain"}),
])  # fmt: skip
def test_make_plan__of_the_other_kinds(plan_of, kind, expected):
    assert names(plan_of(["KIND", kind])) == expected


def cam_of(plan):
    (stage,) = (stage for stage in plan.stages if stage.kind == "cam")
    return stage


def test_make_plan__maps_of_the_first_version_are_those_of_saliencymix_on_drawn_pairs(plan_of):
    stage = cam_of(plan_of(["KIND", "cam"]))
    before = {"kind": "cam", "inputs": {"seed": 0}, "parents": [parent.meaning for parent in stage.parents]}
    assert stage.meaning == tools.studies.planning.stages._hash(before)
    assert word_after(stage, "--methods") == "saliencymix"
    assert word_after(stage, "--num-images") == "4"
    assert "--input" not in stage.command


ONE_ROW = [{"METHOD": "baseline", "CONFIG": CONFIG, "OPTS": ["MIXING.METHOD", "baseline"]}]


def test_make_plan__maps_of_the_pictures_of_several_methods(plan_of):
    one, two = (
        cam_of(plan_of(["KIND", "cam", "CAM.METHODS", methods], EXPERIMENTS=ONE_ROW))
        for methods in ("('cutmix',)", "('baseline', 'cutmix')")
    )
    first = two.command.index("--methods") + 1
    assert two.command[first : first + 3] == ("baseline", "cutmix", "--data-root")
    assert one.fingerprint != two.fingerprint
    assert [parent.folder for parent in one.parents] == [parent.folder for parent in two.parents]


def test_make_plan__maps_of_given_pictures_depend_on_what_they_hold(plan_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / "cat.jpg", tmp_path / "dog.jpg"]
    for file in files:
        file.write_bytes(b"one")

    def plan():
        return plan_of(["KIND", "cam", "CAM.PICTURES", "('cat.jpg', 'dog.jpg')"])

    before = plan()
    first = cam_of(before).command.index("--input") + 1
    assert cam_of(before).command[first : first + 3] == (*map(str, files), "--seed")
    assert "--data-root" in cam_of(before).command  # whose folders are the classes
    files[1].write_bytes(b"another")
    assert changed_names(before, plan()) == {"study/cam"}
    files[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"CAM.PICTURES: .*/cat\.jpg is no file"):
        plan()


def test_make_plan__real_data_is_known_by_its_path(plan_of):
    def real(*opts):
        return plan_of(["DIGITS.TRAIN_PER_CLASS", "0", "PRETRAIN.DATA_ROOT", "/a", "DETECTION.VOC_ROOT", "/b", *opts])

    assert not [name for name in names(real()) if name.startswith("data/")]
    assert {name.rpartition("/")[2] for name in changed_names(real(), real("DETECTION.VOC_ROOT", "/c"))} == {
        "fine_tune",
        "evaluate",
        "comparison",
    }
    assert "baseline/seed0/pretrain" in changed_names(real(), real("PRETRAIN.DATA_ROOT", "/c"))


def test_make_plan__names_the_experiment_whose_config_is_wrong(plan_of):
    entry = {"METHOD": "mine", "CONFIG": CONFIG, "OPTS": ["MIXING.METHOD", "cutmax"]}
    with pytest.raises(ValueError, match=r"experiment mine: MIXING.METHOD is 'cutmax'; expected one of baseline"):
        plan_of(EXPERIMENTS=[entry])
    with pytest.raises(FileNotFoundError, match=r"config file .*no\.yaml does not exist"):
        plan_of(EXPERIMENTS=[{"METHOD": "mine", "CONFIG": "no.yaml"}])
    with pytest.raises(ValueError, match=r"unknown config key SOLVER.MAX_ITERS; did you mean SOLVER.MAX_ITER"):
        plan_of(["DETECTION.OPTS", "['SOLVER.MAX_ITERS', '1']"])


def test_make_plan__accepts_other_code_if_asked(plan_of, monkeypatch):
    before = plan_of()
    begun = {"data/pictures", "baseline/seed0/pretrain"}
    for stage in before.stages:
        if stage.name in begun:
            stage.folder.mkdir(parents=True)
            write_record(
                stage.folder / REQUEST,
                {
                    "kind": stage.kind,
                    "inputs": dict(stage.inputs),
                    "fingerprint": stage.fingerprint,
                    "meaning": stage.meaning,
                    "code": stage.code,
                    "made_from": {},
                },
            )
    monkeypatch.setattr(tools.studies.planning.stages, "stage_version", lambda kind, engine: "newer")
    assert changed_names(before, plan_of()) == names(before)
    accepted = {stage.name: stage for stage in plan_of(accept_code=True).stages}
    kept = {stage.name for stage in before.stages if accepted[stage.name].folder == stage.folder}
    assert kept == begun
    assert accepted["baseline/seed0/pretrain"].code != "newer"
    assert accepted["baseline/seed0/pretrain"].present_code == "newer"
