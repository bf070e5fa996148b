"""The simulation of the intervals: its made worlds, small runs, and that it would see intervals that are too narrow."""

from __future__ import annotations

import re

import numpy as np
import pytest

from detection.evaluation.resampling import resampled_ap
from tools.simulations import intervals
from tools.simulations.intervals import Row, Setting, as_markdown, over_pictures, over_seeds
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


def test_as_markdown():
    assert as_markdown([Row("here", "mAP", 400, 380, 15, 5)]).splitlines()[-1] == (
        "| here | mAP | 400 | 95.0 ± 1.1 | 3.8 | 1.2 |"
    )


def test_simulate_intervals__a_small_run(load_tool, capsys, monkeypatch):
    monkeypatch.setattr(intervals, "TARGET_RUNS", 20)
    load_tool("simulate_intervals").main(["--splits", "2", "--pictures", "150", "--studies", "2", "--resamples", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("| 150 pictures, 2 classes")]) == 12
    studies = [line for line in lines if "called different" in line]
    assert [line[:20] for line in studies] == [f"| studies of {count} seeds" for count in (2, 3, 5)]
    assert all(re.fullmatch(r"\| .* \| [\d,]+ \| [\d.]+ ± [\d.]+ \| [\d.]+ \| [\d.]+ \|", line) for line in lines[2:])


@pytest.mark.parametrize("words", [["--splits", "-1"], ["--resamples", "1"]])
def test_simulate_intervals__refuses_what_is_no_number_of_cases(load_tool, words, capsys):
    with pytest.raises(SystemExit) as end:
        load_tool("simulate_intervals").main(words)
    assert end.value.code == 2
    assert "must be at least 0, --resamples at least 2" in capsys.readouterr().err
