"""Stages as processes with GPUs of their own, as jobs of submitit's local executor, and of a SLURM that is acted."""

import dataclasses
import os
import stat
import sys
import time

import pytest

from pretrain.run.text import read_json
from tools.studies import launchers
from tools.studies.config import get_cfg
from tools.studies.launchers import JOB, LocalLauncher, SubmititLauncher, make_launcher
from tools.studies.planning.cost import Estimates
from tools.studies.records import LOG
from tools.studies.runner import finished, prepare, run


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    return cfg


def wait_for_end(launcher, stage):
    deadline = time.monotonic() + 60
    while not launcher.ended(stage):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_local__each_stage_gets_gpus_of_its_own(make_stage):
    code = "(F / 'out.txt').write_text(os.environ.get('CUDA_VISIBLE_DEVICES', 'all'))"
    stages = [make_stage(name, code) for name in "abc"]
    launcher = LocalLauncher(3, gpus=["7", "GPU-5b3e"])
    for stage in stages:
        prepare(stage, {})
        launcher.start(stage)
    for stage in stages:
        wait_for_end(launcher, stage)
    assert [(stage.folder / "out.txt").read_text() for stage in stages] == ["7", "GPU-5b3e", "7"]


def test_local__stop_leaves_nothing_running(make_stage):
    stage = make_stage("slow", "(F / 'begun').write_text(str(os.getpid())); time.sleep(60)")
    prepare(stage, {})
    launcher = LocalLauncher(1)
    launcher.start(stage)
    while not (stage.folder / "begun").exists() or not (stage.folder / "begun").read_text():
        time.sleep(0.02)
    launcher.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(int((stage.folder / "begun").read_text()), 0)


@pytest.mark.parametrize("threads, gpus, gpus_a_stage, jobs", [
    (1, 0, 1, 6), (2, 0, 1, 3), (4, 0, 1, 1), (8, 0, 1, 1), (0, 0, 1, 1), (1, 8, 1, 8), (1, 8, 4, 2), (1, 8, 8, 1),
])  # fmt: skip
def test_make_launcher__chooses_how_many_at_a_time(cfg, monkeypatch, threads, gpus, gpus_a_stage, jobs):
    monkeypatch.setattr(launchers, "_cores", lambda: 6)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    cfg.THREADS, cfg.GPUS = threads, gpus_a_stage
    assert make_launcher("local", cfg, jobs=0).slots == jobs
    assert make_launcher("local", cfg, jobs=5).slots == 5


