"""A small study of each kind, and stages that take no time."""

import sys

import pytest
import yaml

from studies.code_version import stage_version
from studies.config import load_study
from studies.plan import Stage, make_plan

CONFIG = "pretrain/configs/demo_r18_saliencymix.yaml"
STUDY = {
    "KIND": "transfer",
    "SEEDS": [0, 1],
    "THREADS": 1,
    "EXPERIMENTS": [
        {"METHOD": "baseline", "CONFIG": CONFIG, "OPTS": ["MIXING.METHOD", "baseline"], "PAPER": {"voc07_AP50": 76.71}},
        {"METHOD": "cutmix", "CONFIG": CONFIG, "OPTS": ["MIXING.METHOD", "cutmix"]},
    ],
    "DETECTION": {"CONFIG": "detection/configs/demo_r18_fpn.yaml", "ENGINE": "torchvision"},
    "DIGITS": {"TRAIN_PER_CLASS": 4, "VAL_PER_CLASS": 2, "SCENES": 4, "TEST_SCENES": 4, "SCENE_SIDE": 64},
}


@pytest.fixture
def plan_of(tmp_path):
    """Return a function: the plan of STUDY with changes, KEY VALUE pairs last."""

    def plan_of(opts=(), *, accept_code=False, **changes):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(STUDY | changes))
        cfg = load_study(path, ["OUTPUT_DIR", str(tmp_path / "out"), *opts])
        return make_plan(cfg, path, accept_code=accept_code)

    return plan_of


@pytest.fixture
def make_stage(tmp_path):
    """Return a function that makes a stage whose command is a line of Python, run in the stage's folder ``F``."""

    def make_stage(name, code="(F / 'out.txt').write_text('made')", *, parents=(), outputs=("out.txt",), threads=0):
        folder = tmp_path / "out" / f"{name}-12345678"
        text = f"import os, sys, time; from pathlib import Path; F = Path({str(folder)!r}); {code}"
        code = stage_version("convert")
        return Stage(name, "convert", {}, code, code, tuple(parents), f"print of {name}", f"meaning of {name}", folder,
                     (sys.executable, "-c", text), tuple(outputs), 1.0, 0, threads)  # fmt: skip

    return make_stage
