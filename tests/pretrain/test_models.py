"""Networks by name: sizes, names of weights, and what the regularised ones do."""

import pytest
import torch
import torchvision

from pretrain.models import ScheduledDropBlock, build_model, set_progress


@pytest.mark.parametrize("arch, millions", [
    ("resnet18", 11.69), ("resnet34", 21.80), ("resnet50", 25.56), ("resnet101", 44.55), ("resnet152", 60.19),
    ("resnext50_32x4d", 25.03), ("resnext101_32x8d", 88.79), ("resnext101_64x4d", 83.46),
    ("wide_resnet50_2", 68.88), ("wide_resnet101_2", 126.89),
])  # fmt: skip
def test_build_model__parameter_counts(arch, millions):
    with torch.device("meta"):
        model = build_model(arch, 1000)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("arch", ["resnet18", "resnext50_32x4d", "wide_resnet50_2"])
def test_build_model__is_to_the_bit_what_torchvision_builds(arch):
    torch.manual_seed(0)
    expected = torchvision.models.get_model(arch, weights=None, num_classes=10)
    torch.manual_seed(0)
    model = build_model(arch, 10)
    assert all(map(torch.equal, model.state_dict().values(), expected.state_dict().values()))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), expected(images))


def test_build_model__refuses_an_unknown_name():
    with pytest.raises(ValueError, match=r"unknown architecture 'resnet51'; expected one of resnet18"):
        build_model("resnet51", 10)


@pytest.mark.parametrize("arch, side", [("resnet18_cifar", 4), ("resnet50_cifar", 4)])
def test_cifar_stem__keeps_the_resolution_until_the_second_stage(arch, side):
    model, sizes = build_model(arch, 10).eval(), []
    model.layer1.register_forward_pre_hook(lambda _module, inputs: sizes.append(inputs[0].shape[-1]))
    model.layer4.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sizes == [32, side]


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
@pytest.mark.parametrize("options", [{"drop_block": 0.3}, {"stochastic_depth": 0.5}], ids=str)
def test_regularised__torchvisions_weights_and_answers_in_evaluation_others_in_training(arch, options):
    plain = torchvision.models.get_model(arch, weights=None, num_classes=7)
    model = build_model(arch, 7, **options)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    model.load_state_dict(plain.state_dict())
    set_progress(model, 1.0)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), plain.eval()(images))
        torch.manual_seed(0)
        first = model.train()(images)
        assert not torch.equal(model(images), first)  # as much as is dropped here, two draws never agree


def test_drop_block__last_two_stages_with_a_rising_probability():
    model = build_model("resnet50", 10, drop_block=0.2, drop_block_size=5)
    found = {name: module for name, module in model.named_modules() if isinstance(module, ScheduledDropBlock)}
    assert {name.partition(".")[0] for name in found} == {"layer3", "layer4"}
    assert len(found) == 6 + 3  # one a block
    for progress, p in ((0.0, 0.0), (0.5, 0.1), (1.0, 0.2)):
        set_progress(model, progress)
        assert found["layer4.0.drop_block"].p == pytest.approx(p)
        assert found["layer3.0.drop_block"].p == pytest.approx(p / 4)
        assert found["layer4.0.drop_block"].block_size == 5


def test_stochastic_depth__grows_linearly_with_the_block():
    model = build_model("resnet18", 10, stochastic_depth=0.4)
    paths = [block.drop_path.p for stage in (1, 2, 3, 4) for block in getattr(model, f"layer{stage}")]
    assert paths == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4])


def test_wide_resnet__dropout_and_shapes():
    with torch.device("meta"):
        model = build_model("wide_resnet28_10", 10, dropout=0.3)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [4, 4, 4]
    assert model.layer3[3].dropout.p == 0.3
