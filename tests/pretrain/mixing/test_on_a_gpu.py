"""Mixing on a GPU that is pretended: the CPU's results, few kernels, and nothing that waits for the device."""

import logging

import pytest
import torch
from torch import nn

from pretrain.mixing import make_mixing
from pretrain.mixing.manifold_mixup import ManifoldMixup
from pretrain.mixing.patches import kept_share
from pretrain.mixing.saliencymix import SaliencyMix
from pretrain.names import LABELS, PATCHES, PLACEMENTS, SALIENCIES, SCOPES, STYLES
from tests.pretended_cuda import pretended_cuda

OWN = tuple(name for name in SALIENCIES if name != "basnet")  # those that need no file


def batch(count: int = 6, height: int = 24, width: int = 33) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8), torch.arange(count) % 3


def check_equal_without_a_wait(mix: nn.Module) -> None:
    """Mix twice, on the CPU and on the pretended device, from one seed; the second call waits for nothing there."""
    images, labels = batch()
    torch.manual_seed(0)
    expected = [mix(images, labels) for _ in range(2)]
    torch.manual_seed(0)
    with pretended_cuda() as device:
        images, labels = images.to("cuda"), labels.to("cuda")
        found = [mix(images, labels)]
        device.forget()
        found.append(mix(images, labels))
        assert not device.waits
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one[0], other[0].held)
        assert torch.equal(one[1], other[1].held)


@pytest.mark.parametrize("method", ["cutout", "mixup", "cutmix", "resizemix", "saliencymix"])
def test_every_method__the_results_of_the_cpu_without_a_wait(method):
    check_equal_without_a_wait(make_mixing(method, num_classes=3))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_saliencymix__every_combination_without_a_wait(style, scope, placement):
    check_equal_without_a_wait(SaliencyMix(3, style=style, scope=scope, placement=placement))


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("scope", SCOPES)
def test_saliencymix__every_patch_and_label_without_a_wait(patch, label, scope):
    if (patch, label) != ("resized", "relative"):
        check_equal_without_a_wait(SaliencyMix(3, patch=patch, label=label, scope=scope))


@pytest.mark.parametrize("saliency", OWN)
@pytest.mark.parametrize("scope", SCOPES)
def test_saliencymix__every_saliency_without_a_wait(saliency, scope):
    check_equal_without_a_wait(SaliencyMix(3, saliency=saliency, scope=scope))


def test_manifold_mixup__the_results_of_the_cpu_without_a_wait():
    mix, network = ManifoldMixup(3, layers=("", "0")), nn.Sequential(nn.Flatten(), nn.Identity())
    images, labels = batch()
    torch.manual_seed(0)
    with mix(network, labels) as expected_labels:
        expected = network(images.float())
    torch.manual_seed(0)
    with pretended_cuda() as device:
        images, labels = images.to("cuda"), labels.to("cuda")
        device.forget()
        with mix(network, labels) as found_labels:
            found = network(images.float())
        assert not device.waits
    assert torch.equal(found.held, expected)
    assert torch.equal(found_labels.held, expected_labels)


@pytest.mark.parametrize(
    "options, most", [({}, 300), ({"label": "relative"}, 360), ({"patch": "resized"}, 40)], ids=str
)
def test_saliencymix__few_kernels_for_256_pictures(options, most, caplog):
    mix = SaliencyMix(3, **options)
    images, labels = batch(256, 224, 224)
    with caplog.at_level(logging.ERROR), pretended_cuda() as device:
        images, labels = images.to("cuda"), labels.to("cuda")
        mix(images, labels)
        device.forget()
        mix(images, labels)
        assert sum(device.launches.values()) <= most  # and no compiler knows the pretended device
        assert not device.waits


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("style", ["salient_to_corresponding", "nonsalient_to_salient"])
def test_saliencymix__patches_located_before_the_batch_goes_to_the_gpu(scope, style):
    mix = SaliencyMix(3, saliency="official", scope=scope, style=style)
    images, labels = batch()
    draws = mix.draw(len(images))
    expected = mix.mix_as(images, labels, draws)
    patches = mix.locate(images, draws)
    with pretended_cuda() as device:
        images, labels = images.to("cuda"), labels.to("cuda")
        kept_share(patches.to(images.device), *images.shape[-2:])  # makes its constant
        device.forget()
        found = mix.mix_as(images, labels, draws, patches)
        assert not device.waits
        assert device.copies == 2  # the patches and the partners
    assert torch.equal(found[0].held, expected[0])
    assert torch.equal(found[1].held, expected[1])
