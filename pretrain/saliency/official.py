"""The map that the authors' SaliencyMix code really maximises, so that their runs can be reproduced.

Their code hands OpenCV the normalised float picture. OpenCV computes grey levels, blurs and surrounds in float, but
then reads the grey plane as bytes: "column x" is byte x of the row, that is byte x % 4 of the float in column x // 4.
The map is close to those bytes, mantissa noise for the most part, and unrelated to what the picture shows.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from pretrain.saliency.batches import check_pictures, constant, in_chunks, reflect_pad
from pretrain.saliency.centre_surround import HALF_WIDTHS, Surround, combine

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LANES = 8  # the blocks in which OpenCV's optimised build sums a row of floats on x86


def official(images: Tensor, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Return what ``StaticSaliencyFineGrained`` answers for pictures normalised to float, as the authors' code asks it.

    ``images`` is ``uint8 (B, 3, H, W)`` RGB; ``mean`` and ``std`` are those of the run to be reproduced, for pictures
    in [0, 1]. The result is ``float32 (B, H, W)`` in [0, 1]: the same bytes as OpenCV 5.0 on x86-64 with AVX. The bytes
    are mantissas, so the order of every sum counts; another build of OpenCV may differ in a few of them.
    Memory is bounded as in ``fine_grained``.
    """
    check_pictures(images)
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise ValueError(f"mean and std must have three values each, std above 0, but got {mean} and {std} instead.")
    return in_chunks(
        functools.partial(_official_chunk, mean=tuple(map(float, mean)), std=tuple(map(float, std))), images
    )


def _official_chunk(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    normalised = images.float().div_(constant(255, images.device))
    normalised.sub_(constant(mean, images.device).view(3, 1, 1))
    normalised.div_(constant(std, images.device).view(3, 1, 1))
    plane = _binomial_blur(_binomial_blur(_grey(normalised))).contiguous()
    centre = plane.view(torch.uint8)[..., : plane.shape[2]].float()

    bright, dark = torch.zeros_like(centre), torch.zeros_like(centre)
    surround = Surround(*centre.shape, HALF_WIDTHS, torch.float32, centre.device)
    for window, _, around, repeats in surround.windows(_integral(plane)):
        difference = centre - (window - centre) / around
        bright.add_(difference.clamp(min=0).trunc_().remainder_(256), alpha=repeats)  # kept in a byte, which wraps
        dark.add_(difference.neg_().clamp_(min=0).trunc_().remainder_(256), alpha=repeats)
    planes = [torch.empty_like(centre, dtype=torch.uint8) for _ in range(2)]
    combine(bright, dark, planes, out=centre)
    return centre


def _grey(pictures: Tensor) -> Tensor:
    """Return OpenCV's float grey levels ``(B, H, W)``; it takes the first channel for blue."""
    first, second, third = pictures.unbind(1)
    return _fused(third, 0.299, _fused(first, 0.114, second * torch.tensor(0.587, dtype=torch.float32)))


def _fused(values: Tensor, factor: float, addend: Tensor) -> Tensor:
    """Return ``values * factor + addend`` with one rounding, as a processor's multiply-add has it."""
    factor = torch.tensor(factor, dtype=torch.float32).double()
    return (values.double() * factor + addend.double()).float()


def _binomial_blur(planes: Tensor) -> Tensor:
    """Blur ``(B, H, W)`` by [1 2 1] / 4 along the rows, then along the columns; products are exact, sums are not."""
    padded = reflect_pad(planes, 1, 1)
    rows = padded[..., 1:-1] * 0.5 + (padded[..., :-2] + padded[..., 2:]) * 0.25
    return rows[:, 1:-1] * 0.5 + (rows[:, :-2] + rows[:, 2:]) * 0.25


def _integral(planes: Tensor) -> Tensor:
    """Return the running float32 sums of ``(B, H, W)`` over rows and columns, each sum rounded as OpenCV rounds it.

    OpenCV sums eight columns at a time: the two halves by doubling steps, then the first half's total onto the second,
    then the row so far onto all; what is left of a row one by one. The rows are then added from the top down.
    ``cumsum`` does not say how it rounds, hence the loops (over rows and blocks, not over pictures).
    """
    count, height, width = planes.shape
    whole = width - width % LANES
    lanes = planes[..., :whole].reshape(count, height, -1, 2, LANES // 2)
    for step in (1, 2):
        lanes = torch.cat([lanes[..., :step], lanes[..., step:] + lanes[..., :-step]], dim=-1)
    lanes = torch.cat([lanes[..., :1, :], lanes[..., 1:, :] + lanes[..., :1, -1:]], dim=-2).flatten(-2)

    sums = torch.empty_like(planes)
    row_so_far = torch.zeros_like(planes[..., 0])
    for block in range(lanes.shape[2]):
        summed = lanes[:, :, block] + row_so_far[..., None]
        sums[..., block * LANES : (block + 1) * LANES] = summed
        row_so_far = summed[..., -1]
    for col in range(whole, width):
        row_so_far = row_so_far + planes[..., col]
        sums[..., col] = row_so_far
    for row in range(1, height):
        sums[:, row] += sums[:, row - 1]
    return sums
