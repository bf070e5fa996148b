"""Running stages: order, failures, what is done again and what is not, and what a killed study leaves."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tools.studies import runner
from tools.studies.config import get_cfg
from tools.studies.experiments import ROOT
from tools.studies.launching.local import LocalLauncher
from tools.studies.planning.cost import Estimates
from tools.studies.records import FAILURE, LOG, RESULT
from tools.studies.results import write_study
from tools.studies.runner import find_obstacles, finished, prepare, refuse_other_study, run, select
from tools.studies.worker import is_running, run_stage

COUNT = "open(F.parent / 'runs.txt', 'a').write(F.name.split('-')[0] + ' ')"  # what ran, in order
MAKE = f"{COUNT}; (F / 'out.txt').write_text('made')"


@pytest.fixture
def ran(tmp_path):
    """Return a function: the names of the stages whose commands were run since it was called last."""
    file = tmp_path / "out" / "runs.txt"

    def ran():
        names = file.read_text().split() if file.exists() else []
        file.unlink(missing_ok=True)
        return names

    return ran


def go(stages, jobs=1):
    return run(stages, LocalLauncher(jobs), Estimates(get_cfg()))


def test_run__does_what_is_missing_and_nothing_twice(make_stage, ran):
    first = make_stage("first", MAKE)
    second = make_stage("second", f"assert (F.parent / 'first-12345678/out.txt').exists(); {MAKE}", parents=[first])
    assert go([first, second]) == {}
    assert ran() == ["first", "second"]
    result = finished([first, second])["second"]
    assert result["attempts"] == 1
    assert result["outputs"]["out.txt"]["bytes"] == 4
    assert go([first, second]) == {}
    assert ran() == []
    third = make_stage("third", MAKE, parents=[second])
    assert go([first, second, third]) == {}
    assert ran() == ["third"]


def test_run__ends_chains_before_it_begins_others(make_stage, ran):
    stages = []
    for number in (0, 1):
        parent = make_stage(f"parent{number}", MAKE)
        stages += [parent, make_stage(f"child{number}", MAKE, parents=[parent])]
    parents_first = sorted(stages, key=lambda stage: bool(stage.parents))
    go(parents_first)
    assert ran() == ["parent0", "child0", "parent1", "child1"]


def test_run__goes_on_past_a_failure_and_mends_it_the_next_time(make_stage, tmp_path, ran):
    refuse = "os.path.exists(F.parent / 'mended') or sys.exit('bad.py: error: no weights here')"
    bad = make_stage("bad", f"{COUNT}; {refuse}; {MAKE}")
    child, other = make_stage("child", MAKE, parents=[bad]), make_stage("other", MAKE)
    grandchild = make_stage("grandchild", MAKE, parents=[child])
    stages = [bad, child, grandchild, other]
    assert go(stages) == {"bad": "exit status 1: bad.py: error: no weights here"}
    assert ran() == ["bad", "other"]
    assert not child.folder.exists()
    assert (bad.folder / FAILURE).exists()
    (tmp_path / "out" / "mended").touch()
    assert go(stages) == {}
    assert ran() == ["bad", "bad", "child", "grandchild"]
    assert not (bad.folder / FAILURE).exists()
    assert finished(stages)["bad"]["attempts"] == 2


@pytest.mark.parametrize("code, reason", [
    ("pass", "the command succeeded, but its output is not what was expected: .*out.txt"),
    ("os.kill(os.getpid(), 9)", "ended by signal 9"),
    ("sys.exit(2)", "exit status 2: "),
])  # fmt: skip
def test_run__says_why_a_stage_failed(make_stage, code, reason):
    stage = make_stage("bad", code)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(go([stage])["bad"])
    assert finished([stage]) == {}


def test_run__refuses_a_stage_whose_code_changed_while_the_study_ran(make_stage, ran):
    stage = dataclasses.replace(make_stage("late", MAKE), present_code="of this morning")
    assert go([stage])["late"].startswith("its code has changed since the study was called; call it again")
    assert ran() == []


def test_run__a_changed_output_is_made_again_with_what_follows(make_stage, ran):
    first = make_stage("first", f"{COUNT}; (F / 'out.txt').write_text(str(time.time()))")
    second = make_stage("second", MAKE, parents=[first])
    go([first, second])
    before = (first.folder / "out.txt").read_text()
    (first.folder / "out.txt").write_text("mine")
    assert finished([first, second]) == {}
    ran()
    assert go([first, second]) == {}
    assert ran() == ["first", "second"]  # what was made from the old output is made from the new one
    assert (first.folder / "out.txt").read_text() not in ("mine", before)
    assert (first.folder.with_name(f"{first.folder.name}.old1") / "out.txt").read_text() == "mine"


def test_run__an_output_that_is_made_again_the_same_repeats_nothing_else(make_stage, ran):
    first = make_stage("first", MAKE)
    second = make_stage("second", MAKE, parents=[first])
    go([first, second])
    (first.folder / "out.txt").unlink()
    ran()
    go([first, second])
    assert ran() == ["first"]


def test_finished__a_copied_folder_is_read_again_and_found_the_same(make_stage):
    stage = make_stage("first", MAKE)
    go([stage])
    os.utime(stage.folder / "out.txt", (1, 1))
    assert list(finished([stage])) == ["first"]
    (stage.folder / RESULT).write_text("{")
    assert finished([stage]) == {}


def test_run__passes_threads_and_goes_on_with_what_is_left(make_stage):
    code = (
        "n = len(list(F.glob('part*'))); (F / f'part{n}').touch(); n == 0 and sys.exit(1); "
        "(F / 'out.txt').write_text(os.environ['OMP_NUM_THREADS'])"
    )
    stage = make_stage("resumes", code, threads=3)
    assert list(go([stage])) == ["resumes"]
    assert go([stage]) == {}
    assert (stage.folder / "out.txt").read_text() == "3"
    assert (stage.folder / LOG).read_text().count("$ ") == 2


def test_run__a_finished_stage_keeps_its_final_weights_alone(make_stage):
    code = "[(F / f'model_{n}.pth').touch() for n in ('0000050', '0000100', 'best', 'final')]"
    stage = make_stage("trains", code, outputs=["model_final.pth"])
    assert go([stage]) == {}
    assert sorted(path.name for path in stage.folder.glob("*.pth")) == ["model_best.pth", "model_final.pth"]


def test_run__a_finished_stage_that_is_asked_for_more_goes_on_where_it_is(make_stage):
    code = "[(F / f'model_{name}.pth').write_text('once') for name in ('best', 'final') if not (F / 'log').exists()]"
    stage = make_stage("trains", f"{code}; (F / 'log').touch()", outputs=["model_final.pth"])
    child = make_stage("child", parents=[stage])
    assert go([stage, child]) == {}
    more = dataclasses.replace(stage, outputs=("model_final.pth", "model_best.pth"))
    assert finished([more]) == {}
    assert go([more]) == {}
    assert set(finished([more])["trains"]["outputs"]) == set(more.outputs)
    assert set(finished([stage, child])) == {"trains", "child"}  # of a study that does not ask for more
    assert [path.name for path in stage.folder.parent.iterdir() if "trains" in path.name] == [stage.folder.name]


def test_run__several_at_a_time(make_stage):
    code = (
        "(F / 'here').touch(); t = time.time()\n"
        "while not all((F.parent / f'{n}-12345678/here').exists() for n in 'ab'):\n"
        "    time.sleep(.01); assert time.time() - t < 60\n"
        "(F / 'out.txt').touch()"
    )
    stages = [make_stage(name, code) for name in "ab"]
    assert go(stages, jobs=2) == {}  # each waits for the other


class AtOnce:
    """A launcher whose stages have ended when they are started; it says so at the second look."""

    slots = 100

    def __init__(self):
        self.looks = 0

    def start(self, stage):
        assert run_stage(stage.folder)

    def ended(self, stage):
        self.looks += 1
        return self.looks > 12

    def describe(self, stage):
        return "job 7"

    def stop(self):
        pass


def test_run__of_many_stages_tells_some_and_writes_one_page_for_those_that_ended_together(
    make_stage, caplog, monkeypatch
):
    monkeypatch.setattr(runner, "QUIET_SECONDS", 0)
    caplog.set_level("INFO")
    stages, pages = [make_stage(f"s{number}") for number in range(12)], []
    assert run(stages, AtOnce(), Estimates(get_cfg()), on_result=lambda done: pages.append(len(done))) == {}
    assert pages == [12]
    running = next(line for line in caplog.messages if "running:" in line)
    assert running.count("(job 7)") == 10
    assert running.endswith("s9 (job 7) and 2 more")


def start_worker(stage):
    command = [sys.executable, "-m", "tools.studies.worker", str(stage.folder)]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


SLOW = (
    f"{COUNT}; (F / 'begun').touch(); t = time.time()\n"
    "while not (F.parent / 'go').exists():\n    time.sleep(.01); assert time.time() - t < 60\n"
    "(F / 'out.txt').write_text('made')"
)


def test_run__waits_for_a_stage_that_an_earlier_study_left_running(make_stage, tmp_path, ran):
    stage = make_stage("slow", SLOW)
    prepare(stage, {})
    worker = start_worker(stage)
    wait_for((stage.folder / "begun").exists)
    assert is_running(stage.folder)
    study = LocalLauncher(1)
    study.start(stage)
    time.sleep(0.5)
    assert not study.ended(stage)
    (tmp_path / "out" / "go").touch()
    wait_for(lambda: study.ended(stage))
    assert worker.wait(60) == 0
    assert ran() == ["slow"]  # the second found it done
    assert not is_running(stage.folder)


def test_worker__killed__its_command_is_waited_for(make_stage, tmp_path, ran):
    stage = make_stage("slow", SLOW)
    prepare(stage, {})
    worker = start_worker(stage)
    wait_for((stage.folder / "begun").exists)
    worker.kill()
    worker.wait()
    assert is_running(stage.folder)  # the command has inherited the lock
    second = start_worker(stage)
    time.sleep(0.5)
    assert second.poll() is None
    (tmp_path / "out" / "go").touch()
    assert second.wait(60) == 0
    assert finished([stage])["slow"]["attempts"] == 2


def test_worker__asked_to_stop__stops_its_command(make_stage):
    stage = make_stage("slow", SLOW)
    prepare(stage, {})
    worker = start_worker(stage)
    wait_for((stage.folder / "begun").exists)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 130
    assert not is_running(stage.folder)
    assert "KeyboardInterrupt" in (stage.folder / LOG).read_text()


def test_select__by_part_and_by_pattern(make_stage):
    data = make_stage("data")
    first = make_stage("cutmix/seed0/pretrain", parents=[data])
    second = make_stage("cutmix/seed0/convert", parents=[first])
    other = make_stage("mixup/seed0/pretrain", parents=[data])
    plan = SimpleNamespace(stages=(data, first, second, other))
    assert select(plan, []) == [data, first, second, other]
    assert select(plan, ["cutmix"]) == [data, first, second]
    assert select(plan, ["pretrain"]) == [data, first, other]
    assert select(plan, ["*/seed0/convert"]) == [data, first, second]
    assert select(plan, ["data"]) == [data]
    with pytest.raises(ValueError, match="--only cutmax names no stage; parts of names are convert, cutmix, data, mix"):
        select(plan, ["cutmax"])


def test_find_obstacles__of_a_fine_tuning_and_its_engine(plan_of, tmp_path, monkeypatch):
    assert find_obstacles(plan_of()) == []
    opts = ["DIGITS.TRAIN_PER_CLASS", "0", "PRETRAIN.DATA_ROOT", str(tmp_path)]
    assert find_obstacles(plan_of([*opts, "DETECTION.VOC_ROOT", str(tmp_path)])) == []
    assert find_obstacles(plan_of([*opts, "DETECTION.VOC_ROOT", "/no"])) == ["DETECTION.VOC_ROOT /no is no folder"]
    assert find_obstacles(plan_of([*opts, "KIND", "classification", "DETECTION.VOC_ROOT", "/no"])) == []
    empty = ["DIGITS.TRAIN_PER_CLASS", "0", "KIND", "timing"]  # times are measured on noise then
    assert find_obstacles(plan_of(empty)) == []
    (told,) = find_obstacles(plan_of(["DETECTION.OPTS", "['MODEL.RESNETS.NORM', 'GN']"]))
    assert told.startswith("DETECTION: MODEL.RESNETS.NORM is 'GN', which the torchvision engine does not support")


def test_refuse_other_study__of_the_same_name(plan_of, tmp_path):
    plan = plan_of()
    refuse_other_study(plan)
    write_study(plan, {}, {})
    refuse_other_study(plan)
    other = tmp_path / "elsewhere" / "study.yaml"
    other.parent.mkdir()
    other.write_text("TITLE: another")
    moved = dataclasses.replace(plan, config_file=other)
    with pytest.raises(
        ValueError, match=rf"study.html is that of {tmp_path}/study.yaml, not of .*; rename this file or"
    ):
        refuse_other_study(moved)
    other.write_bytes(plan.config_file.read_bytes())
    refuse_other_study(moved)  # a copy
    other.write_text("TITLE: another")
    plan.config_file.unlink()
    refuse_other_study(moved)  # the file was moved, and edited since
