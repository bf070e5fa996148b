"""Records that are valid JSON but not what they should be: a stage is not done, a page says so, and nobody is lost."""

import copy
import json
import logging
import re

import pytest

from pretrain.run.text import read_json
from tools.studies import worker
from tools.studies.launching.cluster import JOB, SlurmLauncher
from tools.studies.launching.queue import SlurmQueue
from tools.studies.planning.cost import Estimates, describe_plan
from tools.studies.records import (
    FAILURE,
    REQUEST,
    RESULT,
    Begun,
    Result,
    changed_outputs,
    describe_outputs,
    failure_message,
    find_record,
    write_record,
)
from tools.studies.results import write_study
from tools.studies.runner import _made_from, finished, prepare, refuse_other_study
from tools.studies.values import read_values
from tools.studies.worker import run_stage

OTHERS = (None, True, "x", 1.5, [], {"x": "x"})


def broken(content):
    """Yield ``content`` with each of its keys left out, and with each of its values of another type."""
    for place in places(content):
        parent, last = whereabouts(copied := copy.deepcopy(content), place)
        del parent[last]
        yield copied
        parent, last = whereabouts(content, place)
        for other in OTHERS:
            if type(other) is not type(parent[last]):
                inside, _ = whereabouts(copied := copy.deepcopy(content), place)
                inside[last] = other
                yield copied
    yield from (other for other in OTHERS if not isinstance(other, dict))


def places(content, before=()):
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield (*before, key)
        yield from places(content[key], (*before, key))


def whereabouts(content, place):
    for key in place[:-1]:
        content = content[key]
    return content, place[-1]


def finish(plan, values):
    """Leave what a worker leaves of every stage of ``plan``; the stages of a kind have its ``values``."""
    results = {}
    for stage in plan.stages:
        made_from = _made_from(stage, results)
        prepare(stage, made_from)
        for output in stage.outputs:
            (stage.folder / output).parent.mkdir(parents=True, exist_ok=True)
            (stage.folder / output).write_text(stage.name)
        results[stage.name] = {
            "fingerprint": stage.fingerprint, "made_from": made_from, "link": None, "attempts": 1, "seconds": 2.0,
            "outputs": describe_outputs(stage.folder, stage.outputs), "values": values.get(stage.kind, {}),
            "finished": "2026-11-22 19:00:00",
        }  # fmt: skip
        write_record(stage.folder / RESULT, results[stage.name])
    return results


CLASSIFICATION = {"pretrain": {"top1_error": 20.0, "top5_error": None}}
ONE_TIME = {"seconds_per_iteration": 0.1, "relative_time": 1.0}
TIMING = {"timing": {"baseline": ONE_TIME, "cutmix": ONE_TIME}}
KINDS = [("classification", CLASSIFICATION, "baseline/seed0/pretrain"), ("timing", TIMING, "study/timing")]


@pytest.mark.parametrize("kind, values, name", KINDS, ids=[kind for kind, _, _ in KINDS])
def test_result__that_is_none_leaves_its_stage_undone(plan_of, kind, values, name):
    plan = plan_of(["KIND", kind])
    assert finished(plan.stages) == {}
    results = finish(plan, values)  # without what earlier versions did not record
    assert finished(plan.stages) == results
    stage = next(stage for stage in plan.stages if stage.name == name)
    undone = 0
    for content in broken(results[name]):
        write_record(stage.folder / RESULT, content)
        found = finished(plan.stages)
        if name not in found:
            undone += 1
            if undone > 1:
                continue  # the page is that of the first one
        told = write_study(plan, found, {})
        describe_plan(plan, plan.stages, [one for one in plan.stages if one.name not in found], Estimates(plan.cfg))
        assert told["progress"]["done"] == len(found)
    assert undone > 50


def test_finished__what_another_study_also_asked_of_a_parent_makes_nothing_stale(plan_of):
    plan = plan_of(["KIND", "robustness"])
    results = finish(plan, {})
    stage = next(stage for stage in plan.stages if stage.name == "cutmix/seed0/pretrain")
    (stage.folder / "model_best.pth").write_text("the best")
    outputs = describe_outputs(stage.folder, ["model_final.pth", "model_best.pth"])
    write_record(stage.folder / RESULT, results[stage.name] | {"outputs": outputs})
    assert set(finished(plan.stages)) == set(results)
    both = plan_of(["KIND", "robustness", "PRETRAIN.CHECKPOINT", "best"]).stages
    assert set(finished(both)) == {"data/pictures", stage.name}  # of the other method the best one is not on record


