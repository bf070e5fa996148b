"""A sweep: what it is chosen on, by which rule, and that the pictures of the test have no part in it."""

import json
import re

import pytest

from detection.config import load_detection_config
from tools.studies.experiments import ROOT
from tools.studies.launching.local import LocalLauncher
from tools.studies.pages import summary_table
from tools.studies.pages.rates import rates_in_words
from tools.studies.pages.write import render_markdown
from tools.studies.planning.cost import Estimates
from tools.studies.planning.detectors import CHOICE, HELD_OUT, OWN_RATE
from tools.studies.results import study_result
from tools.studies.runner import finished, run, select
from tools.studies.sweep import choice, trial
from tools.studies.sweep.choice import choose

RANDOM = {"METHOD": "random", "WEIGHTS": "random"}
OTHER = {"METHOD": "cutmix", "CONFIG": "pretrain/configs/demo_r18_saliencymix.yaml"}
SWEEP = {"RATES": [0.01, 0.04], "SEED": 3}


def tried(*pairs):
    return [{"rate": rate, "value": value, "diverged": "" if value is not None else "nan"} for rate, value in pairs]


@pytest.mark.parametrize("curve, rate, edge", [
    ([(0.01, 40.0), (0.02, 42.0), (0.04, 41.0)], 0.02, ""),
    ([(0.04, 41.0), (0.01, 40.0), (0.02, 42.0)], 0.02, ""),  # whatever the order
    ([(0.01, 43.0), (0.02, 42.0), (0.04, 41.0)], 0.01, "lowest"),
    ([(0.01, 40.0), (0.02, 42.0), (0.04, 43.0)], 0.04, "highest"),
    ([(0.01, 40.0), (0.02, 42.0), (0.04, 42.0)], 0.02, ""),  # of equal ones the lower
    ([(0.01, 40.0), (0.02, 42.0), (0.04, None)], 0.02, ""),  # what lies beyond is known: it diverges
])  # fmt: skip
def test_choose__the_best_on_what_was_held_out(curve, rate, edge):
    found = choose(tried(*curve))
    assert (found["rate"], found["edge"]) == (rate, edge)
    assert [one["rate"] for one in found["curve"]] == sorted(rate for rate, _ in curve)


def test_choose__refuses_where_all_diverged():
    with pytest.raises(ValueError, match=r"^training diverged at every rate of 1, 2 \(nan\); add lower ones to SWEEP"):
        choose(tried((1.0, None), (2.0, None)))


def test_choice__writes_a_config_that_differs_in_the_rate_alone(tmp_path, capsys):
    for rate, value in (("0.01", 30.0), ("0.002", 31.0)):
        (tmp_path / rate).write_text(json.dumps({"value": value, "diverged": ""}))
    config = str(ROOT / "detection/configs/demo_r18_fpn.yaml")
    choice.main([config, str(tmp_path), *(f"{rate}={tmp_path / rate}" for rate in ("0.01", "0.002"))])
    given = load_detection_config(config, ["OUTPUT_DIR", str(tmp_path)])
    own = load_detection_config(str(tmp_path / OWN_RATE), ["OUTPUT_DIR", str(tmp_path)])
    assert own.SOLVER.BASE_LR == 0.002
    own.SOLVER.BASE_LR = given.SOLVER.BASE_LR
    assert own == given
    assert json.loads((tmp_path / CHOICE).read_text())["edge"] == "lowest"


def report(folder, name, ap, pictures):
    (folder / "inference" / name).mkdir(parents=True)
    numbers = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), ap)
    content = {"voc07": numbers, "voc10": numbers, "coco": numbers, "num_images": pictures}
    (folder / "inference" / name / "report.json").write_text(json.dumps(content))


def test_trial__several_sets_count_by_their_pictures(tmp_path):
    report(tmp_path, "voc_2007_val", 30.0, 100)
    report(tmp_path, "voc_2012_val", 60.0, 200)
    assert trial.mean_over_sets(tmp_path, "voc07_AP50") == pytest.approx(50.0)


def test_trial__without_objects_is_refused(tmp_path):
    report(tmp_path, "one", None, 100)
    with pytest.raises(ValueError, match=r"report.json has no voc07_AP50: its pictures hold no object to find"):
        trial.mean_over_sets(tmp_path, "voc07_AP50")


def test_trial__that_diverges_is_a_result(tmp_path, monkeypatch):
    def main(words):
        raise FloatingPointError("the loss of iteration 7 is not finite")

    monkeypatch.setattr("tools.train_net.main", main)
    trial.main(["voc07_AP50", str(tmp_path), "SEED", "1"])
    found = {"value": None, "diverged": "the loss of iteration 7 is not finite"}
    assert json.loads((tmp_path / HELD_OUT).read_text()) == found


