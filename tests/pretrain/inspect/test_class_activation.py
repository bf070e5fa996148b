"""Class activation maps: by hand, against the logits, and against pytorch-grad-cam."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from pretrain.inspect.class_activation import class_activation_maps
from pretrain.models import WideResNet, build_model
from tests.pretended_cuda import pretended_cuda


class Given(nn.Module):
    """Answers the same feature map for every picture."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, images):
        return self.features.expand(len(images), -1, -1, -1)


def tiny_resnet(num_classes=3):
    """Return a ResNet with a block a stage and a stem that keeps the resolution: 32 pixels -> a map of 4 x 4 cells."""
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=num_classes)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def with_statistics(model):
    """Give every BatchNorm statistics and shifts of a network that has learned."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, std=0.5)
    return model.eval()


def test_class_activation_maps__by_hand():
    model = tiny_resnet(num_classes=2)
    model.layer4 = Given(torch.tensor([[[[1.0, 0], [2, 3]], [[4.0, 0], [0, 1]]]]))  # two channels of 2 x 2 cells
    model.fc = nn.Linear(2, 2)
    with torch.no_grad():
        model.fc.weight.copy_(torch.tensor([[1.0, -1], [0.5, 2]]))
    maps = class_activation_maps(model, torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))
    assert maps.tolist() == [
        [[1 - 4, 0], [2, 3 - 1]],
        [[0.5 + 8, 0], [1, 1.5 + 2]],
    ]
    assert maps.dtype == torch.float32


@pytest.mark.parametrize("make, cells", [
    (lambda: build_model("resnet18", 5), 2),
    (lambda: build_model("resnet50", 5), 2),
    (lambda: build_model("resnet50", 5, drop_block=0.1, stochastic_depth=0.5), 2),
    (lambda: build_model("resnet18_cifar", 5), 8),
    (lambda: WideResNet(10, 1, 5, dropout=0.3), 16),
], ids=["resnet18", "resnet50", "regularised", "cifar", "wide"])  # fmt: skip
def test_class_activation_maps__their_mean_and_the_bias_are_the_logit(make, cells):
    torch.manual_seed(0)
    model = with_statistics(make())
    images, classes = torch.randn(2, 3, 64, 64), torch.tensor([1, 4])
    maps = class_activation_maps(model, images, classes)
    assert maps.shape == (2, cells, cells)
    with torch.no_grad():
        logits = model(images)[torch.arange(2), classes]
        sums = maps.mean(dim=(1, 2)) + model.fc.bias[classes]
    assert torch.allclose(sums, logits, rtol=1e-4, atol=1e-5)


def test_class_activation_maps__leaves_the_network_as_it_was():
    torch.manual_seed(0)
    model = with_statistics(tiny_resnet()).train()
    model.bn1.eval()
    mean = model.layer1[0].bn1.running_mean.clone()
    class_activation_maps(model, torch.randn(2, 3, 16, 16), torch.tensor([0, 2]))
    assert model.training
    assert model.layer4.training
    assert not model.bn1.training
    assert torch.equal(model.layer1[0].bn1.running_mean, mean)
    assert not model.layer4._forward_hooks


def as_grad_cam_scales(maps, size):
    """Return CAMs as pytorch-grad-cam shows them.

    Its weights are the mean gradients of the logit, here the weights of the linear layer over the number of cells. It
    then cuts off what is negative, takes the range of each map to 0..1 (with 1e-7 added to the range), enlarges it
    bilinearly, and takes the range to 0..1 once more.
    """
    import cv2

    shown = []
    for map_ in maps.numpy() / maps[0].numel():
        map_ = _to_unit_range(np.maximum(map_, 0))
        shown.append(_to_unit_range(cv2.resize(map_, size)))
    return np.stack(shown)


def _to_unit_range(map_):
    map_ = map_ - map_.min()
    return map_ / (1e-7 + map_.max())


class Split(nn.Module):
    """A WideResNet whose last ReLU is a module, which is what pytorch-grad-cam can look at."""

    def __init__(self, model):
        super().__init__()
        self.stages = nn.Sequential(model.conv1, model.layer1, model.layer2, model.layer3, model.bn)
        self.relu, self.fc = nn.ReLU(), model.fc

    def forward(self, images):
        return self.fc(self.relu(self.stages(images)).mean(dim=(2, 3)))


@pytest.mark.parametrize("make, split, layer", [
    (tiny_resnet, lambda model: model, "layer4"),
    (lambda: WideResNet(10, 1, 3), Split, "relu"),
], ids=["resnet", "wide_resnet"])  # fmt: skip
def test_class_activation_maps__are_those_of_pytorch_grad_cam(make, split, layer):
    reason = "pytorch-grad-cam is not here: pip install --no-deps grad-cam ttach"
    grad_cam = pytest.importorskip("pytorch_grad_cam", reason=reason)
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    model = with_statistics(make())
    images, classes = torch.randn(4, 3, 32, 32), torch.tensor([2, 0, 1, 2])
    theirs_of = split(model).eval()
    with grad_cam.GradCAM(theirs_of, [getattr(theirs_of, layer)]) as cam:
        theirs = cam(images, [ClassifierOutputTarget(number) for number in classes.tolist()])
    maps = class_activation_maps(model, images, classes)
    assert maps.min() < 0 < maps.max()  # something is cut off, and something is left
    assert np.abs(as_grad_cam_scales(maps, (32, 32)) - theirs).max() < 1e-5


@pytest.mark.parametrize("classes, message", [
    ([0], r"expected a class for each of 2 pictures, but got \(1,\)"),
    ([0, 3], r"expected classes in 0\.\.2, but got 0\.\.3"),
    ([-1, 0], r"expected classes in 0\.\.2, but got -1\.\.0"),
])  # fmt: skip
def test_class_activation_maps__refuses_classes(classes, message):
    with pytest.raises(ValueError, match=message):
        class_activation_maps(tiny_resnet(), torch.zeros(2, 3, 8, 8), torch.tensor(classes))


def test_class_activation_maps__refuses_a_network_it_does_not_know():
    with pytest.raises(ValueError, match="no class activation maps for a Sequential; expected a ResNet or WideResNet"):
        class_activation_maps(nn.Sequential(), torch.zeros(1, 3, 8, 8), torch.tensor([0]))


@pytest.mark.parametrize("place, waits", [("cpu", 0), ("cuda", 1)])
def test_class_activation_maps__wait_for_the_gpu_only_to_check_classes_that_are_there(place, waits):
    with pretended_cuda() as device:
        model, classes = tiny_resnet().to("cuda"), torch.tensor([0, 2]).to(place)
        images = torch.zeros(2, 3, 8, 8).to("cuda")
        device.forget()
        class_activation_maps(model, images, classes)
        assert device.waits.total() == waits
