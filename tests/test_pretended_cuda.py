"""The pretended device sees what a GPU would: tensors of two devices, kernels, and calls that wait for it."""

import pytest
import torch

from tests.pretended_cuda import pretended_cuda


@pytest.fixture
def device():
    with pretended_cuda() as device:
        yield device


def test_a_tensor_moves_there_and_back_with_its_numbers(device):
    there = torch.arange(6).view(2, 3).to("cuda")
    assert there.device == torch.device("cuda", 0)
    assert (there + there).cpu().tolist() == [[0, 2, 4], [6, 8, 10]]
    assert device.copies == 1


def test_tensors_of_two_devices_are_refused(device):
    with pytest.raises(RuntimeError, match=r"aten\.add: expected all tensors on cuda:0, but \(3,\) on cpu"):
        torch.ones(3, device="cuda") + torch.ones(3)
    assert (torch.ones(3, device="cuda") + torch.tensor(2.0)).cpu().tolist() == [3, 3, 3]  # a number may be anywhere


def test_kernels_are_counted_and_views_are_not(device):
    there = torch.empty(2, 3, device="cuda")
    there.view(3, 2).t()[0]
    assert not device.launches
    there.fill_(1).sum()
    assert device.launches == {"aten.fill_": 1, "aten.sum": 1}


@pytest.mark.parametrize(
    "wait, name",
    [
        (lambda there: there.sum().item(), "aten._local_scalar_dense"),
        (lambda there: there.nonzero(), "aten.nonzero"),
        (lambda there: there[there > 1], "aten.index by a mask"),
        (lambda there: there[torch.tensor([0])], "index from the CPU"),
        (lambda there: there.cpu(), "copy to the CPU"),
        (lambda there: there + torch.ones(3).to("cuda"), "copy from the CPU"),
        (lambda there: there.tolist(), "tolist"),
    ],
)
def test_what_waits_is_counted(device, wait, name):
    there = torch.arange(3.0).to("cuda", non_blocking=True)
    assert not device.waits
    wait(there)
    assert [key.partition(":")[0] for key in device.waits] == [name]


def test_gradients_are_those_of_the_cpu(device):
    weight = torch.arange(3.0).requires_grad_()
    there = torch.nn.Parameter(torch.arange(3.0).to("cuda"))
    for one in (weight, there):
        (one.square().sum() * 2).backward()
    assert there.grad.device.type == "cuda"
    assert there.grad.cpu().tolist() == weight.grad.tolist() == [0, 4, 8]
