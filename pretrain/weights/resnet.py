"""What a ResNet backbone consists of: the numbers that describe it, Detectron2's tensor names and their shapes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

NORM_FIELDS = ("weight", "bias", "running_mean", "running_var")

# depth -> blocks in res2, res3, res4, res5 (He et al. 2016, table 1)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC_DEPTHS = (18, 34)  # two 3x3 convolutions a block; the deeper ones have bottlenecks (1x1, 3x3, 1x1)
STEM_CHANNELS = 64
PLAIN_WIDTH = 64  # channels of the 3x3 convolutions in res2; each later stage has twice as many
BOTTLENECK_EXPANSION = 4


class Architecture(NamedTuple):
    """A ResNet, ResNeXt or Wide ResNet, by Detectron2's numbers; those of the plain ResNet are the defaults.

    Attributes:
        depth: one of `BLOCKS`.
        num_groups, width_per_group: of the 3x3 convolutions in the bottlenecks of res2 (NUM_GROUPS, WIDTH_PER_GROUP).
        widen: how many times as many channels the stem and the stages put out, as in SwAV's RN50w2 (whose
            width_per_group is 128): STEM_OUT_CHANNELS / 64.
    """

    depth: int
    num_groups: int = 1
    width_per_group: int = PLAIN_WIDTH
    widen: int = 1

    @property
    def name(self) -> str:
        """The name in torchvision's way, such as ``resnext50_32x4d``; ``resnet50w2`` is SwAV's way."""
        if self.num_groups > 1:
            return f"resnext{self.depth}_{self.num_groups}x{self.width_per_group}d"
        if self.widen > 1:
            return f"resnet{self.depth}w{self.widen}"
        times = self.width_per_group / PLAIN_WIDTH
        return f"resnet{self.depth}" if times == 1 else f"wide_resnet{self.depth}_{times:g}"

    @property
    def basic(self) -> bool:
        """Whether its blocks are two 3x3 convolutions each; else they are bottlenecks."""
        return self.depth in BASIC_DEPTHS

    @property
    def stem_out_channels(self) -> int:
        return STEM_CHANNELS * self.widen

    @property
    def stage_channels(self) -> tuple[int, int, int, int]:
        """The channels that res2, res3, res4 and res5 put out."""
        res2 = PLAIN_WIDTH * self.widen * (1 if self.basic else BOTTLENECK_EXPANSION)
        return res2, 2 * res2, 4 * res2, 8 * res2

    @property
    def res2_out_channels(self) -> int:
        return self.stage_channels[0]

    def fault(self) -> str | None:
        """Return why there is no such network, or None: basic blocks are of one kind, and what is widened is plain."""
        if self.depth not in BLOCKS:
            return f"no ResNet-{self.depth}; depths are {', '.join(map(str, BLOCKS))}"
        if min(self.num_groups, self.width_per_group, self.widen) < 1:
            return "fewer than one group or channel"
        if self.basic and self != Architecture(self.depth):
            return f"the blocks of a ResNet-{self.depth} have neither groups nor another width than {PLAIN_WIDTH}"
        width = PLAIN_WIDTH * self.widen
        if self.widen > 1 and (self.num_groups, self.width_per_group) != (1, width):
            return f"{self.widen} times as many channels go with one group of {width}"
        return None


# those that torchvision has a function for, by its name
NAMED = {
    architecture.name: architecture
    for architecture in (
        *map(Architecture, BLOCKS),
        Architecture(50, 32, 4),
        Architecture(101, 32, 8),
        Architecture(101, 64, 4),
        Architecture(50, 1, 128),
        Architecture(101, 1, 128),
    )
}


@functools.cache
def backbone_shapes(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """Return Detectron2's name (without prefix) -> shape of every tensor of a ResNet, in the order of the forward pass.

    Raises:
        ValueError: there is no such architecture.
    """
    if (fault := architecture.fault()) is not None:
        raise ValueError(fault)
    depth, groups = architecture.depth, architecture.num_groups
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, channels_out: int, channels_in: int, side: int) -> None:
        shapes[f"{name}.weight"] = (channels_out, channels_in, side, side)
        shapes.update({f"{name}.norm.{field}": (channels_out,) for field in NORM_FIELDS})

    convolution("stem.conv1", architecture.stem_out_channels, 3, 7)
    channels_in = architecture.stem_out_channels
    for stage, (num_blocks, channels_out) in enumerate(
        zip(BLOCKS[depth], architecture.stage_channels, strict=True), start=2
    ):
        width = groups * architecture.width_per_group * 2 ** (stage - 2)
        for block in range(num_blocks):
            name = f"res{stage}.{block}"
            if channels_in != channels_out:  # always block 0; but res2 of a basic ResNet adds its input unchanged
                convolution(f"{name}.shortcut", channels_out, channels_in, 1)
            if architecture.basic:
                convolution(f"{name}.conv1", width, channels_in, 3)
                convolution(f"{name}.conv2", width, width, 3)
            else:
                convolution(f"{name}.conv1", width, channels_in, 1)
                convolution(f"{name}.conv2", width, width // groups, 3)
                convolution(f"{name}.conv3", channels_out, width, 1)
            channels_in = channels_out
    return MappingProxyType(shapes)
