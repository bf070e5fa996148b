"""tools/study.py from YAML to page, and what it says of mistakes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "TITLE": "One chain",
    "KIND": "transfer",
    "SEEDS": [0],
    "THREADS": 1,
    "EXPERIMENTS": [{
        "METHOD": "baseline", "CONFIG": "pretrain/configs/demo_r18_saliencymix.yaml",
        "OPTS": ["MIXING.METHOD", "baseline"], "PAPER": {"voc07_AP50": 76.71},
    }],
    "PRETRAIN": {"OPTS": ["DATA.IMAGE_SIZE", 32, "DATA.EVAL_RESIZE", 32, "SOLVER.EPOCHS", 1, "SOLVER.STEPS", "()"]},
    "DETECTION": {
        "CONFIG": "detection/configs/demo_r18_fpn.yaml", "ENGINE": "torchvision",
        "OPTS": ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", 2, "INPUT.MIN_SIZE_TRAIN", "(64,)",
                 "INPUT.MIN_SIZE_TEST", 64],
    },
    "DIGITS": {"TRAIN_PER_CLASS": 4, "VAL_PER_CLASS": 2, "SIDE": 32, "SCENES": 4, "TEST_SCENES": 3, "SCENE_SIDE": 64},
}  # fmt: skip


@pytest.fixture
def study(tmp_path):
    """The path of TINY as a file; its results go beside it."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | {"OUTPUT_DIR": str(tmp_path / "out")}))
    return path


