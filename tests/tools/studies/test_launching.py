"""Stages as processes with GPUs of their own, as jobs of submitit's local executor, and of a SLURM that is acted."""

import dataclasses
import os
import stat
import sys
import time

import pytest

from pretrain.run.text import read_json
from tools.studies import launching
from tools.studies.config import get_cfg
from tools.studies.launching import cluster, make_launcher, queue
from tools.studies.launching.cluster import JOB, SlurmLauncher, SubmititLocalLauncher
from tools.studies.launching.gpus import visible_gpus
from tools.studies.launching.local import LocalLauncher
from tools.studies.planning.code_version import STAGES
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
    monkeypatch.setattr(launching, "_cores", lambda: 6)
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
    assert visible_gpus() == names


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
    assert run(stages, SubmititLocalLauncher(cfg, jobs=2), Estimates(cfg)) == {}
    assert [(stage.folder / "out.txt").read_text() for stage in stages] == ["6", "GPU-5b3e"]


def test_submitit_local__runs_stages_and_tells_failures(make_stage, cfg):
    pytest.importorskip("submitit", reason="submitit is not installed; pip install submitit")
    first = make_stage("first")
    code = "(F / 'out.txt').write_text((F.parent / 'first-12345678/out.txt').read_text() + ' 2')"
    second = make_stage("second", code, parents=[first])
    bad = make_stage("bad", "sys.exit('bad.py: error: no weights here')")
    launcher = SubmititLocalLauncher(cfg, jobs=2)
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
    launcher = SubmititLocalLauncher(cfg, jobs=1)
    launcher.start(stage)
    wait_for_end(launcher, stage)
    assert finished([stage])["resumes"]["attempts"] == 2


SBATCH = """#!/bin/sh
echo call >> {folder}/calls
for word in "$@"; do script=$word; done
cp "$script" {folder}/script.sh
echo Submitted batch job 77
"""
SQUEUE = """#!/bin/sh
echo look >> {folder}/looks
cat {folder}/state
"""
SINFO = """#!/bin/sh
cat {folder}/resources
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with SLURM's commands that note what they are asked; ``state`` is what squeue prints."""
    pytest.importorskip("submitit", reason="submitit is not installed; pip install submitit")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("sinfo", SINFO), ("srun", "#!/bin/sh\n")):
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(stat.S_IRWXU)
    (folder / "state").write_text("77|PENDING|Priority|2026-11-25T10:00:00\n")
    (folder / "resources").write_text("gpu:a100:4(S:0-1)\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(queue, "POLL_SECONDS", 0.0)
    return folder


def asked(slurm):
    return [line.removeprefix("#SBATCH --") for line in (slurm / "script.sh").read_text().splitlines() if "#SB" in line]


def test_slurm__a_job_a_stage_with_what_it_needs(make_stage, cfg, slurm):
    cfg.SLURM.PARTITION, cfg.SLURM.CPUS, cfg.SLURM.PARAMETERS = "gpu", 6, ["account", "vision"]
    stage = dataclasses.replace(make_stage("train"), kind="pretrain", processes=4)
    prepare(stage, {})
    SlurmLauncher(cfg, jobs=1).start(stage)
    wanted = {
        *("partition=gpu", "gpus-per-node=4", "cpus-per-task=24", "time=1440", "mem=64GB", "account=vision", "nodes=1"),
        "requeue",
    }
    assert wanted <= set(asked(slurm))
    assert any(line.startswith("signal=USR2@") for line in asked(slurm))
    assert read_json(stage.folder / JOB) == {"cluster": "slurm", "job_id": "77"}


def test_slurm__several_machines_have_one_worker(make_stage, cfg, slurm):
    stage = dataclasses.replace(make_stage("train"), kind="pretrain", processes=8, nodes=2)
    prepare(stage, {})
    SlurmLauncher(cfg, jobs=1).start(stage)
    assert {"nodes=2", "gpus-per-node=4", "cpus-per-task=32", "mem=64GB"} <= set(asked(slurm))
    (step,) = (line for line in (slurm / "script.sh").read_text().splitlines() if line.startswith("srun"))
    assert "--nodes=1 --ntasks=1 --relative=0" in step


@pytest.mark.parametrize("name", ["local", "submitit-local"])
def test_make_launcher__refuses_several_machines_where_there_is_one(cfg, name):
    cfg.NODES = 2
    with pytest.raises(ValueError, match=f"NODES is 2, but --launcher {name} has this machine alone; take --launcher"):
        make_launcher(name, cfg, jobs=0)


@pytest.mark.parametrize("kind, resources, gpus, wanted", [
    ("pretrain", "(null)", "auto", ["cpus-per-task=8", "mem=64GB", "time=1440"]),  # a cluster without GPUs
    ("pretrain", "gpu:4", "0", ["cpus-per-task=8", "mem=64GB", "time=1440"]),
    ("evaluate", "fpga:1,gpu:4", "auto", ["cpus-per-task=4", "mem=16GB", "time=240", "gpus-per-node=1"]),
    ("attack", "gpu:4", "auto", ["cpus-per-task=4", "mem=16GB", "time=240", "gpus-per-node=1"]),
    ("data", "gpu:4", "auto", ["cpus-per-task=1", "mem=4GB", "time=60"]),
    ("convert", "gpu:4", "auto", ["cpus-per-task=1", "mem=4GB", "time=60"]),
])  # fmt: skip
def test_slurm__each_kind_of_stage_asks_for_what_it_needs(make_stage, cfg, slurm, kind, resources, gpus, wanted):
    (slurm / "resources").write_text(resources)
    cfg.SLURM.GPUS = gpus
    stage = dataclasses.replace(make_stage("one"), kind=kind)
    prepare(stage, {})
    SlurmLauncher(cfg, jobs=1).start(stage)
    keys = ("cpus", "mem", "time", "gpus")
    assert sorted(line for line in asked(slurm) if line.startswith(keys)) == sorted(wanted)


def test_slurm__every_kind_of_stage_is_known():
    assert cluster.NEEDS.keys() == STAGES.keys()


def test_slurm__a_study_called_again_takes_up_the_job_that_waits(make_stage, cfg, slurm):
    stage = make_stage("train")
    prepare(stage, {})
    SlurmLauncher(cfg, jobs=1).start(stage)
    again = SlurmLauncher(cfg, jobs=1)
    again.start(stage)
    assert (slurm / "calls").read_text().count("call") == 1
    assert not again.ended(stage)
    (slurm / "state").write_text("77|FAILED|NonZeroExitCode|2026-11-25T10:00:00\n")
    SlurmLauncher(cfg, jobs=1).start(stage)
    assert (slurm / "calls").read_text().count("call") == 2


@pytest.mark.parametrize("state, said", [
    ("77|CANCELLED|None|2026-11-25T10:00:00\n", "its job 77 ended: cancelled"),
    ("77|NODE_FAIL|None|2026-11-25T10:00:00\n", "its job 77 ended: node fail"),
    ("76|RUNNING|None|2026-11-25T10:00:00\n", "SLURM has lost its job 77"),
])  # fmt: skip
def test_slurm__a_job_that_ends_without_a_word_is_told(make_stage, cfg, slurm, state, said):
    (slurm / "state").write_text(state)
    assert run([make_stage("train")], SlurmLauncher(cfg, jobs=1), Estimates(cfg)) == {"train": said}


def test_slurm__says_what_the_queue_says(make_stage, cfg, slurm, caplog):
    stage = make_stage("train")
    prepare(stage, {})
    launcher = SlurmLauncher(cfg, jobs=1)
    launcher.start(stage)
    submitted = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - 125))
    for state, reason, said in (
        ("PENDING", "Resources", "job 77 waits since 0:02:05: Resources"),
        ("RUNNING", "None", "job 77 running"),
        ("COMPLETING", "None", "job 77 completing"),
        ("PENDING", "PartitionConfig", "job 77 waits since 0:02:05: PartitionConfig"),
    ):
        (slurm / "state").write_text(f"77|{state}|{reason}|{submitted}\n")
        assert not launcher.ended(stage)
        assert launcher.describe(stage) in (said, said.replace(":05", ":06"))
    assert not launcher.ended(stage)
    told = [record.message for record in caplog.records if "cannot start" in record.message]
    assert told == [
        "train: job 77 cannot start (PartitionConfig); it asks for 1 CPUs, 4 GB, 60 minutes. Stop the study, scancel "
        "77, change SLURM.PREPARE.CPUS, MEM_GB or MINUTES, SLURM.PARTITION or SLURM.PARAMETERS, and call it again"
    ]


