"""The content of study.json: means, spreads and differences by hand, and what is shown of what was not run."""

import dataclasses
import json
import math

import pytest

from tools.studies.pages.write import summary_table
from tools.studies.planning.cost import Estimates
from tools.studies.records import FAILURE, write_record
from tools.studies.results import study_result, write_study
from tools.studies.values import read_values


def result_of(values, *, seconds=10.0, attempts=1, link=None):
    return {"values": values, "link": link, "seconds": seconds, "attempts": attempts}


def with_numbers(plan, numbers):
    """The results of all stages of those runs of ``numbers``, (method, seed) -> mAP, and of nothing else."""
    results = {}
    for stage in plan.stages:
        if stage.experiment is None or (stage.experiment.method, stage.seed) not in numbers:
            continue
        ap = numbers[stage.experiment.method, stage.seed]
        values = {"voc07_AP50": ap, "voc10_AP50": ap + 1, "voc10_AP": ap / 2} if stage.kind == "evaluate" else {}
        results[stage.name] = result_of(values, link="inference/x/report.html" if stage.kind == "evaluate" else None)
    return results


def test_study_result__means_spreads_and_differences_by_hand(plan_of):
    plan = plan_of(["SEEDS", "(0, 1, 2)"])
    numbers = {
        ("baseline", 0): 40.0,
        ("baseline", 1): 42.0,
        ("baseline", 2): 44.0,
        ("cutmix", 0): 41.0,
        ("cutmix", 1): 44.0,
        ("cutmix", 2): 44.0,
    }
    result = study_result(plan, with_numbers(plan, numbers), {})
    baseline, cutmix = result["rows"]
    ap = baseline["summary"]["voc07_AP50"]
    assert (ap["n"], ap["mean"], ap["std"]) == (3, 42.0, 2.0)
    half = 4.30265 * 2.0 / math.sqrt(3)  # Student's t for two degrees of freedom
    assert ap["interval"] == pytest.approx([42 - half, 42 + half])
    assert ap["difference"] is None
    difference = cutmix["summary"]["voc07_AP50"]["difference"]  # +1, +2, 0, paired by seed
    assert (difference["mean"], difference["n"]) == (1.0, 3)
    assert difference["interval"] == pytest.approx([1 - 4.3027 / math.sqrt(3), 1 + 4.3027 / math.sqrt(3)], abs=1e-4)
    assert difference["adjusted_p"] == difference["p"] == pytest.approx(0.2254, abs=1e-4)  # t 1.732, the only method
    assert (difference["clear"], difference["seeds_needed"]) == (False, 10)
    assert cutmix["summary"]["voc10_AP"]["mean"] == 21.5
    assert baseline["paper"] == {"voc07_AP50": 76.71}
    assert baseline["runs"][1]["seconds"] == 40.0  # four stages
    chain = {stage.name: stage for stage in plan.stages}
    folder = chain["baseline/seed1/evaluate"].folder.relative_to(plan.folder.parent)
    assert baseline["runs"][1]["link"] == f"../{folder}/inference/x/report.html"
    assert result["progress"] == {"done": 24, "total": 27, "failed": 0}
    json.dumps(result, allow_nan=False)


def test_study_result__what_was_not_run_has_no_number(plan_of):
    plan = plan_of()
    result = study_result(plan, with_numbers(plan, {("cutmix", 0): 41.0}), {"cutmix/seed1/convert": "no space"})
    baseline, cutmix = result["rows"]
    assert [run["state"] for run in baseline["runs"]] == ["not run", "not run"]
    assert [run["state"] for run in cutmix["runs"]] == ["done", "failed"]
    assert cutmix["runs"][1]["values"] is None
    assert set(baseline["summary"].values()) == {None}
    ap = cutmix["summary"]["voc07_AP50"]
    assert (ap["n"], ap["mean"], ap["std"], ap["interval"], ap["difference"]) == (1, 41.0, None, None, None)
    stages = {stage["name"]: stage for stage in result["stages"]}
    assert stages["cutmix/seed1/convert"]["state"] == "failed"
    assert stages["cutmix/seed1/convert"]["message"] == "no space"
    assert stages["cutmix/seed1/fine_tune"]["state"] == "not run"