def call(*argv, **options):
    command = [sys.executable, str(ROOT / "tools" / "study.py"), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_study__from_pictures_to_page_killed_on_the_way(study, tmp_path):
    out = tmp_path / "out"
    dry = call("--config-file", study, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "6 stages: 0 done, 6 to run" in dry.stdout
    assert not out.exists()

    killed = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "study.py"), "--config-file", str(study)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("baseline/seed0/pretrain-*/stage.log")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    first = call("--config-file", study)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == str(out / "tiny" / "study.html")
    content = json.loads((out / "tiny" / "study.json").read_text())
    (row,) = content["rows"]
    assert content["progress"] == {"done": 6, "total": 6, "failed": 0}
    assert row["runs"][0]["state"] == "done"
    assert row["paper"] == {"voc07_AP50": 76.71}
    assert (out / "tiny" / row["runs"][0]["link"]).is_file()
    for stage in content["stages"]:
        assert (out / "tiny" / stage["link"]).is_file()

    second = call("--config-file", study)
    assert second.returncode == 0
    assert second.stdout.splitlines()[-2] == "nothing to do: all 6 stages are done"
    assert json.loads((out / "tiny" / "study.json").read_text())["rows"] == content["rows"]

    changed = call(
        "--config-file", study, "--dry-run", "DETECTION.OPTS", "['SOLVER.MAX_ITER', '3', 'SOLVER.STEPS', '()']"
    )
    assert "6 stages: 4 done, 2 to run" in changed.stdout


@pytest.mark.slow
def test_study__on_coco_data_from_scenes_to_a_page_about_coco_ap(tmp_path):
    """Without pretraining, which is the same; two seeds, so that there is a comparison."""
    names_coco = ["DATASETS.TRAIN", "('coco_2017_train',)", "DATASETS.TEST", "('coco_2017_val',)"]
    detection = TINY["DETECTION"] | {"OPTS": [*TINY["DETECTION"]["OPTS"], *names_coco]}
    rows = {"EXPERIMENTS": [{"METHOD": "random", "WEIGHTS": "random"}], "BASELINE": "random", "SEEDS": [0, 1]}
    digits = {"DIGITS": {"SCENES": 4, "TEST_SCENES": 12, "SCENE_SIDE": 64}}
    path = tmp_path / "coco.yaml"
    content = {"KIND": "transfer", "THREADS": 1, "DETECTION": detection, **rows, **digits, "OUTPUT_DIR": str(tmp_path)}
    path.write_text(yaml.safe_dump(content))
    done = call("--config-file", path)
    assert done.returncode == 0, done.stderr
    assert "COCO AP" in done.stdout
    told = json.loads((tmp_path / "coco" / "study.json").read_text())
    assert told["progress"] == {"done": 6, "total": 6, "failed": 0}
    assert (told["metrics"][0]["key"], told["transfer"]["headline"]) == ("coco_AP", "coco_AP")
    (row,) = told["rows"]
    for run in row["runs"]:
        report = json.loads((tmp_path / "coco" / run["link"]).with_suffix(".json").read_text())
        assert (report["dataset"], report["format"]) == ("coco_2017_val", "coco")
        assert run["values"]["coco_AP"] == report["coco"]["AP"]
    (comparison,) = (tmp_path / "coco").glob("comparison-*/comparison.json")
    assert json.loads(comparison.read_text())["format"] == "coco"


def test_study__ctrl_c_ends_it_with_one_line_and_leaves_nothing_running(study, tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, by children too
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "study.py"), "--config-file", str(study)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("data/*/stage.log")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "study.py: interrupted; files under their final names are complete"
    assert "Traceback" not in stderr
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in running


def test_study__a_failure_is_one_line_and_the_page_tells_it(study, tmp_path):
    result = call("--config-file", study, "PRETRAIN.OPTS", "['SOLVER.BATCH_SIZE', '64']")
    assert result.returncode == 2
    assert re.fullmatch(
        r"study\.py: error: baseline/seed0/pretrain failed: exit status 2: pretrain\.py: error: .*64.*",
        result.stderr.splitlines()[-1],
    )
    page = (tmp_path / "out" / "tiny" / "study.html").read_text()
    assert "baseline/seed0/pretrain" in page
    assert "failed" in page
    content = json.loads((tmp_path / "out" / "tiny" / "study.json").read_text())
    assert content["rows"][0]["summary"]["voc07_AP50"] is None


MADE = "DIGITS.TRAIN_PER_CLASS"
EMPTY_ROOT = "PRETRAIN.DATA_ROOT is empty; give the pictures to pretrain on, such as PRETRAIN.DATA_ROOT /data/imagenet"
WITHOUT_DATA = {key: value for key, value in os.environ.items() if key != "DETECTRON2_DATASETS"}
MISTAKES = [
    (["--config-file", "no.yaml"], "config file no.yaml does not exist"),
    (["--config-file", "{study}", "SEED", "1"], "command line: unknown config key SEED; did you mean SEEDS?"),
    (["--config-file", "{study}", "--only", "cutmax"],
     "--only cutmax names no stage; parts of names are VOCdevkit, baseline, "
     "convert, data, evaluate, fine_tune, pictures, pretrain, seed0"),
    (["--jobs", "-1", "--config-file", "{study}"], "--jobs is -1; expected at least 1 (0: chosen by the machine)"),
    (["--config-file", "{study}", MADE, "0", "DETECTION.VOC_ROOT", "."],
     EMPTY_ROOT),
    (["--config-file", "{study}", MADE, "0", "PRETRAIN.DATA_ROOT", "/no"],
     "PRETRAIN.DATA_ROOT /no is no folder; DETECTION.VOC_ROOT {tmp_path}/datasets is no folder"),
    (["--only", "pretrain", "convert", "--config-file", "{study}"],
     "--only takes one pattern, but convert follows pretrain; write --only pretrain --only convert"),
    (["--config-file", "{study}", "--only", "pretrain", "convert", "SEEDS", "(1,)"],
     "--only takes one pattern, but convert follows pretrain; write --only pretrain --only convert"),
]  # fmt: skip


@pytest.mark.parametrize("argv, message", MISTAKES, ids=[message for _, message in MISTAKES])
def test_study__mistakes_are_one_line(study, tmp_path, argv, message):
    result = call(*(word.format(study=study) for word in argv), cwd=tmp_path, env=WITHOUT_DATA)
    assert result.returncode == 2
    assert result.stderr == f"study.py: error: {message.format(tmp_path=tmp_path)}\n"
    assert not (tmp_path / "out").exists()


def test_study__a_dry_run_tells_that_data_are_missing(load_tool, study, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert load_tool("study").main(["--config-file", str(study), "--dry-run", MADE, "0"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"warning: {EMPTY_ROOT}",
        f"warning: DETECTION.VOC_ROOT {tmp_path}/datasets is no folder",
    ]
    assert load_tool("study").main(["--config-file", str(study), "--dry-run"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_study__only_before_config_keys_is_no_second_pattern(load_tool, study, capsys):
    argv = ["--config-file", str(study), "--dry-run", "--only", "data", "SEEDS", "(5,)"]
    assert load_tool("study").main(argv) == 0
    assert "2 stages: 0 done" in capsys.readouterr().out
