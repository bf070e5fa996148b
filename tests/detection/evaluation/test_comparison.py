"""Runs side by side: grouping, spread, paired differences, and pages that keep protocols apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.comparison import PAPER_TABLE, Run, compare_runs, load_runs
from detection.evaluation.detection_files import write_detections
from detection.evaluation.voc import PictureDetections
from detection.report.comparison import write_comparison

BOX = (1.0, 1.0, 100.0, 100.0)
DATASET = DetectionDataset(
    "voc_2007_test", Path("VOC2007"), "test", ("dog", "cat"),
    tuple(
        AnnotatedPicture(f"{index}", Path("x.jpg"), Path("x.xml"), 200, 200, (AnnotatedObject("dog", BOX, False),))
        for index in range(8)
    ),
)  # fmt: skip
TRAINING = {
    "SOLVER.IMS_PER_BATCH": 8, "SOLVER.MAX_ITER": 41000, "SOLVER.BASE_LR": 0.004, "SOLVER.GAMMA": 0.1,
    "SOLVER.STEPS": [33000], "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.NORM": "FrozenBN", "DATASETS.TRAIN": ["voc_a"],
}  # fmt: skip


def run(method: str, num_found: int, *, seed=None, training=None) -> Run:
    """A run that finds the dog in the first ``num_found`` of eight pictures; its area AP50 is num_found / 8."""
    found = {
        f"{i}": PictureDetections(np.float32([[0, 0, 100, 100]]), np.float32([0.5]), np.array([0]))
        for i in range(num_found)
    }
    return Run(method, f"runs/{method}_{num_found}_{seed}", {"seed": seed, "training": training}, found)


def test_compare_runs__mean_std_and_difference():
    runs = [run("baseline", 2), run("cutmix", 4), run("cutmix", 6), run("baseline", 4)]
    (group,) = compare_runs(DATASET, runs, num_resamples=200)["groups"]
    base, cutmix = group["methods"]
    assert (group["baseline"], base["method"], base["n"], cutmix["n"]) == ("baseline", "baseline", 2, 2)
    assert base["voc10"]["AP50"] == {
        "values": [25, 50],
        "mean": 37.5,
        "std": pytest.approx(25 / 2**0.5),
        "n": 2,
        "interval": [pytest.approx(37.5 + sign * 12.706 * 12.5) for sign in (-1, 1)],  # t of one degree of freedom
        "difference": None,
    }
    assert cutmix["voc10"]["AP50"]["difference"]["mean"] == 25
    low, high = cutmix["voc10"]["AP50"]["difference"]["interval"]
    assert 0 < low < 25 < high < 60  # every resample that has picture 2, 3, 4 or 5 favours cutmix
    assert cutmix["per_class"]["cat"] is None


def test_compare_runs__pairs_the_pictures():
    runs = [run("baseline", 4), run("same", 4)]
    (group,) = compare_runs(DATASET, runs, num_resamples=50)["groups"]
    assert group["methods"][1]["voc07"]["AP"]["difference"] == {"mean": 0, "interval": [0, 0]}
    assert group["methods"][1]["voc07"]["AP"]["std"] is None


def test_compare_runs__protocols_are_kept_apart():
    other = {**TRAINING, "SOLVER.MAX_ITER": 18000}
    runs = [run("baseline", 2, training=TRAINING), run("cutmix", 4, training=other), run("baseline", 3, training=other)]
    first, second = compare_runs(DATASET, runs, num_resamples=10)["groups"]
    assert [entry["method"] for entry in first["methods"]] == ["baseline"]
    assert [entry["method"] for entry in second["methods"]] == ["cutmix", "baseline"]
    assert second["baseline"] == "baseline"


def test_compare_runs__first_method_is_the_baseline_where_none_is_called_so():
    (group,) = compare_runs(DATASET, [run("a", 2), run("b", 4)], num_resamples=10)["groups"]
    assert group["baseline"] == "a"


def test_compare_runs__refuses_detectron2_rules():
    with pytest.raises(ValueError, match="runs are not compared by Detectron2's rules"):
        compare_runs(DATASET, [run("a", 2), run("b", 4)], rules="detectron2")


def test_compare_runs__refuses_one_run_and_the_same_run_twice():
    with pytest.raises(ValueError, match="a comparison needs at least two runs, but got 1"):
        compare_runs(DATASET, [run("a", 2)])
    with pytest.raises(ValueError, match=r"run .*a_2_None is given twice; the same run is no second seed"):
        compare_runs(DATASET, [run("a", 2), run("a", 2)])


@pytest.mark.parametrize(
    "folder, prefix, protocol, method",
    [
        ("cutmix_seed2", "", None, "cutmix"),
        ("cutmix-s10", "", None, "cutmix"),
        ("cutmix_3", "", None, "cutmix"),
        ("out", "", {"method": "mixup", "seed": 1}, "mixup"),
        ("out", "", {"method": None}, "out"),
        ("out", "cutout=", {"method": "mixup"}, "cutout"),
        ("moco/seed_2", "", None, "moco"),
    ],
)
def test_load_runs__method(tmp_path, folder, prefix, protocol, method):
    inference = tmp_path / folder / "inference" / "voc_2007_test"
    write_detections(DATASET, run("x", 2).detections, inference)
    if protocol is not None:
        (inference / "report.json").write_text(json.dumps({"protocol": protocol}))
    (loaded,) = load_runs(DATASET, f"{prefix}{tmp_path / folder}")
    assert (loaded.method, len(loaded.detections), loaded.protocol) == (method, 2, protocol or {})


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON"])
def test_load_runs__refuses_a_damaged_report(tmp_path, content):
    write_detections(DATASET, run("x", 2).detections, tmp_path)
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match=r"report\.json is not a report"):
        load_runs(DATASET, str(tmp_path))


def test_load_runs__the_folder_of_repeat_is_a_run_for_each_seed(tmp_path):
    for seed in (3, 4):
        inference = tmp_path / "cutmix" / f"seed_{seed}" / "inference" / "voc_2007_test"
        write_detections(DATASET, run("x", seed).detections, inference)
        (inference / "report.json").write_text(json.dumps({"protocol": {"seed": seed}}))
    (tmp_path / "cutmix" / "repeats.json").write_text("{}")
    loaded = load_runs(DATASET, str(tmp_path / "cutmix"))
    assert [(one.method, one.protocol["seed"], len(one.detections)) for one in loaded] == [
        ("cutmix", 3, 3),
        ("cutmix", 4, 4),
    ]
    assert [one.method for one in load_runs(DATASET, f"mine={tmp_path / 'cutmix'}")] == ["mine", "mine"]


def test_load_runs__refuses_an_empty_name(tmp_path):
    with pytest.raises(ValueError, match=r"--compare =runs/a: the name before the equals sign is empty"):
        load_runs(DATASET, "=runs/a")


def test_write_comparison__pages(tmp_path):
    runs = [
        run("baseline", 2, seed=1, training=TRAINING),
        run("baseline", 4, seed=2, training=TRAINING),
        run("saliencymix", 6, seed=1, training=TRAINING),
        run("<b>", 6),
    ]
    comparison = compare_runs(DATASET, runs, num_resamples=50)
    write_comparison(comparison, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == comparison
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "Batch 8, 41,000 iterations, learning rate 0.004 x0.1 at 33,000, R50, FrozenBN, trained on voc_a." in text
    assert re.search(r"^\| saliencymix \| \d+\.\d\d +\| one seed: no spread +\| +1 +\| \+", text, re.MULTILINE)
    assert "Rules: standard (a detection matches where its IoU exceeds the threshold)." in text
    assert f"| saliencymix | {PAPER_TABLE['saliencymix']} |" in text
    html = (tmp_path / "out" / "comparison.html").read_text()
    assert "<b>" not in html.replace("&lt;b&gt;", "")
    assert "Our runs, protocol 2" in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