def test_plan__the_test_set_comes_after_the_choice(plan_of):
    plan = plan_of(EXPERIMENTS=[RANDOM, OTHER], SWEEP=SWEEP)
    stages = {stage.name: stage for stage in plan.stages}
    for row in ("random", "cutmix"):
        trials = [stages[f"{row}/sweep/rate{rate}"] for rate in ("0.01", "0.04")]
        for one, rate in zip(trials, ("0.01", "0.04"), strict=True):
            words = one.command
            assert words[words.index("SOLVER.BASE_LR") + 1] == rate
            assert words[words.index("SEED") + 1] == "3"
            assert not [word for word in words if "2007_test" in word]
        assert stages[f"{row}/sweep/choice"].parents == tuple(trials)
        for seed in (0, 1):
            trained = stages[f"{row}/seed{seed}/fine_tune_own"]
            assert stages[f"{row}/sweep/choice"] in trained.parents
            assert trained in stages[f"{row}/seed{seed}/evaluate_own"].parents
            assert "SOLVER.BASE_LR" not in trained.command
            assert trained.inputs["SEED"] == stages[f"{row}/seed{seed}/fine_tune"].inputs["SEED"] == seed
    assert (
        stages["random/seed0/fine_tune"].folder
        == {stage.name: stage.folder for stage in plan_of(EXPERIMENTS=[RANDOM, OTHER]).stages}["random/seed0/fine_tune"]
    )  # what was trained at the protocol's rate stays


def test_plan__half_of_the_pictures_for_half_of_the_iterations(plan_of):
    plan = plan_of(EXPERIMENTS=[RANDOM], SWEEP=SWEEP, DETECTION={
        "CONFIG": "detection/configs/demo_r18_fpn.yaml", "ENGINE": "torchvision",
        "OPTS": ["SOLVER.MAX_ITER", 100, "SOLVER.STEPS", "(1, 90)", "SOLVER.BASE_LR", 0.5],
    })  # fmt: skip
    one = next(stage for stage in plan.stages if stage.kind == "sweep").inputs
    assert (one["SOLVER.MAX_ITER"], list(one["SOLVER.STEPS"])) == (50, [45])
    assert one["DATASETS.TEST"] == one["DATASETS.TRAIN"]
    assert (one["DATASETS.HELD_OUT"], one["DATASETS.HELD_OUT_SEED"]) == (0.5, 3)
    quarter = plan_of(EXPERIMENTS=[RANDOM], SWEEP=SWEEP | {"HELD_OUT": 0.25})
    one = next(stage for stage in quarter.stages if stage.kind == "sweep").inputs
    assert one["SOLVER.MAX_ITER"] == round(0.75 * quarter.detection.SOLVER.MAX_ITER)
    own = next(stage for stage in plan.stages if stage.name == "random/seed0/fine_tune_own")
    assert "0.5" not in own.command


@pytest.mark.parametrize("files, test", [
    (["2007/train", "2007/val", "2012/train", "2012/val"], ["voc_2007_val", "voc_2012_val"]),
    (["2007/train", "2007/val", "2012/train"], ["voc_2007_trainval", "voc_2012_trainval"]),
])  # fmt: skip
def test_plan__val_of_voc_where_its_files_are_there(plan_of, tmp_path, files, test):
    for file in files:
        year, _, name = file.partition("/")
        path = tmp_path / "VOCdevkit" / f"VOC{year}" / "ImageSets" / "Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    detection = {"CONFIG": "detection/configs/voc_r50_c4_moco.yaml", "ENGINE": "torchvision", "VOC_ROOT": str(tmp_path)}
    plan = plan_of(EXPERIMENTS=[RANDOM], SWEEP=SWEEP, DETECTION=detection, DIGITS={})
    one = next(stage for stage in plan.stages if stage.kind == "sweep").inputs
    assert list(one["DATASETS.TEST"]) == test
    assert one["SOLVER.MAX_ITER"] == 12_000
    assert one["sets"] == [*one["DATASETS.TRAIN"], *test]


@pytest.mark.parametrize("sweep, message", [
    ({"RATES": [0.1]}, r"SWEEP.RATES is \(0.1,\); expected two or more different numbers above 0"),
    ({"RATES": [0.1, 0.1]}, "SWEEP.RATES is .*; expected two or more different numbers above 0"),
    ({"RATES": [0.1, -1]}, "SWEEP.RATES is .*; expected two or more different numbers above 0"),
    ({"RATES": [0.1, 0.2], "HELD_OUT": 1.0}, "SWEEP.HELD_OUT is 1.0; expected at least 0 and below 1"),
])  # fmt: skip
def test_config__refuses(plan_of, sweep, message):
    with pytest.raises(ValueError, match=message):
        plan_of(SWEEP=sweep)


def test_config__refuses_a_sweep_without_fine_tuning(plan_of):
    with pytest.raises(ValueError, match=r"^SWEEP\.RATES are set, but KIND classification has no fine-tuning"):
        plan_of(["KIND", "classification"], SWEEP=SWEEP)


