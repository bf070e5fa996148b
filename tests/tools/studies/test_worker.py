"""Whose command a worker runs: that of a file which nobody else could have written."""

import os
from types import SimpleNamespace

import pytest

from pretrain.run.text import read_json
from tools.studies import worker
from tools.studies.launching import make_launcher
from tools.studies.launching.local import LocalLauncher
from tools.studies.records import FAILURE, REQUEST, RESULT
from tools.studies.runner import find_obstacles, prepare
from tools.studies.worker import StageJob, refuse_others, run_stage


@pytest.fixture
def strangers_group(monkeypatch):
    """Make every group one that others are in."""
    monkeypatch.setattr(worker, "_is_own_group", lambda number: False)


@pytest.fixture
def stage(make_stage, tmp_path):
    """A prepared stage in OUTPUT_DIR/cutmix/seed0."""
    stage = make_stage("cutmix/seed0/convert")
    prepare(stage, {})
    return stage


def give_away(path, monkeypatch):
    """Make somebody else the owner of ``path``."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


PLACES = [
    (lambda folder: folder / REQUEST, 0o646, "o"), (lambda folder: folder, 0o777, "go"),
    (lambda folder: folder.parent, 0o775, "g"), (lambda folder: folder.parents[2], 0o757, "o"),
]  # fmt: skip


@pytest.mark.parametrize("place, mode, who", PLACES, ids=["request", "folder", "parent", "OUTPUT_DIR"])
def test_worker__runs_nothing_where_others_can_write(stage, strangers_group, place, mode, who):
    path = place(stage.folder)
    before = path.stat().st_mode
    path.chmod(mode)
    assert not run_stage(stage.folder)
    message = read_json(stage.folder / FAILURE)["message"]
    assert message.startswith(f"{path} has mode {mode:04o}: ")
    assert f"chmod -R {who}-w {path} and set umask 022, or " in message
    assert not (stage.folder / RESULT).exists()
    path.chmod(before)
    assert run_stage(stage.folder)


def test_worker__looks_no_further_than_the_output_dir(stage, tmp_path):
    tmp_path.chmod(0o777)
    assert run_stage(stage.folder)


def test_worker__runs_nothing_that_belongs_to_somebody_else(stage, monkeypatch):
    give_away(stage.folder / REQUEST, monkeypatch)
    assert not run_stage(stage.folder)
    assert " belongs to user 12345, not to you, and what stands there is run; remove it, or give an OUTPUT_DIR" in (
        read_json(stage.folder / FAILURE)["message"].replace(f"user {os.getuid()}", "user 12345")
    )
    assert not (stage.folder / RESULT).exists()


def test_worker__trusts_one_group_if_told(stage, strangers_group):
    number = stage.folder.stat().st_gid
    (stage.folder / REQUEST).chmod(0o664)
    assert not run_stage(stage.folder, trusted_group=number + 1)
    assert "its group" in read_json(stage.folder / FAILURE)["message"]
    assert "or trust the group with --trust-group" in read_json(stage.folder / FAILURE)["message"]
    assert run_stage(stage.folder, trusted_group=number)


def test_worker__trusted_or_not__everybody_is_too_many(stage, strangers_group):
    (stage.folder / REQUEST).chmod(0o666)
    assert not run_stage(stage.folder, trusted_group=stage.folder.stat().st_gid)
    assert ": everybody can write there" in read_json(stage.folder / FAILURE)["message"]


def test_refuse_others__a_sticky_folder_is_closed(tmp_path, strangers_group):
    tmp_path.chmod(0o1777)
    refuse_others(tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(ValueError, match=r"has mode 0777: its group .* and everybody else can write there"):
        refuse_others(tmp_path)


@pytest.mark.parametrize("name, members, number, own", [
    ("ann", [], 7, True), ("ann", ["ann"], 7, True), ("ann", ["bob"], 7, False), ("lab", [], 7, False),
    ("ann", [], 8, False),
])  # fmt: skip
def test_refuse_others__a_group_of_one_is_its_user(tmp_path, monkeypatch, name, members, number, own):
    user = SimpleNamespace(pw_name="ann", pw_gid=7)
    monkeypatch.setattr(worker.pwd, "getpwuid", lambda _: user)
    group = SimpleNamespace(gr_gid=number, gr_name=name, gr_mem=members)
    monkeypatch.setattr(worker.grp, "getgrgid", lambda _: group)
    tmp_path.chmod(0o775)
    if own:
        refuse_others(tmp_path)
    else:
        with pytest.raises(ValueError, match=f"has mode 0775: its group {name} can write there"):
            refuse_others(tmp_path)


def test_find_obstacles__an_output_dir_that_others_can_write_to(plan_of, strangers_group):
    plan = plan_of()
    output = plan.folder.parent
    output.mkdir()
    (output / "submitit").mkdir()
    assert find_obstacles(plan) == []
    output.chmod(0o775)
    (output / "submitit").chmod(0o777)
    own, submitit = find_obstacles(plan)
    assert own.startswith(f"{output} has mode 0775: its group ")
    assert submitit.startswith(f"{output / 'submitit'} has mode 0777: ")
    (trusted,) = find_obstacles(plan, trust_group=True)
    assert trusted == (
        f"{output / 'submitit'} has mode 0777: everybody can write there, and what stands there is run; "
        f"chmod -R o-w {output / 'submitit'} and set umask 022, or give another OUTPUT_DIR"
    )


@pytest.mark.parametrize("mask, told", [
    (0o022, ""), (0o077, ""), (0o002, "its group"), (0o020, "everybody"), (0o000, "its group"),
])  # fmt: skip
def test_find_obstacles__a_umask_that_lets_others_write(plan_of, strangers_group, mask, told):
    plan = plan_of()  # whose OUTPUT_DIR is not there yet
    before = os.umask(mask)
    try:
        found = find_obstacles(plan)
        trusting = find_obstacles(plan, trust_group=True)
    finally:
        os.umask(before)
    assert os.umask(before) == before
    assert [one.partition(":")[0] for one in found] == ([f"the umask is {mask:04o}"] if told else [])
    assert all(f": {told}" in one and "; set umask 022, or " in one for one in found)
    assert len(trusting) == (mask in (0o020, 0o000))


def test_launchers__tell_their_workers_whom_to_trust(plan_of, monkeypatch):
    cfg = plan_of().cfg
    os.makedirs(cfg.OUTPUT_DIR)
    number = os.stat(cfg.OUTPUT_DIR).st_gid
    assert make_launcher("local", cfg, jobs=1, trust_group=True).trusted_group == number
    assert make_launcher("local", cfg, jobs=1).trusted_group is None
    calls = []
    monkeypatch.setattr("tools.studies.launching.local.subprocess.Popen", lambda command, **_: calls.append(command))
    stage = SimpleNamespace(name="a", folder="F", processes=0)
    LocalLauncher(1).start(stage)
    LocalLauncher(1, trusted_group=100).start(stage)
    assert [command[3:] for command in calls] == [["F"], ["F", "--trusted-group", "100"]]
    heard = []
    monkeypatch.setattr(worker, "run_stage", lambda folder, **options: heard.append((folder, options)))
    monkeypatch.setattr(worker, "hear_interrupts", lambda: None)
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    StageJob(100)("F")
    worker.main(["F", "--trusted-group", "100"])
    assert heard == [("F", {"trusted_group": 100})] * 2
