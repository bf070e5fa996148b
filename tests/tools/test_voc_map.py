"""tools/voc_map.py from detection files to a report."""

from __future__ import annotations

import json

import pytest

ANNOTATION = """<annotation><size><width>64</width><height>48</height></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>40</xmax><ymax>40</ymax></bndbox>
</object>"""


@pytest.fixture
def devkit(tmp_path):
    """A dog in one picture, a car in another; the pictures themselves are not needed."""
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for image_id, name in (("000005", "dog"), ("000007", "car")):
        text = ANNOTATION.format(objects=OBJECT.format(name=name))
        (folder / "Annotations" / f"{image_id}.xml").write_text(text)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("000005\n000007\n")
    return folder.parent


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "detections"
    folder.mkdir()
    (folder / "comp4_det_test_dog.txt").write_text("000005 0.5 10 10 40 40\n")
    return folder


@pytest.mark.parametrize("classes", ["dog,person,car", None])
def test_voc_map__writes_the_report_and_says_where(load_tool, devkit, files, tmp_path, capsys, classes):
    if classes is None:
        classes = str(tmp_path / "classes.txt")
        (tmp_path / "classes.txt").write_text("dog\nperson\n\ncar\n")
    output = tmp_path / "report"
    load_tool("voc_map").main(
        [
            "--data-root",
            str(devkit),
            "--dataset",
            "voc_2007_test",
            "--detections",
            str(files),
            "--output",
            str(output),
            "--classes",
            classes,
        ]
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("voc_2007_test: mAP 50.00 ")
    assert printed[1] == str(output / "report.html")
    assert json.loads((output / "report.json").read_text())["voc07"]["num_classes_scored"] == 2


@pytest.mark.parametrize("seeds, least", [
    (range(100, 110), 10), (range(110, 120), 10), pytest.param(range(1000, 1530), 500, marks=pytest.mark.slow),
])  # fmt: skip
def test_voc_map__coco_numbers_are_pycocotools(load_tool, coco_files, tmp_path, capsys, seeds, least):
    """Those of ``--detections``, and those of the file that it leaves; sets without an object have no numbers."""
    done = 0
    for seed in seeds:
        content, results = coco_files.make(seed)
        if coco_files.numbers(content, results)["AP"] is None:
            continue
        done += 1
        coco_files.write(tmp_path, content, results)
        output = tmp_path / "report"
        argv = ["--data-root", str(tmp_path), "--dataset", "gt.json", "--resamples", "2", "--output", str(output)]
        load_tool("voc_map").main([*argv, "--detections", str(tmp_path / "results.json")])
        report = json.loads((output / "report.json").read_text())
        expected = coco_files.numbers(content, results)
        for name in coco_files.STATS:
            exact = expected[name] is None or pytest.approx(expected[name], rel=0, abs=1e-12)
            assert report["coco"][name] == (None if expected[name] is None else exact), (seed, name)
        assert capsys.readouterr().out.startswith(f"gt: COCO AP {expected['AP']:.2f} (IoU .50:.95), AP50 ")
        left = json.loads((output / "coco_instances_results.json").read_text())
        assert coco_files.numbers(content, left) == expected
    assert done >= least


def test_voc_map__leaves_the_file_that_it_reads(load_tool, coco_files, tmp_path):
    content, results = coco_files.make(100)
    coco_files.write(tmp_path, content, [{**entry, "segmentation": "a mask"} for entry in results])
    path = (tmp_path / "results.json").rename(tmp_path / "coco_instances_results.json")
    before = path.read_bytes()
    argv = ["--data-root", str(tmp_path), "--dataset", "gt.json", "--resamples", "2", "--output", str(tmp_path)]
    for detections in (path, tmp_path):
        load_tool("voc_map").main([*argv, "--detections", str(detections)])
        assert path.read_bytes() == before


def test_voc_map__twenty_classes_by_default(load_tool, devkit, files, tmp_path):
    output = tmp_path / "report"
    load_tool("voc_map").main(
        [
            "--data-root",
            str(devkit),
            "--dataset",
            "voc_2007_test",
            "--detections",
            str(files),
            "--output",
            str(output),
            "--rules",
            "detectron2",
        ]
    )
    report = json.loads((output / "report.json").read_text())
    assert report["voc10"]["AP50"] == pytest.approx(100 / 20)


def test_voc_map__bad_line_writes_nothing(load_tool, devkit, files, tmp_path):
    (files / "comp4_det_test_car.txt").write_text("000005 0.5 10 10 40\n")
    with pytest.raises(ValueError, match=r"comp4_det_test_car\.txt, line 1: expected 6 columns"):
        load_tool("voc_map").main(
            [
                "--data-root",
                str(devkit),
                "--dataset",
                "voc_2007_test",
                "--detections",
                str(files),
                "--output",
                str(tmp_path / "report"),
            ]
        )
    assert not (tmp_path / "report").exists()


def test_voc_map__keeps_what_the_run_recorded(load_tool, devkit, files, tmp_path):
    (files / "report.json").write_text(json.dumps({"protocol": {"method": "cutmix", "seed": 4}}))
    (files / "metrics.json").write_text('{"iteration": 1, "total_loss": 2.0}\n')
    load_tool("voc_map").main(
        [
            "--data-root",
            str(devkit),
            "--dataset",
            "voc_2007_test",
            "--detections",
            str(files),
            "--output",
            str(tmp_path / "report"),
            "--resamples",
            "10",
        ]
    )
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (report["protocol"]["method"], report["protocol"]["seed"]) == ("cutmix", 4)
    assert report["confidence"]["resamples"] == 10
    assert list(report["training"]) == ["total_loss"]


def test_voc_map__compares(load_tool, devkit, files, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "comp4_det_test_car.txt").write_text("000007 0.5 10 10 40 40\n000005 0.25 1 1 9 9\n")
    load_tool("voc_map").main(
        [
            "--data-root",
            str(devkit),
            "--dataset",
            "voc_2007_test",
            "--output",
            str(tmp_path / "out"),
            "--compare",
            f"baseline={files}",
            f"cutmix={other}",
            "--resamples",
            "10",
        ]
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith("| baseline | 50.00 | one seed")
    assert printed[3].startswith("| cutmix   | 50.00 | one seed")
    assert printed[-1] == str(tmp_path / "out" / "comparison.html")
    assert (tmp_path / "out" / "comparison.json").is_file()


def run_folder(tmp_path, name, protocol):
    """A run that finds the car, and whose report says ``protocol``."""
    folder = tmp_path / name / "inference" / "voc_2007_test"
    folder.mkdir(parents=True)
    (folder / "comp4_det_test_car.txt").write_text("000007 0.5 10 10 40 40\n")
    (folder / "report.json").write_text(json.dumps({"protocol": protocol}))
    return str(tmp_path / name)


@pytest.fixture
def compare(load_tool, devkit, tmp_path):
    """Return a function that compares the runs in this process and returns comparison.json."""

    def compare(*argv):
        fixed = ["--data-root", str(devkit), "--dataset", "voc_2007_test", "--output", str(tmp_path / "out")]
        load_tool("voc_map").main([*fixed, "--resamples", "5", *argv])
        return json.loads((tmp_path / "out" / "comparison.json").read_text())

    return compare


def test_voc_map__seeds_of_one_folder_are_named_after_it(compare, tmp_path):
    runs = [run_folder(tmp_path, f"{name}/seed_{seed}", {}) for name in ("tv", "moco") for seed in (0, 1)]
    (group,) = compare("--compare", *runs)["groups"]
    assert [(entry["method"], entry["n"]) for entry in group["methods"]] == [("tv", 2), ("moco", 2)]


def test_voc_map__classes_are_those_of_the_reports(load_tool, devkit, tmp_path, capsys):
    """A detector of own classes, one of which no test picture has, finds them all without --classes."""
    for number in (1, 2):
        folder = tmp_path / f"run{number}" / "inference" / "test"
        folder.mkdir(parents=True)
        for name in ("dog", "car", "unicorn"):
            (folder / f"comp4_det_test_{name}.txt").write_text("000007 0.5 10 10 40 40\n")
        (folder / "report.json").write_text(json.dumps({"protocol": {}, "classes": ["dog", "car", "unicorn"]}))
    argv = [
        "--data-root",
        str(devkit / "VOC2007"),
        "--dataset",
        "test",
        "--output",
        str(tmp_path / "out"),
        "--resamples",
        "5",
    ]
    load_tool("voc_map").main([*argv, "--compare", str(tmp_path / "run1"), str(tmp_path / "run2")])
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["classes"] == ["dog", "car", "unicorn"]
    load_tool("voc_map").main([*argv, "--detections", str(tmp_path / "run1")])
    assert json.loads((tmp_path / "out" / "report.json").read_text())["classes"] == ["dog", "car", "unicorn"]


def test_voc_map__learning_rates_side_by_side_if_asked_for(compare, tmp_path):
    runs = [
        run_folder(tmp_path, f"{rate}", {"method": "m", "training": {"SOLVER.BASE_LR": rate}, "complete": True})
        for rate in (0.1, 0.2)
    ]
    assert len(compare("--compare", *runs)["groups"]) == 2
    (group,) = compare("--across", "SOLVER.BASE_LR", "--compare", *runs)["groups"]
    assert [entry["method"] for entry in group["methods"]] == ["m, SOLVER.BASE_LR 0.1", "m, SOLVER.BASE_LR 0.2"]


def test_voc_map__a_key_that_is_new_since_a_report_had_its_first_default(compare, tmp_path):
    training = {"SOLVER.BASE_LR": 0.1, "SOLVER.NESTEROV": False}
    runs = [run_folder(tmp_path, "new", {"training": training, "complete": True})]
    del training["SOLVER.NESTEROV"]
    runs.append(run_folder(tmp_path, "before", {"training": training, "complete": True}))
    assert len(compare("--compare", *runs)["groups"]) == 1


@pytest.mark.parametrize("argv, message", [
    (["--baseline", "base", "--compare", "a=x", "b=y"],
     "--baseline base: no run is of that method; expected one of a, b"),
    (["--baseline", "a", "--detections", "x"], "--baseline and --across are about --compare"),
    (["--across", "SOLVER.BASE_LR", "--detections", "x"], "--baseline and --across are about --compare"),
])  # fmt: skip
def test_voc_map__refuses_by_name_before_anything_is_read(load_tool, tmp_path, argv, message):
    fixed = ["--data-root", "nowhere", "--dataset", "voc_2007_test", "--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=message):
        load_tool("voc_map").main([*fixed, *argv])
