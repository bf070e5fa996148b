"""Runs of a comparison as folders and reports name them, and what is refused of these."""

from __future__ import annotations

import json

import pytest

from detection.evaluation.comparison import load_runs, run_folders
from detection.evaluation.detection_files import write_detections
from tests.detection.comparisons import DATASET, run


@pytest.mark.parametrize(
    "folder, prefix, protocol, method",
    [
        ("lr_0.02_seed1", "", None, "lr_0.02"),
        ("saliencymix.v2", "", None, "saliencymix.v2"),
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


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", ""])
def test_load_runs__refuses_a_damaged_report(tmp_path, content):
    write_detections(DATASET, run("x", 2).detections, tmp_path)
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match=r"report\.json(, line 1: not JSON| is not a report)"):
        load_runs(DATASET, str(tmp_path))


def test_load_runs__the_folder_of_repeat_is_a_run_for_each_seed(tmp_path):
    for seed in (3, 4):
        inference = tmp_path / "cutmix" / f"seed_{seed}" / "inference" / "voc_2007_test"
        write_detections(DATASET, run("x", seed).detections, inference)
        (inference / "report.json").write_text(json.dumps({"protocol": {"seed": seed}}))
    (tmp_path / "cutmix" / "repeats.json").write_text('{"seeds": [3, 4]}')
    loaded = load_runs(DATASET, str(tmp_path / "cutmix"))
    assert [(one.method, one.protocol["seed"], len(one.detections)) for one in loaded] == [
        ("cutmix", 3, 3),
        ("cutmix", 4, 4),
    ]
    assert [one.method for one in load_runs(DATASET, f"mine={tmp_path / 'cutmix'}")] == ["mine", "mine"]


def test_run_folders__of_repeat_are_the_runs_of_its_last_call(tmp_path):
    """Five seeds, then three anew: the other two are of before."""
    for seed in (0, 1, 2, 3, 10):
        (tmp_path / f"seed_{seed}").mkdir()
    (tmp_path / "repeats.json").write_text('{"seeds": [1, 2, 10]}')
    assert run_folders(str(tmp_path)) == ("", [str(tmp_path / f"seed_{seed}") for seed in (1, 2, 10)])


@pytest.mark.parametrize("content", ["{", "[]", '{"seeds": 3}'])
def test_run_folders__refuses_a_damaged_summary(tmp_path, content):
    (tmp_path / "repeats.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"repeats\.json(, line 1: not JSON| is not the summary of --repeat \(name the runs)"
    ):
        run_folders(str(tmp_path))


@pytest.mark.parametrize("inside", [
    "inference/voc_2007_test", "inference", "inference/voc_2007_test/results.json", "inference_model_0004999",
    "inference_model_0004999/voc_2007_test",
])  # fmt: skip
def test_load_runs__a_path_inside_a_run_is_named_after_the_run(tmp_path, inside):
    path = tmp_path / "moco" / "seed_2" / inside
    if path.suffix:
        path.parent.mkdir(parents=True)
        path.write_text("[]")
    else:
        write_detections(DATASET, run("x", 2).detections, path)
    (loaded,) = load_runs(DATASET, str(path))
    assert loaded.method == "moco"


def test_load_runs__a_name_may_hold_an_equals_sign(tmp_path):
    write_detections(DATASET, run("x", 2).detections, tmp_path / "a=b")
    for spec, method in (("lr=0.1=", "lr=0.1"), ("", "a=b"), ("x=", "x")):
        (loaded,) = load_runs(DATASET, f"{spec}{tmp_path / 'a=b'}")
        assert loaded.method == method


def test_load_runs__names_the_report(tmp_path):
    inference = tmp_path / "x" / "inference" / "voc_2007_test"
    write_detections(DATASET, run("x", 2).detections, inference)
    assert load_runs(DATASET, str(tmp_path / "x"))[0].report is None
    (inference / "report.json").write_text(json.dumps({"protocol": {}}))
    assert load_runs(DATASET, str(tmp_path / "x"))[0].report == str(inference / "report.json")


@pytest.mark.parametrize("spec", ["=runs/a", " =runs/a"])
def test_load_runs__refuses_an_empty_name(spec):
    with pytest.raises(ValueError, match=rf"--compare {spec}: the name before the equals sign is empty"):
        load_runs(DATASET, spec)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("seed", "<script>", r"Expected `int \| null`, got `str` at `\$\.protocol\.seed`"),
        ("seed", 0.5, r"Expected `int \| null`, got `float`"),
        ("weights", "x.pth", r"got `str` at `\$\.protocol\.weights`"),
        ("weights", {"sha256": 3}, r"got `int` at `\$\.protocol\.weights\.sha256`"),
        ("training", [1], r"got `array` at `\$\.protocol\.training`"),
        ("method", {"a": 1}, r"got `object` at `\$\.protocol\.method`"),
        ("complete", "yes", r"Expected `bool`, got `str` at `\$\.protocol\.complete`"),
        ("versions", 3, r"Expected `object`, got `int` at `\$\.protocol\.versions`"),
        (None, None, r"missing required field `protocol`"),
        ("training", {"A": [1, float("nan")]}, r"nan is no number of JSON's at `\$\.protocol\.training\.A\[1\]`"),
        ("versions", {"torch": float("inf")}, r"inf is no number of JSON's at `\$\.protocol\.versions\.torch`"),
        ("method", "a\ud800", r"half a character, 'a\\ud800', at `\$\.protocol\.method`"),
        ("test", {"\udfff": 1}, r"half a character, '\\udfff', at `a key of \$\.protocol\.test`"),
    ],
)
def test_load_runs__a_report_of_other_types_is_refused_by_file_and_key(tmp_path, key, value, message):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "coco_instances_results.json").write_text("[]")
    (folder / "report.json").write_text(json.dumps({"protocol": {key: value}} if key else {"classes": []}))
    with pytest.raises(ValueError, match=rf"a/report\.json is not a report: .*{message}"):
        load_runs(DATASET, str(folder))
