"""Networks by name."""

import pytest

from pretrain.models import build_model


@pytest.mark.parametrize("arch, millions", [("resnet18", 11.69), ("resnet50", 25.56), ("resnet101", 44.55)])
def test_build_model__parameter_counts(arch, millions):
    assert sum(p.numel() for p in build_model(arch, 1000).parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_build_model__refuses_an_unknown_name():
    with pytest.raises(ValueError, match=r"unknown architecture 'resnet51'; expected one of resnet18"):
        build_model("resnet51", 10)
