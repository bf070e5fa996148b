"""Saliency on a GPU that is pretended: the CPU's maps, and nothing that waits for the device."""

import logging

import pytest
import torch

from pretrain.names import SALIENCIES
from pretrain.saliency import basnet, batches, make_saliency
from tests.pretended_cuda import pretended_cuda

OWN = tuple(name for name in SALIENCIES if name != "basnet")  # those that need no file


def pictures(count: int = 3, height: int = 40, width: int = 56) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


def maps_on_gpu(saliency, images: torch.Tensor) -> torch.Tensor:
    """Return the maps that the pretended device holds, having seen that a second call waits for nothing."""
    with pretended_cuda() as device:
        on_device = images.to("cuda")
        saliency(on_device)
        device.forget()
        maps = saliency(on_device)
        assert not device.waits
        assert maps.is_cuda
        assert device.copies == 0
        return maps.held


@pytest.mark.parametrize("name", OWN)
def test_every_detector__the_maps_of_the_cpu_without_a_wait(name):
    images, saliency = pictures(), make_saliency(name)
    assert torch.equal(maps_on_gpu(saliency, images), saliency(images))


@pytest.mark.parametrize("name", [name for name in OWN if name != "official"])
def test_resolution__the_maps_of_the_cpu_without_a_wait(name):
    images, saliency = pictures(2, 41, 56), make_saliency(name, resolution=20)
    assert torch.equal(maps_on_gpu(saliency, images), saliency(images))


def test_fine_grained__a_chunk_on_a_gpu_is_few_kernels(monkeypatch, caplog):
    monkeypatch.setitem(batches.CHUNK_PIXELS, "cuda", 2 * 40 * 56)  # 2 + 1 pictures
    saliency, images = make_saliency("fine_grained"), pictures()
    with caplog.at_level(logging.ERROR), pretended_cuda() as device:
        on_device = images.to("cuda")
        saliency(on_device)
        device.forget()
        maps = saliency(on_device)
        assert sum(device.launches.values()) <= 2 * 60  # not compiled: no compiler knows the pretended device
        assert torch.equal(maps.held, saliency(images))


def test_basnet__chunks_of_its_own_without_a_wait(monkeypatch):
    monkeypatch.setattr(basnet, "INPUT_SIDE", 32)
    seen = []

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return images.mean(1, keepdim=True)

    images, network = pictures(10), Network()
    on_gpu = maps_on_gpu(lambda batch: basnet.basnet_saliency(batch, network), images)
    assert seen == [8, 2, 8, 2]
    assert torch.equal(on_gpu, basnet.basnet_saliency(images, network))


@pytest.mark.parametrize("factor", [2, 3, 6, 10])
def test_constant__divides_as_numbers_do_on_a_cpu(factor):
    sums = torch.arange(255 * factor**2 + 1).float()
    assert torch.equal(sums / batches.constant(factor**2, sums.device), sums / factor**2)


def test_constant__lies_where_the_pictures_do():
    # On a CPU it would be taken for a number, by whose rounded reciprocal CUDA multiplies.
    with pretended_cuda():
        assert batches.constant(255, torch.device("cuda:0")).is_cuda
