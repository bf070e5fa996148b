"""Intervals and p values worked by hand, against scipy's own tests, and against what is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.detections import PictureDetections
from detection.evaluation.intervals import (
    adjust,
    confidence,
    difference,
    interval_of_ap,
    interval_of_difference,
    judge,
    over_both,
    seeds_needed,
    student_quantile,
    summarise,
)
from detection.evaluation.matching import match_detections
from detection.evaluation.voc import evaluate_voc


def test_summarise__three_values():
    found = summarise([70.0, 72.0, 74.0])  # variance (4 + 0 + 4) / 2
    half = pytest.approx(4.3027 * 2 / 3**0.5, abs=1e-3)
    assert found == {"n": 3, "mean": 72.0, "std": 2.0, "interval": found["interval"]}
    assert [72 - found["interval"][0], found["interval"][1] - 72] == [half, half]


def test_summarise__one_value_has_no_spread_and_equal_values_no_interval():
    assert summarise([70.0]) == {"n": 1, "mean": 70.0, "std": None, "interval": None}
    assert summarise([70.1] * 3) == {"n": 3, "mean": pytest.approx(70.1), "std": pytest.approx(0), "interval": None}


@pytest.mark.parametrize("count, quantile", [(2, 12.706), (3, 4.303), (31, 2.042), (32, 2.0395), (61, 2.0003)])
def test_summarise__students_t_at_every_number_of_values(count, quantile):
    found = summarise([0.0] * (count - 1) + [1.0])
    assert found["interval"][1] - found["mean"] == pytest.approx(quantile * found["std"] / count**0.5, rel=1e-3)


def test_difference__paired_over_the_seeds_of_both():
    found = difference({1: 5.0, 2: 7.0, 3: 9.0}, {1: 4.0, 3: 4.0, 4: 0.0})
    assert (found["n"], found["mean"], found["test"]) == (2, 3.0, "paired by seed")  # 1 and 5
    assert found["p"] == pytest.approx(stats.ttest_rel([5, 9], [4, 4]).pvalue)


def test_difference__of_one_pair_or_equal_pairs_has_neither_interval_nor_p():
    assert difference({1: 5.0}, {1: 4.0}) == {
        "n": 1, "mean": 1.0, "std": None, "interval": None, "test": "paired by seed", "p": None,
    }  # fmt: skip
    found = difference({1: 5.1, 2: 6.1, 3: 8.1}, {1: 4.0, 2: 5.0, 3: 7.0})
    assert (found["interval"], found["p"]) == (None, None)


def test_difference__of_other_seeds_is_welchs():
    ours, theirs = {1: 5.0, 2: 7.0, 3: 9.5}, {4: 4.0, 5: 4.5}
    found = difference(ours, theirs)
    expected = stats.ttest_ind(list(ours.values()), list(theirs.values()), equal_var=False)
    assert (found["n"], found["test"]) == (2, "Welch's t")
    assert found["mean"] == pytest.approx(43 / 6 - 4.25)
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["interval"] == pytest.approx(list(expected.confidence_interval(0.95)))
    assert found["std"] == pytest.approx((np.var(list(ours.values()), ddof=1) + 0.125) ** 0.5)


def test_difference__with_one_seed_in_common_of_several_is_welchs():
    found = difference({1: 5.0, 2: 7.0}, {2: 4.0, 3: 4.5})
    assert (found["n"], found["test"], found["mean"]) == (2, "Welch's t", 1.75)


def test_difference__of_single_runs_of_other_seeds_is_none():
    assert difference({1: 5.0}, {2: 5.0}) is None
    assert difference({1: 5.0, 3: 6.0}, {2: 5.0}) is None


def test_adjust__by_holm():
    assert adjust([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # .01 x 3, .03 x 2, no less for .04
    assert adjust([None, 0.5, None, 0.6]) == [None, 1.0, None, 1.0]
    assert adjust([]) == []


def test_judge__only_what_holds_for_the_family_is_clear():
    reference = {seed: 70.0 for seed in range(3)}
    surer, less_sure = ({seed: 71.0 + share * seed for seed in range(3)} for share in (0.05, 0.2))
    said = [difference(values, reference) for values in (surer, less_sure, {0: 80.0})]
    alone = [dict(one) for one in said[1:2]]
    judge(alone)
    judge(said)
    assert [one["clear"] for one in (*said, *alone)] == [True, True, False, True]
    assert said[0]["adjusted_p"] == pytest.approx(2 * said[0]["p"])
    assert said[2]["adjusted_p"] is said[2]["seeds_needed"] is None
    judge(many := [dict(said[1]) for _ in range(12)])
    assert not many[0]["clear"]


def test_judge__calls_equal_methods_different_in_at_most_5_percent_of_the_studies():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(400):
        values = [dict(enumerate(rng.normal(70, 0.25, 3))) for _ in range(7)]
        said = [difference(one, values[0]) for one in values[1:]]
        judge(said)
        called += any(one["clear"] for one in said)
    assert called / 400 <= 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5


def test_seeds_needed__of_the_papers_gain_at_an_usual_spread():
    """78.48 - 78.31, seeds with a standard deviation of .25 in each method: by the normal distribution 33.9."""
    pairs = 0.25 * 2**0.5
    assert ((1.95996 + 0.84162) * pairs / 0.17) ** 2 == pytest.approx(33.9, abs=0.1)
    assert seeds_needed(0.17, pairs) == 36
    assert seeds_needed(-0.17, pairs) == 36
    assert seeds_needed(0.17, pairs, family=5) > 50


@pytest.mark.parametrize("mean, std", [(1.0, 0.5), (1.0, 1.0)])
def test_seeds_needed__finds_the_difference_as_often_as_it_says(mean, std):
    count = seeds_needed(mean, std)
    found = []
    for seeds in (count - 1, count):
        draws = np.random.default_rng(0).normal(mean, std, (20_000, seeds))
        found.append((stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean())
    assert found[0] < 0.81
    assert found[1] > 0.79


def test_seeds_needed__is_not_known_without_a_spread_and_not_for_nothing():
    assert seeds_needed(1.0, None) is None
    assert seeds_needed(1.0, 0.0) is None
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(0.001, 1.0) is None  # thousands


def test_student_quantile__of_a_family():
    assert student_quantile(2, family=5) == pytest.approx(9.9248, abs=1e-4)


def test_interval_of_ap__by_the_log_odds():
    halves = np.array([70.0, 90.0, np.nan] * 9)  # 18 that count, std 10 * sqrt(18 / 17)
    (low, high), reason = interval_of_ap(80.0, halves, 12)
    half = 2.20099 * 0.1 * (18 / 17) ** 0.5 / 0.16  # t of 11; the slope of the log-odds at .8
    assert reason is None
    assert [low, high] == pytest.approx([100 / (1 + 0.25 * np.exp(half)), 100 / (1 + 0.25 * np.exp(-half))], abs=1e-3)


@pytest.mark.parametrize(
    "estimate, halves, pictures, reason",
    [
        (100.0, [100.0, 100.0], 50, "every half of the pictures gives the same AP"),
        (0.0, [0.0, 0.0], 50, "every half of the pictures gives the same AP"),
        (50.0, [np.nan, np.nan], 50, "0 of the halves of the pictures have an AP"),
        (50.0, [40.0], 50, "1 of the halves of the pictures has an AP"),
        (50.0, [40.0, 60.0], 9, "objects in 9 pictures, fewer than 10"),
        (50.0, [40.0, 60.0], 1, "objects in 1 picture, fewer than 10"),
        (np.nan, [np.nan], 0, "no objects"),
    ],
)
def test_interval_of_ap__none_and_why(estimate, halves, pictures, reason):
    assert interval_of_ap(estimate, np.array(halves), pictures) == (None, reason)


def test_interval_of_difference__and_its_limits():
    halves = np.array([1.0, 3.0])
    half = 12.7062 * 2**0.5  # t of 1: two halves say little, however many pictures are in them
    assert interval_of_difference(2.0, halves, 40) == pytest.approx([2 - half, 2 + half], abs=1e-3)
    assert interval_of_difference(-99.0, halves, 40)[0] == -100
    assert interval_of_difference(2.0, np.array([2.0, 2.0]), 40) is None
    assert interval_of_difference(2.0, halves, 9) is None


# Forty halves: how they move all runs of a method alike, and how they move one run up as they move another down.
ALIKE, APART = np.tile([1.0, -1.0], 20), np.tile([1.0, 1.0, -1.0, -1.0], 10)


def side(estimates: dict[int, float], alike: float, apart: float) -> dict[int, np.ndarray]:
    """Seed -> AP on all pictures and on the halves; ``alike`` is the variance of the mean of the runs over the halves,
    ``apart`` the part of it by which the runs differ there, brought in by the first two."""
    runs = {}
    for place, (seed, estimate) in enumerate(estimates.items()):
        own = {0: 1, 1: -1}.get(place, 0) * (apart * len(estimates) * (len(estimates) - 1) / 2) ** 0.5
        runs[seed] = np.array([estimate, *(estimate + (39 / 40) ** 0.5 * (alike**0.5 * ALIKE + own * APART))])
    return runs


def nothing(estimates: dict[int, float]) -> dict[int, np.ndarray]:
    return side(dict.fromkeys(estimates, 0.0), 0.0, 0.0)


def reach(variance: float, freedom: float) -> float:
    return stats.t.ppf(0.975, freedom) * variance**0.5


FIVE = {1: 0.0, 2: 2.0, 3: 4.0, 4: 6.0, 5: 8.0}  # variance 10, so 2 of the mean


@pytest.mark.parametrize(
    "alike, apart, half",
    [
        (3.0, 1.0, reach(2 + 3 - 1, (2 + 2) ** 2 / (2**2 / 4 + 2**2 / 39))),
        (3.0, 0.0, reach(2 + 3, (2 + 3) ** 2 / (2**2 / 4 + 3**2 / 39))),
        # All that the pictures move is that they move each run by itself, which is in the spread over seeds.
        (1.0, 1.0, reach(2, 4)),
        (1.0, 3.0, reach(2, 4)),  # as a spread over halves may come out
        (0.1, 0.0, reach(2, 4)),  # with 4.4 degrees of freedom it would be narrower
        (40.0, 39.0, reach(40, 39)),  # as a sum of 3 it would be narrower than over pictures
    ],
)
def test_over_both__of_paired_seeds_by_hand(alike, apart, half):
    found = over_both(side(FIVE, alike, apart), nothing(FIVE), 40)
    assert found == pytest.approx([4 - half, 4 + half])


def test_over_both__of_other_seeds_by_hand():
    ours, theirs = side({1: 1.0, 2: 3.0, 3: 5.0}, 9.0, 1.0), side({4: 0.0, 5: 2.0}, 0.0, 1.0)
    # Variances of the means: 4 / 3 and 2 / 2 over seeds; over halves 9, of which 1 and 1 are the runs' own.
    seeds, pictures = 4 / 3 + 1, 9 - 1 - 1
    freedom = (seeds + pictures) ** 2 / ((4 / 3) ** 2 / 2 + 1 + pictures**2 / 39)
    half = reach(seeds + pictures, freedom)
    assert over_both(ours, theirs, 40) == pytest.approx([2 - half, 2 + half])


def test_over_both__is_about_the_seeds_that_both_have():
    both, alone = side(FIVE, 3.0, 1.0), side({6: 90.0}, 9.0, 0.0)
    assert over_both(both | alone, nothing(FIVE), 40) == over_both(both, nothing(FIVE), 40)


@pytest.mark.parametrize("shift", [0, 100], ids=["paired", "other seeds"])
def test_over_both__is_never_narrower_than_either_and_turns_with_the_sides(shift):
    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 50) * 8:
        scales = rng.gamma(0.5, 2, 3)
        ours, theirs = (
            {
                seed: 50 + scales[0] * rng.normal() + common + scales[2] * rng.normal(size=31)
                for seed in range(first, first + count)
            }
            for first, common in ((0, scales[1] * rng.normal(size=31)), (shift, 0.0))
        )
        found = over_both(ours, theirs, 100)
        seeds = difference(*({seed: one[0] for seed, one in some.items()} for some in (ours, theirs)))
        halves = np.mean(list(ours.values()), axis=0)[1:] - np.mean(list(theirs.values()), axis=0)[1:]
        for low, high in (seeds["interval"], interval_of_difference(seeds["mean"], halves, 100)):
            assert found[0] <= max(low, -100) + 1e-9
            assert found[1] >= min(high, 100) - 1e-9
        assert over_both(theirs, ours, 100) == pytest.approx([-found[1], -found[0]])


def test_over_both__leaves_out_halves_without_an_ap():
    lacking = {seed: np.append(one, np.nan) for seed, one in side(FIVE, 3.0, 1.0).items()}
    assert over_both(lacking, {seed: np.zeros(42) for seed in FIVE}, 40) == over_both(
        side(FIVE, 3.0, 1.0), nothing(FIVE), 40
    )


def test_over_both__stays_a_difference_of_percentages():
    assert over_both(side({1: 90.0, 2: 99.0}, 1.0, 0.0), nothing({1: 0, 2: 0}), 40)[1] == 100
    assert over_both(nothing({1: 0, 2: 0}), side({1: 90.0, 2: 99.0}, 1.0, 0.0), 40)[0] == -100


@pytest.mark.parametrize(
    "ours, theirs, pictures",
    [
        (side({1: 4.0}, 1.0, 0.0), nothing({1: 0}), 40),  # one seed
        (side({1: 4.0}, 1.0, 0.0), nothing({2: 0}), 40),  # and another
        (side({1: 4.0, 2: 4.0}, 1.0, 1.0), nothing({1: 0, 2: 0}), 40),  # the same in every seed
        (side({1: 4.0, 2: 5.0}, 0.0, 1.0), nothing({1: 0, 2: 0}), 40),  # the same mean on every half
        (side({1: 4.0, 2: 5.0}, 1.0, 1.0), nothing({1: 0, 2: 0}), 9),  # too few pictures
    ],
)
def test_over_both__none_where_either_has_none(ours, theirs, pictures):
    assert over_both(ours, theirs, pictures) is None


BOX = (1.0, 1.0, 101.0, 101.0)


def found_in(num_pictures: int, num_found: int) -> tuple[DetectionDataset, dict[str, PictureDetections]]:
    """A dog in every picture, found in the first ones, and a cat in the last, found too."""
    dog, cat = AnnotatedObject("dog", BOX, False), AnnotatedObject("cat", (1.0, 1.0, 11.0, 11.0), False)
    pictures, detections = [], {}
    for index in range(num_pictures):
        last = index == num_pictures - 1
        objects = (dog, cat) if last else (dog,)
        pictures.append(AnnotatedPicture(f"{index:03d}", Path("x.jpg"), Path("x.xml"), 200, 200, objects))
        boxes = [([0, 0, 100, 100], 0)] * (index < num_found) + [([0, 0, 10, 10], 1)] * last
        if boxes:
            corners, labels = (np.array(part, np.float32) for part in zip(*boxes, strict=True))
            detections[f"{index:03d}"] = PictureDetections(corners, np.ones(len(boxes), np.float32), labels.astype(int))
    return DetectionDataset("made", Path("."), "made", ("dog", "cat", "cow"), tuple(pictures)), detections


def test_confidence__of_a_share_of_pictures():
    """AP by area is the share found, so that halves without replacement have p (1 - p) / (n - 1) as its variance."""
    dataset, detections = found_in(40, 20)
    said = confidence(dataset, match_detections(dataset, detections), num_resamples=4000)
    half = 2.0227 * 0.5 / 39**0.5 / 0.25
    expected = [100 / (1 + np.exp(half)), 100 / (1 + np.exp(-half))]
    assert evaluate_voc(dataset, detections)["voc10"]["per_class"]["dog"] == 50
    assert said["voc10"]["per_class"]["dog"] == pytest.approx(expected, abs=0.5)
    assert said["voc10"]["per_class"]["cat"] is said["voc10"]["per_class"]["cow"] is None
    assert said["reasons"]["voc10"]["per_class"] == {
        "dog": None, "cat": "objects in 1 picture, fewer than 10", "cow": "no objects",
    }  # fmt: skip
    assert (said["level"], said["resamples"]) == (95, 4000)


def test_confidence__of_detections_that_are_all_right_has_no_interval():
    dataset, detections = found_in(40, 40)
    said = confidence(dataset, match_detections(dataset, detections), num_resamples=50)
    assert said["voc07"]["AP50"] is said["voc07"]["per_class"]["dog"] is None
    assert said["reasons"]["voc07"]["AP50"] == "every half of the pictures gives the same AP"


def test_confidence__detectron2s_mean_with_an_absent_class_has_none():
    dataset, detections = found_in(40, 20)
    said = confidence(dataset, match_detections(dataset, detections, rules="detectron2"), num_resamples=20)
    assert said["voc07"]["AP50"] is None
    assert said["reasons"]["voc07"]["AP50"] == "a class without ground truth has no AP"
    assert said["voc07"]["per_class"]["dog"] is not None
