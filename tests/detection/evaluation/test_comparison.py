"""Runs side by side: grouping, spread, paired differences, and pages that keep protocols apart."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.comparison import PAPER_TABLE, Run, compare_runs, load_runs, run_folders
from detection.evaluation.detection_files import write_detections
from detection.evaluation.voc import PictureDetections
from detection.report.comparison import write_comparison

BOX = (1.0, 1.0, 100.0, 100.0)


def dogs(num_pictures: int) -> DetectionDataset:
    return DetectionDataset(
        "voc_2007_test", Path("VOC2007"), "test", ("dog", "cat"),
        tuple(
            AnnotatedPicture(f"{index}", Path("x.jpg"), Path("x.xml"), 200, 200, (AnnotatedObject("dog", BOX, False),))
            for index in range(num_pictures)
        ),
    )  # fmt: skip


DATASET = dogs(8)
TRAINING = {
    "SOLVER.IMS_PER_BATCH": 8, "SOLVER.MAX_ITER": 41000, "SOLVER.BASE_LR": 0.004, "SOLVER.GAMMA": 0.1,
    "SOLVER.STEPS": [33000], "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.NORM": "FrozenBN", "DATASETS.TRAIN": ["voc_a"],
}  # fmt: skip


def run(method: str, num_found: int, *, seed=None, training=None, test=None, complete=False, weights=None) -> Run:
    """A run that finds the dog in the first ``num_found`` of eight pictures; its area AP50 is num_found / 8."""
    found = {
        f"{i}": PictureDetections(np.float32([[0, 0, 100, 100]]), np.float32([0.5]), np.array([0]))
        for i in range(num_found)
    }
    protocol = {"seed": seed, "training": training}
    protocol |= {"test": test} if test is not None else {}
    protocol |= {"complete": True} if complete else {}
    protocol |= {"weights": weights} if weights else {}
    return Run(method, f"runs/{method}_{num_found}_{seed}", protocol, found)


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
        "interval": [pytest.approx(37.5 + sign * 12.706 * 12.5, rel=1e-4) for sign in (-1, 1)],  # one degree of freedom
        "difference": None,
        "over_seeds": None,
        "over_both": None,
    }
    assert cutmix["voc10"]["AP50"]["difference"] == {"mean": 25, "interval": None}  # eight pictures are too few
    assert cutmix["per_class"]["cat"] is None


def test_compare_runs__pairs_the_pictures():
    """By area AP is the share found, and the difference of pictures 10 to 19: of halves, p (1 - p) / (n - 1)."""
    runs = [run("baseline", 10), run("cutmix", 20), run("same", 10)]
    (group,) = compare_runs(dogs(40), runs, num_resamples=4000)["groups"]
    _, cutmix, same = (entry["voc10"]["AP50"]["difference"] for entry in group["methods"])
    half = 100 * 2.0227 * (0.25 * 0.75 / 39) ** 0.5
    assert cutmix == {"mean": 25, "interval": [pytest.approx(25 + sign * half, abs=0.5) for sign in (-1, 1)]}
    assert same == {"mean": 0, "interval": None}


def test_compare_runs__over_seeds_and_pictures():
    """The spread over halves of a mean over pictures is that of its pictures, divided by their number less one."""
    numbers = {"baseline": (10, 12, 14, 11), "cutmix": (20, 19, 27, 24)}
    runs = [run(name, found, seed=seed) for name, some in numbers.items() for seed, found in enumerate(some)]
    (group,) = compare_runs(dogs(40), [*runs, run("once", 30, seed=0)], num_resamples=4000)["groups"]
    base, cutmix, once = group["methods"]
    base_aps, aps = (np.array([100.0 * (np.arange(40) < found) for found in some]) for some in numbers.values())
    gains = aps - base_aps  # (seed, picture)
    seeds = gains.mean(axis=1).var(ddof=1) / 4
    pictures = (gains.mean(axis=0).var() - (gains - gains.mean(axis=0)).var(axis=1).sum() / 12) / 39
    freedom = (seeds + pictures) ** 2 / (seeds**2 / 3 + pictures**2 / 39)
    half = stats.t.ppf(0.975, freedom) * (seeds + pictures) ** 0.5
    assert cutmix["voc10"]["AP50"]["over_both"] == {
        "interval": [pytest.approx(26.875 + sign * half, abs=0.5) for sign in (-1, 1)]
    }
    for name in ("difference", "over_seeds"):
        low, high = cutmix["voc10"]["AP50"][name]["interval"]
        assert high - low < 2 * half - 1
    for metric in ("voc07", "voc10"):
        assert all(once[metric][name]["over_both"] == {"interval": None} for name in ("AP", "AP50", "AP75"))
        assert all(base[metric][name]["over_both"] is None for name in ("AP", "AP50", "AP75"))
    assert all(cutmix["coco"][name]["over_both"] is None for name in ("AP", "AP50", "AP75"))


def test_compare_runs__pairs_the_seeds_and_judges_the_methods_of_a_table_together():
    runs = [run("baseline", 2 + seed, seed=seed) for seed in (1, 2, 3)]
    runs += [run("surely", number, seed=seed) for seed, number in ((1, 6), (2, 7), (3, 8))]
    runs += [run("maybe", number, seed=seed) for seed, number in ((1, 4), (2, 7), (3, 7))]
    runs += [run("once", 8, seed=1)]
    (group,) = compare_runs(DATASET, runs, num_resamples=10)["groups"]
    _, surely, maybe, once = (entry["voc10"]["AP50"]["over_seeds"] for entry in group["methods"])
    assert (surely["mean"], surely["interval"], surely["clear"]) == (37.5, None, False)  # three times the very same
    assert (maybe["mean"], maybe["n"], maybe["test"]) == (25, 3, "paired by seed")  # 12.5, 37.5, 25
    assert maybe["interval"] == [pytest.approx(25 + sign * 4.3027 * 12.5 / 3**0.5, abs=1e-2) for sign in (-1, 1)]
    assert maybe["adjusted_p"] == maybe["p"] == pytest.approx(0.0742, abs=1e-4)  # t 3.464; one p value in the family
    assert maybe["seeds_needed"] == 5
    assert (once["n"], once["interval"], once["clear"], once["seeds_needed"]) == (1, None, False, None)


def test_compare_runs__runs_without_seeds_are_not_paired():
    runs = [run("baseline", 2), run("baseline", 4), run("cutmix", 6, seed=1), run("cutmix", 7, seed=1)]
    (group,) = compare_runs(DATASET, runs, num_resamples=10)["groups"]
    found = group["methods"][1]["voc10"]["AP50"]["over_seeds"]
    assert (found["n"], found["test"], found["mean"]) == (2, "Welch's t", 43.75)


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


def methods_of(comparison):
    return [[entry["method"] for entry in group["methods"]] for group in comparison["groups"]]


def compare(*runs, **options):
    return compare_runs(DATASET, runs, num_resamples=10, **options)


@pytest.mark.parametrize(
    "key", ["MODEL.FPN.OUT_CHANNELS", "MODEL.ROI_BOX_HEAD.FC_DIM", "SOLVER.CLIP_GRADIENTS.ENABLED"]
)
def test_compare_runs__every_recorded_setting_keeps_runs_apart(key):
    trained = [TRAINING | {key: value} for value in (1, 2)]
    runs = [run("a", 2, training=trained[0], complete=True), run("b", 4, training=trained[1], complete=True)]
    comparison = compare(*runs)
    assert methods_of(comparison) == [["a"], ["b"]]
    assert comparison["differences"] == {f"training.{key}": [1, 2]}
    assert compare(runs[0], runs[0]._replace(path="elsewhere"))["differences"] == {}


def test_compare_runs__a_setting_that_is_new_since_a_report_has_its_first_default():
    before = run("a", 2, training=TRAINING, complete=True)
    same, other = (run(f"b{new}", 4, training=TRAINING | {"SOLVER.NEW": new}, complete=True) for new in (0, 5))
    assert methods_of(compare(before, same, defaults={"SOLVER.NEW": 0})) == [["a", "b0"]]
    assert methods_of(compare(before, other, defaults={"SOLVER.NEW": 0})) == [["a"], ["b5"]]


def test_compare_runs__a_report_of_few_settings_joins_the_only_protocol_that_it_fits():
    old = run("old", 2, training=TRAINING)
    new = [run(f"new{dim}", 4, training=TRAINING | {"FC_DIM": dim}, complete=True) for dim in (1, 2)]
    (group,) = compare(old, new[0])["groups"]
    assert [entry["method"] for entry in group["methods"]] == ["old", "new1"]
    assert group["incomplete"] == ["runs/old_2_None"]
    assert group["protocol"]["training"]["FC_DIM"] == 1
    apart = compare(old, *new)
    assert methods_of(apart) == [["old"], ["new1"], ["new2"]]  # it may be of either
    assert [group["incomplete"] for group in apart["groups"]] == [["runs/old_2_None"], [], []]
    longer = run("longer", 3, training=TRAINING | {"SOLVER.MAX_ITER": 1})
    assert methods_of(compare(longer, new[0])) == [["longer"], ["new1"]]


def test_compare_runs__across_a_key_that_is_named():
    rates = [TRAINING | {"SOLVER.BASE_LR": rate} for rate in (0.004, 0.02)]
    runs = [run(name, 2 + i, seed=i, training=rates[i]) for name in ("cutmix", "baseline") for i in (0, 1)]
    assert methods_of(compare(*runs)) == [["cutmix", "baseline"], ["cutmix", "baseline"]]
    comparison = compare(*runs, across=["SOLVER.BASE_LR"])
    assert comparison["across"] == ["SOLVER.BASE_LR"]
    assert methods_of(comparison) == [[
        f"{name}, SOLVER.BASE_LR {rate}" for name in ("cutmix", "baseline") for rate in (0.004, 0.02)
    ]]  # fmt: skip
    (group,) = comparison["groups"]
    assert group["baseline"] == "baseline, SOLVER.BASE_LR 0.004"
    assert [entry["n"] for entry in group["methods"]] == [1, 1, 1, 1]  # another rate is no second seed
    assert "SOLVER.BASE_LR" not in group["protocol"]["training"]
    equal = compare(*runs[::2], across=["SOLVER.BASE_LR"])
    assert methods_of(equal) == [["cutmix", "baseline"]]


def test_compare_runs__refuses_across_a_key_that_no_run_records():
    runs = [run("a", 2, training=TRAINING), run("b", 4, training=TRAINING)]
    with pytest.raises(ValueError, match=r"--across SOLVER.LR: no run records it; did you mean SOLVER\.\w+\?"):
        compare(*runs, across=["SOLVER.LR"])
    with pytest.raises(ValueError, match=r"--across SOLVER.LR: no run records any setting"):
        compare(run("a", 2), run("b", 4), across=["SOLVER.LR"])


def test_compare_runs__refuses_a_baseline_that_is_no_method():
    with pytest.raises(ValueError, match="--baseline base: no run is of that method; expected one of a, b"):
        compare(run("a", 2), run("b", 4), baseline="base")
    assert compare(run("a", 2), run("b", 4), baseline="b")["groups"][0]["baseline"] == "b"


def test_compare_runs__refuses_a_copy_as_a_second_seed():
    weights = {"file": "x.pth", "sha256": "ab"}
    runs = [run("a", 2, weights=weights), run("a", 3, weights=weights), run("b", 3, weights=weights)]
    with pytest.raises(ValueError, match=r"runs/a_2_None and runs/a_3_None are of the same weights \(SHA-256 ab\)"):
        compare(*runs)
    assert methods_of(compare(*runs[1:])) == [["a", "b"]]


def test_compare_runs__says_where_the_backbones_of_a_method_are_of_different_recipes(tmp_path):
    """One was pretrained for 90 epochs, the other for 300: that is no spread over seeds."""
    recipes = [f"SEED: {n}\nDATA: {{ROOT: /{n}}}\nSOLVER: {{EPOCHS: {epochs}}}\n" for n, epochs in enumerate((90, 300))]
    protocols = [{"backbone": {"recipe": recipe}} for recipe in recipes]
    runs = [run("cutmix", 2 + n)._replace(protocol=one) for n, one in enumerate(protocols)]
    comparison = compare(*runs, recipe_place={"DATA.ROOT"})
    (entry,) = comparison["groups"][0]["methods"]
    assert entry["recipe_differences"] == ["SOLVER.EPOCHS"]
    write_comparison(comparison, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert "The backbones of cutmix were pretrained under different SOLVER.EPOCHS: more than seeds." in text
    for backbone in (None, {"recipe": "a: ["}, {"recipe": "other"}, {"recipe": 3}):  # another tool's, or none
        comparison = compare(runs[0], runs[1]._replace(protocol={"backbone": backbone}))
        assert comparison["groups"][0]["methods"][0]["recipe_differences"] == []


def test_compare_runs__says_where_the_seeds_share_a_pretraining(tmp_path):
    def of(method, seed, source):
        one = run(method, 2 + seed, seed=seed)
        return one._replace(protocol={**one.protocol, "backbone": {"source_sha256": source}})

    runs = [of("baseline", 1, "a"), of("baseline", 2, "a"), of("cutmix", 1, "b"), of("cutmix", 2, "c")]
    runs += [of("mixup", 1, None), of("mixup", 2, None), of("cutout", 1, "d")]
    comparison = compare(*runs)
    assert [entry["one_backbone"] for entry in comparison["groups"][0]["methods"]] == [True, False, False, False]
    write_comparison(comparison, tmp_path)
    for name in ("comparison.md", "comparison.html"):
        assert "The runs of baseline start from one pretraining each: their spread" in (tmp_path / name).read_text()


def test_compare_runs__coco_ap_of_every_run():
    (group,) = compare(run("baseline", 2), run("baseline", 6), run("cutmix", 8))["groups"]
    baseline, cutmix = (entry["coco"]["AP50"] for entry in group["methods"])
    assert baseline["values"] == [pytest.approx(26 / 1.01), pytest.approx(76 / 1.01)]  # 26 and 76 of COCO's 101 points
    assert cutmix["mean"] == pytest.approx(100)
    assert cutmix["difference"] == {"mean": pytest.approx(100 - 51 / 1.01), "interval": None}


def coco_dogs(num_pictures: int) -> DetectionDataset:
    """The dogs in COCO's format: each is large."""
    return replace(dogs(num_pictures), name="coco_2017_val", categories=((3, "dog"), (17, "cat")))


