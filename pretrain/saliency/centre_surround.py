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
    Extra memory is bounded by working in chunks of 8 pictures of 224 x 224 (64 on a GPU): about 50 bytes per pixel of
    a chunk, 20 MB (160 MB).
    """
    check_pictures(images)
    if not length_scale > 0:
        raise ValueError(f"length_scale must be greater than 0, but got {length_scale} instead.")
    half_widths = tuple(max(1, round(width * length_scale)) for width in HALF_WIDTHS)
    return in_chunks(functools.partial(_fine_grained_chunk, half_widths=half_widths), images)


def _fine_grained_chunk(images: Tensor, half_widths: tuple[int, ...]) -> Tensor:
    centre = _binomial_blur(_binomial_blur(grey_levels(images)))
    signed, unsigned = _centre_surround_sums(centre, half_widths)
    # Twice the sums over the scales of the differences where the centre is brighter, and where it is darker.
    bright, dark = unsigned + signed, unsigned.sub_(signed)
    # OpenCV adds the two in a byte, which wraps above 255, and then scales by 255 / 255.
    return _to_bytes(bright).add_(_to_bytes(dark)) * torch.tensor(1 / 255, dtype=torch.float32)


def _binomial_blur(planes: Tensor) -> Tensor:
    """Blur ``(B, H, W)`` whole numbers by [1 2 1] x [1 2 1] / 16 and round to whole numbers, halves upwards."""
    padded = reflect_pad(planes, 1, 1)
    rows = torch.add(padded[:, :-2], padded[:, 2:]).add_(padded[:, 1:-1], alpha=2)
    blurred = torch.add(rows[..., :-2], rows[..., 2:]).add_(rows[..., 1:-1], alpha=2)
    return blurred.add_(8).mul_(1 / 16).floor_()


def _centre_surround_sums(centre: Tensor, half_widths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the sums over ``half_widths`` of ``t`` and of ``|t|``, ``t`` the truncated centre minus surround mean.

    ``centre`` holds whole numbers 0..255 as ``float32 (B, H, W)``. The window of half-width r has the rows
    y - r + 1 .. y + r and the same columns, cut at the border; the surround is the window without the centre. With S
    the sum over the window and A its area, t = trunc((A * centre - S) / (A - 1)). Numerator and denominator are whole
    numbers below 2**24, so float32 has them exactly, and a quotient that is no whole number is at least 1 / (A - 1)
    away from one, which is more than the rounding of a true division (multiplying by 1 / (A - 1) would not be exact).
    """
    _, height, width = centre.shape
    windows = _distinct_windows(half_widths, height, width)
    margin = max(half for half, _ in windows)
    sums = _padded_integral(centre, margin)

    def corner(row: int, col: int) -> Tensor:
        return sums[:, margin + row:margin + row + height, margin + col:margin + col + width]

    signed, unsigned = torch.zeros_like(centre), torch.zeros_like(centre)
    window = torch.empty_like(centre, dtype=sums.dtype)
    for half, repeats in windows:
        first, last = 1 - half, 1 + half  # the window at position p is the half-open range [p + first, p + last)
        # This order of summation is OpenCV's: bottom right + top left may pass 2**24, and its rounding shows.
        torch.add(corner(last, last), corner(first, first), out=window)
        window.sub_(corner(last, first)).sub_(corner(first, last))
        area = _window_areas(height, width, half, centre.device)
        difference = window.float().addcmul_(centre, area, value=-1)
        difference.div_((1 - area).clamp_(max=-1), rounding_mode="trunc")  # a single pixel has no surround: 0 / -1
        signed.add_(difference, alpha=repeats)
        unsigned.add_(difference.abs_(), alpha=repeats)
    return signed, unsigned


def _distinct_windows(half_widths: tuple[int, ...], height: int, width: int) -> list[tuple[int, int]]:
    """Pair each half-width with how often it counts: all those that cover the whole picture are one window."""
    whole = max(height, width)
    counts: dict[int, int] = {}
    for half in half_widths:
        counts[min(half, whole)] = counts.get(min(half, whole), 0) + 1
    return list(counts.items())


def _padded_integral(planes: Tensor, margin: int) -> Tensor:
    """Return the integral image of ``(B, H, W)`` with one row and column of zeros in front, repeated ``margin`` beyond
    every side, so that the corners of a window cut at the border are plain shifted slices.

    Single precision where OpenCV's is exact, double precision above (whole numbers below 2**31 either way).
    """
    count, height, width = planes.shape
    dtype = torch.float32 if 255 * height * width < 2**24 else torch.float64
    sums = torch.zeros((count, height + 1 + 2 * margin, width + 1 + 2 * margin), dtype=dtype, device=planes.device)
    last_row, last_col = margin + height, margin + width
    inside = sums[:, margin + 1:last_row + 1, margin + 1:last_col + 1]
    inside.copy_(planes.int().cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32))
    sums[:, :, last_col + 1:] = sums[:, :, last_col:last_col + 1]
    sums[:, last_row + 1:] = sums[:, last_row:last_row + 1]
    return sums


def _window_areas(height: int, width: int, half: int, device: torch.device) -> Tensor:
    """Return the number of pixels ``float32 (H, W)`` of the window of half-width ``half`` around every pixel."""

    def lengths(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position + half + 1).clamp(max=length) - (position - half + 1).clamp(min=0)

    return (lengths(height)[:, None] * lengths(width)).float()


def _to_bytes(sums: Tensor) -> Tensor:
    """Scale ``(B, H, W)`` so that each picture's maximum becomes 255, and cut to bytes; all zeros stay zeros.

    The quotient is taken in single and the product in double precision, as in OpenCV.
    """
    quotient = sums / sums.amax((1, 2), keepdim=True).clamp_(min=1)
    return quotient.double().mul_(255).to(torch.uint8)
