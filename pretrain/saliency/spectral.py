"""Spectral residual saliency: what is unexpected in the log spectrum of the picture (Hou & Zhang, 2007)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.saliency.batches import check_pictures, grey_levels, in_chunks, reflect_pad

SIDE = 64  # the picture is looked at in 64 x 64 pixels
BLUR_SIGMA = 8.0  # of the 5 x 5 Gaussian over the map


def spectral_residual(images: Tensor) -> Tensor:
    """Return the spectral residual saliency of 8-bit RGB pictures.

    ``images`` is ``uint8 (B, 3, H, W)``; the result is ``float32 (B, H, W)`` in [0, 1]: that of OpenCV's
    ``StaticSaliencySpectralResidual`` within 1e-4, with the same peak, unless the spectrum vanishes somewhere (a drawn
    rectangle): the phase there is rounding noise, OpenCV's as well as ours. The largest value is a little below 1,
    because the map is scaled at 64 x 64 and then enlarged.

    Like OpenCV it mirrors the log spectrum at its border although a spectrum is periodic, and squares after the blur
    (the paper: before). Where the picture does not continue across its opposite sides, peaks gather at the border.
    Memory is bounded by working in chunks.
    """
    check_pictures(images)
    return in_chunks(_spectral_residual_chunk, images, working_pixels=SIDE**2)


def _spectral_residual_chunk(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    spectrum = torch.fft.fft2(_reduced(grey_levels(images)))
    log_amplitude = spectrum.abs().log1p_()
    residual = log_amplitude - F.avg_pool2d(reflect_pad(log_amplitude, 1, 1)[:, None], 3, stride=1)[:, 0]
    # The mirrored border breaks the symmetry of the spectrum: the inverse is complex, and a real transform is wrong.
    map_ = torch.fft.ifft2(torch.polar(residual.exp_(), spectrum.angle())).abs()
    map_ = _gaussian_blur(map_).square_()
    map_.div_(map_.amax((1, 2), keepdim=True).clamp_(min=torch.finfo(map_.dtype).tiny))
    return F.interpolate(map_[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]


def _reduced(grey: Tensor) -> Tensor:
    """Resize ``(B, H, W)`` whole numbers to ``SIDE`` x ``SIDE`` as OpenCV's ``INTER_LINEAR_EXACT`` does.

    Two taps on half-pixel centres, no antialiasing, weights in 256ths, one rounding at the end. All is exact in
    float32: 255 * 256 * 256 < 2**24.
    """
    for axis in (1, 2):
        length = grey.shape[axis]
        position = (torch.arange(SIDE, dtype=torch.float64) + 0.5) * (length / SIDE) - 0.5
        first = position.floor()
        weight = ((position - first) * 256).round()
        lower, upper = (index.clamp(0, length - 1).long().to(grey.device) for index in (first, first + 1))
        weight = weight.float().to(grey.device).view(-1, *[1] * (2 - axis))
        grey = grey.index_select(axis, lower) * (256 - weight) + grey.index_select(axis, upper) * weight
    return grey.add_(32768).mul_(1 / 65536).floor_()


def _gaussian_blur(planes: Tensor) -> Tensor:
    offset = torch.arange(-2.0, 3.0)
    taps = (-offset.square() / (2 * BLUR_SIGMA**2)).exp()
    taps = (taps / taps.sum()).tolist()
    padded = reflect_pad(planes, 2, 2)
    side = planes.shape[1]
    rows = sum(tap * padded[:, k : k + side] for k, tap in enumerate(taps))
    return sum(tap * rows[..., k : k + side] for k, tap in enumerate(taps))