def test_slurm__a_refusal_is_one_line(make_stage, cfg, slurm):
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: Invalid account' >&2\nexit 1\n")
    stage = make_stage("train")
    prepare(stage, {})
    with pytest.raises(ValueError, match=r"^SLURM does not take the job of train: Invalid account$"):
        SlurmLauncher(cfg, jobs=1).start(stage)


def test_make_launcher__slurm_keeps_to_a_number_of_jobs(cfg, slurm):
    assert make_launcher("slurm", cfg, jobs=0).slots > 1000
    cfg.SLURM.MAX_JOBS = 12
    assert make_launcher("slurm", cfg, jobs=0).slots == 12


def test_queue__one_question_for_all_jobs_and_no_more_than_one_a_poll():
    now, asked = [0.0], []

    def squeue():
        asked.append(now[0])
        return "1|RUNNING|None|N/A\n2|PENDING|Priority|N/A\n"

    jobs = queue.SlurmQueue(run=squeue, clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 9.9, 10.0, 15.0, 20.5):
        assert [jobs.state(number).state for number in "12"] == ["RUNNING", "PENDING"]
    assert asked == [0.0, 10.0, 20.5]


def test_queue__a_job_is_not_lost_before_a_look_that_is_later_than_it():
    now = [0.0]
    jobs = queue.SlurmQueue(run=lambda: "", clock=lambda: now[0])
    assert jobs.state("1").ended
    now[0] = 5.0
    assert jobs.state("2", submitted=5.0) is None
    now[0] = 11.0
    assert jobs.state("2", submitted=5.0).ended


def test_queue__concludes_nothing_from_a_controller_that_is_silent(caplog):
    now, answers = [0.0], ["1|RUNNING|None|N/A", OSError("slurm_load_jobs error: Unable to contact"), OSError("again")]

    def squeue():
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    jobs = queue.SlurmQueue(run=squeue, clock=lambda: now[0])
    for now[0] in (0.0, 10.0, 20.0):
        assert jobs.state("1").state == "RUNNING"
    assert [record.message for record in caplog.records] == [
        "squeue does not answer (slurm_load_jobs error: Unable to contact); the study goes on asking"
    ]


def test_slurm__refused_where_there_is_none(cfg, monkeypatch, tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed; pip install submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r'--launcher slurm: Could not detect "srun"'):
        SlurmLauncher(cfg, jobs=1)


def test_submitit__says_how_to_get_it(cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"--launcher slurm needs submitit \(.*\); pip install submitit"):
        SlurmLauncher(cfg, jobs=1)


def test_log__keeps_what_the_command_wrote(make_stage, cfg):
    stage = make_stage("talks", "print('hello'); (F / 'out.txt').touch()")
    run([stage], LocalLauncher(1), Estimates(cfg))
    assert "hello" in (stage.folder / LOG).read_text()
