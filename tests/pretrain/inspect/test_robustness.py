"""What the measurement refuses before it opens anything; its numbers are tested with tools/attack.py."""

import pytest
import torch

from pretrain.inspect.attacks import Attack
from pretrain.inspect.robustness import measure_robustness


@pytest.mark.parametrize("attacks", [[], [Attack("pgd", 2.0, steps=3), Attack("pgd", 4.0, steps=5)]])
def test_measure_robustness__one_number_of_steps_stands_in_the_protocol(attacks):
    with pytest.raises(ValueError, match="at least one attack, and all with the same number of steps"):
        measure_robustness("nowhere.pth", "nowhere", attacks, device=torch.device("cpu"))
