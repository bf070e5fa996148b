"""torchvision's ResNet class for every `Architecture`, also those that it has no function for."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pretrain.weights.resnet import BLOCKS, STEM_CHANNELS, Architecture


class WidenedResNet(ResNet):
    """A ResNet of whose stem and stages every width is ``widen`` times torchvision's (SwAV's RN50w2)."""

    def __init__(self, block: type[nn.Module], layers: list[int], *, widen: int, num_classes: int, **options: Any):
        self.widen = widen
        super().__init__(block, layers, num_classes=num_classes, **options)
        self.fc = nn.Linear(self.inplanes, num_classes)

    def _make_layer(self, block: type[nn.Module], planes: int, *arguments: Any, **options: Any) -> nn.Sequential:
        if self.inplanes == STEM_CHANNELS:  # the first stage: torchvision fixes the stem's width where it builds it
            self.inplanes *= self.widen
            self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = self._norm_layer(self.inplanes)
        return super()._make_layer(block, planes * self.widen, *arguments, **options)


def build_resnet(
    architecture: Architecture,
    *,
    num_classes: int = 1,
    block: type[nn.Module] | None = None,
    stride_in_1x1: bool = False,
    **options: Any,
) -> ResNet:
    """Return torchvision's ResNet with random weights: to the bit what its function of that name gives, if it has one.

    Args:
        block: instead of torchvision's basic block or bottleneck.
        stride_in_1x1: whether bottlenecks stride in their first convolution, as Caffe's do.
        options: further ones of torchvision's class, such as ``norm_layer``.

    Raises:
        ValueError: there is no such architecture.
    """
    if (fault := architecture.fault()) is not None:
        raise ValueError(fault)
    block = block or (BasicBlock if architecture.basic else Bottleneck)
    options |= {"num_classes": num_classes, "groups": architecture.num_groups}
    layers, width = list(BLOCKS[architecture.depth]), architecture.width_per_group
    if architecture.widen == 1:
        resnet = ResNet(block, layers, width_per_group=width, **options)
    else:  # torchvision counts the width of a group for planes that are not widened
        base = width // architecture.widen
        resnet = WidenedResNet(block, layers, widen=architecture.widen, width_per_group=base, **options)
    if stride_in_1x1 and not architecture.basic:
        for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
    return resnet
