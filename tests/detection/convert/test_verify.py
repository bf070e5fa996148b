import random

import pytest
import torch

from detection.convert.card import make_card
from detection.convert.verify import STAGE_NAMES, SourceNetwork, check_values, describe, verify, verify_with_detectron2
from pretrain.weights import namings as convert
from pretrain.weights.namings import convert_state_dict
from pretrain.weights.networks import find_network
from pretrain.weights.resnet import Architecture


def card_of(state, depth, tmp_path):
    return make_card(find_network(state), Architecture(depth), source=tmp_path / "source.pth", source_sha256="0" * 64)


def source_of(state, depth, card):
    return SourceNetwork(state, Architecture(depth), pixel_mean=card["pixel_mean"], pixel_std=card["pixel_std"])


@pytest.fixture(scope="module")
def proof(random_resnet, tmp_path_factory):
    """(source network, converted backbone, card) of a ResNet-18 with a dead branch, as zero-init residuals make it."""
    state = random_resnet(18)
    state["layer4.1.bn2.weight"] = torch.zeros(512)
    state["layer4.1.bn2.bias"] = torch.zeros(512)
    card = card_of(state, 18, tmp_path_factory.mktemp("proof"))
    return source_of(state, 18, card), convert_state_dict(state), card


def test_verify__equal_networks(proof):
    source, converted, card = proof
    figures = verify(source, converted, card)
    for stage in STAGE_NAMES:
        assert figures["same_tensor"][stage] == 0
        assert figures["own_preprocessing"][stage] < 1e-12  # far below the tolerance of 1e-9
        assert figures["content"][stage] < 1e-12
    assert "res2 0, res3 0, res4 0, res5 0 (allowed: 0)" in describe(figures)


def same_shape_pair(backbone, rng):
    """Two different tensors of the same shape."""
    while True:
        first, second = rng.sample(list(backbone), 2)
        if backbone[first].shape == backbone[second].shape and not torch.equal(backbone[first], backbone[second]):
            return first, second


def pick(backbone, rng, ending):
    return rng.choice([name for name in backbone if name.endswith(ending)])


def transpose(backbone, card, rng):
    name = rng.choice([name for name, value in backbone.items() if value.dim() == 4 and max(value.shape) > 1])
    first, second = rng.choice([(0, 1), (2, 3)] if backbone[name].shape[-1] > 1 else [(0, 1)])
    backbone[name] = backbone[name].transpose(first, second).contiguous()


def swap(backbone, card, rng):
    first, second = same_shape_pair(backbone, rng)
    backbone[first], backbone[second] = backbone[second], backbone[first]


def copy_over(backbone, card, rng):
    first, second = same_shape_pair(backbone, rng)
    backbone[first] = backbone[second]


def missing(backbone, card, rng):
    del backbone[rng.choice(list(backbone))]


def missing_norm(backbone, card, rng):
    layer = pick(backbone, rng, "norm.weight").removesuffix("weight")
    for field in ("weight", "bias", "running_mean", "running_var"):
        del backbone[layer + field]


def neutral_norm(backbone, card, rng):
    layer = pick(backbone, rng, "norm.weight").removesuffix("weight")
    for field, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        backbone[layer + field] = torch.full_like(backbone[layer + field], value)


def perturbed(backbone, card, rng):
    """The smallest possible change of one number."""
    name = pick(backbone, rng, rng.choice(("running_mean", "running_var", "norm.bias", "norm.weight", "conv1.weight")))
    backbone[name] = backbone[name].clone()
    flat = backbone[name].view(-1)
    place = rng.randrange(flat.numel())
    flat[place] = torch.nextafter(flat[place], torch.tensor(9.0))


def permuted(backbone, card, rng):
    name = rng.choice(list(backbone))
    if not backbone[name].any():
        name = "stem.conv1.weight"
    backbone[name] = backbone[name].roll(1, 0)


def poisoned(backbone, card, rng):
    name = rng.choice(list(backbone))
    backbone[name] = backbone[name].clone()
    backbone[name].view(-1)[0] = rng.choice((float("nan"), float("inf"), float("-inf")))


def negative_variance(backbone, card, rng):
    name = pick(backbone, rng, "running_var")
    backbone[name] = backbone[name].clone()
    backbone[name][rng.randrange(64)] *= -1


def zeroed(backbone, card, rng):
    name = rng.choice([name for name, value in backbone.items() if value.any()])
    backbone[name] = torch.zeros_like(backbone[name])


def half_precision(backbone, card, rng):
    name = pick(backbone, rng, "conv2.weight")
    backbone[name] = backbone[name].half().float()


def bgr_weights(backbone, card, rng):
    backbone["stem.conv1.weight"] = backbone["stem.conv1.weight"].flip(1)


