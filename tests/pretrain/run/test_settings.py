"""The rules of settings: what is a number."""

import pytest

from pretrain.run.settings import is_number


@pytest.mark.parametrize("value", [0, -3, 2.5, 1e300, 10**300])
def test_is_number__finite(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, "1", None, [1], float("inf"), float("nan"), 10**400, -(10**400)])
def test_is_number__nothing_else(value):
    assert not is_number(value)
