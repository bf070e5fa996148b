"""How sure a number is: over the pictures of a split, and over the seeds of training.

Three questions, kept apart. The interval of an AP, or of the difference of two, says how far it moves with the pictures
of the split; the detectors stay as they are. Mean, interval and p value over seeds say how far training alone moves
it; the pictures stay as they are. The interval of a difference over both lets training and pictures be others. All
intervals are at LEVEL percent. ``tools/simulate_intervals.py`` shows how often they hold what they should; README.md in
this folder has its table. Reports, comparisons, ``--repeat`` and studies all take their statistics from here.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from detection.datasets.types import DetectionDataset
from detection.evaluation.matching import GroundTruth, Matches
from detection.evaluation.resampling import NUM_RESAMPLES, draw_halves, resampled_ap, summarise_resamples
from detection.evaluation.voc import IOU_PERCENT, VOC_METRICS

LEVEL = 95  # percent: of the cases in which an interval is to hold what it is about
POWER = 0.8  # the chance to see a difference that ``seeds_needed`` is about
MAX_SEEDS = 1000
MIN_PICTURES = 10  # with objects of a class; below, the halves of a split say next to nothing
METHOD = "Student's t on the log-odds of AP, its standard error from random halves of the pictures"
TARGET = "the mean AP of this detector over splits of as many pictures of the same kind"
# Of the simulated cases, those in which an interval held what it is about: over all pictures, of a class.
COVERAGE, COVERAGE_OF_CLASS = "93 to 96 %", "92 to 99 %"
SAME_SEEDS, OTHER_SEEDS = "paired by seed", "Welch's t"


def summarise(values: Sequence[float | None]) -> dict[str, Any]:
    """Return ``n``, ``mean``, ``std`` (of a sample) and ``interval``, that of the mean by Student's t.

    A single value has neither spread nor interval (None), and equal values have no interval: that two runs gave the
    same number does not show that all will. Where a value is None, a number that is undefined on these pictures (APs
    without a small object), so is the mean. ``values`` is not empty.
    """
    if None in values:
        return {"n": len(values), "mean": None, "std": None, "interval": None}
    mean = statistics.fmean(values)
    if len(values) == 1:
        return {"n": 1, "mean": mean, "std": None, "interval": None}
    std = statistics.stdev(values)
    half = student_quantile(len(values) - 1) * std / math.sqrt(len(values))
    return {
        "n": len(values),
        "mean": mean,
        "std": std,
        "interval": None if _is_nothing(std, mean) else [mean - half, mean + half],
    }


def difference(values: Mapping[Hashable, float], reference: Mapping[Hashable, float]) -> dict[str, Any] | None:
    """Return how ``values`` differ from ``reference``, both seed -> number; None where nothing can be paired.

    Over the seeds that both have, paired by seed, as ``summarise`` says it; where both have several and share none or
    one, by Welch's t. ``test`` names which. ``std`` is that of the difference of two single runs, ``p`` two-sided,
    None where there is no interval.
    """
    samples = _samples(values, reference)
    if not samples:
        return None
    if len(samples) == 1:
        said = summarise(samples[0])
        p_value = None
        if said["interval"] is not None:
            p_value = _p_value(said["mean"], said["std"] / math.sqrt(said["n"]), said["n"] - 1)
        return {**said, "test": SAME_SEEDS, "p": p_value}
    mean = statistics.fmean(samples[0]) - statistics.fmean(samples[1])
    std = math.sqrt(sum(map(statistics.variance, samples)))
    said = {"n": min(map(len, samples)), "mean": mean, "std": std, "interval": None, "test": OTHER_SEEDS, "p": None}
    if not _is_nothing(std, mean):
        variance, freedom = _variance_over_seeds(samples)
        error = math.sqrt(variance)
        half = student_quantile(freedom) * error
        said |= {"interval": [mean - half, mean + half], "p": _p_value(mean, error, freedom)}
    return said


def _samples(values: Mapping[Hashable, Any], reference: Mapping[Hashable, Any]) -> list[list[Any]]:
    """Return what is compared of numbers by seed: a sample of paired differences, two samples, or none."""
    shared = [seed for seed in values if seed in reference]
    several = min(len(values), len(reference)) > 1
    if len(shared) > 1 or (shared and not several):
        return [[values[seed] - reference[seed] for seed in shared]]
    return [list(values.values()), list(reference.values())] if several else []


def _variance_over_seeds(samples: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the variance of a mean, or of the difference of two, and its degrees of freedom."""
    return _sum_of_variances([(statistics.variance(one) / len(one), len(one) - 1) for one in samples])


