"""What earlier versions left goes on: resumed, evaluated, converted, fine-tuned from, compared, found done.

Each folder here holds what one version wrote (``make.py``), and ``expected.json`` what the same version said when it
went on from it. Numbers are compared to CLOSE: another PyTorch, or another number of threads, rounds otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import detection.config as detection_config
import pretrain.config as pretrain_config
from detection.defaults import get_cfg as get_detection_cfg
from pretrain.run.checkpoint import load_checkpoint
from pretrain.run.settings import check_same_run, leaves
from pretrain.weights.files import read_weights

HERE = Path(__file__).resolve().parent
CLOSE = 1e-3  # relative; one version repeats itself to the last digit where PyTorch and the threads are the same
SET = "voc_2007_trainval"  # on which the kept detectors, trained for seconds, find something
CLOCK = {"time", "data_time", "images_per_second", "eta_seconds", "rank_data_time"}
NEEDS_DETECTRON2 = pytest.mark.skipif(not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed")
ARCHIVE_OF = {
    "pretraining": "pretraining", "backbone": "pretraining", "torchvision": "detectors", "detectron2": "detectors",
    "reports": "reports", "study": "study",
}  # fmt: skip
ENGINES = ["torchvision", pytest.param("detectron2", marks=NEEDS_DETECTRON2)]


class OldRuns:
    """What one version left, unpacked into a folder that is the working directory."""

    def __init__(self, archives: Path, folder: Path, load_tool, capsys):
        self.archives, self.folder, self.load_tool, self.capsys = archives, folder, load_tool, capsys
        self.expected = json.loads((archives / "expected.json").read_text())

    def unpack(self, *parts: str) -> None:
        """Unpack the pictures, and of the archives what is called ``parts`` or lies below."""
        with tarfile.open(HERE / "data.tar.xz") as archive:
            archive.extractall(self.folder, filter="data")
        for name in {ARCHIVE_OF[part.partition("/")[0]] for part in parts}:
            with tarfile.open(self.archives / f"{name}.tar.xz") as archive:
                missing = {part for part in parts if ARCHIVE_OF[part.partition("/")[0]] == name}
                for member in archive:  # a part's files follow each other
                    here = {part for part in parts if member.name == part or member.name.startswith(f"{part}/")}
                    if here:
                        archive.extract(member, self.folder, filter="data")
                        missing -= here
                    elif not missing:
                        break

    def call(self, tool: str, *words: str) -> str:
        """Run a tool of today and return what it prints."""
        self.capsys.readouterr()
        assert not self.load_tool(tool).main(list(words))
        return self.capsys.readouterr().out.strip()


@pytest.fixture(params=sorted(path.parent.name for path in HERE.glob("*/expected.json")))
def old(request, tmp_path, monkeypatch, load_tool, capsys):
    monkeypatch.chdir(tmp_path)
    yield OldRuns(HERE / request.param, tmp_path, load_tool, capsys)
    shutil.rmtree(tmp_path)  # networks of real size


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def numbers(entry):
    return {name: value for name, value in entry.items() if name not in CLOCK}


def assert_same_numbers(found, wanted):
    assert [set(numbers(one)) for one in found] == [set(numbers(one)) for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=CLOSE)


def same_tensors(one, other):
    assert list(one) == list(other)
    return all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in one)


# Pretraining ----------------------------------------------------------------------------------------------------------


def test_pretraining__goes_on_from_the_step_of_its_checkpoint(old):
    """It was killed two lines of metrics.json after its checkpoint; the first new loss is the one the old code had."""
    old.unpack("pretraining/middle")
    before = read_lines("pretraining/middle/metrics.json")
    assert [one["iteration"] for one in before] == [1, 2, 3, 3]
    assert Path("pretraining/middle/last_checkpoint").read_text() == "model_0000002.pth"
    old.call("pretrain", "--resume", "--config-file", "pretraining/middle/config.yaml")
    after = read_lines("pretraining/middle/metrics.json")
    assert after[:2] == before[:2]
    assert [one["iteration"] for one in after] == [1, 2, 3, 3, 4, 5, 6, 6]
    wanted = old.expected["pretraining"]["resumed"]
    assert after[2]["loss"] == pytest.approx(wanted[0]["loss"], rel=CLOSE)
    assert_same_numbers(after[2:], wanted)
    assert Path("pretraining/middle/last_checkpoint").read_text() == "model_final.pth"


def test_pretraining__a_finished_one_has_nothing_to_do_and_the_accuracy_it_had(old):
    old.unpack("pretraining/finished")
    run = ["--config-file", "pretraining/finished/config.yaml"]
    weights = Path("pretraining/finished/model_final.pth")
    written = weights.stat().st_mtime_ns
    assert old.call("pretrain", "--resume", *run) == old.expected["pretraining"]["evaluated"]
    assert weights.stat().st_mtime_ns == written
    assert old.call("pretrain", "--eval-only", *run) == old.expected["pretraining"]["evaluated"]


@pytest.mark.parametrize("target", ["backbone.pth", "older.pkl"])
def test_converting__gives_the_same_backbone_to_the_bit(old, target):
    old.unpack("pretraining/finished", "backbone")
    old.call("convert_checkpoint", "--no-verify", "pretraining/finished/model_final.pth", target)
    new, kept = read_weights(target), read_weights(f"backbone/{target}")
    assert same_tensors(new["model"], kept["model"])
    stem = Path(target).stem
    card, kept_card = (json.loads(Path(folder, f"{stem}.card.json").read_text()) for folder in (".", "backbone"))
    unlike = {"tool", "verification"}  # the version that wrote it; what was not verified again
    assert {name: card[name] for name in kept_card if name not in unlike} == {
        name: value for name, value in kept_card.items() if name not in unlike
    }


# Detectors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["backbone.pth", "older.pkl"])
def test_fine_tuning__starts_from_an_old_backbone(old, backbone):
    """After one step of the warm-up the detector still has its weights, and its card for good."""
    old.unpack("backbone", "torchvision/middle/config.yaml")
    run = ["--config-file", "torchvision/middle/config.yaml", "MODEL.WEIGHTS", f"backbone/{backbone}"]
    opts = ["SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()", "OUTPUT_DIR", "new"]
    old.call("train_net", "--engine", "torchvision", *run, *opts)
    card = json.loads(Path(f"backbone/{Path(backbone).stem}.card.json").read_text())
    assert card["method"] == "saliencymix"
    detector = load_checkpoint("new/model_final.pth")
    assert detector["card"] == card
    for name, tensor in read_weights(f"backbone/{backbone}")["model"].items():
        if not name.endswith(("running_mean", "running_var")):
            tuned = detector["model"][f"backbone.bottom_up.{name.removeprefix('backbone.bottom_up.')}"]
            torch.testing.assert_close(tuned, torch.as_tensor(tensor), rtol=0.01, atol=1e-3)


def read_detections(folder):
    """Class -> rows of score and box, as well as the image ids beside them, in the order of the file."""
    files = sorted(Path(folder).glob("comp4_det_*.txt"))
    lines = {path.name: [line.split() for line in path.read_text().splitlines()] for path in files}
    return {
        name: ([line[0] for line in rows], [list(map(float, line[1:])) for line in rows])
        for name, rows in lines.items()
    }


def assert_same_report(folder, kept):
    found, wanted = (json.loads(Path(place, "report.json").read_text()) for place in (folder, kept))
    assert wanted["voc07"]["AP50"] > 0
    for part in ("voc07", "voc10", "coco"):
        for name in ("AP", "AP50", "AP75"):
            assert found[part][name] == pytest.approx(wanted[part][name], rel=CLOSE)
    assert list(found["voc07"]["per_class"]) == list(wanted["voc07"]["per_class"])
    for name, ap in wanted["voc07"]["per_class"].items():
        assert found["voc07"]["per_class"][name] == (ap and pytest.approx(ap, rel=CLOSE))
    new, old = read_detections(folder), read_detections(kept)
    assert {name: ids for name, (ids, _) in new.items()} == {name: ids for name, (ids, _) in old.items()}
    for name, (_, rows) in old.items():
        np.testing.assert_allclose(new[name][1], rows, rtol=CLOSE, atol=1e-2)


@pytest.mark.parametrize("engine", ENGINES)
def test_fine_tuning__goes_on_and_ends_as_it_did_then(old, engine):
    old.unpack(f"{engine}/middle", f"{engine}/finished")
    before = read_lines(f"{engine}/middle/metrics.json")
    old.call("train_net", "--resume", "--engine", engine, "--config-file", f"{engine}/middle/config.yaml")
    after = read_lines(f"{engine}/middle/metrics.json")
    assert after[: len(before)] == before
    assert [one["iteration"] for one in after] == [19, 39, 59]
    assert_same_numbers(after[-1:], [old.expected[engine]["resumed"]])
    folders = [Path(engine, name) for name in ("middle", "finished")]
    new, kept = (read_weights(folder / "model_final.pth")["model"] for folder in folders)
    assert list(new) == list(kept)
    for name, values in kept.items():
        assert float((new[name] - values).abs().max()) <= 10 * CLOSE * float(values.abs().max()), name
    # rounding moves weights a little, and then changes the places of detections: AP leaps
    reports = [json.loads((folder / "inference" / SET / "report.json").read_text()) for folder in folders]
    assert reports[0]["voc07"]["AP50"] == pytest.approx(reports[1]["voc07"]["AP50"], abs=0.05)


@pytest.mark.parametrize("engine", ENGINES)
def test_evaluating__finds_what_the_detector_found_then(old, engine):
    old.unpack(f"{engine}/finished")
    old.call(
        "train_net", "--eval-only", "--engine", engine, "--config-file", f"{engine}/finished/config.yaml",
        "MODEL.WEIGHTS", f"{engine}/finished/model_final.pth", "OUTPUT_DIR", "new",
    )  # fmt: skip
    assert_same_report(f"new/inference/{SET}", f"{engine}/finished/inference/{SET}")


# Reports --------------------------------------------------------------------------------------------------------------

VOC_MAP = ("voc_map", "--data-root", "data/VOCdevkit", "--dataset", SET, "--resamples", "50")


def test_reporting__old_detections_have_the_numbers_they_had(old):
    old.unpack("reports")
    kept = json.loads(Path(f"reports/baseline_1/inference/{SET}/report.json").read_text())
    old.call(*VOC_MAP, "--detections", "reports/baseline_1", "--output", "new")
    new = json.loads(Path("new/report.json").read_text())
    for part in ("voc07", "voc10", "coco"):
        for name in ("AP", "AP50", "AP75"):
            assert new[part][name] == pytest.approx(kept[part][name], abs=1e-9)
    for name in ("method", "seed", "engine", "weights", "training", "test", "backbone"):
        assert new["protocol"][name] == kept["protocol"][name]


def methods_of(path):
    (group,) = json.loads(Path(path).read_text())["groups"]
    return {entry["method"]: entry for entry in group["methods"]}


def test_comparing__old_runs_give_the_old_table(old):
    old.unpack("reports")
    wanted = methods_of("reports/comparison/comparison.json")
    runs = ["reports/baseline_1", "reports/baseline_2", "reports/cutmix"]  # the last one is of --repeat
    old.call(*VOC_MAP, "--output", "new", "--compare", *runs)
    found = methods_of("new/comparison.json")
    assert list(found) == list(wanted) == ["baseline", "cutmix"]
    for method, entry in wanted.items():
        assert found[method]["seeds"] == entry["seeds"] == [1, 2]
        for name in ("AP", "AP50", "AP75"):
            for metric in ("voc07", "voc10"):
                new, kept = found[method][metric][name], entry[metric][name]
                assert new["values"] == pytest.approx(kept["values"], abs=1e-9)
                assert (new["difference"] or {}).get("mean") == pytest.approx((kept["difference"] or {}).get("mean"))
    assert len({tuple(entry["voc07"]["AP50"]["values"]) for entry in wanted.values()}) == 2


# Studies --------------------------------------------------------------------------------------------------------------

DONE = ["data/pictures", "baseline/seed0/pretrain", "baseline/seed0/convert", "data/VOCdevkit",
        "baseline/seed0/fine_tune", "baseline/seed0/evaluate"]  # fmt: skip


def test_study__runs_nothing_twice_and_goes_on_with_what_was_begun(old, monkeypatch):
    old.unpack("study")
    monkeypatch.chdir("study")
    plan = old.call("study", "--dry-run", "--accept-code", "--config-file", "study.yaml")
    planned = re.findall(r"^(\S+/\S+): (.*)$", plan, re.MULTILINE)
    assert [name for name, _ in planned] == [
        "cutmix/seed0/pretrain", "cutmix/seed0/convert", "cutmix/seed0/fine_tune", "cutmix/seed0/evaluate",
        "study/comparison",
    ]  # fmt: skip
    assert [name for name, cost in planned if "goes on" in cost] == ["cutmix/seed0/pretrain"]
    assert f"{len(DONE) + 5} stages: {len(DONE)} done, 5 to run" in plan


def test_study__draws_its_page_with_the_old_numbers(old, monkeypatch):
    old.unpack("study")
    monkeypatch.chdir("study")
    kept = json.loads(Path("out/study/study.json").read_text())
    said = old.call("study", "--accept-code", "--only", "baseline", "--config-file", "study.yaml")
    assert said.splitlines()[-2] == f"nothing to do: all {len(DONE)} stages are done"
    new = json.loads(Path("out/study/study.json").read_text())
    values = [[run["values"] for run in row["runs"]] for row in new["rows"]]
    assert values == [[run["values"] for run in row["runs"]] for row in kept["rows"]]
    assert values[0][0]["voc07_AP50"] > 0
    assert values[1] == [None]
    assert [stage["name"] for stage in new["stages"] if stage["state"] == "done"] == DONE
    assert f"{values[0][0]['voc07_AP50']:.1f}" in Path("out/study/study.html").read_text()


# Versions -------------------------------------------------------------------------------------------------------------


def test_changelog__begins_with_the_version_of_the_package():
    root = HERE.parents[1]
    (version,) = re.findall(r'^version = "(.*)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    headings = re.findall(r"^## (\S+)", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == version
    assert {path.parent.name.partition(".dev")[0] for path in HERE.glob("*/expected.json")} >= set(headings[1:])


# Settings -------------------------------------------------------------------------------------------------------------

HALVES = {
    "pretraining": (pretrain_config.load_pretrain_config, pretrain_config.get_cfg(), pretrain_config.EFFECTS),
    "torchvision": (detection_config.read_detection_config, get_detection_cfg(), detection_config.EFFECTS),
}


@pytest.mark.parametrize("half", HALVES)
def test_settings__what_an_old_config_lacks_had_its_first_default(old, half):
    """Every key of an old config.yaml is known with its value; the others are what they were when they were new."""
    load, defaults, effects = HALVES[half]
    old.unpack(f"{half}/middle")
    path = Path(half, "middle", "config.yaml")
    recorded = dict(leaves(yaml.safe_load(path.read_text())))
    loaded = dict(leaves(yaml.safe_load(load(path).dump())))
    first = yaml.safe_load((HERE.parent / "first_defaults.yaml").read_text())
    first = first["pretrain" if half == "pretraining" else "detection"]
    assert {name: loaded[name] for name in recorded} == recorded
    assert {name: value for name, value in loaded.items() if name not in recorded} == {
        name: value for name, value in first.items() if name not in recorded
    }
    assert effects.first_values(defaults) == first


@pytest.mark.parametrize("half", HALVES)
def test_settings__an_old_run_without_a_key_is_the_same_run(old, half):
    """The config of the killed run, in its checkpoint and beside it, without any key that has its first default."""
    load, defaults, effects = HALVES[half]
    old.unpack(f"{half}/middle")
    (checkpoint,) = Path(half, "middle").glob("model_0*.pth")
    recorded = load_checkpoint(checkpoint)["config"]
    first = effects.first_values(defaults)
    short = {name: value for name, value in leaves(yaml.safe_load(recorded)) if value != first[name]}
    assert 5 < len(short) < len(first) - 5
    Path("short.yaml").write_text(yaml.safe_dump(nested(short)))
    check_same_run(Path("short.yaml").read_text(), load(Path(half, "middle", "config.yaml")), defaults, effects)
    check_same_run(recorded, load("short.yaml"), defaults, effects)


def nested(values):
    tree = {}
    for name, value in values.items():
        *groups, leaf = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree
