"""The pages of a comparison: what they say, and that names in them are only names."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from detection.datasets.types import DetectionDataset
from detection.evaluation.comparison import PAPER_TABLE, compare_runs
from detection.report.comparison import write_comparison
from tests.detection.comparisons import DATASET, PAPER, TRAINING, coco_dogs, compare, dogs, run


def test_write_comparison__of_coco_data_leads_with_coco_ap(tmp_path):
    runs = [run("baseline", 2, seed=1), run("baseline", 3, seed=2), run("cutmix", 6, seed=1), run("cutmix", 8, seed=2)]
    write_comparison(compare_runs(coco_dogs(8), runs, num_resamples=10), tmp_path)
    text, page = ((tmp_path / f"comparison.{form}").read_text() for form in ("md", "html"))
    head, _, base, cutmix = ([cell.strip() for cell in line.split("|")[1:-1]] for line in tables_of(text)[0])
    assert head[:5] == ["method", "COCO AP", "std", "n", "difference to baseline"]
    assert head[-6:] == ["AP50", "AP75", "APs", "APm", "APl", "mAP"]
    assert base[:3] == ["baseline", "31.68", "8.40"]  # 26 and 38 of 101 points
    assert cutmix[1] == "87.62"  # 76 and 101
    assert base[-6:] == ["31.68", "31.68", "-", "-", "31.68", "31.82"]  # mAP: 3 and 4 of 11 points
    heads = re.findall(r"<button[^>]*>([^<]+)</button>", page)
    assert heads[:2] == ["Method", "COCO AP"]
    assert heads[6 : heads.index("Method", 1)] == ["AP50", "AP75", "mAP"]  # wider, the table would not fit a screen
    assert heads.index("AP (COCO)") < heads.index("APl (COCO)") < heads.index("AP (11 points)")
    for said in (" ".join(text.split()), " ".join(page.split())):
        assert "COCO AP over IoU .50 to .95" in said
        assert "without intervals over pictures" not in said
    assert "COCO AP by class" in page


def tables_of(text):
    """Return the tables of a Markdown page, each as its lines."""
    return [block.split("\n") for block in text.split("\n\n") if block.startswith("|")]


def test_write_comparison__pages(tmp_path):
    report = tmp_path / "runs" / "a b" / "report.json"
    report.parent.mkdir(parents=True)
    report.with_name("report.html").touch()
    weights = {"file": "runs/model_final.pth", "sha256": "0123abcd"}
    runs = [
        run("baseline", 2, seed=1, training=PAPER, weights=weights)._replace(report=str(report)),
        run("baseline", 4, seed=2, training=PAPER),
        run("saliencymix", 6, seed=1, training=PAPER),
        run("<b>|\n&lt;", 6, training=PAPER | {"SOLVER.MAX_ITER": 9}),
    ]
    comparison = compare_runs(DATASET, runs, num_resamples=50)
    write_comparison(comparison, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == json.loads(json.dumps(comparison))
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert (
        "Batch 8, 41,000 iterations, learning rate 0.004 x0.1 at 33,000, R50, FrozenBN, "
        "trained on voc_2007_trainval, voc_2012_trainval."
    ) in text
    assert re.search(r"^\| saliencymix \| \d+\.\d\d +\| one seed: no spread +\| +1 +\| \+", text, re.MULTILINE)
    assert "Rules: standard (a detection matches where its IoU exceeds the threshold)." in text
    assert f"| saliencymix | {PAPER_TABLE['saliencymix']} |" in text
    assert "| training.SOLVER.MAX_ITER | 41000 " in text
    assert "[runs/baseline_2_1](../runs/a%20b/report.html)" in text
    assert "| runs/model_final.pth | 0123abcd " in text
    assert "| &lt;b>\\| &amp;lt; |" in text
    assert "<" not in text
    html = (tmp_path / "out" / "comparison.html").read_text()
    assert "<b>" not in html
    assert "Our runs, protocol 2" in html
    assert "Bold: the method may be said to differ from the baseline, p below .05 after Holm&#39;s correction" in html
    assert "SHA-256 0123abcd" in html
    assert re.findall(r"(?:src|href)=\"(?!data:|#)([^\"]*)", html) == ["../runs/a%20b/report.html"]


def scenes(folder: Path) -> DetectionDataset:
    """Three pictures with a dog each."""
    dataset = dogs(3)
    for picture in dataset.pictures:
        Image.new("RGB", (200, 200), "white").save(folder / f"{picture.image_id}.jpg")
    return replace(
        dataset, pictures=tuple(replace(one, path=folder / f"{one.image_id}.jpg") for one in dataset.pictures)
    )


def test_write_comparison__pictures_of_both_detectors(tmp_path):
    dataset = scenes(tmp_path)
    runs = [run("baseline", 1), run("cutmix", 2), run("other", 0)]
    write_comparison(compare_runs(dataset, runs, num_resamples=2), tmp_path, dataset=dataset, runs=runs)
    page = " ".join((tmp_path / "comparison.html").read_text().split())
    assert page.count('<image id="picture-') == 3  # 1: cutmix finds more; 0: the other less; 2: missed by all
    assert page.count("<use ") == 5
    said = "of cutmix beside runs/baseline_1_None of baseline: its F1 is higher in 1 and lower in 0 of 3 pictures"
    assert f"The run runs/cutmix_2_None {said}" in page
    assert page.index("<h4>cutmix is better</h4>") < page.index("<summary>other beside baseline</summary>")
    assert page.index("<summary>other beside baseline</summary>") < page.index("<h4>other is worse</h4>")
    # With a third of the dogs, all that is said being right, precision is 1 at 4 of the 11 recalls; with two, at 7.
    assert "cutmix: higher in 1 and lower in 0 of 1 classes, from dog (+27.27) to dog (+27.27)." in page
    rule = "1 of 3 objects: no detection of their class, however unsure, finds them at IoU .5 in any of the 3 runs."
    text = " ".join((tmp_path / "comparison.md").read_text().split())
    assert rule in page
    assert rule in text
    assert "| dog | 2 | x.xml |" in text


def test_write_comparison__without_the_files_of_pictures_there_are_boxes(tmp_path, caplog):
    runs = [run("baseline", 7), run("cutmix", 8)]
    write_comparison(compare(*runs), tmp_path, dataset=DATASET, runs=runs)
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("picture not at hand") == 2
    assert "<image" not in page
    (record,) = caplog.records
    assert "for 1 of its 1 pictures, whose files do not exist, such as x.jpg" in record.message
    assert "There is none: each of 8 objects is found in one of the 2 runs." in page


def test_write_comparison__numbers_are_there_before_anything_is_drawn(tmp_path, monkeypatch):
    def draw(*_arguments):
        raise RuntimeError(json.loads((tmp_path / "comparison.json").read_text())["num_images"])

    monkeypatch.setattr("detection.report.comparison.draw_pictures", draw)
    with pytest.raises(RuntimeError, match="8"):
        write_comparison(compare(run("a", 2), run("b", 4)), tmp_path, dataset=DATASET)
    assert (tmp_path / "comparison.md").exists()


def test_write_comparison__a_class_is_bold_where_it_is_clear_after_the_correction(tmp_path):
    seeds = [run("baseline", found, seed=seed) for seed, found in ((1, 10), (2, 11), (3, 12))]
    seeds += [run("surely", found, seed=seed) for seed, found in ((1, 30), (2, 31), (3, 33))]
    comparison = compare_runs(dogs(40), seeds, num_resamples=10)
    cell = re.compile(
        r'class="number clear" data-value="[\d.]+">\+\d+\.\d\d<span class="range">\+[\d.]+ to \+[\d.]+</span></td>'
    )
    for clear, count in ((True, 2), (False, 1)):  # the mean and the class; the mean alone
        comparison["groups"][0]["methods"][1]["per_class_differences"]["dog"]["over_seeds"]["clear"] = clear
        write_comparison(comparison, tmp_path)
        assert len(cell.findall((tmp_path / "comparison.html").read_text())) == count


@pytest.mark.parametrize("count, tall", [(40, False), (41, True)])
def test_write_comparison__many_classes_stand_in_a_box_of_their_own(tmp_path, count, tall):
    dataset = replace(DATASET, classes=("dog", *(f"class {n}" for n in range(1, count))))
    write_comparison(compare_runs(dataset, [run("a", 2), run("b", 4)], num_resamples=2), tmp_path)
    assert ('<div class="scroll tall">' in (tmp_path / "comparison.html").read_text()) == tall


def test_write_comparison__bold_is_what_seeds_show_not_what_pictures_show(tmp_path):
    seeds = [run("baseline", found, seed=seed) for seed, found in ((1, 10), (2, 11), (3, 12))]
    seeds += [run("surely", found, seed=seed) for seed, found in ((1, 30), (2, 31), (3, 33))]
    seeds += [run("once", 39, seed=1)]
    write_comparison(compare_runs(dogs(40), seeds, num_resamples=100), tmp_path)
    html, text = ((tmp_path / name).read_text() for name in ("comparison.html", "comparison.md"))
    assert len(re.findall(r'<td class="number clear"', html)) == 2  # the mean, and that of the only class
    assert re.search(r'<td class="number clear" data-value="[\d.]+">\+\d+\.\d\d<span class="range">\+', html)
    row = next(line for line in text.splitlines() if line.startswith("| surely"))
    assert re.search(r"\| \+\d+\.\d\d to \+\d+\.\d\d +\| +3 +(\| +\+\d+\.\d\d to \+\d+\.\d\d +){2}\|", row)
    row = next(line for line in text.splitlines() if line.startswith("| once"))
    assert re.search(r"\| one seed: not judged +\| +- +\| +\+\d+\.\d\d to \+\d+\.\d\d +\| +- +\|", row)


def test_write_comparison__over_both_stands_beside_over_pictures(tmp_path):
    seeds = [run("baseline", found, seed=seed) for seed, found in ((1, 10), (2, 12), (3, 14))]
    seeds += [run("cutmix", found, seed=seed) for seed, found in ((1, 15), (2, 20), (3, 23))]
    comparison = compare_runs(dogs(40), seeds, num_resamples=100)
    said = comparison["groups"][0]["methods"][1]["voc07"]["AP50"]
    pictures, both = ("{:+.2f} to {:+.2f}".format(*said[name]["interval"]) for name in ("difference", "over_both"))
    assert pictures != both
    write_comparison(comparison, tmp_path)
    html, text = ((tmp_path / name).read_text() for name in ("comparison.html", "comparison.md"))
    head, _, _, row, *_ = (re.split(r" *\| *", line) for line in text.splitlines() if line.startswith("|"))
    assert row[head.index("over pictures") :][:2] == [pictures, both]
    assert re.search(r"Over pictures</th>\s*<th[^>]*>Over both</th>", html)
    cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", html)]
    assert cells[cells.index(pictures) + 1] == both
    for page in (html, text):
        assert "Over both, around the mean over seeds: where does it lie in the mean of all trainings" in page


def test_write_comparison__says_which_mean_an_interval_over_some_seeds_is_around(tmp_path):
    seeds = [run("baseline", found, seed=seed) for seed, found in ((1, 10), (2, 11), (3, 30))]
    seeds += [run("some", found, seed=seed) for seed, found in ((1, 12), (2, 14))]  # +2 and +3 of 40: 6.25
    seeds += [run("same", found, seed=seed) for seed, found in ((1, 10), (2, 11), (3, 30))]
    write_comparison(compare_runs(dogs(40), seeds, num_resamples=20), tmp_path)
    rows = (tmp_path / "comparison.md").read_text().splitlines()
    some, same = (next(row for row in rows if row.startswith(f"| {name}")) for name in ("some", "same"))
    assert re.search(r"\| -\d+\.\d\d +\| -\d+\.\d\d to \+\d+\.\d\d around \+\d\.\d\d \(2 shared seeds\)", some)
    assert re.search(r"\| \+0\.00 +\| the same in every seed: not judged +\|", same)


def test_write_comparison__of_another_protocol_than_the_paper_s_is_without_its_table(tmp_path):
    comparison = compare(run("baseline", 2), run("cutmix", 4, training=TRAINING), run("cutmix", 5, training=TRAINING))
    write_comparison(comparison, tmp_path)
    for name in ("comparison.md", "comparison.html"):
        text = (tmp_path / name).read_text()
        assert "Table 3" not in text
        assert "How these detectors were trained is not recorded." in text


def test_write_comparison__across_and_incomplete_are_said(tmp_path):
    rates = [TRAINING | {"SOLVER.BASE_LR": rate} for rate in (0.004, 0.02)]
    runs = [run("a", 2, training=rates[0]), run("b", 4, training=rates[1], complete=True)]
    write_comparison(compare(*runs, across=["SOLVER.BASE_LR"]), tmp_path)
    for name in ("comparison.md", "comparison.html"):
        text = (tmp_path / name).read_text()
        assert "Runs of one table may differ in SOLVER.BASE_LR" in text
        assert "learning rate various x0.1" in text
        assert "Of runs/a_2_None only the main settings are recorded" in text
    write_comparison(compare(*runs), tmp_path)
    assert "Only the main settings of these runs are recorded" in (tmp_path / "comparison.md").read_text()
    write_comparison(compare(run("a", 2), run("b", 3)), tmp_path)
    assert "main settings" not in (tmp_path / "comparison.md").read_text()


def test_write_comparison__a_setting_that_nobody_recorded_is_not_said_to_vary(tmp_path):
    training = {key: value for key, value in TRAINING.items() if key != "MODEL.RESNETS.DEPTH"}
    write_comparison(compare(run("a", 2, training=training), run("b", 4, training=training)), tmp_path)
    assert "at 33,000, depth not recorded, FrozenBN" in (tmp_path / "comparison.md").read_text()


def test_write_comparison__of_settings_that_are_no_numbers(tmp_path):
    training = {key: "<b>" for key in TRAINING} | {"SOLVER.STEPS": ["<i>"]}
    write_comparison(compare(run("a", 2, training=training), run("b", 4, training=training)), tmp_path)
    assert "Batch &lt;b&gt;, &lt;b&gt; iterations" in (tmp_path / "comparison.html").read_text()
