"""Spectral residual saliency: what is unexpected in the log spectrum of the picture (Hou & Zhang, 2007)."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.saliency.batches import check_pictures, chunk_size, filter_planes, grey_levels

SIDE = 64  # the picture is looked at in 64 x 64 pixels
TOGETHER = 64  # reduced pictures at a time: large enough to share among threads, small enough for a cache
BOX_TAPS = (1 / 3, 1 / 3, 1 / 3)  # of the mean of the log spectrum
BLUR_SIGMA = 8.0  # of the 5 x 5 Gaussian over the map
_WEIGHTS = [math.exp(-(offset**2) / (2 * BLUR_SIGMA**2)) for offset in range(-2, 3)]
BLUR_TAPS = tuple(weight / sum(_WEIGHTS) for weight in _WEIGHTS)


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
    height, width = images.shape[-2:]
    maps = torch.empty((len(images), height, width), device=images.device)
    for some, out in zip(images.split(TOGETHER), maps.split(TOGETHER), strict=True):
        size = chunk_size(some)
        residual = _residual_maps(torch.cat([_reduced(chunk) for chunk in some.split(size)]))
        for small, large in zip(residual.split(size), out.split(size), strict=True):
            _enlarge(small, out=large)
    return maps


def _residual_maps(reduced: Tensor) -> Tensor:
    """Return the maps ``(B, SIDE, SIDE)``, largest value 1, of reduced grey levels."""
    spectrum = torch.fft.fft2(reduced)
    amplitude = spectrum.abs()
    log_amplitude = amplitude.log1p()
    residual = log_amplitude.sub_(filter_planes(log_amplitude, BOX_TAPS))
    # The spectrum with another amplitude and its own phase, which is 0 where there is no amplitude. The mirrored border
    # breaks the symmetry of the spectrum: the inverse is complex, and a real transform is wrong.
    nothing = amplitude == 0
    spectrum, amplitude = spectrum.masked_fill_(nothing, 1), amplitude.masked_fill_(nothing, 1)
    map_ = torch.fft.ifft2(spectrum.mul_(residual.exp_().div_(amplitude))).abs()
    map_ = filter_planes(map_, BLUR_TAPS).square_()
    return map_.div_(map_.amax((1, 2), keepdim=True).clamp_(min=torch.finfo(map_.dtype).tiny))


def _reduced(images: Tensor) -> Tensor:
    """Return the grey levels of ``images``, resized to ``SIDE`` x ``SIDE`` as OpenCV's ``INTER_LINEAR_EXACT`` does.

    Two taps on half-pixel centres, no antialiasing, weights in 256ths, one rounding at the end. All is exact in
    float32: 255 * 256 * 256 < 2**24.
    """
    rows, cols = (_taps(length, SIDE, 256, images.device) for length in images.shape[-2:])
    grey = grey_levels(images.index_select(2, rows.pixels))  # of the rows that are looked at
    planes = rows.interpolate(grey)
    return cols.of_rows(planes.mT.contiguous()).mT.contiguous().add_(0.5).floor_()


def _enlarge(maps: Tensor, out: Tensor) -> None:
    """Write ``(B, H, W)`` maps into ``out``, interpolated linearly on half-pixel centres from smaller ones."""
    rows, cols = (_taps(few, many, None, maps.device) for few, many in zip(maps.shape[1:], out.shape[1:], strict=True))
    rows.of_rows(cols.of_rows(maps.mT.contiguous()).mT.contiguous(), out=out)


class _Taps(NamedTuple):
    """Where linear interpolation looks along an axis: result k lies between ``pixels[k]`` and ``pixels[N + k]``."""

    pixels: Tensor  # int64 (2 * N,)
    weights: Tensor  # float32 (N, 1), of the second of the two

    def of_rows(self, planes: Tensor, out: Tensor | None = None) -> Tensor:
        """Return ``(B, N, W)``, interpolated between rows of ``(B, H, W)``; contiguous rows are copied fast."""
        return self.interpolate(planes.index_select(1, self.pixels), out)

    def interpolate(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Return ``(B, N, W)`` from the rows ``(B, 2 * N, W)`` at ``pixels``."""
        first, second = rows.chunk(2, dim=1)
        return torch.lerp(first, second, self.weights, out=out)


@functools.lru_cache(maxsize=16)
def _taps(length: int, count: int, steps: int | None, device: torch.device) -> _Taps:
    """Return the taps that resize ``length`` pixels to ``count``, on half-pixel centres, weights in ``1 / steps``."""
    position = (torch.arange(count, dtype=torch.float64) + 0.5) * (length / count) - 0.5
    first = position.floor()
    pixels = torch.cat([first, first + 1]).clamp_(0, length - 1).long()
    weights = position - first
    if steps is not None:
        weights = (weights * steps).round_() / steps
    return _Taps(pixels.to(device), weights.float()[:, None].to(device))
