"""Stages as jobs of a real SLURM, which the tests start and end: without GPUs, and without an accounting database."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.tools.studies.real_slurm import NODES, RealSlurm, is_installed
from tools.studies.config import get_cfg
from tools.studies.launching import queue
from tools.studies.launching.cluster import JOB, SlurmLauncher
from tools.studies.planning.cost import Estimates
from tools.studies.planning.stages import tool
from tools.studies.runner import finished, prepare, run

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not is_installed(), reason="SLURM is not installed here (Debian: apt install slurm-wlm)"),
]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("submitit", reason="submitit is not installed; pip install submitit")
    cluster = RealSlurm(tmp_path_factory.mktemp("slurm"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def cfg(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    monkeypatch.setattr(queue, "POLL_SECONDS", 0.5)
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.SLURM.PREPARE.MEM_GB = 1
    return cfg


def wait_until(holds):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def job_of(stage):
    return json.loads((stage.folder / JOB).read_text())["job_id"]


def test_stages__run_after_their_parents_and_a_failure_is_told(make_stage, cfg, caplog):
    first = make_stage("first")
    code = "(F / 'out.txt').write_text((F.parent / 'first-12345678/out.txt').read_text() + ' 2')"
    second = make_stage("second", code, parents=[first])
    bad = make_stage("bad", "sys.exit('bad.py: error: no weights here')")
    caplog.set_level("WARNING")
    failed = run([first, second, bad], SlurmLauncher(cfg, jobs=10), Estimates(cfg))
    assert failed == {"bad": "exit status 1: bad.py: error: no weights here"}
    assert (second.folder / "out.txt").read_text() == "made 2"
    assert len(caplog.records) == 1  # of the failure: no flood without a database


def test_scancel__is_told_and_the_next_call_starts_the_stage_again(make_stage, cfg, cluster):
    stage = make_stage(
        "slow", "(F / 'begun').touch(); time.sleep(0 if (F / 'again').exists() else 60); (F / 'out.txt').touch()"
    )

    def cancel():
        wait_until((stage.folder / "begun").exists)
        cluster.ask("scancel", job_of(stage))

    canceller = threading.Thread(target=cancel)
    canceller.start()
    failed = run([stage], SlurmLauncher(cfg, jobs=1), Estimates(cfg))
    canceller.join()
    assert failed["slow"].endswith(f"its job {job_of(stage)} ended: cancelled")
    (stage.folder / "again").touch()
    assert run([stage], SlurmLauncher(cfg, jobs=1), Estimates(cfg)) == {}
    assert finished([stage])["slow"]["attempts"] == 2


def test_scancel__between_two_calls_is_seen_by_the_later_one(make_stage, cfg, cluster):
    stage = make_stage(
        "slow", "(F / 'begun').touch(); time.sleep(0 if (F / 'again').exists() else 60); (F / 'out.txt').touch()"
    )
    prepare(stage, {})
    SlurmLauncher(cfg, jobs=1).start(stage)
    wait_until((stage.folder / "begun").exists)
    before = job_of(stage)
    cluster.ask("scancel", before)
    wait_until(lambda: before not in cluster.ask("squeue", "--noheader", "--format=%i"))
    (stage.folder / "again").touch()
    assert run([stage], SlurmLauncher(cfg, jobs=1), Estimates(cfg)) == {}
    assert job_of(stage) != before


def test_study__killed_finds_its_job_again(make_stage, cfg):
    stage = make_stage("slow", "time.sleep(5); (F / 'out.txt').touch()")
    prepare(stage, {})
    SlurmLauncher(cfg, jobs=1).start(stage)
    before = job_of(stage)  # the launcher is gone, as after SIGKILL
    assert run([stage], SlurmLauncher(cfg, jobs=1), Estimates(cfg)) == {}
    assert job_of(stage) == before
    assert finished([stage])["slow"]["attempts"] == 1


def test_job__that_can_never_start_is_told_as_what_it_is(make_stage, cfg, cluster, caplog):
    cfg.SLURM.PARTITION = "short"  # ten minutes
    stage = make_stage("long")
    prepare(stage, {})
    launcher = SlurmLauncher(cfg, jobs=1)
    launcher.start(stage)
    started = time.monotonic()
    wait_until(lambda: not launcher.ended(stage) and caplog.records)
    assert time.monotonic() - started < 60
    told = r"cannot start \((PartitionConfig|PartitionTimeLimit)\); it asks for 1 CPUs, 1 GB, 60 minutes"
    assert re.search(told, caplog.text)
    cluster.ask("scancel", job_of(stage))


def test_job__that_is_refused_is_one_line(make_stage, cfg):
    cfg.SLURM.PARTITION = "nowhere"
    stage = make_stage("lost")
    prepare(stage, {})
    with pytest.raises(ValueError, match=r"^SLURM does not take the job of lost: .*[Ii]nvalid partition"):
        SlurmLauncher(cfg, jobs=1).start(stage)


def test_cluster_without_gpus__is_asked_for_none(make_stage, cfg):
    cfg.SLURM.CPUS, cfg.SLURM.MEM_GB = 1, 1
    stage = dataclasses.replace(make_stage("train"), kind="timing", processes=1)
    launcher = SlurmLauncher(cfg, jobs=1)
    assert "gpus_per_node" not in launcher.needs(stage)


def test_job__of_a_node_that_dies_or_that_is_preempted_goes_on_elsewhere(make_stage, cfg, cluster):
    """Two jobs, a node each: one dies, the other is taken by a job of more weight. Both are queued again by SLURM."""
    cfg.SLURM.PREPARE.MEM_GB = 5  # of 8: one a node
    code = "first = not (F / 'begun').exists(); (F / 'begun').touch(); time.sleep(90 * first); (F / 'out.txt').touch()"
    stages = [make_stage("a", code), make_stage("b", code)]
    told = []

    def disturb():
        wait_until(lambda: all((stage.folder / "begun").exists() for stage in stages))
        node_of = {cluster.ask("squeue", "-h", "-j", job_of(stage), "--format=%N").strip(): stage for stage in stages}
        assert sorted(node_of) == list(NODES)
        cluster.ask(
            "sbatch", "--partition=urgent", "--nodelist=one", "--mem=5G", "--output=/dev/null", "--wrap", "sleep 1"
        )
        cluster.kill_node("two")
        for node in NODES:
            job = job_of(node_of[node])
            wait_until(lambda job=job: "PENDING" in cluster.ask("squeue", "-h", "-j", job, "--format=%T"))
            told.append(cluster.ask("squeue", "-h", "-j", job, "--format=%r").strip())
            cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")  # SLURM would let it wait two minutes
        cluster.start_node("two")

    disturber = threading.Thread(target=disturb)
    disturber.start()
    assert run(stages, SlurmLauncher(cfg, jobs=2), Estimates(cfg)) == {}
    disturber.join()
    assert told == ["BeginTime"] * 2
    assert [made["attempts"] for made in finished(stages).values()] == [2, 2]


@pytest.mark.slow
def test_pretraining__on_two_machines_has_the_numbers_of_two_processes_of_one(tmp_path, cluster):
    small = ["--config-file", "tools/studies/configs/table1_small.yaml", "SEEDS", "(0,)", "THREADS", "1"]
    small += ["DIGITS.TRAIN_PER_CLASS", "20", "DIGITS.VAL_PER_CLASS", "5", "SLURM.CPUS", "1", "SLURM.MEM_GB", "6"]
    environment = {**os.environ, "SLURM_CONF": str(cluster.conf)}
    found = {}
    for launcher, machines in {"slurm": ["NODES", "2"], "local": ["GPUS", "2"]}.items():
        options = ["--launcher", launcher, "--only", "*/digits/baseline/*", *small]
        options += ["OUTPUT_DIR", str(tmp_path / launcher)]
        command = [sys.executable, "tools/study.py", *options, *machines]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder,) = (tmp_path / launcher).glob("**/pretrain-*")
        found[launcher] = folder.name, json.loads((folder / "result.json").read_text())["values"]
    assert found["slurm"] == found["local"]  # the fingerprint too


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_job__at_its_limit_is_queued_again_and_goes_on(make_stage, cfg, tmp_path, nodes):
    cfg.SLURM.PREPARE.MINUTES = 2  # submitit asks for its warning 90 seconds before
    stage = make_stage("long")
    program = tmp_path / "long.py"
    program.write_text(
        f"import os, time; from pathlib import Path; F = Path({str(stage.folder)!r}); R = os.environ.get('RANK', '0')\n"
        "first = not (F / f'begun{R}').exists(); (F / f'begun{R}').touch()\n"
        "time.sleep(300 * first); (F / 'out.txt').touch()"
    )
    command = [*tool("long", nodes=nodes)[:-1], str(program)]
    stage = dataclasses.replace(stage, command=tuple(command), processes=nodes, nodes=nodes)
    assert run([stage], SlurmLauncher(cfg, jobs=1), Estimates(cfg)) == {}
    assert finished([stage])["long"]["attempts"] == 2
    assert len(list(stage.folder.glob("begun*"))) == nodes


@pytest.mark.slow
def test_table3__ends_with_the_numbers_of_the_local_run(tmp_path, cluster):
    """Two methods, one seed; the study is killed in the middle and called again."""
    small = [
        *("--config-file", "tools/studies/configs/table3_small.yaml", "SEEDS", "(0,)", "THREADS", "1"),
        *("SLURM.CPUS", "1", "SLURM.MEM_GB", "6", "SLURM.TEST.CPUS", "1", "SLURM.TEST.MEM_GB", "6"),
    ]
    environment = {**os.environ, "SLURM_CONF": str(cluster.conf)}

    def study(launcher, *flags):
        options = ["--launcher", launcher, "--only", "baseline", "--only", "cutmix", *flags]
        return [sys.executable, "tools/study.py", *options, *small, "OUTPUT_DIR", str(tmp_path / launcher)]

    first = subprocess.Popen(study("slurm"), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    wait_until(lambda: list((tmp_path / "slurm").glob("**/result.json")))
    first.send_signal(signal.SIGKILL)
    first.wait()
    for launcher in ("slurm", "local"):
        done = subprocess.run(study(launcher), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    values = {}
    for launcher in ("slurm", "local"):
        (page,) = (tmp_path / launcher).glob("**/study.json")
        values[launcher] = json.loads(page.read_text())["rows"]
    numbers = [[run["values"] for row in rows for run in row["runs"]] for rows in values.values()]
    assert numbers[0] == numbers[1]
