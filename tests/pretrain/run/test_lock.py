"""Two runs in one folder: the second is refused, unless the first is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pretrain.run import lock
from pretrain.run.lock import LOCK_FILE, locked_folder

ROOT = Path(__file__).resolve().parents[3]


def holder(folder):
    return json.loads((folder / LOCK_FILE).read_text())


def test_locked_folder__names_the_process_and_leaves_nothing(tmp_path):
    folder = tmp_path / "new" / "run"
    before = threading.active_count()
    with locked_folder(folder):
        assert holder(folder)["process"] == os.getpid()
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "run lock")
    assert list(folder.iterdir()) == []
    with locked_folder(folder):
        pass
    assert threading.active_count() <= before + 2  # they end by themselves


def test_locked_folder__a_second_run_is_refused_by_process_and_machine(tmp_path):
    with locked_folder(tmp_path):
        with (
            pytest.raises(
                ValueError, match=rf"{tmp_path} is in use by the run of process {os.getpid()} on machine \S+;"
            ),
            locked_folder(tmp_path),
        ):
            pass
        assert holder(tmp_path)["process"] == os.getpid()  # the first one's is still there


def test_locked_folder__given_back_after_an_error(tmp_path):
    with pytest.raises(KeyError), locked_folder(tmp_path):
        raise KeyError
    assert not (tmp_path / LOCK_FILE).exists()


def test_locked_folder__a_full_disk_is_named_and_leaves_no_lock(tmp_path, monkeypatch):
    def no_room(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.json, "dump", no_room)
    with pytest.raises(OSError, match="No space left") as caught, locked_folder(tmp_path):
        pass
    assert caught.value.filename == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=[False])
def killed(tmp_path, request):
    """The lock of a process that lives until a test kills it; with True as parameter, of another machine."""
    code = (
        "import os, sys; from pretrain.run import lock\n"
        f"if {request.param}: lock._system, lock.BEAT = (lambda: 'other'), 0.05\n"
        "with lock.locked_folder(sys.argv[1]): print(1, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.read(1)
    yield process
    process.kill()
    process.communicate()


def test_locked_folder__a_living_process_is_respected_and_a_killed_one_is_not(tmp_path, killed):
    assert holder(tmp_path)["process"] == killed.pid
    with pytest.raises(ValueError, match=f"process {killed.pid} on machine"), locked_folder(tmp_path):
        pass
    killed.kill()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # a zombie: dead, but not yet collected
    with locked_folder(tmp_path):
        assert holder(tmp_path)["process"] == os.getpid()


@pytest.mark.parametrize("killed", [True], indirect=True)
def test_locked_folder__a_process_of_another_machine_while_it_lives_and_after(tmp_path, killed, monkeypatch):
    """Its number says nothing here: only the signs of life in the folder do, and how long they have been missing."""
    sleep = time.sleep
    monkeypatch.setattr(lock.time, "sleep", lambda _seconds: sleep(0.2))  # four beats
    with pytest.raises(ValueError, match=f"process {killed.pid} on machine"), locked_folder(tmp_path):
        pass
    killed.kill()
    killed.wait()
    asked = []

    def later(folder):
        asked.append(folder)
        return (folder / LOCK_FILE).stat().st_mtime + (290 if len(asked) == 1 else 301)

    monkeypatch.setattr(lock, "_now", later)
    with locked_folder(tmp_path):
        assert holder(tmp_path)["process"] == os.getpid()
    assert len(asked) == 2  # not while only 290 seconds have passed


def test_locked_folder__another_process_under_the_number_of_a_killed_one(tmp_path):
    (tmp_path / LOCK_FILE).write_text(json.dumps({**lock._identity(), "started": "1", "token": "x"}))
    with locked_folder(tmp_path):
        assert holder(tmp_path)["token"] != "x"


@pytest.fixture
def elsewhere(tmp_path):
    """The lock of a run on another machine, last heard of ``seconds`` ago."""

    def write(seconds):
        path = tmp_path / LOCK_FILE
        path.write_text(json.dumps({"process": 7, "machine": "other", "system": "other", "token": "x"}))
        now = path.stat().st_mtime
        os.utime(path, (now, now - seconds))

    return write


def test_locked_folder__another_machine_that_gives_signs_of_life(tmp_path, elsewhere, monkeypatch):
    elsewhere(20)
    monkeypatch.setattr(lock.time, "sleep", lambda _: elsewhere(0))
    with pytest.raises(ValueError, match="process 7 on machine other"), locked_folder(tmp_path):
        pass


def test_locked_folder__another_machine_that_is_silent_for_five_minutes(tmp_path, elsewhere, monkeypatch):
    elsewhere(290)
    waits = []

    def later(seconds):
        waits.append(seconds)
        monkeypatch.setattr(lock, "_now", lambda folder: (folder / LOCK_FILE).stat().st_mtime + 301)

    monkeypatch.setattr(lock.time, "sleep", later)
    with locked_folder(tmp_path):
        assert holder(tmp_path)["process"] == os.getpid()
    assert waits == [1]


def test_locked_folder__a_takeover_is_told_of_at_the_end_where_interrupts_are_ignored(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)

    def lose_it():
        elsewhere(0)
        next(one for one in threading.enumerate() if one.name == "run lock").join()

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(ValueError, match="was taken over by another run"), locked_folder(tmp_path):
            lose_it()
    finally:
        signal.signal(signal.SIGINT, before)
    assert holder(tmp_path)["machine"] == "other"


def test_locked_folder__signs_of_life_and_a_takeover_are_noticed(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    path = tmp_path / LOCK_FILE

    def lose_it():
        os.utime(path, (1, 1))
        while path.stat().st_mtime == 1:
            time.sleep(0.01)
        elsewhere(0)
        time.sleep(20)  # is interrupted

    with pytest.raises(ValueError, match="was taken over by another run"), locked_folder(tmp_path):
        lose_it()
    assert holder(tmp_path)["machine"] == "other"
