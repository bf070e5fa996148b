"""Fine-grained saliency: how much a pixel differs from the mean of its surround, at six sizes of surround.

Montabone & Soto, "Human detection using a mobile platform and novel features derived from a visual saliency mechanism"
(2010), with every rounding of OpenCV's ``StaticSaliencyFineGrained``, so that the maps are the same bytes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from pretrain.saliency.batches import GREY_WEIGHTS, check_pictures, chunk_size

HALF_WIDTHS = (12, 24, 28, 48, 56, 112)  # of the surrounds in pixels; OpenCV does not scale them with the picture
BYTES_PER_PIXEL = 70  # the memory of a chunk; tools/bench_mixing.py checks it


def fine_grained(images: Tensor, *, length_scale: float = 1.0) -> Tensor:
    """Return the fine-grained saliency of 8-bit RGB pictures.

    ``images`` is ``uint8 (B, 3, H, W)``; the result is ``float32 (B, H, W)`` in [0, 1], on the same device. The bytes
    ``map * 255`` equal those of ``cv2.saliency.StaticSaliencyFineGrained`` for pictures up to 256 x 256; above that
    OpenCV's own sums round (its integral image passes 2**24 in float32) and a few pixels differ, mostly by one. A flat
    picture has no saliency: all zeros.

    ``length_scale`` multiplies the half-widths of the surrounds: pass 0.5 for pictures reduced to half their size.
    Extra memory is bounded by working in chunks of 8 pictures of 224 x 224 (64 on a GPU), with less than
    ``BYTES_PER_PIXEL`` for a pixel of the chunk: 28 MB (225 MB), whatever the size of the batch.
    """
    check_pictures(images)
    if not length_scale > 0:
        raise ValueError(f"length_scale must be greater than 0, but got {length_scale} instead.")
    half_widths = tuple(max(1, round(width * length_scale)) for width in HALF_WIDTHS)
    count, _, height, width = images.shape
    size = min(count, chunk_size(images))
    maps = torch.empty((count, height, width), dtype=torch.float32, device=images.device)
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
        # Single precision where OpenCV's is exact, double above; either way the sums are whole numbers below 2**31.
        dtype = torch.float32 if 255 * height * width < 2**24 else torch.float64
        self.surround = Surround(count, height, width, half_widths, dtype, device)


def _fine_grained_chunk(images: Tensor, work: _Workspace, out: Tensor) -> None:
    count = len(images)
    padded, centre = work.padded[:count], work.centre[:count]
    inside = padded[:, 1:-1, 1:-1]
    _grey_levels(images, work.centre[:count], out=inside)
    _binomial_blur(padded, work.rows[:count], out=inside)
    _binomial_blur(padded, work.rows[:count], out=centre)
    integral = work.integral[:count].copy_(centre).cumsum_(-1).cumsum_(-2)

    # With t = trunc(centre - surround mean) at one scale, the sums over the scales of t and of |t|.
    signed, unsigned = work.signed[:count].zero_(), work.unsigned[:count].zero_()
    for window, area, repeats in work.surround.windows(integral):
        # t = trunc((area * centre - window) / (area - 1)). Numerator and denominator are whole numbers below 2**24, so
        # float32 has them exactly, and a quotient that is no whole number is at least 1 / (area - 1) away from one:
        # more than the rounding of a division (a multiplication by 1 / (area - 1) would not be exact).
        difference = window.float().addcmul_(centre, area, value=-1)
        difference.div_((1 - area).clamp_(max=-1), rounding_mode="trunc")  # a single pixel has no surround: 0 / -1
        signed.add_(difference, alpha=repeats)
        unsigned.add_(difference.abs_(), alpha=repeats)
    # Twice the sums of the differences where the centre is brighter, and where it is darker; the factor cancels.
    bright = torch.add(unsigned, signed, out=centre)
    dark = unsigned.sub_(signed)
    combine(bright, dark, [plane[:count] for plane in work.bytes], out=out)


def _grey_levels(images: Tensor, plane: Tensor, out: Tensor) -> None:
    """Write OpenCV's 8-bit grey levels into ``out``, with ``plane`` for one channel at a time as floats."""
    red, green, blue = images.unbind(1)
    torch.mul(plane.copy_(red), GREY_WEIGHTS[0], out=out)
    out.add_(plane.copy_(green), alpha=GREY_WEIGHTS[1])
    out.add_(plane.copy_(blue), alpha=GREY_WEIGHTS[2]).add_(0.5).floor_()


