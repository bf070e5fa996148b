"""Fine-grained saliency: how much a pixel differs from the mean of its surround, at six sizes of surround.

Montabone & Soto, "Human detection using a mobile platform and novel features derived from a visual saliency mechanism"
(2010), with every rounding of OpenCV's ``StaticSaliencyFineGrained``, so that the maps are the same bytes.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.saliency.batches import GREY_WEIGHTS, check_pictures, chunk_size, grey_levels, reflect_pad
from pretrain.saliency.compiled import Compiled

HALF_WIDTHS = (12, 24, 28, 48, 56, 112)  # of the surrounds in pixels; OpenCV does not scale them with the picture
# Of a chunk on a GPU. Below that a compiler takes longer than it saves in a training run.
WORTH_COMPILING = 8 * 224 * 224
BYTES_PER_PIXEL = 70  # the memory of a chunk on a CPU; tools/bench_mixing.py checks it


def fine_grained(images: Tensor, *, length_scale: float = 1.0) -> Tensor:
    """Return the fine-grained saliency of 8-bit RGB pictures.

    ``images`` is ``uint8 (B, 3, H, W)``; the result is ``float32 (B, H, W)`` in [0, 1], on the same device. The bytes
    ``map * 255`` equal those of ``cv2.saliency.StaticSaliencyFineGrained`` for pictures up to 256 x 256; above that
    OpenCV's own sums round (its integral image passes 2**24 in float32) and a few pixels differ, mostly by one. A flat
    picture has no saliency: all zeros.

    ``length_scale`` multiplies the half-widths of the surrounds: pass 0.5 for pictures reduced to half their size.
    Extra memory is bounded by working in chunks, whatever the size of the batch: on a CPU of 8 pictures of 224 x 224,
    with less than ``BYTES_PER_PIXEL`` for a pixel of the chunk, 28 MB; on a GPU of 64, about 200 MB. There the work of
    large batches is compiled into a few kernels at the first call with pictures of a size, which takes some seconds;
    where that fails, which is said once, it needs 500 MB and several times as long.
    """
    check_pictures(images)
    if not length_scale > 0:
        raise ValueError(f"length_scale must be greater than 0, but got {length_scale} instead.")
    half_widths = tuple(max(1, round(width * length_scale)) for width in HALF_WIDTHS)
    count, _, height, width = images.shape
    size = min(count, chunk_size(images))
    maps = torch.empty((count, height, width), dtype=torch.float32, device=images.device)
    if images.is_cuda:
        windows = windows_of(height, width, half_widths, images.device)
        form = _compiled_chunk if size * height * width >= WORTH_COMPILING else _fine_grained_functional
        for start in range(0, count, size):
            start = min(start, count - size)  # all of one size: each would be compiled by itself
            maps[start : start + size] = form(images[start : start + size], windows)
        return maps
    work = _Workspace(size, height, width, half_widths, images.device)
    for start in range(0, count, size):
        _fine_grained_chunk(images[start : start + size], work, out=maps[start : start + size])
    return maps


class _Workspace:
    """The tensors of one chunk of ``count`` pictures, used for every chunk: fresh ones cost a CPU half of its time."""

    def __init__(self, count: int, height: int, width: int, half_widths: tuple[int, ...], device: torch.device):
        def planes(dtype: torch.dtype = torch.float32, margin: int = 0) -> Tensor:
            return torch.empty((count, height + 2 * margin, width + 2 * margin), dtype=dtype, device=device)

        self.padded, self.centre = planes(margin=1), planes()
        self.rows = planes(margin=1)[:, 1:-1]
        self.integral = planes(torch.int32)
        self.signed, self.unsigned = planes(), planes()
        self.bytes = planes(torch.uint8), planes(torch.uint8)
        self.surround = Surround(count, height, width, half_widths, _sum_dtype(height, width), device)


def _sum_dtype(height: int, width: int) -> torch.dtype:
    """Single precision where OpenCV's is exact, double above; either way the sums are whole numbers below 2**31."""
    return torch.float32 if 255 * height * width < 2**24 else torch.float64


def _fine_grained_chunk(images: Tensor, work: _Workspace, out: Tensor) -> None:
    count = len(images)
    padded, centre = work.padded[:count], work.centre[:count]
    inside = padded[:, 1:-1, 1:-1]
    _grey_levels(images, work.centre[:count], out=inside)
    for out_plane in (inside, centre):
        _mirror_margin(padded)
        _binomial_blur(padded, work.rows[:count], out_plane)
    integral = work.integral[:count].copy_(centre).cumsum_(-1).cumsum_(-2)

    # With t = trunc(centre - surround mean) at one scale, the sums over the scales of t and of |t|.
    signed, unsigned = work.signed[:count].zero_(), work.unsigned[:count].zero_()
    for window, area, around, repeats in work.surround.windows(integral):
        # -t = trunc((window - area * centre) / (area - 1)). Numerator and denominator are whole numbers below 2**24, so
        # float32 has them exactly, and a quotient that is no whole number is at least 1 / (area - 1) away from one:
        # more than the rounding of a division (a multiplication by 1 / (area - 1) would not be exact).
        difference = window.float().addcmul_(centre, area, value=-1).div_(around, rounding_mode="trunc")
        signed.sub_(difference, alpha=repeats)
        unsigned.add_(difference.abs_(), alpha=repeats)
    # Twice the sums of the differences where the centre is brighter, and where it is darker; the factor cancels.
    bright = torch.add(unsigned, signed, out=centre)
    dark = unsigned.sub_(signed)
    combine(bright, dark, [plane[:count] for plane in work.bytes], out=out)