def test_study_result__leads_with_the_numbers_of_the_data_s_own_kind(plan_of):
    assert [metric["key"] for metric in study_result(plan_of(), {}, {})["metrics"]] == [
        "voc07_AP50", "voc10_AP50", "voc10_AP", "coco_AP",
    ]  # fmt: skip
    plan = plan_of(["DETECTION.OPTS", "['DATASETS.TEST', \"('a/test.json',)\"]"])
    numbers = {("baseline", 0): 40.0, ("cutmix", 0): 41.0}
    results = with_numbers(plan, numbers)  # as they were kept before COCO's numbers were
    results["cutmix/seed0/evaluate"]["values"] |= {"coco_AP": 20.0}
    told = study_result(plan, results, {})
    assert [metric["key"] for metric in told["metrics"]] == [
        "coco_AP", "coco_AP50", "coco_AP75", "coco_APs", "coco_APm", "coco_APl", "voc07_AP50", "voc10_AP50", "voc10_AP",
    ]  # fmt: skip
    assert [row["summary"]["coco_AP"] and row["summary"]["coco_AP"]["mean"] for row in told["rows"]] == [None, 20.0]


def test_study_result__the_verdict_on_coco_data_is_about_coco_ap(plan_of):
    plan = plan_of(["DETECTION.OPTS", "['DATASETS.TEST', \"('coco_2017_val',)\"]"])
    numbers = {("baseline", 0): 60.0, ("baseline", 1): 61.0, ("cutmix", 0): 50.0, ("cutmix", 1): 51.0}
    results = with_numbers(plan, numbers)
    for (method, seed), ap in numbers.items():  # cutmix is the better one by COCO's number, the worse by VOC's
        results[f"{method}/seed{seed}/evaluate"]["values"] |= {"coco_AP": 80.0 - ap + (seed and 0.5), "coco_APs": None}
    (verdict,) = (told := study_result(plan, results, {}))["verdicts"]
    assert (verdict["metric"], verdict["ranked"]) == ("coco_AP", ["cutmix", "baseline"])
    assert verdict["difference"]["mean"] == 10.0
    assert told["rows"][1]["summary"]["coco_APs"] is None
    assert summary_table(told)[0].split("|")[2].strip() == "COCO AP, %"


def test_study_result__says_what_a_stage_ran_on(plan_of):
    plan = plan_of()
    stage, other = plan.stages[:2]
    results = {stage.name: result_of({}) | {"processes": 4, "machine": "node7"}, other.name: result_of({})}
    told = {one["name"]: one for one in study_result(plan, results, {})["stages"]}
    assert [told[stage.name][key] for key in ("processes", "machine")] == [4, "node7"]
    assert [told[other.name][key] for key in ("processes", "machine")] == [
        None,
        None,
    ]  # of a result before they were kept


def test_study_result__names_the_file_wherever_it_is_read(plan_of, monkeypatch, tmp_path):
    plan = plan_of()
    monkeypatch.chdir(tmp_path)
    relative = dataclasses.replace(plan, config_file=plan.config_file.relative_to(tmp_path))
    told = study_result(relative, {}, {})
    assert (told["config_file"], told["config_path"]) == ("study.yaml", str(plan.config_file))


def test_study_result__a_failure_of_an_earlier_call_is_still_told(plan_of):
    plan = plan_of()
    stage = next(stage for stage in plan.stages if stage.kind == "convert")
    stage.folder.mkdir(parents=True)
    write_record(stage.folder / FAILURE, {"message": "no space", "attempts": 1})
    told = next(one for one in study_result(plan, {}, {})["stages"] if one["name"] == stage.name)
    assert (told["state"], told["message"]) == ("failed", "no space")