def bgr_card(backbone, card, rng):
    card["channel_order"] = "BGR"
    if rng.random() < 0.5:  # even with the statistics in the matching order
        card["pixel_mean"], card["pixel_std"] = card["pixel_mean"][::-1], card["pixel_std"][::-1]


def statistics(backbone, card, rng):
    key = rng.choice(("pixel_mean", "pixel_std"))
    card[key] = rng.choice(
        (
            card[key][::-1],
            [value / 255 for value in card[key]],
            [value * (1 + 1e-6) for value in card[key]],
            [1.0, 1.0, 1.0],
        )
    )


def eps(backbone, card, rng):
    card["norm_eps"] = rng.choice((0.0, 1e-3, 1.1e-5, 1e-6))


def stride(backbone, card, rng):
    card["stride_in_1x1"] = True


def depth(backbone, card, rng):
    card["depth"] = rng.choice((34, 50))


def widths(backbone, card, rng):
    name = rng.choice(("num_groups", "width_per_group", "stem_out_channels"))
    card[name] *= 2


CORRUPTIONS = (
    transpose,
    swap,
    copy_over,
    missing,
    missing_norm,
    neutral_norm,
    perturbed,
    permuted,
    poisoned,
    negative_variance,
    zeroed,
    half_precision,
    bgr_weights,
    bgr_card,
    statistics,
    eps,
    stride,
    depth,
    widths,
)


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_verify__two_hundred_corruptions_none_passes(corrupt, proof):
    source, converted, card = proof
    for seed in range(12):  # 19 kinds: 228 corruptions
        backbone, changed_card = dict(converted), dict(card)
        corrupt(backbone, changed_card, random.Random(seed))
        with pytest.raises(
            ValueError,
            match=r"verification failed|not a whole ResNet|has shape|not finite|negative|"
            r"0 everywhere|no 1x1 convolution|the card says",
        ):
            verify(source, backbone, changed_card)


@pytest.mark.parametrize("part", ["bn1.weight", "bn1.bias", "conv1.weight"])
def test_verify__sees_behind_a_dead_branch(part, proof):
    source, converted, card = proof
    name = {"bn1.weight": "conv1.norm.weight", "bn1.bias": "conv1.norm.bias"}.get(part, part)
    backbone = dict(converted)
    backbone[f"res5.1.{name}"] = backbone[f"res5.1.{name}"] * 1.5
    with pytest.raises(ValueError, match=r"with random values in place of each tensor: res5"):
        verify(source, backbone, card)


def test_verify__catches_a_wrong_rule_of_the_table(random_resnet, tmp_path, monkeypatch):
    state = random_resnet(18, seed=3)
    card = card_of(state, 18, tmp_path)
    monkeypatch.setitem(convert.BLOCK_PARTS, "bn1", "conv2.norm")
    monkeypatch.setitem(convert.BLOCK_PARTS, "bn2", "conv1.norm")
    with pytest.raises(ValueError, match=r"verification failed on the same tensor: res2 .* differs by"):
        verify(source_of(state, 18, card), convert_state_dict(state), card)


def test_verify__wrong_stride_of_a_bottleneck(random_resnet, tmp_path):
    state = random_resnet(50)
    card = card_of(state, 50, tmp_path)
    source, converted = source_of(state, 50, card), convert_state_dict(state)
    with pytest.raises(ValueError, match=r"verification failed on the same tensor: res3 .* differs by"):
        verify(source, converted, card | {"stride_in_1x1": True})
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detection.convert.backbone_file import write_backbone

    write_backbone(converted, card, tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=r"verification failed in Detectron2 itself: res3"):
        verify_with_detectron2(source, tmp_path / "backbone.pth", converted, card | {"stride_in_1x1": True})


def test_verify_with_detectron2__an_incomplete_file(proof, tmp_path):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detection.convert.backbone_file import write_backbone

    source, converted, card = proof
    short = {name: value for name, value in converted.items() if name != "res3.1.conv2.norm.bias"}
    write_backbone(short, card, tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=r"loaded 99 of 100 tensors from backbone\.pth; not res3\.1\.conv2\.norm"):
        verify_with_detectron2(source, tmp_path / "backbone.pth", converted, card)


def test_verify__a_dead_source_proves_nothing(random_resnet, tmp_path):
    state = {
        name: torch.zeros_like(value) if "weight" in name or "bias" in name else value
        for name, value in random_resnet(18).items()
    }
    card = card_of(state, 18, tmp_path)
    with pytest.raises(ValueError, match=r"the source network's res2 is zero everywhere"):
        verify(source_of(state, 18, card), convert_state_dict(state), card)


def test_check_values__single_dead_channels_are_noted(proof):
    _, converted, _ = proof
    variance = converted["res2.0.conv1.norm.running_var"].clone()
    variance[3] = 0
    assert check_values(converted) == []
    assert check_values(converted | {"res2.0.conv1.norm.running_var": variance}) == ["1 channels are dead (variance 0)"]