@pytest.mark.parametrize("record, message", [
    ({"seconds": "2"}, r"result\.json is not a result: Expected `float`, got `str` at `\$\.seconds`"),
    ({"outputs": {}}, r"out\.txt is missing or has changed since it was made"),
])  # fmt: skip
def test_prepare__of_a_damaged_result_runs_again_and_says_why(make_stage, caplog, record, message):
    stage = make_stage("first")
    prepare(stage, {})
    assert run_stage(stage.folder)
    write_record(stage.folder / RESULT, read_json(stage.folder / RESULT) | record)
    assert finished([stage]) == {}
    with caplog.at_level(logging.WARNING):
        prepare(stage, {})
    assert run_stage(stage.folder)
    assert list(finished([stage])) == ["first"]
    assert re.search(f"first runs again: .*{message}", caplog.text)


def test_prepare__of_a_damaged_request_begins_anew(make_stage, caplog):
    stage = make_stage("first")
    prepare(stage, {})
    request = read_json(stage.folder / REQUEST)
    for number, content in enumerate(broken({key: request[key] for key in ("made_from", "meaning")}), start=1):
        (stage.folder / "checkpoint.pth").touch()
        write_record(stage.folder / REQUEST, content)
        prepare(stage, {})
        assert read_json(stage.folder / REQUEST) == request
        assert not (stage.folder / "checkpoint.pth").exists()
        assert (stage.folder.with_name(f"{stage.folder.name}.old{number}") / "checkpoint.pth").exists()
    assert "first runs again: what it was made from is not known (" in caplog.text
    assert "request.json is not a request: missing required field `kind`" in caplog.text


def test_worker__does_not_run_what_is_no_request(make_stage, monkeypatch):
    stage = make_stage("first")
    prepare(stage, {"parent": {"out": "hash"}})
    request = read_json(stage.folder / REQUEST)
    types, ran = {key: type(value) for key, value in request.items()}, []
    monkeypatch.setattr(worker, "_run", lambda request, log, lock: ran.append(request) or 1)
    for content in broken(request):
        write_record(stage.folder / REQUEST, content)
        count = len(ran)
        assert run_stage(stage.folder) is False
        message = read_json(stage.folder / FAILURE)["message"]
        assert (len(ran) > count) is message.startswith("exit status 1") or message.startswith("its code has changed")
        if len(ran) > count:  # of the right types, but for the inputs
            assert {key: type(value) for key, value in ran[-1].items()}.items() <= types.items()
    write_record(stage.folder / REQUEST, {key: value for key, value in request.items() if key != "threads"})
    run_stage(stage.folder)
    assert read_json(stage.folder / FAILURE)["message"] == (
        f"{stage.folder / REQUEST} is not a request: missing required field `threads`; call tools/study.py again, "
        "which writes it"
    )
    (stage.folder / REQUEST).unlink()
    run_stage(stage.folder)
    assert read_json(stage.folder / FAILURE)["message"].endswith("request.json is missing; call tools/study.py again, "
                                                                 "which writes it")  # fmt: skip


def test_worker__a_kind_that_there_is_not(make_stage):
    stage = make_stage("first")
    prepare(stage, {})
    write_record(stage.folder / REQUEST, read_json(stage.folder / REQUEST) | {"kind": "x"})
    assert not run_stage(stage.folder)
    assert "request.json: kind is 'x'; expected one of data, pretrain" in read_json(stage.folder / FAILURE)["message"]


def test_worker__a_result_without_its_outputs_is_none(make_stage):
    stage = make_stage("first")
    prepare(stage, {})
    result = {
        "fingerprint": stage.fingerprint, "made_from": {}, "outputs": {}, "values": {}, "link": None, "attempts": 1,
        "seconds": 1.0, "finished": "2026-11-22 17:00:00",
    }  # fmt: skip
    write_record(stage.folder / RESULT, result)
    assert run_stage(stage.folder)
    assert (stage.folder / "out.txt").exists()


def test_worker__a_command_that_cannot_be_started(make_stage):
    stage = make_stage("first")
    prepare(stage, {})
    for command in (["/no/python", "x"], ["a\0b"]):
        write_record(stage.folder / REQUEST, read_json(stage.folder / REQUEST) | {"command": command})
        assert not run_stage(stage.folder)
        assert read_json(stage.folder / FAILURE)["message"].startswith("its command cannot be started: ")


def test_failure__that_is_none_is_told_as_a_failure(plan_of):
    plan = plan_of()
    stage = plan.stages[0]
    stage.folder.mkdir(parents=True)
    write_record(stage.folder / FAILURE, {"attempts": 1})
    told = write_study(plan, {}, {})["stages"][0]
    assert told["state"] == "failed"
    assert told["message"] == (
        f"it failed, and why is lost: {stage.folder / FAILURE} is not a failure: missing required field `message`"
    )
    for content in broken({"message": "no space"}):
        write_record(stage.folder / FAILURE, content)
        assert failure_message(stage.folder)


def test_study_json__that_is_none_is_replaced(plan_of):
    plan = plan_of()
    plan.folder.mkdir(parents=True)
    for content in broken({"config_path": str(plan.config_file)}):
        write_record(plan.folder / "study.json", content)
        refuse_other_study(plan)
    write_record(plan.folder / "study.json", {"config_path": str(plan.config_file)})
    refuse_other_study(plan)


