"""tools/train_net.py from pictures to a report, and every way that it refuses."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMOKE = str(ROOT / "detection" / "configs" / "smoke.yaml")
NEEDS_DETECTRON2 = pytest.mark.skipif(not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed")


@pytest.fixture
def call(load_tool, voc_root, tmp_path, capsys):
    """Return a function that runs the tool on the miniature tree and returns the lines that it prints."""

    def run(*flags, opts=(), engine="torchvision", output="run"):
        fixed = ["VOC.ROOT", str(voc_root), "OUTPUT_DIR", str(tmp_path / output), "MODEL.DEVICE", "cpu"]
        argv = ["--config-file", SMOKE, "--engine", engine, *flags, *fixed, *map(str, opts)]
        load_tool("train_net").main(argv)
        return capsys.readouterr().out.splitlines()

    return run


def report(folder):
    return json.loads((folder / "inference" / "voc_2007_test" / "report.json").read_text())


def test_train_net__trains_and_reports(call, tmp_path):
    printed = call()
    folder = tmp_path / "run" / "inference" / "voc_2007_test"
    assert len(printed) == 2
    assert printed[0].startswith("voc_2007_test: mAP ")
    assert printed[1] == str(folder / "report.html")
    assert len(list(folder.glob("comp4_det_test_*.txt"))) == 20
    result = report(tmp_path / "run")
    assert result["num_images"] == 3
    assert result["voc07"]["num_classes_scored"] == 2  # dog and car; the only person is difficult
    protocol = result["protocol"]
    assert protocol["engine"] == "torchvision"
    assert protocol["config_file"] == SMOKE
    assert protocol["seed"] == 1
    assert protocol["initial_weights"] == "random"
    assert protocol["training"]["SOLVER.MAX_ITER"] == 2
    weights = tmp_path / "run" / "model_final.pth"
    assert protocol["weights"] == {"file": str(weights), "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert {"torch", "torchvision", "python"} <= set(protocol["versions"])
    assert (tmp_path / "run" / "log.txt").read_text().count("engine: torchvision") == 1


def test_train_net__eval_only_gives_the_same_numbers(call, tmp_path):
    call(opts=["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.01])
    weights = tmp_path / "run" / "model_final.pth"
    call("--eval-only", opts=["MODEL.WEIGHTS", weights, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.01], output="again")
    first, again = report(tmp_path / "run"), report(tmp_path / "again")
    assert again["voc07"] == first["voc07"]
    assert again["protocol"]["weights"]["sha256"] == first["protocol"]["weights"]["sha256"]
    assert again["protocol"]["training"] == first["protocol"]["training"]
    assert not (tmp_path / "again" / "model_final.pth").exists()


def test_train_net__resume_of_a_finished_run_reports_again(call, tmp_path):
    call()
    before = (tmp_path / "run" / "model_final.pth").stat().st_mtime_ns
    call("--resume")
    assert (tmp_path / "run" / "model_final.pth").stat().st_mtime_ns == before


def test_train_net__repeats_over_seeds_and_resumes_them(call, tmp_path):
    printed = call("--repeat", "2", opts=["SEED", -1])
    folders = sorted((tmp_path / "run").glob("seed_*"))
    assert printed[-1] == str(tmp_path / "run" / "repeats.json")
    first = json.loads((tmp_path / "run" / "repeats.json").read_text())
    assert [f"seed_{seed}" for seed in first["seeds"]] == [folder.name for folder in folders]
    assert [report(folder)["protocol"]["seed"] for folder in folders] == first["seeds"]
    finals = [(folder / "model_final.pth").stat().st_mtime_ns for folder in folders]
    call("--repeat", "2", "--resume", opts=["SEED", -1])  # finds the seed that was drawn
    assert [(folder / "model_final.pth").stat().st_mtime_ns for folder in folders] == finals
    assert json.loads((tmp_path / "run" / "repeats.json").read_text()) == first
    with pytest.raises(ValueError, match=r"--repeat trains, --eval-only does not"):
        call("--repeat", "2", "--eval-only")


@NEEDS_DETECTRON2
def test_train_net__detectron2_gives_a_report_of_the_same_form(call, tmp_path):
    call(output="ours")
    call(engine="detectron2", output="theirs")
    ours, theirs = report(tmp_path / "ours"), report(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert ours["protocol"].keys() == theirs["protocol"].keys()
    assert theirs["protocol"]["engine"] == "detectron2"
    assert "detectron2" in theirs["protocol"]["versions"]


@pytest.mark.parametrize(
    "flags, opts, text",
    [
        (["--eval-only"], [], r"--eval-only needs a trained detector: add MODEL.WEIGHTS, .*run/model_final.pth"),
        (["--eval-only"], ["MODEL.WEIGHTS", "a.pth", "DATASETS.TEST", "()"], r"--eval-only needs DATASETS.TEST"),
        (["--num-gpus", "2"], [], r"--num-gpus 2 --num-machines 1 asks for 2; leave these flags out"),
        ([], ["SOLVER.BASELR", 1], r"unknown config key SOLVER.BASELR; did you mean SOLVER.BASE_LR\?"),
        ([], ["SOLVER.MAX_ITER"], r"expected KEY VALUE pairs, but 'SOLVER.MAX_ITER' has no value"),
        ([], ["DATASETS.TEST", "('voc_2007_val',)"], r"Main/val.txt does not exist; this folder has test, trainval"),
        ([], ["MODEL.WEIGHTS", "none.pth"], r"weights file none.pth does not exist"),
    ],
)
def test_train_net__refuses_before_training(call, tmp_path, flags, opts, text):
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        call(*flags, opts=opts)
    assert {path.name for path in tmp_path.glob("run/*")} <= {"log.txt"}


def test_train_net__help_answers_at_once_and_errors_take_one_line(tmp_path):
    tool = [sys.executable, str(ROOT / "tools" / "train_net.py")]
    seconds = []
    for _ in range(3):  # the best of three, because others may keep the machine busy
        started = time.monotonic()
        shown = subprocess.run([*tool, "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 1
    assert "python tools/train_net.py --config-file detection/configs/voc_r50_c4_paper.yaml" in shown.stdout
    failed = subprocess.run([*tool, "--config-file", str(tmp_path / "none.yaml")], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.splitlines() == [f"train_net.py: error: config file {tmp_path / 'none.yaml'} does not exist"]


@pytest.mark.parametrize("flags, opened", [([], True), (["--skip-picture-check"], False)])
def test_train_net__opens_every_picture_unless_told_not_to(call, monkeypatch, flags, opened):
    def read_run_data(_cfg, *, open_pictures, **_options):
        raise ValueError(f"pictures are opened: {open_pictures}")

    monkeypatch.setattr("detection.fine_tune.read_run_data", read_run_data)
    with pytest.raises(ValueError, match=f"pictures are opened: {opened}"):
        call(*flags)
    monkeypatch.setenv("RANK", "1")  # another process of torchrun leaves it to the first
    with pytest.raises(ValueError, match="pictures are opened: False"):
        call(*flags)