def test_compare_runs__of_coco_data_is_about_coco_ap():
    """With one object a picture COCO AP is the share found, but for the 101 points; see the pictures of VOC above."""
    numbers = {"baseline": (10, 12), "cutmix": (20, 24)}
    runs = [run(name, found, seed=seed) for name, some in numbers.items() for seed, found in enumerate(some)]
    comparison = compare_runs(coco_dogs(40), runs, num_resamples=2000)
    assert (comparison["format"], comparison["num_classes_scored"]) == ("coco", 1)
    base, cutmix = comparison["groups"][0]["methods"]
    assert base["coco"]["AP"]["values"] == [pytest.approx(26 / 1.01), pytest.approx(31 / 1.01)]
    assert base["per_class"] == {"dog": pytest.approx(57 / 2.02), "cat": None}
    for name in ("AP", "AP50", "AP75"):
        said = cutmix["coco"][name]
        low, high = said["difference"]["interval"]
        both_low, both_high = said["over_both"]["interval"]
        assert said["difference"]["mean"] == pytest.approx((51 + 61 - 26 - 31) / 2.02)
        # Both runs of cutmix find 10 pictures more, 12 of which one of two does: the mean of p (1 - p) over the halves.
        gains = np.mean([(np.arange(40) < ours).astype(float) - (np.arange(40) < theirs)
                         for ours, theirs in ((20, 10), (24, 12))], axis=0)  # fmt: skip
        half = 100 * 2.0227 * (gains.var() / 39) ** 0.5
        assert [low, high] == pytest.approx([said["difference"]["mean"] + sign * half for sign in (-1, 1)], abs=1)
        assert both_low < low < high < both_high
    for name in ("APs", "APm"):
        assert (cutmix["coco"][name]["values"], cutmix["coco"][name]["mean"]) == ([None, None], None)
        assert cutmix["coco"][name]["difference"] is cutmix["coco"][name]["over_seeds"] is None
    large = cutmix["coco"]["APl"]
    assert (large["mean"], large["difference"]["interval"]) == (cutmix["coco"]["AP"]["mean"], None)


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


