"""Untyped values are taken strictly: what a number or a flag is, and what only Python's conversions take for one."""

import json
import math

import pytest

from pretrain.run.values import flag, number_of_json, number_of_text, whole_number

HUGE = 10**400


@pytest.mark.parametrize("text, value", [("5", 5), (" -1.5\n", -1.5), (".5", 0.5), ("2e3", 2000), ("1e-400", 0)])
def test_number_of_text__decimal(text, value):
    assert number_of_text(text) == value


@pytest.mark.parametrize(
    "text", ["", "five", "nan", "-inf", "1e999", "1_0", "0x1p3", "9" * 400, "0,9", "\u0661", "\ufeff5", "1e101", "1 2"]
)
def test_number_of_text__refuses(text):
    with pytest.raises(ValueError, match="is not a number: '"):
        number_of_text(text)


@pytest.mark.parametrize("value", [0, -3, 2.5, 1e100])
def test_number_of_json__is_one_already(value):
    assert number_of_json(value) == value
    assert type(number_of_json(value)) is float


@pytest.mark.parametrize("value", [True, "5", None, [5], math.nan, math.inf, HUGE, -HUGE, 1e101])
def test_number_of_json__refuses(value):
    with pytest.raises(ValueError, match="is not a finite number: "):
        number_of_json(value)


@pytest.mark.parametrize("value", [64, 64.0])
def test_whole_number__of_either_type(value):
    assert type(whole_number(value)) is int
    assert whole_number(value) == 64


@pytest.mark.parametrize("value", [64.5, True, "64", None, math.nan, math.inf, HUGE])
def test_whole_number__refuses(value):
    with pytest.raises(ValueError, match="is not a whole number: "):
        whole_number(value)


@pytest.mark.parametrize("value", ["1", " 1\n", "true", "True", "1.0", 1, 1.0, True])
def test_flag__text_and_numbers(value):
    no = json.loads(json.dumps(value).replace("1", "0").replace("true", "false").replace("True", "False"))
    assert (flag(value), flag(no)) == (True, False)


@pytest.mark.parametrize("value", ["yes", "", "2", "-1", "nan", 2, 0.5, None, [], [1], HUGE])
def test_flag__refuses(value):
    with pytest.raises(ValueError, match="is neither 0 nor 1: "):
        flag(value)


def test_values__that_are_long_are_cut():
    with pytest.raises(ValueError, match="is not a finite number") as caught:
        number_of_json(["x" * 1000])
    assert len(str(caught.value)) < 150