def test_study_result__differences_only_over_seeds_that_both_have(plan_of):
    plan = plan_of()
    numbers = {("baseline", 0): 40.0, ("cutmix", 0): 41.5, ("cutmix", 1): 50.0}
    cutmix = study_result(plan, with_numbers(plan, numbers), {})["rows"][1]
    assert cutmix["summary"]["voc07_AP50"]["difference"] == {
        "n": 1, "mean": 1.5, "std": None, "interval": None, "test": "paired by seed", "p": None, "adjusted_p": None,
        "clear": False, "seeds_needed": None,
    }  # fmt: skip


def test_study_result__the_baseline_is_that_of_the_same_model_and_data(plan_of):
    config = "pretrain/configs/demo_r18_saliencymix.yaml"
    rows = [
        {"METHOD": method, "MODEL": model, "CONFIG": config, "OPTS": ["MIXING.METHOD", method]}
        for model in ("small", "large")
        for method in ("baseline", "cutmix")
    ]
    plan = plan_of(["KIND", "classification", "SEEDS", "(0,)"], EXPERIMENTS=rows)
    errors = {"small/baseline": 10.0, "small/cutmix": 9.0, "large/baseline": 5.0, "large/cutmix": 5.5}
    results = {
        stage.name: result_of({"top1_error": errors[stage.experiment.name], "top5_error": 1.0})
        for stage in plan.stages
        if stage.kind == "pretrain"
    }
    told = study_result(plan, results, {})
    differences = [row["summary"]["top1_error"]["difference"] for row in told["rows"]]
    assert [one and one["mean"] for one in differences] == [None, -1.0, None, 0.5]


def test_study_result__of_timing_attacks_and_pictures(plan_of):
    plan = plan_of(["KIND", "timing"])
    values = {
        "baseline": {"seconds_per_iteration": 0.2, "relative_time": 1.0},
        "cutmix": {"seconds_per_iteration": 0.21, "relative_time": 1.05},
    }
    told = study_result(plan, {"study/timing": result_of(values, link="timing.json")}, {})
    assert [row["summary"]["relative_time"]["mean"] for row in told["rows"]] == [1.0, 1.05]
    assert len(told["rows"][0]["runs"]) == 1

    plan = plan_of(["KIND", "robustness", "ATTACK.EPSILONS", "(0.5, 8.0)", "ATTACK.METHODS", "('fgsm',)"])
    assert [metric["key"] for metric in study_result(plan, {}, {})["metrics"]] == ["clean_top1", "fgsm_0.5", "fgsm_8"]

    plan = plan_of(["KIND", "cam"])
    cam = next(stage for stage in plan.stages if stage.kind == "cam")
    told = study_result(plan, {"study/cam": result_of({})}, {})
    assert told["rows"] == told["metrics"] == []
    assert told["figures"][0]["src"] == f"{cam.folder.name}/cam.png"


