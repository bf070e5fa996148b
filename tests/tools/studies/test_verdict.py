"""Who wins, and whether that means anything: by hand, and in words."""

import pytest

from tools.studies.values import CLASSIFICATION, TRANSFER
from tools.studies.verdict import find_verdict, verdict_in_words

MAP, ERROR = TRANSFER["voc"][0], CLASSIFICATION[0]
SURE = {
    "random": {0: 30.0, 1: 32.0, 2: 29.0},
    "whole": {0: 80.0, 1: 81.0, 2: 80.5},
    "half": {0: 60.0, 1: 62.0, 2: 61.0},
}


def found(rows, metric=MAP, expected=9):
    return find_verdict(rows, metric, expected=expected)


def words(rows, metric=MAP, expected=9):
    return verdict_in_words(found(rows, metric, expected), metric._asdict())


def test_find_verdict__ranks_pairs_and_judges_all_of_them_together():
    verdict = found(SURE)
    assert verdict["ranked"] == ["whole", "half", "random"]
    assert verdict["means"] == {"random": pytest.approx(91 / 3), "whole": 80.5, "half": 61.0}
    difference = verdict["difference"]  # 20, 19, 19.5, seed by seed
    assert (difference["mean"], difference["std"]) == (19.5, 0.5)
    assert difference["p"] == pytest.approx(0.000219, abs=1e-6)  # t 67.5 of two degrees of freedom
    # By Holm it is not below that of whole and random, 3 x 0.00021: the smallest of three pairs.
    assert difference["adjusted_p"] == pytest.approx(0.000629, abs=1e-6)
    assert verdict["beats"] == ["half", "random"]
    assert verdict["ordered"]
    assert verdict["complete"]


def test_find_verdict__a_lower_error_is_better():
    verdict = found(SURE, ERROR)
    assert verdict["ranked"] == ["random", "half", "whole"]
    assert verdict["difference"]["mean"] == pytest.approx(61 - 91 / 3)  # positive: the first is better


def test_find_verdict__neighbours_that_seeds_swap_are_not_told_apart():
    rows = {**SURE, "half": {0: 79.0, 1: 80.9, 2: 81.0}}
    verdict = found(rows)
    assert verdict["ranked"] == ["whole", "half", "random"]
    assert verdict["beats"] == ["random"]
    assert not verdict["ordered"]
    assert verdict["even"] == [["whole", "half"]]


def test_find_verdict__three_pairs_ask_for_more_than_one():
    """Of two rows alone p is below .05; beside a third, which takes part in two more pairs, it is not."""
    rows = {"a": {0: 50.0, 1: 51.0, 2: 52.0}, "b": {0: 48.0, 1: 47.5, 2: 49.0}}
    assert 0.02 < found(rows)["difference"]["p"] < 0.05
    assert found(rows)["beats"] == ["b"]
    assert found({**rows, "c": {0: 47.5, 1: 46.9, 2: 48.0}})["beats"] == []


@pytest.mark.parametrize("rows", [{}, {"a": {0: 1.0}}, {"a": {0: 1.0}, "b": {}}])
def test_find_verdict__one_row_wins_nothing(rows):
    assert found(rows) is None


def test_verdict_in_words__a_winner():
    assert words(SURE) == (
        "whole wins: 80.50\u00a0% (mAP, 11 points)",
        "It is 19.50 points above half (95 % interval over seeds 18.26 to 20.74), and that means something: it is more "
        "than seeds do. So is the whole order: whole > half > random.",
    )


def test_verdict_in_words__a_winner_and_two_that_are_not_told_apart():
    rows = {**SURE, "half": {0: 30.5, 1: 31.0, 2: 30.0}}
    assert found(rows)["even"] == [["half", "random"]]
    assert words(rows)[1].endswith("it is more than seeds do. Not told apart: half and random.")


def test_verdict_in_words__no_winner():
    headline, said = words({**SURE, "half": {0: 79.0, 1: 80.9, 2: 81.0}}, expected=10)  # +1.0, +0.1, -0.5
    assert headline == "No clear winner: whole is highest, 80.50\u00a0% (mAP, 11 points)"
    assert said == (
        "Not all runs are there yet. It is 0.20 points above half (95 % interval over seeds -1.68 to 2.08). What "
        "seeds do alone could make such a difference: half may be as good. To tell it from half would take 153 seeds, "
        "all pairs of rows judged together, if what is seen here is the truth. From random it does differ."
    )


def test_verdict_in_words__of_two_rows_there_is_one_pair():
    _, said = words({"whole": SURE["whole"], "half": {0: 79.0, 1: 80.9, 2: 81.0}}, expected=6)
    assert " seeds, if what is seen here is the truth." in said


@pytest.mark.parametrize("rows, why", [
    ({"a": {0: 3.0}, "b": {0: 2.0}}, "one seed says nothing of what another would give"),
    ({"a": {0: 3.0, 1: 4.0}, "b": {0: 2.0, 1: 3.0}}, "every seed gave the same difference"),
    ({"a": {0: 3.0, 1: 4.0}, "b": {5: 2.0}}, "one seed says nothing of what another would give"),
])  # fmt: skip
def test_verdict_in_words__nothing_is_known(rows, why):
    headline, said = words(rows, expected=sum(map(len, rows.values())))
    assert headline.startswith("No clear winner: a is highest")
    assert said.endswith(f"whether that means anything is not known: {why}.")
    assert "Not all runs" not in said


def test_verdict_in_words__of_an_error():
    headline, said = words(SURE, ERROR)
    assert headline == "random wins: 30.33\u00a0% (top-1 error, last epoch)"
    assert said.startswith("It is 30.67 points below half")
