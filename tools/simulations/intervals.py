"""How often the intervals of reports, comparisons and studies hold what they are about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from detection.evaluation.intervals import (
    MIN_PICTURES,
    difference,
    interval_of_ap,
    interval_of_difference,
    judge,
    over_both,
    pictures_by_class,
    summarise,
)
from detection.evaluation.matching import Matches
from detection.evaluation.resampling import draw_halves, resampled_ap
from tools.simulations.made_split import Split, World

GAIN = 0.5  # of the second detector's skill over the first's
TARGET_SPLITS = 4  # times as many as are tried, from which what an interval is about is taken
TARGET_RUNS = 4000
METHODS = 6  # beside the baseline of a study
STUDY_PICTURES, STUDY_CLASSES, STUDY_SKILL = 400, 20, 1.0
# Standard deviations of a run's skill: its own, and what the runs of a seed share.
RUN_SPREAD, SEED_SPREAD = 0.15, 0.1
# Standard deviation of how much easier a picture is to all runs of a method than to those of the other.
SAME_VIEW, OWN_VIEW = 0.0, 1.5
METRICS = ("11 points", "area")
FEW = 20  # pictures with objects of a class


class Setting(NamedTuple):
    """A kind of split, and how good the detector is that is tried on it."""

    pictures: int
    classes: int
    skill: float
    share: float = 1.0  # of the splits asked for: large ones take long


SETTINGS = (
    Setting(150, 2, 0.0), Setting(150, 2, 2.5), Setting(400, 20, 0.0), Setting(400, 20, 2.5), Setting(1500, 20, 1.0),
    Setting(4952, 20, 1.5, 0.2),
)  # fmt: skip


class Study(NamedTuple):
    """A kind of study of a method and a better one, and how differently they see a picture (SAME_VIEW, OWN_VIEW)."""

    pictures: int
    view: float


STUDIES = tuple(Study(pictures, view) for pictures in (200, 500) for view in (SAME_VIEW, OWN_VIEW))


class Row(NamedTuple):
    """How often one kind of interval held; ``below`` and ``above``: in how many cases the truth lay there instead."""

    where: str
    about: str
    cases: int
    held: int
    below: int
    above: int

    @property
    def percent(self) -> float:
        return 100 * self.held / self.cases

    @property
    def error(self) -> float:
        """The standard error of ``percent``."""
        share = self.held / self.cases
        return 100 * (share * (1 - share) / self.cases) ** 0.5


class Count:
    """Cases of one kind as they come."""

    def __init__(self) -> None:
        self.cases = self.below = self.above = 0

    def add(self, interval: list[float] | None, truth: float) -> None:
        """Count a case; no interval is no case."""
        if interval is not None:
            self.cases += 1
            self.below += truth < interval[0]
            self.above += truth > interval[1]

    def row(self, where: str, about: str) -> Row:
        return Row(where, about, self.cases, self.cases - self.below - self.above, self.below, self.above)


def over_pictures(setting: Setting, *, num_splits: int, num_resamples: int, seed: int) -> Iterator[Row]:
    """Yield how often intervals over pictures hold the mean of all splits of that kind, by number and by metric."""
    rng = np.random.default_rng(seed)
    num_splits = max(1, round(setting.share * num_splits))
    world = World.draw(setting.classes, rng)
    skills = (setting.skill, setting.skill + GAIN)
    once = np.ones((setting.pictures, 1), np.uint8)

    def detect() -> list[Matches]:
        split = Split(world, setting.pictures, rng)
        return [split.detect(skill, rng) for skill in skills]

    many = np.array([[_ap(one, once)[:, :, 0] for one in detect()] for _ in range(TARGET_SPLITS * num_splits)])
    of_class = np.nanmean(many[:, 0], axis=0)  # (metric, class)
    overall = np.nanmean(many, axis=3).mean(axis=0)  # (detector, metric)
    kinds = ("mAP", "difference of two detectors", f"class in {FEW} pictures or more", f"class in fewer than {FEW}")
    counts = {(kind, metric): Count() for kind in kinds for metric in METRICS}
    for _ in range(num_splits):
        halves = draw_halves(setting.pictures, num_resamples=num_resamples, seed=int(rng.integers(2**31)))
        found = detect()
        tables = [_ap(one, np.concatenate([once, halves], axis=1)) for one in found]
        means = [np.nanmean(table, axis=1) for table in tables]
        with_objects = pictures_by_class(found[0].truth)
        for place, metric in enumerate(METRICS):
            one, other = (mean[place] for mean in means)
            counts[kinds[0], metric].add(interval_of_ap(one[0], one[1:], setting.pictures)[0], overall[0, place])
            gain = interval_of_difference(other[0] - one[0], other[1:] - one[1:], setting.pictures)
            counts[kinds[1], metric].add(gain, overall[1, place] - overall[0, place])
            for label, pictures in enumerate(with_objects):
                if pictures >= MIN_PICTURES:
                    values = tables[0][place, label]
                    said, _ = interval_of_ap(values[0], values[1:], pictures)
                    counts[kinds[2 if pictures >= FEW else 3], metric].add(said, of_class[place, label])
    where = f"{setting.pictures} pictures, {setting.classes} classes, mAP {overall[0, 0]:.0f}"
    for (kind, metric), count in counts.items():
        if count.cases:
            yield count.row(where, f"{kind}, {metric}")


def over_seeds(num_seeds: int, *, num_studies: int, seed: int) -> Iterator[Row]:
    """Yield how often intervals over seeds hold in studies of METHODS equal methods and their baseline.

    The last row counts the studies in which no method is said to differ from the baseline.
    """
    rng = np.random.default_rng(seed)
    split = Split(World.draw(STUDY_CLASSES, rng), STUDY_PICTURES, rng)
    once = np.ones((STUDY_PICTURES, 1), np.uint8)

    def run(shared: float) -> float:
        matches = split.detect(STUDY_SKILL + shared + rng.normal(0, RUN_SPREAD), rng)
        return float(np.nanmean(_ap(matches, once)[0, :, 0]))

    target = float(np.mean([run(rng.normal(0, SEED_SPREAD)) for _ in range(TARGET_RUNS)]))
    mean, gain, silent = Count(), Count(), 0
    for _ in range(num_studies):
        shared = rng.normal(0, SEED_SPREAD, num_seeds)
        methods = [{place: run(one) for place, one in enumerate(shared)} for _ in range(METHODS + 1)]
        said = [difference(method, methods[0]) for method in methods[1:]]
        judge(said)
        for one in said:
            gain.add(one["interval"], 0.0)
        mean.add(summarise(list(methods[0].values()))["interval"], target)
        silent += not any(one["clear"] for one in said)
    where = f"studies of {num_seeds} seeds"
    yield mean.row(where, "mean of a method")
    yield gain.row(where, "difference to the baseline")
    yield Row(where, f"none of {METHODS} equal methods called different", num_studies, silent, 0, num_studies - silent)


def over_seeds_and_pictures(study: Study, *, num_studies: int, num_resamples: int, seed: int) -> Iterator[Row]:
    """Yield how often intervals over both hold the mean difference of all runs on all splits, by number of seeds.

    Each study has five new seeds and a new split; smaller numbers are of some of its runs.
    """
    rng = np.random.default_rng(seed)
    world = World.draw(STUDY_CLASSES, rng)
    once = np.ones((study.pictures, 1), np.uint8)

    def run_all(num_seeds: int, counts: np.ndarray) -> list[dict[int, np.ndarray]]:
        """Return seed -> mAP by 11 points on the pictures of each column, for the method and the better one."""
        split = Split(world, study.pictures, rng)
        shared = rng.normal(0, SEED_SPREAD, num_seeds)
        methods = []
        for skill in (STUDY_SKILL, STUDY_SKILL + GAIN):
            views = skill + rng.normal(0, study.view, study.pictures)
            runs = [split.detect(views + one + rng.normal(0, RUN_SPREAD), rng) for one in shared]
            methods.append({place: np.nanmean(_ap(run, counts)[0], axis=0) for place, run in enumerate(runs)})
        return methods

    pairs = [run_all(1, once) for _ in range(TARGET_SPLITS * num_studies)]
    target = float(np.mean([better[0] - method[0] for method, better in pairs]))
    taken = {  # seeds of the method, of the better one
        **{f"{count} seeds": (range(count), range(count)) for count in (2, 3, 5)},
        "2 seeds, none shared": (range(2), range(3, 5)),
    }
    counts = {about: Count() for about in taken}
    for _ in range(num_studies):
        halves = draw_halves(study.pictures, num_resamples=num_resamples, seed=int(rng.integers(2**31)))
        methods = run_all(5, np.concatenate([once, halves], axis=1))
        for about, seeds in taken.items():
            method, better = ({one: of[one] for one in some} for of, some in zip(methods, seeds, strict=True))
            counts[about].add(over_both(better, method, study.pictures), target)
    where = f"{study.pictures} pictures, methods that see them {'differently' if study.view else 'alike'}"
    for about, count in counts.items():
        yield count.row(where, f"difference over both, {about}")


def as_markdown(rows: list[Row]) -> str:
    """Return the table of ``rows``."""
    lines = [
        "| where | interval of | cases | held, % | truth below, % | truth above, % |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    lines += [
        f"| {row.where} | {row.about} | {row.cases:,} | {row.percent:.1f} ± {row.error:.1f} "
        f"| {100 * row.below / row.cases:.1f} | {100 * row.above / row.cases:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _ap(matches: Matches, counts: np.ndarray) -> np.ndarray:
    """Return AP at IoU .5 in percent, (metric, class, resample)."""
    return 100 * resampled_ap(matches, counts, thresholds=(50,))[:, 0]