def _binomial_blur(padded: Tensor, rows: Tensor, out: Tensor) -> None:
    """Blur whole numbers by [1 2 1] x [1 2 1] / 16 and round to whole numbers, halves upwards.

    ``padded (B, H + 2, W + 2)`` holds the numbers within a margin of one, which is filled here by mirroring without
    repeating the border (an axis of length 1 is repeated, as in OpenCV). ``out (B, H, W)`` may lie in ``padded``.
    """
    height, width = out.shape[1:]
    padded[:, 0] = padded[:, min(2, height)]
    padded[:, height + 1] = padded[:, max(1, height - 1)]
    padded[..., 0] = padded[..., min(2, width)]
    padded[..., width + 1] = padded[..., max(1, width - 1)]
    torch.add(padded[:, :-2], padded[:, 2:], out=rows).add_(padded[:, 1:-1], alpha=2)
    torch.add(rows[..., :-2], rows[..., 2:], out=out).add_(rows[..., 1:-1], alpha=2)
    out.add_(8).mul_(1 / 16).floor_()


class Surround:
    """The windows of several half-widths around every pixel of up to ``count`` pictures.

    The window of half-width r has the rows y - r + 1 .. y + r and the same columns, cut at the border: it sits half a
    pixel to the bottom right, as OpenCV's does. Half-widths that cover the whole picture from every pixel are one
    window, counted several times. Sums are taken in ``dtype``.
    """

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
        windows = [(min(half, height), min(half, width)) for half in half_widths]
        self.repeats = {window: windows.count(window) for window in windows}
        self.areas = {window: self._area(*window, device) for window in windows}
        self.top, self.left = (max(margins) for margins in zip(*windows, strict=True))
        # A row and a column of zeros in front, and everything repeated beyond the sides, so that the corners of a
        # window cut at the border are plain shifted slices.
        shape = (count, height + 2 * self.top + 1, width + 2 * self.left + 1)
        self.sums = torch.zeros(shape, dtype=dtype, device=device)
        self.window = torch.empty((count, height, width), dtype=dtype, device=device)

    def windows(self, integral: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield sum ``(B, H, W)``, area ``float32 (H, W)`` and weight of every window.

        ``integral (B, H, W)`` is the running sum over rows and columns. The yielded sum is overwritten by the next.
        """
        bottom, right = self.top + self.height, self.left + self.width
        sums, window = self.sums[: len(integral)], self.window[: len(integral)]
        sums[:, self.top + 1 : bottom + 1, self.left + 1 : right + 1] = integral
        sums[:, :, right + 1 :] = sums[:, :, right : right + 1]
        sums[:, bottom + 1 :] = sums[:, bottom : bottom + 1]

        def corner(row: int, col: int) -> Tensor:
            top, left = self.top + row, self.left + col
            return sums[:, top : top + self.height, left : left + self.width]

        for (rows, cols), repeats in self.repeats.items():
            # At row p the window is the half-open range [p + 1 - rows, p + 1 + rows). This order of summation is
            # OpenCV's: bottom right + top left may pass 2**24, and its rounding shows.
            torch.add(corner(1 + rows, 1 + cols), corner(1 - rows, 1 - cols), out=window)
            window.sub_(corner(1 + rows, 1 - cols)).sub_(corner(1 - rows, 1 + cols))
            yield window, self.areas[rows, cols], repeats

    def _area(self, rows: int, cols: int, device: torch.device) -> Tensor:
        def lengths(length: int, half: int) -> Tensor:
            position = torch.arange(length, device=device)
            return (position + half + 1).clamp_(max=length) - (position - half + 1).clamp_(min=0)

        return (lengths(self.height, rows)[:, None] * lengths(self.width, cols)).float()


def combine(bright: Tensor, dark: Tensor, planes: list[Tensor], out: Tensor) -> None:
    """Write the map in [0, 1] from the two sums over the scales, each divided by its own maximum in the picture.

    ``bright`` and ``dark`` are changed; two ``planes`` of bytes are for the values in between. All zeros stay zeros.
    OpenCV multiplies the quotient by 255 in double precision before it cuts to a byte; single precision gives the same
    byte for all sums that six differences of bytes can have. It adds the two in a byte, which wraps above 255, and
    then scales by 255 / 255.
    """
    for sums, plane in zip((bright, dark), planes, strict=True):
        plane.copy_(sums.div_(sums.amax((1, 2), keepdim=True).clamp_(min=1)).mul_(255))
    torch.mul(planes[0].add_(planes[1]), torch.tensor(1 / 255, dtype=torch.float32), out=out)