def test_job_json__that_is_none_is_no_job(make_stage, monkeypatch):
    stage = make_stage("first")
    stage.folder.mkdir(parents=True)
    launcher = SlurmLauncher.__new__(SlurmLauncher)
    launcher.queue = SlurmQueue(run=lambda: "77|RUNNING|None|2026-11-25T10:00:00")
    job = {"cluster": "slurm", "job_id": "77"}
    for content in (one for one in broken(job) if one != job | {"job_id": "x"}):
        write_record(stage.folder / JOB, content)
        assert launcher._queued(stage) is None
    write_record(stage.folder / JOB, job)
    assert launcher._queued(stage) == "77"


AP = '{"AP": 1.0, "AP50": null, "AP75": 3}'
SIZES = {"APs": 4.0, "APm": 5.0, "APl": None}
LEFT = {
    "evaluate": ("inference/report.json",
                 {name: json.loads(AP) for name in ("voc07", "voc10")} | {"coco": json.loads(AP) | SIZES},
                 "is not a report"),
    "attack": ("attack.json", {"clean_top1": 60.0, "attacks": [{"attack": "fgsm", "epsilon": 8, "top1": 20.5}]},
               r"is not the JSON of tools/attack\.py"),
    "timing": ("timing.json", {"runs": [{"name": "cutmix", "seconds_per_iteration": 0.1, "relative": 1.5}]},
               r"is not the JSON of tools/bench_methods\.py"),
}  # fmt: skip


def still_right(content):
    """Those of ``broken`` that are nothing worse than another number, or none where there may be none."""
    for place in places(content):
        for other in (None, 1.5, []):
            parent, last = whereabouts(copied := copy.deepcopy(content), place)
            before = parent[last]
            is_ap = str(last).startswith("AP")
            if (other is None and is_ap) or (other == 1.5 and (type(before) in (int, float) or is_ap)):
                parent[last] = other
                yield copied
            elif other == [] and isinstance(before, list):
                yield content | {last: []}
    for name in ("attacks", "runs"):
        if name in content:
            yield content | {name: []}


@pytest.mark.parametrize("kind", LEFT)
def test_read_values__names_file_and_key(tmp_path, kind):
    name, whole, complaint = copy.deepcopy(LEFT[kind])
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write_record(path, whole)
    expected = read_values(kind, tmp_path, [name])
    accepted, refused = {json.dumps(content) for content in still_right(whole)}, 0
    for content in broken(whole):
        path.write_text(json.dumps(content))
        if json.dumps(content) in accepted:
            read_values(kind, tmp_path, [name])
            continue
        with pytest.raises(ValueError, match=rf"{name} {complaint}: .*[`$]"):
            read_values(kind, tmp_path, [name])
        refused += 1
    assert refused > 10
    write_record(path, whole)
    assert read_values(kind, tmp_path, [name]) == expected


def test_read_values__of_an_evaluation_without_its_second_error(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 5, "val/top1_error": 50.0}\n')
    with pytest.raises(
        ValueError, match=r"metrics\.json, iteration 5: not an evaluation: missing required field `val/top5_error`"
    ):
        read_values("pretrain", tmp_path, ["model_final.pth"])


def test_changed_outputs__a_name_that_no_file_has(tmp_path):
    outputs = {"a\0b": {"bytes": 1}, "absent": {"bytes": 1}, "x" * 300: {"bytes": 1}}
    assert changed_outputs(tmp_path, outputs) == list(outputs)


def test_find_record__reads_what_the_first_version_wrote(tmp_path):
    request = {
        "name": "cutmix/seed0/convert", "kind": "convert", "fingerprint": "f", "meaning": "m", "code": "c",
        "inputs": {}, "made_from": {"cutmix/seed0/pretrain": {"model_final.pth": "hash"}}, "command": ["python"],
        "outputs": ["backbone.pth"], "threads": 0,
    }  # fmt: skip
    result = {
        "fingerprint": "f", "made_from": {"data/pictures": {"pictures": 12}}, "values": {}, "link": None, "attempts": 1,
        "outputs": {"model_final.pth": {"bytes": 4, "mtime_ns": 1, "sha256": "s"}, "x": {"files": 1, "bytes": 2}},
        "seconds": 3.5, "finished": "2026-11-22 17:00:00",
    }  # fmt: skip
    write_record(tmp_path / REQUEST, request)
    write_record(tmp_path / RESULT, result)
    begun = {key: request[key] for key in ("kind", "inputs", "fingerprint", "meaning", "code", "made_from")}
    assert find_record(tmp_path / REQUEST, Begun) == (begun, "")
    assert find_record(tmp_path / RESULT, Result) == (result, "")
