"""Classification networks by name: torchvision's ResNets, their CIFAR and regularised variants, WideResNet-28-10."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import DropBlock2d, StochasticDepth, drop_block2d

from pretrain.names import ARCHITECTURES
from pretrain.weights.resnet import NAMED
from pretrain.weights.torchvision_resnet import build_resnet


def build_model(
    arch: str,
    num_classes: int,
    *,
    dropout: float = 0.0,
    drop_block: float = 0.0,
    drop_block_size: int = 7,
    stochastic_depth: float = 0.0,
) -> nn.Module:
    """Return the network ``arch``, one of ``ARCHITECTURES``, with random weights and a head for ``num_classes``.

    Takes normalised float ``(B, 3, H, W)``, returns logits ``(B, num_classes)``. The state dict of a ResNet has
    torchvision's names, which ``pretrain.weights`` reads, whatever regularises it; bottlenecks stride in the 3x3
    convolution. ``resnetN_cifar`` has a 3x3 stem of stride 1 and no pooling after it, for 32 x 32 pixels.
    Convolutions start as torchvision's do, from Kaiming's normal distribution by fan out; the CIFAR ResNets of the
    SaliencyMix authors start from PyTorch's default.

    Args:
        dropout: of ``wide_resnet28_10``, between the convolutions of a block.
        drop_block: DropBlock in the last two stages (see ``RegularisedBlock``); ``set_progress`` raises it from 0.
        stochastic_depth: probability of skipping the last block, all training long; that of block l of L is l/L of it
            (Huang et al. 2016).

    Raises:
        ValueError: an unknown name.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {arch!r}; expected one of {', '.join(ARCHITECTURES)}")
    if arch == "wide_resnet28_10":
        return WideResNet(28, 10, num_classes, dropout=dropout)
    name = arch.removesuffix("_cifar")
    block = None
    if drop_block or stochastic_depth:
        block = RegularisedBasicBlock if NAMED[name].basic else RegularisedBottleneck
    model = build_resnet(NAMED[name], num_classes=num_classes, block=block)
    if block is not None:
        _regularise(model, drop_block, drop_block_size, stochastic_depth)
    if name != arch:
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as ResNet's own stem
        model.maxpool = nn.Identity()
    return model


class ScheduledDropBlock(DropBlock2d):
    """DropBlock whose probability ``p`` is the share of ``full_p`` that ``set_progress`` last set; 0 before.

    ``block_size`` is odd; in a feature map that is smaller, the blocks are the largest odd size that fits.
    """

    def __init__(self, full_p: float, block_size: int):
        super().__init__(0.0, block_size)
        self.full_p = full_p

    def forward(self, features: Tensor) -> Tensor:
        fits = min(self.block_size, *features.shape[-2:])
        return drop_block2d(features, self.p, fits - 1 + fits % 2, training=self.training)


def set_progress(model: nn.Module, progress: float) -> None:
    """Set DropBlock's probability to ``progress``, 0 at the start of the run to 1 at its end, times its full value.

    Ghiasi et al., "DropBlock" (2018), section 3.1: the linear schedule that their ImageNet figures come from.
    """
    for module in model.modules():
        if isinstance(module, ScheduledDropBlock):
            module.p = module.full_p * progress


class RegularisedBlock(nn.Module):
    """What a residual block needs to drop parts of itself; it has no parameters, so that no weight changes its name.

    ``drop_block`` follows every normalisation, in the branch and on the shortcut, as in the DropBlock authors' ResNet
    (tensorflow/tpu, ``resnet_model.py``); there it follows the ReLU, which is the same, because it only scales by
    non-negative factors. ``drop_path`` skips the branch of a whole picture.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)  # those of torchvision's block, which follows in the order of bases
        self.drop_block: nn.Module = nn.Identity()
        self.drop_path: nn.Module = nn.Identity()

    def shortcut(self, features: Tensor) -> Tensor:
        return self.drop_block(features if self.downsample is None else self.downsample(features))


class RegularisedBasicBlock(RegularisedBlock, BasicBlock):
    """torchvision's two-convolution block with DropBlock and stochastic depth."""

    def forward(self, features: Tensor) -> Tensor:
        branch = self.relu(self.drop_block(self.bn1(self.conv1(features))))
        branch = self.drop_block(self.bn2(self.conv2(branch)))
        return self.relu(self.drop_path(branch) + self.shortcut(features))


class RegularisedBottleneck(RegularisedBlock, Bottleneck):
    """torchvision's three-convolution block with DropBlock and stochastic depth."""

    def forward(self, features: Tensor) -> Tensor:
        branch = self.relu(self.drop_block(self.bn1(self.conv1(features))))
        branch = self.relu(self.drop_block(self.bn2(self.conv2(branch))))
        branch = self.drop_block(self.bn3(self.conv3(branch)))
        return self.relu(self.drop_path(branch) + self.shortcut(features))


def _regularise(model: ResNet, drop_block: float, block_size: int, stochastic_depth: float) -> None:
    # The DropBlock authors drop in the last two stages, a quarter as much in the one whose maps are four times as large
    # (tensorflow/tpu, resnet_main.py).
    full = {3: drop_block / 4, 4: drop_block}
    blocks = [(stage, block) for stage in (1, 2, 3, 4) for block in getattr(model, f"layer{stage}")]
    for number, (stage, block) in enumerate(blocks, start=1):
        if full.get(stage):
            block.drop_block = ScheduledDropBlock(full[stage], block_size)
        if stochastic_depth:
            block.drop_path = StochasticDepth(stochastic_depth * number / len(blocks), mode="row")


class WideResNet(nn.Module):
    """Zagoruyko & Komodakis, "Wide Residual Networks" (2016): pre-activation, three stages, for 32 x 32 pixels.

    ``depth`` is 6 n + 4 for n blocks a stage; ``width`` multiplies the stages' 16, 32 and 64 channels. The stages are
    named as a ResNet's, so that Manifold Mixup finds them.
    """

    def __init__(self, depth: int, width: int, num_classes: int, *, dropout: float = 0.0):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.layer1 = _wide_stage(16, 16 * width, blocks, stride=1, dropout=dropout)
        self.layer2 = _wide_stage(16 * width, 32 * width, blocks, stride=2, dropout=dropout)
        self.layer3 = _wide_stage(32 * width, 64 * width, blocks, stride=2, dropout=dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return self.fc(torch.relu(self.bn(features)).mean(dim=(2, 3)))


def _wide_stage(inputs: int, outputs: int, blocks: int, *, stride: int, dropout: float) -> nn.Sequential:
    first = WideBlock(inputs, outputs, stride=stride, dropout=dropout)
    return nn.Sequential(first, *(WideBlock(outputs, outputs, stride=1, dropout=dropout) for _ in range(blocks - 1)))


class WideBlock(nn.Module):
    """Norm, ReLU, convolution, twice, dropout between them; the shortcut is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        active = torch.relu(self.bn1(features))
        branch = self.conv1(active)
        branch = self.conv2(self.dropout(torch.relu(self.bn2(branch))))
        return branch + (features if self.shortcut is None else self.shortcut(active))