def test_compare_runs__the_paper_s_table_as_published():
    assert PAPER_TABLE == {"baseline": 76.71, "cutout": 77.17, "mixup": 77.98, "cutmix": 78.31, "saliencymix": 78.48}


PAPER = TRAINING | {
    "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"], "MODEL.BACKBONE.NAME": "build_resnet_backbone",
}  # fmt: skip
FPN = "build_resnet_fpn_backbone"  # the paper says neither C4 nor FPN


@pytest.mark.parametrize("change, is_papers", [
    ({}, True), ({"SOLVER.MAX_ITER": 18000}, False), ({"SOLVER.BASE_LR": 0.02}, False),
    ({"MODEL.BACKBONE.NAME": FPN}, True), ({"DATASETS.TRAIN": ["voc_2007_trainval"]}, False),
])  # fmt: skip
def test_compare_runs__the_paper_stands_beside_its_own_protocol_only(change, is_papers):
    training = PAPER | change
    comparison = compare(run("baseline", 2, training=training), run("cutmix", 4, training=training))
    assert [group["is_papers"] for group in comparison["groups"]] == [is_papers]
    assert (comparison["paper"] is not None) == is_papers


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


def test_compare_runs__where_two_detectors_disagree_and_what_all_miss():
    runs = [run("cutmix", 4, seed=2), run("baseline", 2, seed=1), run("baseline", 3, seed=2), run("cutmix", 5, seed=3)]
    runs += [run("once", 1, seed=7)]
    comparison = compare(*runs)
    first, second = comparison["groups"][0]["disagreements"]
    assert first["method"] == "cutmix"
    assert first["runs"] == {"baseline": "runs/baseline_3_2", "method": "runs/cutmix_4_2"}  # of the seed that both have
    assert (first["num_better"], first["num_worse"], first["worse"]) == (1, 0, [])
    assert [entry["image_id"] for entry in first["better"]] == ["3"]
    assert second["runs"] == {"baseline": "runs/baseline_2_1", "method": "runs/once_1_7"}  # no seed: the first of each
    assert [entry["image_id"] for entry in second["worse"]] == ["1"]
    missed = comparison["missed_by_all"]
    assert (missed["num_runs"], missed["num_objects"], missed["count"]) == (5, 8, 3)
    assert [entry["image_id"] for entry in missed["listed"]] == ["5", "6", "7"]
    assert comparison["num_objects"] == {"dog": 8, "cat": 0}


