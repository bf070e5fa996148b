"""A small study of each kind, and stages that take no time."""

import sys

import pytest
import yaml

from tools.studies.config import load_study
from tools.studies.planning.code_version import stage_version
from tools.studies.planning.plan import make_plan
from tools.studies.planning.stages import Stage

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

    def plan_of(opts=(), *, accept_code=False, accept_data=False, **changes):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(STUDY | changes))
        cfg = load_study(path, ["OUTPUT_DIR", str(tmp_path / "out"), *opts])
        return make_plan(cfg, path, accept_code=accept_code, accept_data=accept_data)

    return plan_of


@pytest.fixture
def make_stage(tmp_path):
    """Return a function that makes a stage whose command is a line of Python, run in the stage's folder ``F``."""

    def make_stage(name, code="(F / 'out.txt').write_text('made')", *, parents=(), outputs=("out.txt",), threads=0):
        folder = tmp_path / "out" / f"{name}-12345678"
        text = f"import os, sys, time; from pathlib import Path; F = Path({str(folder)!r}); {code}"
        code = stage_version("convert")
        return Stage(
            name,
            "convert",
            {},
            code,
            code,
            tuple(parents),
            f"print of {name}",
            f"meaning of {name}",
            folder,
            (sys.executable, "-c", text),
            tuple(outputs),
            1.0,
            0,
            threads,
        )

    return make_stage


def run(seed, value, state="done"):
    """A run with this mAP, or without any where ``value`` is None."""
    values = None if value is None else {"voc07_AP50": value}
    link = None if value is None else f"runs/seed {seed}/report.html"
    return {"seed": seed, "state": state, "values": values, "link": link, "seconds": 60.0}


@pytest.fixture
def result():
    """The content of a study.json: whole, one seed missing, one failed, only one there, not run, failed."""

    def row(method, paper, runs, summary):
        paper = {} if paper is None else {"voc07_AP50": paper}
        return {
            "method": method,
            "model": "ResNet-50",
            "data": "VOC",
            "found": False,
            "paper": paper,
            "paper_std": {},
            "paper_only": {},
            "runs": runs,
            "summary": {"voc07_AP50": summary},
        }

    def summary(n, mean, std, interval, difference):
        return {"n": n, "mean": mean, "std": std, "interval": interval, "difference": difference}

    def difference(n, mean, interval=None, *, clear=False, needed=None):
        return {"n": n, "mean": mean, "interval": interval, "clear": clear, "seeds_needed": needed}

    def stage(name, state, message=None):
        link = None if state == "not run" else f"{name}/log.txt"
        return {
            "name": name,
            "kind": "pretrain",
            "state": state,
            "seconds": 3725.0 if state == "done" else None,
            "link": link,
            "message": message,
        }

    rows = [
        row(
            "baseline", 76.71, [run(0, 76.0), run(1, 77.0), run(2, 78.0)], summary(3, 77.0, 1.0, [74.516, 79.484], None)
        ),
        row(
            "cutout",
            77.17,
            [run(0, 77.0), run(1, 78.5), run(2, None, "failed")],
            summary(2, 77.75, 1.0607, [68.22, 87.28], difference(2, 1.25, [-1.926, 4.426], needed=7)),
        ),
        row(
            "mixup",
            77.98,
            [run(0, None, "not run"), run(1, 79.0), run(2, None, "not run")],
            summary(1, 79.0, None, None, difference(1, 2.0)),
        ),
        row("cutmix", 78.31, [run(seed, None, "not run") for seed in range(3)], None),
        row(
            "saliencymix",
            78.48,
            [run(0, 78.0), run(1, 79.0), run(2, 80.0)],
            summary(3, 79.0, 1.0, [76.516, 81.484], difference(3, 2.0, [1.5, 2.5], clear=True, needed=3)),
        ),
        row("official", None, [run(seed, None, "failed" if seed else "not run") for seed in range(3)], None),
    ]
    stages = [
        stage("a/pretrain", "done"),
        stage("b/pretrain", "failed", "no space left\non the disk"),
        stage("c/pretrain", "running"),
        stage("d/pretrain", "not run"),
    ]
    return {
        "title": "Table 3",
        "study": "table3_small",
        "kind": "transfer",
        "config_file": "tools/studies/configs/table3_small.yaml",
        "written": "2026-11-22 17:05:00",
        "progress": {"done": 1, "total": 4, "failed": 1},
        "metrics": [{"key": "voc07_AP50", "label": "mAP", "unit": "%", "lower_is_better": False}],
        "notes": ["One.", "Two."],
        "protocol": {"iterations": 41000},
        "versions": {"torch": "2.6"},
        "baseline": "baseline",
        "rows": rows,
        "verdicts": [],
        "transfer": None,
        "links": [{"label": "Comparison", "href": "comparison/comparison.html"}],
        "figures": [],
        "paper": {"table": "Table 3", "protocol": "41K iterations."},
        "stages": stages,
    }


@pytest.fixture
def transfer_result(result):
    """The same as what ``tools/transfer.py`` leads to: a verdict, sources of every kind, pictures, classes, others."""
    card = {
        "source": "moco_v2.pth.tar",
        "source_sha256": "5" * 64,
        "source_prefix": "state_dict.module.encoder_q.",
        "arch": "resnet50",
        "top1": 71.1,
        "channel_order": "RGB",
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
        "assumed": "the source has no card",
    }
    own = {"from": "pretraining", "file": "imagenet_r50_cutmix.yaml", "card": None}
    result["verdicts"] = [
        {
            "of": None,
            "metric": "voc07_AP50",
            "ranked": ["saliencymix", "baseline"],
            "means": {"saliencymix": 79.0, "baseline": 77.0},
            "seeds": {"saliencymix": 3, "baseline": 3},
            "difference": {"n": 3, "mean": 2.0, "interval": [1.5, 2.5], "clear": True, "seeds_needed": 3},
            "beats": ["baseline"],
            "ordered": True,
            "even": [],
            "complete": False,
        }
    ]
    result["transfer"] = {
        "protocol": "One protocol for all rows, voc_r50_c4_moco.yaml: Batch 16.",
        "sources": [
            {"method": "baseline", "from": "file", "file": "moco_v2.pth.tar", "card": card},
            {"method": "cutout", "from": "file", "file": "not_yet.pth", "card": None},
            {"method": "cutmix", **own},
            {"method": "saliencymix", **own, "card": {**card, "top1": None, "assumed": None}},
            {"method": "official", "from": "nothing", "file": None, "card": None},
        ],
        "headline": "voc07_AP50",
        "over_pictures": {
            "saliencymix": {"pictures": [0.5, 3.5], "both": [0.25, 3.75]},
            "cutout": {"pictures": [-1.0, 3.5], "both": None},
        },
        "per_class": {
            "cat": {"baseline": 80.0, "saliencymix": 82.125},
            "dog": {"baseline": None, "saliencymix": None},
        },
        "published": {
            "protocol": "MoCo's",
            "rows": [{"NAME": "random weights", "AP50": 60.2, "AP": 33.8, "AP75": 33.1, "SOURCE": "MoCo's README"}],
        },
    }
    return result