def test_read_values__of_what_each_command_leaves(tmp_path):
    (tmp_path / "metrics.json").write_text(
        '{"iteration": 5, "val/top1_error": 50.0, "val/top5_error": 9.0}\n{"iteration": 9, "loss": 1.0}\n'
        '{"iteration": 10, "val/top1_error": 40.0, "val/top5_error": 8.0}\n{"iteration": 10, "loss": 1.0}\n'
    )
    assert read_values("pretrain", tmp_path, ["model_final.pth"])[0] == {
        "top1_error": 40.0, "top5_error": 8.0, "best_top1_error": 40.0, "best_top5_error": 8.0,
    }  # fmt: skip
    (tmp_path / "attack.json").write_text(
        json.dumps({"clean_top1": 60.0, "attacks": [{"attack": "fgsm", "epsilon": 0.5, "top1": 20.0}]})
    )
    assert read_values("attack", tmp_path, ["attack.json"])[0] == {"clean_top1": 60.0, "fgsm_0.5": 20.0}
    (tmp_path / "metrics.json").write_text('{"iteration": 9, "loss": 1.0}\n')
    part = {"AP": 1.0, "AP50": 2.0, "AP75": 3.0}
    coco = {"AP": 4.0, "AP50": 5.0, "AP75": 6.0, "APs": None, "APm": 7.0, "APl": 8.0}
    (tmp_path / "report.json").write_text(json.dumps({"voc07": part, "voc10": part, "coco": coco}))
    assert read_values("evaluate", tmp_path, ["report.json"])[0] == {
        "voc07_AP50": 2.0, "voc07_AP": 1.0, "voc07_AP75": 3.0, "voc10_AP50": 2.0, "voc10_AP": 1.0,
        "coco_AP": 4.0, "coco_AP50": 5.0, "coco_AP75": 6.0, "coco_APs": None, "coco_APm": 7.0, "coco_APl": 8.0,
    }  # fmt: skip
    (tmp_path / "accuracy.json").write_text(json.dumps({"top1_error": 20.0, "top5_error": 5.0, "num_images": 9}))
    assert read_values("accuracy", tmp_path, ["accuracy.json"])[0] == {"top1_error": 20.0, "top5_error": 5.0}
    with pytest.raises(ValueError, match=r"metrics\.json has no evaluation"):
        read_values("pretrain", tmp_path, ["model_final.pth"])


EPOCHS = [(1, 50.0, 9.0), (2, 30.0, 7.0), (3, 30.0, 6.0), (4, 40.0, 5.0)]  # iteration, top-1 and top-5 error
LAST = {"top1_error": 40.0, "top5_error": 5.0}
BEST = {"best_top1_error": 30.0, "best_top5_error": 7.0}  # of the first of equals