def test_compare_runs__differences_by_class_are_of_the_headline():
    runs = [run("baseline", 2, seed=1), run("baseline", 4, seed=2), run("cutmix", 6, seed=1), run("cutmix", 8, seed=2)]
    for dataset, metric, name in ((DATASET, "voc07", "AP50"), (coco_dogs(8), "coco", "AP")):
        base, cutmix = compare_runs(dataset, runs, num_resamples=10)["groups"][0]["methods"]
        assert base["per_class_differences"] is None
        assert cutmix["per_class_differences"]["cat"] is None
        dog = cutmix["per_class_differences"]["dog"]  # the only class: its AP is the mean
        assert dog["mean"] == pytest.approx(cutmix[metric][name]["difference"]["mean"])
        for key in ("interval", "p"):
            assert dog["over_seeds"][key] == pytest.approx(cutmix[metric][name]["over_seeds"][key])


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


def test_write_comparison__a_setting_that_nobody_recorded_is_not_said_to_vary(tmp_path):
    training = {key: value for key, value in TRAINING.items() if key != "MODEL.RESNETS.DEPTH"}
    write_comparison(compare(run("a", 2, training=training), run("b", 4, training=training)), tmp_path)
    assert "at 33,000, depth not recorded, FrozenBN" in (tmp_path / "comparison.md").read_text()


def test_write_comparison__of_settings_that_are_no_numbers(tmp_path):
    training = {key: "<b>" for key in TRAINING} | {"SOLVER.STEPS": ["<i>"]}
    write_comparison(compare(run("a", 2, training=training), run("b", 4, training=training)), tmp_path)
    assert "Batch &lt;b&gt;, &lt;b&gt; iterations" in (tmp_path / "comparison.html").read_text()