def _fine_grained_functional(images: Tensor, windows: "Windows") -> Tensor:
    """Return what ``_fine_grained_chunk`` writes, from operations that a compiler fuses.

    All windows at once; for a compiler one by one, which makes one kernel of them and writes none of their differences
    to memory. A compiler's division of floats may be off by the last bits, hence whole numbers here, and double
    precision below.
    """
    centre = _binomial_blur(reflect_pad(_binomial_blur(reflect_pad(grey_levels(images), 1, 1)), 1, 1))
    integral = centre.int().cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32)
    sums = F.pad(integral, (1, 0, 1, 0)).to(_sum_dtype(*centre.shape[1:]))  # a row and a column of zeros in front

    def corner(row: Tensor, col: Tensor) -> Tensor:
        return sums[:, row[:, :, None], col[:, None, :]]  # (B, K, H, W)

    groups = [(windows.places, windows.weights)]
    if torch.compiler.is_compiling():
        # Places that are computed here are not loaded, and known to lie inside, so that nothing checks it.
        places = (_place(half, centre.shape[1:], centre.device) for half in windows.half_widths)
        groups = list(zip(places, windows.repeats, strict=True))
    totals = []
    for ((top, bottom, left, right), area, around), weights in groups:
        window = _window_sum(corner(bottom, right), corner(top, left), corner(bottom, left), corner(top, right))
        difference = torch.addcmul(window.float(), centre[:, None], area, value=-1).int()
        difference = difference.div(around.int(), rounding_mode="trunc") * weights
        totals.append((difference.sum(1, dtype=torch.int32), difference.abs().sum(1, dtype=torch.int32)))
    signed, unsigned = (functools.reduce(torch.add, parts) for parts in zip(*totals, strict=True))
    bright_dark = torch.stack([unsigned - signed, unsigned + signed])
    largest = bright_dark.amax((2, 3), keepdim=True).clamp(min=1)
    # Rounding a quotient to double and then to single precision is rounding it to single precision once: a double has
    # more than twice the bits and two (Figueroa, "When is double rounding innocuous?", 1995).
    bytes_ = ((bright_dark.double() / largest.double()).float() * 255).int()
    return (bytes_.sum(0, dtype=torch.int32) & 255).float() * (1 / 255)  # as combine has it


_compiled_chunk = Compiled(_fine_grained_functional)


def _grey_levels(images: Tensor, plane: Tensor, out: Tensor) -> None:
    """Write OpenCV's 8-bit grey levels into ``out``, with ``plane`` for one channel at a time as floats."""
    red, green, blue = images.unbind(1)
    torch.mul(plane.copy_(red), GREY_WEIGHTS[0], out=out)
    out.add_(plane.copy_(green), alpha=GREY_WEIGHTS[1])
    out.add_(plane.copy_(blue), alpha=GREY_WEIGHTS[2]).add_(0.5).floor_()


def _mirror_margin(padded: Tensor) -> None:
    """Fill the margin of one around ``(B, H, W)`` planes in ``padded (B, H + 2, W + 2)`` by mirroring without repeating
    the border (an axis of length 1 is repeated, as in OpenCV)."""
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    padded[:, 0] = padded[:, min(2, height)]
    padded[:, height + 1] = padded[:, max(1, height - 1)]
    padded[..., 0] = padded[..., min(2, width)]
    padded[..., width + 1] = padded[..., max(1, width - 1)]


