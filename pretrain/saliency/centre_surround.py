"""Fine-grained saliency: how much a pixel differs from the mean of its surround, at six sizes of surround.

Montabone & Soto, "Human detection using a mobile platform and novel features derived from a visual saliency mechanism"
(2010), with every rounding of OpenCV's ``StaticSaliencyFineGrained``, so that the maps are the same bytes.
"""

import functools

import torch
from torch import Tensor

from pretrain.saliency.batches import check_pictures, grey_levels, in_chunks, reflect_pad

HALF_WIDTHS = (12, 24, 28, 48, 56, 112)  # of the surrounds in pixels; OpenCV does not scale them with the picture


def fine_grained(images: Tensor, *, length_scale: float = 1.0) -> Tensor:
    """Return the fine-grained saliency of 8-bit RGB pictures.

    ``images`` is ``uint8 (B, 3, H, W)``; the result is ``float32 (B, H, W)`` in [0, 1], on the same device. The bytes
    ``map * 255`` equal those of ``cv2.saliency.StaticSaliencyFineGrained`` for pictures up to 256 x 256; above that
    OpenCV's own sums round (its integral image passes 2**24 in float32) and a few pixels differ, mostly by one. A flat
    picture has no saliency: all zeros.

    ``length_scale`` multiplies the half-widths of the surrounds: pass 0.5 for pictures reduced to half their size.
    Extra memory is bounded by working in chunks of 8 pictures of 224 x 224 (64 on a GPU), with about 60 bytes for a
    pixel of the chunk: 24 MB (190 MB), whatever the size of the batch.
    """
    check_pictures(images)
    if not length_scale > 0:
        raise ValueError(f"length_scale must be greater than 0, but got {length_scale} instead.")
    half_widths = tuple(max(1, round(width * length_scale)) for width in HALF_WIDTHS)
    return in_chunks(functools.partial(_fine_grained_chunk, half_widths=half_widths), images)


def _fine_grained_chunk(images: Tensor, half_widths: tuple[int, ...]) -> Tensor:
    centre = _binomial_blur(_binomial_blur(grey_levels(images)))
    # Single precision where OpenCV's is exact, double above; either way the sums are whole numbers below 2**31.
    dtype = torch.float32 if 255 * centre[0].numel() < 2**24 else torch.float64
    integral = centre.int().cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32)
    surround = Surround(integral, half_widths, dtype)

    # With t = trunc(centre - surround mean) at one scale, the sums over the scales of t and of |t|.
    signed, unsigned = torch.zeros_like(centre), torch.zeros_like(centre)
    for window, area, repeats in surround:
        # t = trunc((area * centre - window) / (area - 1)). Numerator and denominator are whole numbers below 2**24, so
        # float32 has them exactly, and a quotient that is no whole number is at least 1 / (area - 1) away from one:
        # more than the rounding of a division (a multiplication by 1 / (area - 1) would not be exact).
        difference = window.float().addcmul_(centre, area, value=-1)
        difference.div_((1 - area).clamp_(max=-1), rounding_mode="trunc")  # a single pixel has no surround: 0 / -1
        signed.add_(difference, alpha=repeats)
        unsigned.add_(difference.abs_(), alpha=repeats)
    # Twice the sums of the differences where the centre is brighter, and where it is darker; the factor cancels.
    return combine(unsigned + signed, unsigned - signed)


def _binomial_blur(planes: Tensor) -> Tensor:
    """Blur ``(B, H, W)`` whole numbers by [1 2 1] x [1 2 1] / 16 and round to whole numbers, halves upwards."""
    padded = reflect_pad(planes, 1, 1)
    rows = torch.add(padded[:, :-2], padded[:, 2:]).add_(padded[:, 1:-1], alpha=2)
    blurred = torch.add(rows[..., :-2], rows[..., 2:]).add_(rows[..., 1:-1], alpha=2)
    return blurred.add_(8).mul_(1 / 16).floor_()


class Surround:
    """Iterates over the windows around every pixel: sum ``(B, H, W)``, area ``float32 (H, W)``, how often it counts.

    The window of half-width r has the rows y - r + 1 .. y + r and the same columns, cut at the border: it sits half a
    pixel to the bottom right, as OpenCV's does. ``integral`` is the running sum ``(B, H, W)`` over rows and columns; it
    is computed with in ``dtype``. The yielded sum is overwritten by the next step. Half-widths that cover the whole
    picture from every pixel are one window, counted several times.
    """

    def __init__(self, integral: Tensor, half_widths: tuple[int, ...], dtype: torch.dtype):
        count, self.height, self.width = integral.shape
        windows = [(min(half, self.height), min(half, self.width)) for half in half_widths]
        self.repeats = {window: windows.count(window) for window in windows}
        self.top, self.left = (max(margins) for margins in zip(*windows, strict=True))

        # A row and a column of zeros in front, and everything repeated beyond the sides, so that the corners of a
        # window cut at the border are plain shifted slices.
        bottom, right = self.top + self.height, self.left + self.width
        self.sums = integral.new_zeros((count, bottom + self.top + 1, right + self.left + 1), dtype=dtype)
        self.sums[:, self.top + 1:bottom + 1, self.left + 1:right + 1] = integral
        self.sums[:, :, right + 1:] = self.sums[:, :, right:right + 1]
        self.sums[:, bottom + 1:] = self.sums[:, bottom:bottom + 1]

    def __iter__(self):
        window = self.sums.new_empty((len(self.sums), self.height, self.width))
        for (rows, cols), repeats in self.repeats.items():
            # At row p the window is the half-open range [p + 1 - rows, p + 1 + rows). This order of summation is
            # OpenCV's: bottom right + top left may pass 2**24, and its rounding shows.
            torch.add(self._corner(1 + rows, 1 + cols), self._corner(1 - rows, 1 - cols), out=window)
            window.sub_(self._corner(1 + rows, 1 - cols)).sub_(self._corner(1 - rows, 1 + cols))
            yield window, self._area(rows, cols), repeats

    def _corner(self, row: int, col: int) -> Tensor:
        top, left = self.top + row, self.left + col
        return self.sums[:, top:top + self.height, left:left + self.width]

    def _area(self, rows: int, cols: int) -> Tensor:
        def lengths(length: int, half: int) -> Tensor:
            position = torch.arange(length, device=self.sums.device)
            return (position + half + 1).clamp_(max=length) - (position - half + 1).clamp_(min=0)

        return (lengths(self.height, rows)[:, None] * lengths(self.width, cols)).float()


def combine(bright: Tensor, dark: Tensor) -> Tensor:
    """Return the map in [0, 1] from the two sums over the scales, each divided by its own maximum in the picture."""
    # OpenCV adds the two in a byte, which wraps above 255, and then scales by 255 / 255.
    return (_to_bytes(bright) + _to_bytes(dark)) * torch.tensor(1 / 255, dtype=torch.float32)


def _to_bytes(sums: Tensor) -> Tensor:
    """Scale ``(B, H, W)`` so that each picture's maximum becomes 255, and cut to bytes; all zeros stay zeros.

    The quotient is taken in single and the product in double precision, as in OpenCV.
    """
    quotient = sums / sums.amax((1, 2), keepdim=True).clamp_(min=1)
    return quotient.double().mul_(255).to(torch.uint8)
