"""BASNet's published shape, and the loading of its weights. No weights are at hand: random ones stand in."""

import pytest
import torch
from torch import nn

from pretrain.saliency import make_saliency
from pretrain.saliency.basnet import BASNet, basnet_saliency, load_basnet


@pytest.fixture(scope="module")
def network() -> BASNet:
    torch.manual_seed(0)
    return BASNet().eval()


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """A state dict of the right names and shapes, each tensor one value of its own, so that its file is small."""
    with torch.device("meta"):
        expected = BASNet().state_dict()
    return {
        name: torch.tensor(2.0 + number).to(value.dtype).expand(value.shape)
        for number, (name, value) in enumerate(expected.items())
    }


def save(tmp_path, content):
    torch.save(content, tmp_path / "basnet.pth")
    return tmp_path / "basnet.pth"


def test_basnet__has_the_published_parameters(network):
    # Counted in the authors' repository.
    assert sum(parameter.numel() for parameter in network.parameters()) == 87_060_360
    assert sum(parameter.numel() for parameter in network.refunet.parameters()) == 482_177
    state = network.state_dict()
    assert len(state) == 517
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 78
    for key in (
        "inconv.weight",
        "encoder2.0.downsample.0.weight",
        "resb6_3.bn2.weight",
        "bnbg_m.bias",
        "bn6d_2.running_var",
        "conv5d_m.bias",
        "outconvb.weight",
        "refunet.conv_d0.bias",
    ):
        assert key in state


def test_basnet__looks_far_at_the_coarsest_stages(network):
    wide = {name for name, module in network.named_modules() if getattr(module, "dilation", 1) == (2, 2)}
    assert wide == {"convbg_1", "convbg_m", "convbg_2", "conv6d_m", "conv6d_2"}


def test_basnet__needs_sides_of_32(network):
    with pytest.raises(ValueError, match="multiples of 32, but got 32 x 48"):
        network(torch.zeros(1, 3, 32, 48))


@torch.no_grad()
def test_basnet__refines_at_full_size(network):
    assert network(torch.rand(1, 3, 32, 64)).shape == (1, 1, 32, 64)


def test_basnet_saliency__prepares_and_scales():
    """A stand-in that answers the red channel of its input shows how the pictures reach the network."""
    seen = []

    class RedChannel(nn.Module):
        def forward(self, pictures):
            seen.append(pictures)
            return pictures[:, :1]

    images = torch.randint(0, 200, (2, 3, 256, 256), dtype=torch.uint8)  # at this size nothing is resized
    maps = basnet_saliency(images, RedChannel())
    scaled = images / images.amax((1, 2, 3), keepdim=True)  # by the picture's own maximum, not by 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(torch.cat(seen), (scaled - mean) / std)
    red = torch.cat(seen)[:, 0].sigmoid()
    low, high = red.amin((1, 2), keepdim=True), red.amax((1, 2), keepdim=True)
    torch.testing.assert_close(maps, (red - low) / (high - low))

    assert basnet_saliency(images[..., :40, :70], RedChannel()).shape == (2, 40, 70)
    assert seen[-1].shape[2:] == (256, 256)


def test_load_basnet__gives_the_weights_back(tmp_path, state):
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}  # PyTorch < 0.4.1
    assert len(old) == 439
    loaded = load_basnet(save(tmp_path, old))
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in old.items())


def test_load_basnet__repairs_the_stage_6_batch_norm(tmp_path, state):
    untrained = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for part, value in untrained.items():
        state[f"bn6d_2.{part}"] = torch.full((512,), value)
    loaded = load_basnet(save(tmp_path, state)).state_dict()
    for part in untrained:
        assert torch.equal(loaded[f"bn6d_2.{part}"], state[f"bn5d_2.{part}"])


def test_load_basnet__refuses_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"basnet.pth: no such file; the BASNet weights .* are published at https"):
        make_saliency("basnet", checkpoint=tmp_path / "basnet.pth")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_load_basnet__refuses_what_is_no_checkpoint(tmp_path, content):
    (tmp_path / "basnet.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"basnet\.pth: not a PyTorch state dict"):
        load_basnet(tmp_path / "basnet.pth")


@pytest.mark.parametrize("change, message", [
    (lambda state: state.pop("bn6d_2.weight"), r"lacks 'bn6d_2.weight' \(1 such\)"),
    (lambda state: state.update({"fc.weight": torch.zeros(2)}), r"has the unknown 'fc.weight' \(1 such\)"),
    (lambda state: state.update({"inconv.bias": torch.zeros(3)}), r"has another shape of 'inconv.bias' \(1 such\)"),
    (lambda state: state.update({"epoch": 3}), "expected a state dict of tensors"),
])  # fmt: skip
def test_load_basnet__refuses_other_weights(tmp_path, state, change, message):
    change(state)
    with pytest.raises(ValueError, match=message):
        load_basnet(save(tmp_path, state))
