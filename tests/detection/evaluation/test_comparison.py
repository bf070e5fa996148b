"""Runs side by side: grouping, spread, and paired differences; protocols are kept apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from detection.evaluation.comparison import PAPER_TABLE, compare_runs
from detection.report.comparison import write_comparison
from tests.detection.comparisons import DATASET, PAPER, TRAINING, coco_dogs, compare, dogs, run


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


def test_compare_runs__refuses_a_repeated_training_as_a_second_seed():
    """Its file of weights is another one, for it holds the config; its seed and all that it found are the same."""
    first, again = (run("a", 3, seed=5, weights={"file": "x.pth", "sha256": name}) for name in ("ab", "cd"))
    again = again._replace(path="runs/again")
    with pytest.raises(ValueError, match=r"runs/a_3_5 and runs/again have the same seed \(5\) and found the same to"):
        compare(first, again)
    other_seed = again._replace(protocol={**again.protocol, "seed": 6})
    assert compare(first, other_seed)["groups"][0]["methods"][0]["n"] == 2
    found_more = run("a", 4, seed=5)._replace(path="runs/again")  # from another backbone
    assert compare(first, found_more)["groups"][0]["methods"][0]["n"] == 2


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


def test_compare_runs__the_paper_s_table_as_published():
    assert PAPER_TABLE == {"baseline": 76.71, "cutout": 77.17, "mixup": 77.98, "cutmix": 78.31, "saliencymix": 78.48}


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
