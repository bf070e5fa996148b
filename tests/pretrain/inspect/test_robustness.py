"""What the measurement refuses before it opens anything; its numbers are tested with tools/attack.py."""

import pytest

from pretrain.inspect.attacks import Attack
from pretrain.inspect.robustness import check_attacks


@pytest.mark.parametrize("attacks", [[], [Attack("pgd", 2.0, steps=3), Attack("pgd", 4.0, steps=5)]])
def test_measure_robustness__one_number_of_steps_stands_in_the_protocol(attacks):
    with pytest.raises(ValueError, match="at least one attack, and all with the same number of steps"):
        check_attacks(attacks)