@pytest.fixture
def result(plan_of):
    """Two rows at the protocol's rate, where the first is better, and at their own, where the second is."""
    plan = plan_of(EXPERIMENTS=[RANDOM, OTHER | {"METHOD": "moco"}], SWEEP=SWEEP)
    numbers = {
        ("random", "evaluate"): 40, ("random", "evaluate_own"): 41,
        ("moco", "evaluate"): 30, ("moco", "evaluate_own"): 50,
    }  # fmt: skip
    results = {}
    for stage in plan.stages:
        row, name = stage.name.partition("/")[0], stage.name.rpartition("/")[2]
        ap = numbers.get((row, name))
        values = {} if ap is None else {"voc07_AP50": ap + stage.seed, "voc10_AP50": ap, "voc10_AP": ap / 2}
        if stage.kind == "choice":
            curve = tried((0.01, 20.0), (0.04, None)) if row == "random" else tried((0.01, 20.0), (0.04, 30.0))
            stage.folder.mkdir(parents=True)
            (stage.folder / CHOICE).write_text(json.dumps(choose(curve)))
        results[stage.name] = {"values": values, "link": None, "seconds": 60.0, "attempts": 1}
    return study_result(plan, results, {})


def test_result__a_column_at_the_own_rate_which_is_what_is_judged(result):
    random, moco = result["rows"]
    assert random["summary"]["voc07_AP50"]["mean"] == 40.5
    assert random["summary"]["own_voc07_AP50"]["mean"] == 41.5
    assert moco["summary"]["own_voc07_AP50"]["mean"] == 50.5
    assert result["verdicts"][0]["ranked"] == ["moco", "random"]
    assert result["protocol"]["fine_tune: SOLVER.BASE_LR"] == 0.02
    head = summary_table(result)[0]
    assert re.search(r"mAP, 11 points, % +\| mAP, 11 points, own rate, %", head)


def test_result__before_the_choice_there_is_no_own_rate(plan_of):
    plan = plan_of(EXPERIMENTS=[RANDOM], SWEEP=SWEEP)
    results = {
        stage.name: {"values": {"voc07_AP50": 40.0}, "link": None, "seconds": 60.0, "attempts": 1}
        for stage in plan.stages
        if stage.experiment is not None
    }
    result = study_result(plan, results, {})
    cells = [cell.strip() for cell in summary_table(result)[2].split("|")]
    assert cells[2:4] == ["40.00 +- 0.00 (2)", "not run"]
    assert rates_in_words(result).table[1] == ("random", "not chosen yet", "-")


def test_result__curves_edges_and_cost(result):
    rates = rates_in_words(result)
    assert rates.table == [
        ("method", "0.01", "0.04", "own rate", "h:mm:ss"),
        ("random", "20.00", "diverged", "0.01", "0:02:00"),
        ("moco", "20.00", "30.00", "0.04", "0:02:00"),
    ]
    assert rates.warnings == [
        "random: 0.01 is the lowest rate that was tried; the best may lie beyond it.",
        "moco: 0.04 is the highest rate that was tried; the best may lie beyond it.",
    ]
    assert "50 % of the pictures of voc_2007_trainval and voc_2012_trainval, drawn by seed 3" in rates.note
    assert "The protocol's own rate, 0.02, is that of all other columns." in rates.note
    assert rates.warnings[1] in render_markdown(result)


@pytest.mark.slow
def test_sweep__finds_a_planted_optimum_without_the_pictures_of_the_test(plan_of):
    """A rate at which nothing is learned, one that works, one at which training diverges; the test set is not there."""
    opts = ["SOLVER.MAX_ITER", 300, "SOLVER.STEPS", "(240,)", "SOLVER.CLIP_GRADIENTS.ENABLED", False]
    plan = plan_of(
        EXPERIMENTS=[RANDOM],
        SWEEP={"RATES": [1e-7, 0.005, 1e4]},
        DETECTION={"CONFIG": "detection/configs/digits_r18_fpn.yaml", "ENGINE": "torchvision", "OPTS": opts},
        DIGITS={"SCENES": 100, "TEST_SCENES": 4},
    )
    estimates, launcher = Estimates(plan.cfg), LocalLauncher(1)
    assert run(select(plan, ["VOCdevkit"]), launcher, estimates) == {}
    (made,) = finished(plan.stages).keys() & {"data/VOCdevkit"}
    (test_set,) = next(stage.folder for stage in plan.stages if stage.name == made).rglob("test.txt")
    kept = test_set.rename(test_set.with_suffix(".kept"))
    assert run([stage for stage in plan.stages if stage.kind in ("sweep", "choice", "data")], launcher, estimates) == {}
    kept.rename(test_set)
    (chosen,) = (stage for stage in plan.stages if stage.kind == "choice")
    found = json.loads((chosen.folder / CHOICE).read_text())
    low, good, high = found["curve"]
    assert (found["rate"], found["edge"]) == (0.005, "")
    assert low["value"] < good["value"]
    assert "not finite" in high["diverged"]