def _sum_of_variances(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the sum of variances and its degrees of freedom (Welch and Satterthwaite) from those of each part."""
    total = sum(variance for variance, _ in parts)
    return total, total**2 / sum(variance**2 / freedom for variance, freedom in parts)


def adjust(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values for a family of tests, by Holm's step-down method; None stays None and is no member.

    If those below .05 are called different, and in truth none of the family is, the chance that any is called so is
    at most 5 %, however the tests hang together.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    lowest = 0.0
    for rank, (p, place) in enumerate(order):
        lowest = max(lowest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = lowest
    return adjusted


def judge(differences: Sequence[dict[str, Any]]) -> None:
    """Add ``adjusted_p``, ``clear`` and ``seeds_needed`` to what ``difference`` returned for a family of methods.

    A family are the methods of one table beside their baseline, for one metric.
    """
    judge_together(differences)
    family = sum(one["p"] is not None for one in differences)
    for one in differences:
        one["seeds_needed"] = seeds_needed(one["mean"], one["std"], max(family, 1))


def judge_together(differences: Sequence[dict[str, Any]]) -> None:
    """Add ``adjusted_p`` and ``clear`` to what ``difference`` returned for a family.

    ``clear`` says that there may be said to be a difference: its adjusted p value is below 1 - LEVEL.
    """
    for one, adjusted in zip(differences, adjust([one["p"] for one in differences]), strict=True):
        one["adjusted_p"] = adjusted
        one["clear"] = adjusted is not None and adjusted < 1 - LEVEL / 100


def seeds_needed(mean: float, std: float | None, family: int = 1) -> int | None:
    """Return with how many seeds a difference of ``mean`` would be found with a chance of POWER, if it is the true one.

    None where the spread is not known, or where it would take more than MAX_SEEDS.

    Args:
        std: standard deviation of the difference of a pair of runs.
        family: differences that are tested together, each then at the level divided by their number.
    """
    if std is None or _is_nothing(std, mean) or mean == 0:
        return None
    from scipy.stats import nct

    def power(count: int) -> float:
        quantile = student_quantile(count - 1, family)
        return float(nct.sf(quantile, count - 1, abs(mean) / std * math.sqrt(count)))

    if not power(MAX_SEEDS) >= POWER:
        return None
    low, high = 1, MAX_SEEDS  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


@functools.lru_cache(maxsize=1024)
def student_quantile(freedom: float, family: int = 1) -> float:
    """Return how many standard errors a two-sided interval at LEVEL reaches; ``family`` of them hold together."""
    from scipy.stats import t

    return float(t.isf((1 - LEVEL / 100) / (2 * family), freedom))


def _p_value(mean: float, error: float, freedom: float) -> float:
    from scipy.stats import t

    return float(2 * t.sf(abs(mean) / error, freedom))


def _is_nothing(std: float, mean: float) -> bool:
    """Return whether a spread is what rounding leaves of equal numbers."""
    return std <= 1e-9 * max(1.0, abs(mean))


def interval_of_ap(estimate: float, halves: np.ndarray, num_pictures: int) -> tuple[list[float] | None, str | None]:
    """Return the interval of an AP in percent, or None and the reason why there is none.

    The standard error is the spread of the AP over random halves of the pictures (delete-half jackknife: Shao and Wu,
    Annals of Statistics 17, 1989). A resample with repeated pictures, the bootstrap's, lifts precision by itself
    (README.md in this folder). Log-odds keep the interval between 0 and 100, and lean it to the side where there is
    more room.

    Args:
        halves: AP on halves of the split, as ``draw_halves`` draws them; NaN where a half has no object.
        num_pictures: in which the AP has its objects.
    """
    if num_pictures < MIN_PICTURES:
        some = f"objects in {num_pictures} picture{'s' * (num_pictures != 1)}, fewer than {MIN_PICTURES}"
        return None, some if num_pictures else "no objects"
    halves = halves[~np.isnan(halves)]
    if len(halves) < 2:
        return None, f"{len(halves)} of the halves of the pictures {'has' if len(halves) == 1 else 'have'} an AP"
    if _is_nothing(float(np.std(halves)), estimate) or not 0 < estimate < 100:
        return None, "every half of the pictures gives the same AP"
    share = estimate / 100
    half_width = _reach(halves, num_pictures) / 100 / (share * (1 - share))
    centre = math.log(share / (1 - share))
    return [100 / (1 + math.exp(-(centre + side * half_width))) for side in (-1, 1)], None


def interval_of_difference(estimate: float, halves: np.ndarray, num_pictures: int) -> list[float] | None:
    """Return the interval of a difference of APs on the same pictures, from the differences on the same halves.

    As ``interval_of_ap``, on the difference itself; None where that gives no interval.
    """
    halves = halves[~np.isnan(halves)]
    if num_pictures < MIN_PICTURES or len(halves) < 2 or _is_nothing(float(np.std(halves)), estimate):
        return None
    half_width = _reach(halves, num_pictures)
    return [max(estimate - half_width, -100.0), min(estimate + half_width, 100.0)]


def over_both(
    values: Mapping[Hashable, np.ndarray], reference: Mapping[Hashable, np.ndarray], num_pictures: int
) -> list[float] | None:
    """Return the interval of the mean difference over all trainings and all splits of as many pictures of that kind.

    It is around the mean that ``difference`` says, with the seeds paired as there. None where there is no interval over
    the seeds (one seed, equal numbers) or over the pictures (see ``interval_of_difference``).

    Two variances are added, with the degrees of freedom of Welch and Satterthwaite: that over seeds, and that of the
    mean over the halves. A run does better on some pictures and worse on others than its method in the mean of all
    trainings. The runs of a method differ by this, and their mean moves by it with the pictures: it is in both
    variances, and may be most of both. So that it counts once, the second is less by as much as it has of this, known
    from how far the runs move over the halves beside their mean.

    Never narrower than the interval over seeds or that over pictures of the same runs: the degrees of freedom would
    often make it so with two or three seeds, and it would hold too seldom where the pictures add little.

    Args:
        values: seed -> (1 + R,), the AP in percent on all pictures, then on the halves that all runs share.
        reference: the same of the other method.
    """
    seeds = difference(*({seed: float(one[0]) for seed, one in side.items()} for side in (values, reference)))
    if seeds is None or seeds["interval"] is None:
        return None
    samples = [np.stack(one) for one in _samples(values, reference)]  # (n, 1 + R) each
    means = [one[:, 1:].mean(axis=0) for one in samples]
    halves = means[0] - means[1] if len(means) == 2 else means[0]
    if interval_of_difference(seeds["mean"], halves, num_pictures) is None:
        return None
    halves = halves[~np.isnan(halves)]
    in_both = sum(
        float(np.nanvar(one[:, 1:] - mean, axis=1, ddof=1).sum()) / (len(one) * (len(one) - 1))
        for one, mean in zip(samples, means, strict=True)
    )
    of_pictures = max(float(np.var(halves, ddof=1)) - in_both, 0.0), _freedom(halves, num_pictures)
    of_seeds = _variance_over_seeds([one[:, 0].tolist() for one in samples])
    variance, freedom = _sum_of_variances([of_seeds, of_pictures])
    low, high = seeds["interval"]
    half = max(student_quantile(freedom) * math.sqrt(variance), (high - low) / 2, _reach(halves, num_pictures))
    return [max(seeds["mean"] - half, -100.0), min(seeds["mean"] + half, 100.0)]


def _reach(halves: np.ndarray, num_pictures: int) -> float:
    """Return how far an interval reaches to each side."""
    return student_quantile(_freedom(halves, num_pictures)) * float(np.std(halves, ddof=1))


def _freedom(halves: np.ndarray, num_pictures: int) -> int:
    """Return the degrees of freedom of a spread: that of few halves is little known, as that of few pictures."""
    return min(num_pictures, len(halves)) - 1


def confidence(
    dataset: DetectionDataset, matches: Matches, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Return intervals [low, high] in percent: ``{"voc07": {"AP", "AP50", "AP75", "per_class"}, "voc10": ...}``.

    They are about TARGET: how far the number moves with the pictures, not how far it moves with the training seed.
    ``reasons`` says in the same form why there is none where it is None. Detectron2's mean, which counts a class
    without ground truth, has no interval where there is such a class.
    """
    num_pictures = len(dataset.pictures)
    halves = draw_halves(num_pictures, num_resamples=num_resamples, seed=seed)
    whole = np.ones((num_pictures, 1), np.uint8)  # column 0 is the estimate itself
    table = resampled_ap(matches, np.concatenate([whole, halves], axis=1))
    defined = matches.rules != "detectron2" or matches.truth.num_positives.all()
    with_objects = pictures_by_class(matches.truth)
    result: dict[str, Any] = {
        "level": LEVEL, "resamples": num_resamples, "seed": seed, "method": METHOD, "target": TARGET, "reasons": {},
    }  # fmt: skip
    for index, metric in enumerate(VOC_METRICS):
        said = {
            name: interval_of_ap(values[index, 0], values[index, 1:], num_pictures)
            if defined
            else (None, "a class without ground truth has no AP")
            for name, values in summarise_resamples(table).items()
        }
        by_class = {
            name: interval_of_ap(values[0], values[1:], pictures)
            for name, values, pictures in zip(
                dataset.classes, 100 * table[index, IOU_PERCENT.index(50)], with_objects, strict=True
            )
        }
        for place, part in ((result, 0), (result["reasons"], 1)):
            place[metric] = {name: one[part] for name, one in said.items()}
            place[metric]["per_class"] = {name: one[part] for name, one in by_class.items()}
    return result


def pictures_by_class(truth: GroundTruth) -> list[int]:
    """Return in how many pictures each class has an object that counts."""
    kept = ~truth.difficult
    pairs = np.unique(np.stack([truth.classes[kept], truth.pictures[kept]]), axis=1)
    return np.bincount(pairs[0], minlength=len(truth.num_positives)).tolist()
