"""What made a number besides settings and code: PyTorch's version and what the data hold, recorded and compared."""

import dataclasses
import json
import logging
import os

import pytest

import tools.studies.planning.provenance
from pretrain.run.text import read_json
from tools.studies.planning.cost import Estimates, describe_plan
from tools.studies.planning.provenance import PACKAGES, DataIdentities, present_versions, release, torch_version
from tools.studies.records import REQUEST, RESULT, describe_outputs, write_record
from tools.studies.results import study_result
from tools.studies.runner import _made_from, finished, prepare
from tools.studies.worker import run_stage

LEFT_OUT = "left out"  # as before it was recorded


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """The folder of what is remembered of data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "detection-transfer-toolkit" / "data"


def amend(path, **changes):
    write_record(path, {key: value for key, value in (read_json(path) | changes).items() if value != LEFT_OUT})


# Versions -------------------------------------------------------------------------------------------------------------


def test_present_versions__are_those_that_pytorch_and_git_say():
    import torch

    versions = present_versions()
    assert versions["torch"] == torch_version() == torch.__version__
    assert {name: versions[name] for name in PACKAGES}.keys() == set(PACKAGES)
    assert set(versions) - set(PACKAGES) <= {"git"}


def test_torch_version__without_importing_it(monkeypatch):
    import torch

    modules = dict(tools.studies.planning.provenance.sys.modules)
    del modules["torch"]
    monkeypatch.setattr(tools.studies.planning.provenance.sys, "modules", modules)
    torch_version.cache_clear()
    assert torch_version() == torch.__version__


@pytest.mark.parametrize("version, expected", [
    ("2.6.0+cu124", "2.6.0"), ("2.6.0+cpu", "2.6.0"), ("2.6.0+rocm6.2.4", "2.6.0"), ("2.6.0", "2.6.0"),
    ("2.6.0a0+ecf3bae40a.nv25.01", "2.6.0a0+ecf3bae40a.nv25.01"),  # of which there are many with one number
])  # fmt: skip
def test_release__leaves_out_what_it_was_built_for(version, expected):
    assert release(version) == expected


@pytest.fixture
def done(make_stage):
    """A stage that PyTorch computes, run by a worker."""
    stage = dataclasses.replace(make_stage("first"), kind="pretrain")
    prepare(dataclasses.replace(stage, kind="convert"), {})
    assert run_stage(stage.folder)
    return stage


def test_worker__records_the_versions_that_made_the_numbers(done):
    assert read_json(done.folder / RESULT)["versions"] == present_versions()
    assert read_json(done.folder / REQUEST)["versions"] == {"torch": torch_version()}


def test_finished__not_of_what_another_pytorch_made(done, monkeypatch, caplog):
    assert list(finished([done])) == ["first"]
    monkeypatch.setattr(tools.studies.planning.provenance, "torch_version", lambda: "99.1.0")
    assert finished([done]) == {}
    assert list(finished([dataclasses.replace(done, accept_code=True)])) == ["first"]
    assert list(finished([dataclasses.replace(done, kind="convert")])) == ["first"]  # which copies numbers
    assert finished([dataclasses.replace(done, accept_data=True)]) == {}
    with caplog.at_level(logging.WARNING):
        prepare(done, {})
    why = f"it is by PyTorch {torch_version()}, and this is 99.1.0 (--accept-code takes it as it is)"
    assert f"first runs again: {why}; what it had made is in {done.folder}.old1" in caplog.text
    assert not (done.folder / RESULT).exists()


@pytest.mark.parametrize("versions", [LEFT_OUT, {}, {"torch": f"{release(torch_version())}+cu999"}])
def test_finished__of_what_is_known_of_no_other_pytorch(done, versions):
    amend(done.folder / RESULT, versions=versions)
    assert list(finished([done])) == ["first"]


def test_prepare__what_another_pytorch_began_begins_anew(done, caplog):
    (done.folder / RESULT).unlink()
    amend(done.folder / REQUEST, versions={"torch": "1.13.0"})
    accepting = dataclasses.replace(done, accept_code=True)
    assert accepting.why_anew() == ""
    assert done.why_anew().startswith("it is by PyTorch 1.13.0, and this is ")
    prepare(done, {})
    assert not (done.folder / "out.txt").exists()
    assert (done.folder.with_name(f"{done.folder.name}.old1") / "out.txt").exists()
    assert done.why_anew() == ""


# Data -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """train/ and val/ with two classes of two pictures, last changed long ago."""
    root = tmp_path / "pictures"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in (0, 1):
                (folder / f"{number}.jpg").write_bytes(b"x" * (number + 1))
    settle(root)
    return root


def settle(root):
    """Let all folders and files of ``root`` be older than the clock's grain."""
    for number, (folder, _, names) in enumerate(sorted(os.walk(root)), start=1):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            age = 10**9 * (os.stat(path).st_mtime_ns // 10**9 - 1000 * number)
            os.utime(path, ns=(age, age))


def identity(root, kind="pretrain", **inputs):
    return DataIdentities().of_stage(kind, {"data": str(root), **inputs})


CHANGES = {
    "another size": lambda root: (root / "train/cat/0.jpg").write_bytes(b"xyz"),
    "another name": lambda root: (root / "train/cat/0.jpg").rename(root / "train/cat/7.jpg"),
    "another class": lambda root: (root / "val/cat").rename(root / "val/cow"),
    "one more": lambda root: (root / "val/dog/2.jpg").touch(),
    "one less": lambda root: (root / "val/dog/1.jpg").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_pictures__names_and_sizes_count(pictures, memory, change):
    before = identity(pictures)
    assert len(before) == 64
    assert identity(pictures) == before
    change(pictures)
    for path in memory.glob("*"):
        path.unlink()  # a picture that is overwritten leaves its folder's time as it is
    assert identity(pictures) != before


def test_pictures__what_is_no_data_or_no_split_does_not_count(pictures):
    before = identity(pictures)
    (pictures / "train/cat/.DS_Store").touch()
    (pictures / "README").touch()
    (pictures / "train/cat/0.jpg").write_bytes(b"y")
    assert identity(pictures) == before


def test_pictures__of_files_without_splits(tmp_path):
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"x")
    before = identity(tmp_path / "cifar")
    (folder / "data_batch_1").write_bytes(b"xx")
    assert identity(tmp_path / "cifar") != before


def test_pictures__a_folder_that_leads_to_itself_ends(pictures):
    (pictures / "train" / "cat" / "again").symlink_to(pictures / "train")
    assert len(identity(pictures)) == 64


def test_pictures__folders_that_have_not_changed_are_not_read_again(pictures, monkeypatch):
    read = []
    real = os.scandir
    monkeypatch.setattr(
        tools.studies.planning.provenance.os, "scandir", lambda path: read.append(str(path)) or real(path)
    )
    before = identity(pictures)
    assert len(read) == 6
    assert identity(pictures) == before
    assert len(read) == 6
    (pictures / "train/cat/2.jpg").touch()
    os.utime(pictures / "train/cat", (10**6, 10**6))
    changed = identity(pictures)
    assert (changed != before, read[6:]) == (True, [str(pictures / "train/cat")])
    (pictures / "val/cat/2.jpg").touch()  # just now: it may change again within the same tick of the clock
    identity(pictures)
    identity(pictures)
    assert read[7:] == [str(pictures / "val/cat")] * 2


def test_identity__found_once_and_unknown_where_there_is_none(pictures, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(tools.studies.planning.provenance, "_identity", lambda *key: calls.append(key) or "hash")
    data = DataIdentities()
    assert [data.of_stage("pretrain", {"data": "a"}) for _ in "xyz"] == ["hash"] * 3
    assert data.of_stage("comparison", {"data": "a", "split": "t"}) == "hash"
    assert data.of_stage("fine_tune", {"data": "a", "DATASETS.TRAIN": ["s", "t"]}) == "hash"
    assert calls == [("a", ()), ("a", ("t",)), ("a", ("s", "t"))]
    assert data.of_stage("convert", {}) == ""
    monkeypatch.undo()
    assert identity(tmp_path / "absent") == ""
    assert identity(pictures, "evaluate", **{"DATASETS.TEST": ("voc_2007_test",)}) == ""


def test_memory__that_cannot_be_read_or_written_is_no_error(pictures, memory, tmp_path, monkeypatch):
    before = identity(pictures)
    (file,) = memory.glob("*.json")
    for text in ("{", "[]", '{"a": 1}', '{"a": []}'):
        file.write_text(text)
        assert identity(pictures) == before
    (tmp_path / "no folder").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    assert identity(pictures) == before


@pytest.fixture
def devkit(tmp_path):
    """VOC2007 with one picture to train on and one to test on, and a COCO file."""
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    for name, image_id in (("trainval", "000001"), ("test", "000002")):
        for path, text in (
            (f"ImageSets/Main/{name}.txt", f"{image_id}\n"), (f"Annotations/{image_id}.xml", "<a>1</a>"),
            (f"JPEGImages/{image_id}.jpg", "picture"),
        ):  # fmt: skip
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    (folder.parent / "train.json").write_text("{}")
    settle(folder.parent)
    return folder.parent


SCENES = {
    "an annotation": ("VOC2007/Annotations/000001.xml", "<a>2</a>"),
    "a picture's size": ("VOC2007/JPEGImages/000001.jpg", "pictures"),
    "the image set": ("VOC2007/ImageSets/Main/trainval.txt", "000001\n000002\n"),
}


@pytest.mark.parametrize("path, text", SCENES.values(), ids=SCENES)
def test_scenes__what_a_data_set_holds_counts_and_that_of_others_does_not(devkit, path, text):
    def both():
        train = identity(devkit, "fine_tune", **{"DATASETS.TRAIN": ["voc_2007_trainval"]})
        return train, identity(devkit, "evaluate", **{"DATASETS.TEST": ["voc_2007_test"]})

    train, test = both()
    assert len({train, test, ""}) == 3
    (devkit / path).write_text(text)
    assert both()[0] != train
    assert both()[1] == test
    assert identity(devkit.parent, "comparison", split="voc_2007_test") == test  # root/VOCdevkit/VOC2007


def test_scenes__annotations_that_have_not_changed_are_not_read_again(devkit, monkeypatch):
    inputs = {"DATASETS.TRAIN": ["voc_2007_trainval", "train.json"]}
    before = identity(devkit, "fine_tune", **inputs)
    (devkit / "train.json").write_text("[]")
    assert identity(devkit, "fine_tune", **inputs) != before
    settle(devkit)
    before = identity(devkit, "fine_tune", **inputs)
    monkeypatch.setattr(tools.studies.planning.provenance, "sha256", None)
    assert identity(devkit, "fine_tune", **inputs) == before


# A study --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def real_study(plan_of, pictures):
    """Return a function: the plan of two pretrainings of ``pictures``, which are done once it was called."""

    def plan(**options):
        opts = ["KIND", "classification", "DIGITS.TRAIN_PER_CLASS", "0", "PRETRAIN.DATA_ROOT", str(pictures)]
        return plan_of([*opts, "SEEDS", "(0,)"], **options)

    results = {}
    for stage in plan().stages:
        prepare(stage, _made_from(stage, results))
        (stage.folder / "model_final.pth").touch()
        request = read_json(stage.folder / REQUEST)
        results[stage.name] = {
            "fingerprint": stage.fingerprint, "made_from": {}, "link": None, "attempts": 1, "seconds": 2.0,
            "outputs": describe_outputs(stage.folder, stage.outputs), "finished": "2026-11-22 19:00:00",
            "values": {"top1_error": 20.0, "top5_error": 1.0}, "versions": present_versions(), "data": request["data"],
        }  # fmt: skip
        write_record(stage.folder / RESULT, results[stage.name])
    return plan


def test_study__data_that_have_changed_are_told_and_read_anew_unless_accepted(real_study, pictures):
    plan = real_study()
    assert len(finished(plan.stages)) == 2
    (pictures / "train/cat/9.jpg").touch()
    plan = real_study()
    assert finished(plan.stages) == {}
    lines = describe_plan(plan, plan.stages, plan.stages, Estimates(plan.cfg))
    assert lines[0] == (
        "baseline/seed0/pretrain: duration unknown, begins anew: its data have changed since (--accept-data takes it "
        "as it is)"
    )
    assert finished(real_study(accept_code=True).stages) == {}
    accepting = real_study(accept_data=True)
    results = finished(accepting.stages)
    told = study_result(accepting, results, {})
    assert told["progress"]["done"] == 2
    assert told["notes"][1:] == [
        "Taken as they are, though by another version of the code or of PyTorch than is here, or of data that have "
        "changed since: baseline/seed0/pretrain, cutmix/seed0/pretrain."
    ]


def test_study__results_of_before_all_that_are_done(real_study, pictures):
    for stage in (plan := real_study()).stages:
        amend(stage.folder / RESULT, versions=LEFT_OUT, data=LEFT_OUT)
    (pictures / "train/cat/9.jpg").touch()
    plan = real_study()
    told = study_result(plan, finished(plan.stages), {})
    assert told["progress"]["done"] == 2
    assert told["versions"] == {"packages": "not recorded"}
    assert told["protocol"]["pretrain: contents of data"] == "not recorded"
    assert len(told["notes"]) == 1  # what the best epoch is


def test_study__the_versions_are_those_of_the_numbers(real_study, pictures):
    plan = real_study()
    told = study_result(plan, finished(plan.stages), {})
    assert told["versions"] == present_versions()
    assert told["stages"][0]["versions"] == present_versions()
    assert told["protocol"]["pretrain: contents of data"] == told["stages"][0]["data"] == identity(pictures)
    results = finished(plan.stages)
    first = results["baseline/seed0/pretrain"]
    first["versions"] = present_versions() | {"numpy": "0.1"}
    del first["versions"]["pillow"]
    results["third"] = results["cutmix/seed0/pretrain"]
    told = study_result(plan, results, {})["versions"]
    now = present_versions()
    assert told["numpy"] == f"0.1 (baseline/seed0/pretrain); {now['numpy']} (all others)"
    assert told["pillow"] == f"not recorded (baseline/seed0/pretrain); {now['pillow']} (all others)"
    assert told["torch"] == now["torch"]
    assert study_result(plan, {}, {})["versions"] == {}
    json.dumps(told)
