"""Background subtraction after Wang & Dudek (2014), the detector that the paper names, adapted to still pictures."""

import functools
import math

import torch
from torch import Tensor

from pretrain.saliency.batches import check_pictures, constant, grey_levels, in_chunks

BACKGROUND_SIGMAS = (1 / 64, 1 / 32, 1 / 16, 1 / 8)  # of the blurred backgrounds, in longer sides of the picture
SMOOTHING_SIGMA = 1 / 32  # of the result, likewise
# At rest their threshold is 18.125 grey levels; the neighbours, half of it apart, turn the yes or no into a grade.
THRESHOLD_STEP, NUM_THRESHOLDS = 9.0625, 4


def background_subtraction(images: Tensor) -> Tensor:
    """Return how clearly each pixel stands out from a blurred copy of its own picture: an adaptation of Wang & Dudek.

    Theirs is a method for video: a pixel is foreground when it departs from its own history by at least a threshold.
    One still picture has no history, and OpenCV's implementation then answers "foreground" everywhere: no saliency at
    all. Here the history is the picture itself, blurred: after 51 to 150 frames of a constant background their rule is
    exactly ``|pixel - background| >= 18.125`` grey levels. To grade the answer it is averaged over four blurs and four
    thresholds, and smoothed, because a yes or no has no single peak. It is not the authors' published map.

    ``images`` is ``uint8 (B, 3, H, W)``; the result is ``float32 (B, H, W)`` in [0, 1], its largest value 1, or all
    zeros for a picture without contrast. All lengths scale with the picture. Memory is bounded by working in chunks.
    """
    check_pictures(images)
    return in_chunks(_background_subtraction_chunk, images)


def _background_subtraction_chunk(images: Tensor) -> Tensor:
    grey = grey_levels(images)
    longer_side = max(grey.shape[1:])
    step = constant(THRESHOLD_STEP, grey.device)
    votes = torch.zeros_like(grey)
    for sigma in BACKGROUND_SIGMAS:
        departure = _gaussian_blur(grey, sigma * longer_side).sub_(grey).abs_()
        # How many thresholds it reaches. The quotient's rounding moves nothing across a whole number up to 4.
        votes.add_(departure.div_(step).clamp_(max=NUM_THRESHOLDS).floor_())
    # Beyond the border nobody votes: otherwise a few votes in a corner would outweigh an object in the middle.
    smoothed = _gaussian_blur(votes, SMOOTHING_SIGMA * longer_side, renormalise=False)
    return smoothed.div_(smoothed.amax((1, 2), keepdim=True).clamp_(min=torch.finfo(smoothed.dtype).tiny))


def _gaussian_blur(planes: Tensor, sigma: float, *, renormalise: bool = True) -> Tensor:
    """Blur ``(B, H, W)`` by a Gaussian of ``sigma`` pixels.

    What lies beyond the border is left out of the mean, or, without ``renormalise``, counts as zero. The blur is two
    small matrix products: cheaper than filters of this width.
    """
    rows, cols = (_blur_matrix(length, sigma, planes.device, renormalise) for length in planes.shape[1:])
    return rows @ planes @ cols.T


@functools.lru_cache(maxsize=32)
def _blur_matrix(length: int, sigma: float, device: torch.device, renormalise: bool) -> Tensor:
    position = torch.arange(length, device=device, dtype=torch.float32)
    weights = (-(position[:, None] - position).square() / (2 * sigma**2)).exp()
    return weights / weights.sum(1, keepdim=True) if renormalise else weights / (sigma * math.sqrt(2 * math.pi))
