"""Frequency-tuned saliency: distance in colour from the mean of the picture (Achanta et al., 2009)."""

import functools

import torch
from torch import Tensor

from pretrain.saliency.batches import check_pictures, filter_planes, in_chunks

# Linear sRGB to CIE XYZ, and the white D65 (IEC 61966-2-1).
RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
WHITE = (0.950456, 1.0, 1.088754)
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def frequency_tuned(images: Tensor) -> Tensor:
    """Return the frequency-tuned saliency of 8-bit RGB pictures.

    ``images`` is ``uint8 (B, 3, H, W)``; the result is ``float32 (B, H, W)`` in [0, 1]: at every pixel the Euclidean
    distance in CIE Lab between the mean colour of the picture and the picture blurred by a 5 x 5 binomial filter
    (borders mirrored), divided by its largest value. This is the paper's formula; the released codes differ from it and
    from each other (blur of 3 taps, squared distance, 8-bit Lab, whose stretched lightness is another map). A flat
    picture has no saliency: all zeros. Memory is bounded by working in chunks.
    """
    check_pictures(images)
    return in_chunks(_frequency_tuned_chunk, images)


def _frequency_tuned_chunk(images: Tensor) -> Tensor:
    lab = _to_lab(images)
    distance = torch.zeros_like(lab[0])
    for channel in lab:
        mean = channel.mean((1, 2), keepdim=True, dtype=torch.float64).float()
        distance.add_(filter_planes(channel, BINOMIAL).sub_(mean).square_())
    distance.sqrt_()
    largest = distance.amax((1, 2), keepdim=True)
    # A flat picture leaves rounding noise, no distance: below any difference that one grey level makes.
    return torch.where(largest > 1e-3, distance / largest, 0)


def _to_lab(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return lightness, a and b as ``float32 (B, H, W)``, in CIE units (0..100, about -100..100)."""
    red, green, blue = _linear_levels(images.device)[images.int()].unbind(1)

    def compressed(weights: tuple[float, float, float], white: float) -> Tensor:
        t = (red * (weights[0] / white)).add_(green, alpha=weights[1] / white).add_(blue, alpha=weights[2] / white)
        return torch.where(t > 0.008856, t.clamp(min=1e-6).pow(1 / 3), t.mul(903.3).add_(16).div_(116))

    x, y, z = (compressed(weights, white) for weights, white in zip(RGB_TO_XYZ, WHITE, strict=True))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@functools.lru_cache(maxsize=8)
def _linear_levels(device: torch.device) -> Tensor:
    """Return the linear intensities ``float32 (256,)`` of sRGB's bytes."""
    level = torch.arange(256, dtype=torch.float64) / 255
    return torch.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).float().to(device)
