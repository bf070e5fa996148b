"""What a ResNet backbone consists of: Detectron2's tensor names and their shapes, for each depth that it builds."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

NORM_FIELDS = ("weight", "bias", "running_mean", "running_var")

# depth -> blocks in res2, res3, res4, res5 (He et al. 2016, table 1)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC_DEPTHS = (18, 34)  # two 3x3 convolutions a block; the deeper ones have bottlenecks (1x1, 3x3, 1x1)
STEM_CHANNELS = 64
STAGE_WIDTHS = (64, 128, 256, 512)  # channels of the 3x3 convolutions in res2..res5
BOTTLENECK_EXPANSION = 4


def stage_channels(depth: int) -> tuple[int, int, int, int]:
    """Return the channels that res2, res3, res4 and res5 put out."""
    expansion = 1 if depth in BASIC_DEPTHS else BOTTLENECK_EXPANSION
    return tuple(width * expansion for width in STAGE_WIDTHS)


@functools.cache
def backbone_shapes(depth: int) -> Mapping[str, tuple[int, ...]]:
    """Return Detectron2's name (without prefix) -> shape of every tensor of a ResNet, in the order of the forward pass.

    Raises:
        ValueError: a depth that Detectron2 does not build.
    """
    if depth not in BLOCKS:
        raise ValueError(f"no ResNet-{depth}; depths are {', '.join(map(str, BLOCKS))}")
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, channels_out: int, channels_in: int, side: int) -> None:
        shapes[f"{name}.weight"] = (channels_out, channels_in, side, side)
        shapes.update({f"{name}.norm.{field}": (channels_out,) for field in NORM_FIELDS})

    convolution("stem.conv1", STEM_CHANNELS, 3, 7)
    channels_in = STEM_CHANNELS
    for stage, (num_blocks, width, channels_out) in enumerate(
        zip(BLOCKS[depth], STAGE_WIDTHS, stage_channels(depth), strict=True), start=2
    ):
        for block in range(num_blocks):
            name = f"res{stage}.{block}"
            if channels_in != channels_out:  # always block 0; but res2 of a basic ResNet adds its input unchanged
                convolution(f"{name}.shortcut", channels_out, channels_in, 1)
            if depth in BASIC_DEPTHS:
                convolution(f"{name}.conv1", width, channels_in, 3)
                convolution(f"{name}.conv2", width, width, 3)
            else:
                convolution(f"{name}.conv1", width, channels_in, 1)
                convolution(f"{name}.conv2", width, width, 3)
                convolution(f"{name}.conv3", channels_out, width, 1)
            channels_in = channels_out
    return MappingProxyType(shapes)