def _binomial_blur(padded: Tensor, rows: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Blur whole numbers by [1 2 1] x [1 2 1] / 16 and round to whole numbers, halves upwards.

    ``padded (B, H + 2, W + 2)`` holds the numbers within a mirrored margin of one. ``rows (B, H, W + 2)`` and
    ``out (B, H, W)``, which may lie in ``padded``, are written to where they are given.
    """
    rows = torch.add(padded[:, :-2], padded[:, 2:], out=rows).add_(padded[:, 1:-1], alpha=2)
    blurred = torch.add(rows[..., :-2], rows[..., 2:], out=out).add_(rows[..., 1:-1], alpha=2)
    return blurred.add_(8).mul_(1 / 16).floor_()


class Windows(NamedTuple):
    """The K different windows of several half-widths around every pixel of a picture of H x W pixels.

    The window of half-width r has the rows y - r + 1 .. y + r and the same columns, cut at the border: it sits half a
    pixel to the bottom right, as OpenCV's does. Half-widths that cover the whole picture from every pixel are one
    window, counted several times.
    """

    half_widths: tuple[tuple[int, int], ...]  # rows and columns
    repeats: tuple[int, ...]
    weights: Tensor  # int32 (K, 1, 1): repeats
    places: "Places"


class Places(NamedTuple):
    """Where K windows around every pixel lie."""

    bounds: tuple[Tensor, ...]  # int64: first row and row after the last (K, H), first column and so on (K, W)
    area: Tensor  # float32 (K, H, W), in pixels
    around: Tensor  # float32 (K, H, W): the area without the pixel itself, but at least 1


@functools.lru_cache(maxsize=4)
def windows_of(height: int, width: int, half_widths: tuple[int, ...], device: torch.device) -> Windows:
    """Return the windows of ``half_widths`` in a picture; their tensors are not to be changed."""
    cut = [(min(half, height), min(half, width)) for half in half_widths]
    different = tuple(dict.fromkeys(cut))
    repeats = tuple(cut.count(window) for window in different)
    weights = torch.tensor(repeats, dtype=torch.int32, device=device).view(-1, 1, 1)
    each = [_place(half, (height, width), device) for half in different]
    bounds, area, around = zip(*each, strict=True)
    bounds = tuple(torch.cat(ends) for ends in zip(*bounds, strict=True))
    return Windows(different, repeats, weights, Places(bounds, torch.cat(area), torch.cat(around)))


def _place(half: tuple[int, int], size: Sequence[int], device: torch.device) -> Places:
    """Return the places of one window, K = 1, of these half-widths in a picture of ``size``."""
    bounds = []
    for reach, length in zip(half, size, strict=True):
        position = torch.arange(length, device=device)[None]
        bounds += [(position - reach + 1).clamp(min=0), (position + reach + 1).clamp(max=length)]
    top, bottom, left, right = bounds
    area = (bottom - top)[:, :, None] * (right - left)[:, None]
    return Places(tuple(bounds), area.float(), (area - 1).clamp(min=1).float())


def _window_sum(
    bottom_right: Tensor, top_left: Tensor, bottom_left: Tensor, top_right: Tensor, out: Tensor | None = None
) -> Tensor:
    """Return the sum over a window from its corners in a table of running sums.

    This order of summation is OpenCV's: bottom right + top left may pass 2**24, and its rounding shows.
    """
    return torch.add(bottom_right, top_left, out=out).sub_(bottom_left).sub_(top_right)


class Surround:
    """The sums over the windows of several half-widths around every pixel of up to ``count`` pictures, in ``dtype``."""

    def __init__(
        self,
        count: int,
        height: int,
        width: int,
        half_widths: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.height, self.width = height, width
        self.of_size = windows_of(height, width, half_widths, device)
        self.top, self.left = (max(margins) for margins in zip(*self.of_size.half_widths, strict=True))
        # A row and a column of zeros in front, and everything repeated beyond the sides, so that the corners of a
        # window cut at the border are plain shifted slices.
        shape = (count, height + 2 * self.top + 1, width + 2 * self.left + 1)
        self.sums = torch.zeros(shape, dtype=dtype, device=device)
        self.window = torch.empty((count, height, width), dtype=dtype, device=device)

    def windows(self, integral: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        """Yield sum ``(B, H, W)``, area and area around ``float32 (H, W)``, and weight of every window.

        ``integral (B, H, W)`` is the running sum over rows and columns. The yielded sum is overwritten by the next.
        """
        bottom, right, places = self.top + self.height, self.left + self.width, self.of_size.places
        sums, window = self.sums[: len(integral)], self.window[: len(integral)]
        sums[:, self.top + 1 : bottom + 1, self.left + 1 : right + 1] = integral
        sums[:, :, right + 1 :] = sums[:, :, right : right + 1]
        sums[:, bottom + 1 :] = sums[:, bottom : bottom + 1]

        def corner(row: int, col: int) -> Tensor:
            top, left = self.top + row, self.left + col
            return sums[:, top : top + self.height, left : left + self.width]

        for number, (rows, cols) in enumerate(self.of_size.half_widths):
            # At row p the window is the half-open range [p + 1 - rows, p + 1 + rows).
            _window_sum(
                corner(1 + rows, 1 + cols), corner(1 - rows, 1 - cols),
                corner(1 + rows, 1 - cols), corner(1 - rows, 1 + cols), out=window,
            )  # fmt: skip
            yield window, places.area[number], places.around[number], self.of_size.repeats[number]


def combine(bright: Tensor, dark: Tensor, planes: list[Tensor], out: Tensor) -> None:
    """Write the map in [0, 1] from the two sums over the scales, each divided by its own maximum in the picture.

    ``bright`` and ``dark`` are changed; two ``planes`` of bytes are for the values in between. All zeros stay zeros.
    OpenCV multiplies the quotient by 255 in double precision before it cuts to a byte; single precision gives the same
    byte for all sums that six differences of bytes can have. It adds the two in a byte, which wraps above 255, and
    then scales by 255 / 255.
    """
    for sums, plane in zip((bright, dark), planes, strict=True):
        plane.copy_(sums.div_(sums.amax((1, 2), keepdim=True).clamp_(min=1)).mul_(255))
    torch.mul(planes[0].add_(planes[1]), 1 / 255, out=out)
