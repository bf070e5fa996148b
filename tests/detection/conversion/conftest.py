"""Small random ResNets in torchvision's names."""

from __future__ import annotations

import pytest
import torch
import torchvision


def random_resnet(depth: int, *, seed: int = 0, num_classes: int = 10) -> dict[str, torch.Tensor]:
    """A state dict whose norm layers look trained: no statistic is 0 or 1."""
    with torch.device("meta"):
        shapes = torchvision.models.get_model(f"resnet{depth}", num_classes=num_classes).state_dict()
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000)
        elif value.dim() == 4:
            state[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("running_mean", "bias")):
            state[name] = torch.randn(value.shape, generator=generator) * 0.1
        else:
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
    return state


@pytest.fixture(name="random_resnet", scope="session")
def random_resnet_fixture():
    return random_resnet


@pytest.fixture(scope="session")
def resnet18():
    """One ResNet-18 for all tests that leave it alone."""
    return random_resnet(18)