def test_make_launcher__refuses_more_gpus_than_there_are(cfg, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    cfg.GPUS = 4
    with pytest.raises(ValueError, match="GPUS is 4, but there are 2 here; set GPUS to at most that"):
        make_launcher("local", cfg, jobs=0)


@pytest.mark.parametrize("given, seen, names", [
    (None, 2, ["0", "1"]), ("6,7", 2, ["6", "7"]), ("7, 6", 2, ["7", "6"]), ("GPU-5b,MIG-7", 2, ["GPU-5b", "MIG-7"]),
    ("3,-1,4", 1, ["3"]), ("", 0, []),  # CUDA sees nothing from the first name on that is none
])  # fmt: skip
def test_visible_gpus__are_those_that_the_study_was_given(monkeypatch, given, seen, names):
    monkeypatch.setattr("torch.cuda.device_count", lambda: seen)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert launchers.visible_gpus() == names


def test_make_launcher__hands_out_the_gpus_that_the_study_was_given(make_stage, cfg, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    launcher = make_launcher("local", cfg, jobs=0)
    stages = [make_stage(name, "(F / 'out.txt').write_text(os.environ['CUDA_VISIBLE_DEVICES'])") for name in "ab"]
    for stage in stages:
        prepare(stage, {})
        launcher.start(stage)
    for stage in stages:
        wait_for_end(launcher, stage)
    assert [(stage.folder / "out.txt").read_text() for stage in stages] == ["6", "7"]


def test_submitit_local__hands_out_the_gpus_that_the_study_was_given(make_stage, cfg, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed; pip install submitit")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,GPU-5b3e")
    seen = "(F / 'out.txt').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    stages = [make_stage(name, seen) for name in "ab"]
    assert run(stages, SubmititLauncher("local", cfg, jobs=2), Estimates(cfg)) == {}
    assert [(stage.folder / "out.txt").read_text() for stage in stages] == ["6", "GPU-5b3e"]


def test_submitit_local__runs_stages_and_tells_failures(make_stage, cfg):
    pytest.importorskip("submitit", reason="submitit is not installed; pip install submitit")
    first = make_stage("first")
    code = "(F / 'out.txt').write_text((F.parent / 'first-12345678/out.txt').read_text() + ' 2')"
    second = make_stage("second", code, parents=[first])
    bad = make_stage("bad", "sys.exit('bad.py: error: no weights here')")
    launcher = SubmititLauncher("local", cfg, jobs=2)
    failed = run([first, second, bad], launcher, Estimates(cfg))
    assert failed == {"bad": "exit status 1: bad.py: error: no weights here"}
    assert (second.folder / "out.txt").read_text() == "made 2"
    assert set(finished([first, second, bad])) == {"first", "second"}


def test_submitit_local__a_job_at_its_limit_is_queued_again_and_goes_on(make_stage, cfg):
    pytest.importorskip("submitit", reason="submitit is not installed; pip install submitit")
    warn = "os.kill(os.getppid(), signal.SIGUSR2); time.sleep(60)"  # what SLURM does before the limit
    code = (
        "import signal; parts = len(list(F.glob('part*'))); (F / f'part{parts}').touch()\n"
        f"if parts == 0: {warn}\n(F / 'out.txt').write_text('made')"
    )
    stage = make_stage("resumes", code)
    prepare(stage, {})
    launcher = SubmititLauncher("local", cfg, jobs=1)
    launcher.start(stage)
    wait_for_end(launcher, stage)
    assert finished([stage])["resumes"]["attempts"] == 2


SBATCH = """#!/bin/sh
echo call >> {folder}/calls
for word in "$@"; do script=$word; done
cp "$script" {folder}/script.sh
echo Submitted batch job 77
"""
SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
echo "77|$(cat {folder}/state)|node1"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with sbatch, sacct and srun that note what they are asked; ``state`` is what they say of job 77."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("sacct", SACCT), ("srun", "#!/bin/sh\n"), ("scancel", "#!/bin/sh\n")):
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(stat.S_IRWXU)
    (folder / "state").write_text("PENDING")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_slurm__a_job_a_stage_with_what_it_needs(make_stage, cfg, slurm):
    pytest.importorskip("submitit", reason="submitit is not installed; pip install submitit")
    cfg.SLURM.PARTITION, cfg.SLURM.CPUS, cfg.SLURM.PARAMETERS = "gpu", 6, ["account", "vision"]
    stage = dataclasses.replace(make_stage("train"), processes=4)
    prepare(stage, {})
    SubmititLauncher("slurm", cfg, jobs=1).start(stage)
    script = (slurm / "script.sh").read_text()
    for line in (
        "--partition=gpu",
        "--gpus-per-node=4",
        "--cpus-per-task=24",
        "--time=1440",
        "--mem=64GB",
        "--account=vision",
        "--nodes=1",
        "--signal=USR2@",
    ):
        assert f"#SBATCH {line}" in script
    assert read_json(stage.folder / JOB) == {"cluster": "slurm", "job_id": "77"}


def test_slurm__a_study_called_again_takes_up_the_job_that_waits(make_stage, cfg, slurm):
    pytest.importorskip("submitit", reason="submitit is not installed; pip install submitit")
    stage = make_stage("train")
    prepare(stage, {})
    SubmititLauncher("slurm", cfg, jobs=1).start(stage)
    again = SubmititLauncher("slurm", cfg, jobs=1)
    again.start(stage)
    assert (slurm / "calls").read_text().count("call") == 1
    assert not again.ended(stage)
    (slurm / "state").write_text("FAILED")
    SubmititLauncher("slurm", cfg, jobs=1).start(stage)
    assert (slurm / "calls").read_text().count("call") == 2


def test_slurm__refused_where_there_is_none(cfg, monkeypatch, tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed; pip install submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r'--launcher slurm: Could not detect "srun"'):
        SubmititLauncher("slurm", cfg, jobs=1)


def test_submitit__says_how_to_get_it(cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"--launcher slurm needs submitit \(.*\); pip install submitit"):
        SubmititLauncher("slurm", cfg, jobs=1)


def test_log__keeps_what_the_command_wrote(make_stage, cfg):
    stage = make_stage("talks", "print('hello'); (F / 'out.txt').touch()")
    run([stage], LocalLauncher(1), Estimates(cfg))
    assert "hello" in (stage.folder / LOG).read_text()