def write_epochs(folder):
    lines = [{"iteration": i, "val/top1_error": one, "val/top5_error": five} for i, one, five in EPOCHS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_read_values__of_the_last_and_of_the_best_epoch(tmp_path):
    write_epochs(tmp_path)
    assert read_values("pretrain", tmp_path, ["model_final.pth"]) == (LAST | BEST, None)


@pytest.mark.parametrize("recorded, is_there, found", [
    (LAST | {"best_top1_error": 1.0, "best_top5_error": 0.5}, True, {"best_top1_error": 1.0, "best_top5_error": 0.5}),
    (LAST, True, BEST),
    (LAST, False, {}),
    (LAST | {"top5_error": 5.5}, True, {}),  # what is there is of another run
])  # fmt: skip
def test_study_result__a_pretraining_of_before_the_best_epoch_was_recorded(plan_of, recorded, is_there, found):
    plan = plan_of(["KIND", "classification"])
    stage = next(stage for stage in plan.stages if stage.name == "baseline/seed0/pretrain")
    if is_there:
        write_epochs(stage.folder)
    told = study_result(plan, {stage.name: result_of(recorded)}, {})
    assert told["rows"][0]["runs"][0]["values"] == recorded | found
    assert ("not recorded" in " ".join(summary_table(told))) == (not found)


def test_study_result__says_that_the_best_epoch_is_chosen_by_what_it_is_measured_on(plan_of):
    said = {kind: study_result(plan_of(["KIND", kind]), {}, {})["notes"] for kind in ("classification", "transfer")}
    assert "chosen by the very pictures that its errors are of" in said["classification"][-1]
    assert not any("best epoch" in note for note in said["transfer"])


def test_study_result__names_a_kind_of_stage_where_all_of_it_are_meant(plan_of):
    plan = plan_of(["SEEDS", "(0, 1)"])  # of two rows
    results = with_numbers(plan, {(method, seed): 40.0 for method in ("baseline", "cutmix") for seed in (0, 1)})
    for name, result in results.items():
        old = name.endswith("/pretrain") or name == "cutmix/seed1/convert"
        result["versions"] = {"torch": "2.6" if old else "2.7"}
    told = study_result(plan, results, {})["versions"]["torch"]
    assert told == "2.6 (every pretrain (4), cutmix/seed1/convert); 2.7 (all others)"


def test_study_result__keeps_all_that_the_paper_has(plan_of):
    numbers = {"PAPER": {"voc07_AP50": 76.71}, "PAPER_STD": {"voc07_AP50": 0.2}, "PAPER_ONLY": {"hours": 0.83}}
    rows = [{"METHOD": "baseline", "CONFIG": "pretrain/configs/demo_r18_saliencymix.yaml", **numbers}]
    (row,) = study_result(plan_of(EXPERIMENTS=rows), {}, {})["rows"]
    assert [row[key] for key in ("paper", "paper_std", "paper_only")] == list(numbers.values())


def test_study_result__says_which_checkpoint_goes_on(plan_of):
    final, best = (study_result(plan_of(["PRETRAIN.CHECKPOINT", which]), {}, {}) for which in ("final", "best"))
    assert [told["protocol"]["convert: CHECKPOINT"] for told in (final, best)] == ["final", "best"]
    assert "What goes on from pretraining is the checkpoint of the best epoch" in best["notes"][-1]
    assert not any("best epoch" in note for note in final["notes"])


def test_estimates__from_what_was_measured_else_from_stated_rates(plan_of):
    plan = plan_of(["COST.PRETRAIN_RATE", "100", "GPUS", "4", "PRETRAIN.OPTS", "['SOLVER.EPOCHS', '10']"])
    stages = {stage.name: stage for stage in plan.stages}
    first, second = stages["baseline/seed0/pretrain"], stages["cutmix/seed0/pretrain"]
    estimates = Estimates(plan.cfg)
    assert first.work == 10 * 40  # epochs of 4 pictures of each of 10 digits
    assert estimates.seconds(first) == 400 / 100 / 4
    assert estimates.seconds(stages["baseline/seed0/convert"]) is None
    estimates.add(first, result_of({}, seconds=7.0, attempts=2))  # says only how long its last part took
    assert estimates.seconds(second) == 1.0
    estimates.add(first, result_of({}, seconds=7.0))
    assert estimates.seconds(second) == pytest.approx(7.0)


@pytest.mark.parametrize("opts, said", [
    ([], "The runs of a row differ in the seeds of pretraining and of fine-tuning."),
    (["PRETRAIN.SEED", "5"],
     "The runs of a row differ in the seed of fine-tuning alone: all start from one pretraining, of seed 5. Spreads, "
     "intervals and differences are about the noise of fine-tuning, and say nothing of how another pretraining by the "
     "same method would do."),
    (["PRETRAIN.SEED", "5", "SEEDS", "(0,)"], None),
    (["KIND", "classification"], "The runs of a row differ in the seed of pretraining."),
    (["KIND", "robustness"], "The runs of a row differ in the seed of pretraining."),
    (["KIND", "timing"], None),
    (["KIND", "cam"], None),
])  # fmt: skip
def test_study_result__says_what_varied_between_the_runs(plan_of, opts, said):
    plan = plan_of(opts, NOTES=["Mine."])
    notes = [note for note in study_result(plan, {}, {})["notes"] if "best epoch" not in note]
    assert notes == ["Mine.", *([said] if said else [])]
    if said is not None:
        write_study(plan, {}, {})
        for name in ("study.md", "study.html"):
            assert said.split(":")[0] in (plan.folder / name).read_text("utf-8")


@pytest.mark.parametrize("opts, more", [([], ""), (["PRETRAIN.SEED", "5"], "; its runs differ in fine-tuning alone")])
def test_study_result__says_so_of_the_comparison_too(plan_of, opts, more):
    plan = plan_of(opts)
    (link,) = study_result(plan, {"study/comparison": result_of({}, link="comparison.html")}, {})["links"]
    assert link["label"] == f"Comparison of the detectors: intervals over pictures, classes{more}"
