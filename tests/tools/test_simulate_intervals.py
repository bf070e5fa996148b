"""The simulation of the intervals: its made worlds, small runs, and that it would see intervals that are too narrow."""

from __future__ import annotations

import re

import numpy as np
import pytest

from detection.evaluation.intervals import difference, interval_of_difference
from detection.evaluation.resampling import resampled_ap
from tools.simulations import intervals
from tools.simulations.intervals import (
    OWN_VIEW,
    Row,
    Setting,
    Study,
    as_markdown,
    over_pictures,
    over_seeds,
    over_seeds_and_pictures,
)
from tools.simulations.made_split import Split, World

SMALL = Setting(60, 2, 0.5)


def test_split__detectors_hang_together_and_the_better_one_finds_more():
    rng = np.random.default_rng(0)
    world = World.draw(3, rng)
    once = np.ones((200, 1), np.uint8)
    aps = []
    for _ in range(30):
        split = Split(world, 200, rng)
        found = [split.detect(skill, rng) for skill in (0.0, 0.0, 2.0)]
        assert all(one.truth is split.truth for one in found)
        for one in found:
            assert (np.diff(one.classes) >= 0).all()
            assert (np.diff(one.scores)[np.diff(one.classes) == 0] <= 0).all()
            held = one.best_object >= 0
            assert (split.truth.classes[one.best_object[held]] == one.classes[held]).all()
            assert (split.truth.pictures[one.best_object[held]] == one.pictures[held]).all()
        aps.append([100 * np.nanmean(resampled_ap(one, once)[1, 0]) for one in found])
    aps = np.array(aps)
    assert np.corrcoef(aps[:, 0], aps[:, 1])[0, 1] > 0.5
    assert (aps[:, 2] > aps[:, 0]).all()


def test_over_pictures__intervals_hold_about_as_often_as_they_say():
    rows = list(over_pictures(SMALL, num_splits=60, num_resamples=60, seed=0))
    assert {row.about for row in rows} >= {"mAP, 11 points", "mAP, area", "difference of two detectors, area"}
    for row in rows:
        if "fewer" in row.about:  # hardly any in so small a world
            continue
        assert row.cases >= 60
        assert row.percent > 95 - 4 * (0.95 * 0.05 / 60) ** 0.5 * 100
        assert row.held + row.below + row.above == row.cases


def test_over_pictures__sees_intervals_that_are_too_narrow(monkeypatch):
    monkeypatch.setattr(intervals, "interval_of_ap", lambda estimate, *_: ([estimate - 1, estimate + 1], None))
    rows = {row.about: row for row in over_pictures(SMALL, num_splits=60, num_resamples=10, seed=0)}
    assert rows["mAP, area"].percent < 60


def test_over_seeds__equal_methods_are_seldom_called_different(monkeypatch):
    monkeypatch.setattr(intervals, "TARGET_RUNS", 200)
    mean, difference, silent = over_seeds(3, num_studies=40, seed=0)
    assert (mean.cases, difference.cases, silent.cases) == (40, 240, 40)
    assert difference.percent > 85
    assert silent.held >= 34  # 95 % of 40, less three deviations


def test_over_seeds__sees_methods_that_are_called_different_too_often(monkeypatch):
    def judge(differences):
        for one in differences:
            one["clear"] = one["p"] < 0.05  # each by itself

    monkeypatch.setattr(intervals, "judge", judge)
    monkeypatch.setattr(intervals, "TARGET_RUNS", 10)
    *_, silent = over_seeds(3, num_studies=40, seed=0)
    assert silent.percent < 90


def test_split__a_skill_for_each_picture():
    rng = np.random.default_rng(0)
    split = Split(World.draw(3, rng), 200, rng)
    found = split.detect(np.where(np.arange(200) < 100, 20.0, -20.0), rng)
    assert set(found.pictures[found.best_object >= 0]) == {one for one in split.truth.pictures if one < 100}


def of_small_studies(monkeypatch):
    monkeypatch.setattr(intervals, "STUDY_CLASSES", 2)
    rows = over_seeds_and_pictures(Study(60, OWN_VIEW), num_studies=40, num_resamples=30, seed=0)
    return {row.about.removeprefix("difference over both, "): row for row in rows}


def test_over_seeds_and_pictures__intervals_hold_about_as_often_as_they_say(monkeypatch):
    rows = of_small_studies(monkeypatch)
    assert list(rows) == ["2 seeds", "3 seeds", "5 seeds", "2 seeds, none shared"]
    for row in rows.values():
        assert row.cases == 40
        assert row.percent > 95 - 4 * (0.95 * 0.05 / 40) ** 0.5 * 100
        assert row.where == "60 pictures, methods that see them differently"


def test_over_seeds_and_pictures__sees_that_seeds_alone_are_not_enough(monkeypatch):
    def over_seeds_alone(better, method, num_pictures):
        return difference(*({seed: one[0] for seed, one in side.items()} for side in (better, method)))["interval"]

    monkeypatch.setattr(intervals, "over_both", over_seeds_alone)
    assert of_small_studies(monkeypatch)["5 seeds"].percent < 85


def test_over_seeds_and_pictures__sees_that_pictures_alone_are_not_enough(monkeypatch):
    def over_pictures_alone(better, method, num_pictures):
        means = np.mean(list(better.values()), axis=0) - np.mean(list(method.values()), axis=0)
        return interval_of_difference(means[0], means[1:], num_pictures)

    monkeypatch.setattr(intervals, "over_both", over_pictures_alone)
    monkeypatch.setattr(intervals, "RUN_SPREAD", 1.0)
    assert of_small_studies(monkeypatch)["2 seeds"].percent < 85


def test_as_markdown():
    assert as_markdown([Row("here", "mAP", 400, 380, 15, 5)]).splitlines()[-1] == (
        "| here | mAP | 400 | 95.0 ± 1.1 | 3.8 | 1.2 |"
    )


def test_simulate_intervals__a_small_run(load_tool, capsys, monkeypatch):
    monkeypatch.setattr(intervals, "TARGET_RUNS", 20)
    load_tool("simulate_intervals").main(["--splits", "2", "--num-images", "200", "--studies", "2", "--resamples", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("| 150 pictures, 2 classes")]) == 12
    studies = [line for line in lines if "called different" in line]
    assert [line[:20] for line in studies] == [f"| studies of {count} seeds" for count in (2, 3, 5)]
    both = [line for line in lines if "difference over both" in line]
    assert [re.match(r"\| 200 pictures, methods that see them (\w+) ", line)[1] for line in both] == [
        *["alike"] * 4, *["differently"] * 4,
    ]  # fmt: skip
    assert all(re.fullmatch(r"\| .* \| [\d,]+ \| [\d.]+ ± [\d.]+ \| [\d.]+ \| [\d.]+ \|", line) for line in lines[2:])


@pytest.mark.parametrize("words", [["--splits", "-1"], ["--resamples", "1"]])
def test_simulate_intervals__refuses_what_is_no_number_of_cases(load_tool, words, capsys):
    with pytest.raises(SystemExit) as end:
        load_tool("simulate_intervals").main(words)
    assert end.value.code == 2
    assert "must be at least 0, --resamples at least 2" in capsys.readouterr().err
