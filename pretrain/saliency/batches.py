"""What every saliency function shares: the check of its input, grey levels as OpenCV has them, and work in chunks."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Pictures are handled so many pixels at a time. On a CPU eight pictures of 224 x 224 keep the planes of a chunk in the
# cache; a GPU wants fewer, larger kernels.
CHUNK_PIXELS = {"cpu": 8 * 224 * 224, "cuda": 64 * 224 * 224}

# OpenCV's weights of red, green and blue in 15 bits. Products with bytes and their sums are exact in float32.
GREY_WEIGHTS = (9798 / 32768, 19235 / 32768, 3735 / 32768)


def check_pictures(images: Tensor) -> None:
    """Raise ``ValueError`` unless ``images`` is a non-empty 8-bit RGB batch: ``uint8`` of shape ``(B, 3, H, W)``."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images must be a tensor, but got {type(images)} instead.")
    if images.ndim != 4:
        raise ValueError(f"Expected a batched input with 4 dims, but got {images.ndim} dimensions instead.")
    if images.shape[1] != 3:
        raise ValueError(f"Expected RGB pictures of shape (B, 3, H, W), but got shape {tuple(images.shape)} instead.")
    if images.dtype != torch.uint8:
        # Guessing the scale of a float picture is how the published maps came to be unrelated to the pictures.
        raise ValueError(
            f"Expected 8-bit pictures (torch.uint8, before any normalisation), but got {images.dtype} instead."
        )
    if images.numel() == 0:
        raise ValueError(f"Expected at least one picture and one pixel, but got shape {tuple(images.shape)} instead.")


@functools.lru_cache(maxsize=64)
def constant(values: float | tuple[float, ...], device: torch.device) -> Tensor:
    """Return ``values`` as ``float32 ()`` or ``(N,)`` on ``device``: made once, since to copy them to a GPU waits for
    it. Not to be changed.

    Divide by such a tensor where the last bit counts: a GPU divides by a number of Python, and by a tensor without axes
    on the CPU, as if multiplied by the rounded reciprocal.
    """
    return torch.tensor(values, dtype=torch.float32, device=device)


def chunk_size(images: Tensor, working_pixels: int = 0) -> int:
    """Return how many pictures make a chunk, at least one."""
    chunk_pixels = CHUNK_PIXELS.get(images.device.type, CHUNK_PIXELS["cuda"])
    return max(1, chunk_pixels // max(images.shape[-2] * images.shape[-1], working_pixels))


def in_chunks(
    function: Callable[[Tensor], Tensor], images: Tensor, *, working_pixels: int = 0, most: int | None = None
) -> Tensor:
    """Return ``function`` of ``images``, computed a few pictures at a time.

    ``function`` maps ``uint8 (N, 3, H, W)`` to ``float32 (N, H, W)``, each picture by itself. Only the result grows
    with the batch; what ``function`` needs in between is that of one chunk (``CHUNK_PIXELS``, at least one picture).
    ``working_pixels``: the size at which ``function`` works on a picture, where that may be larger than the picture.
    ``most``: how many pictures a chunk may have, where ``function`` needs much memory for each.
    """
    count, _, height, width = images.shape
    size = min(chunk_size(images, working_pixels), most or count)
    if count <= size:
        return function(images)
    maps = torch.empty((count, height, width), dtype=torch.float32, device=images.device)
    for start in range(0, count, size):
        maps[start : start + size] = function(images[start : start + size])
    return maps


def grey_levels(images: Tensor) -> Tensor:
    """Return OpenCV's 8-bit grey levels of ``uint8 (B, 3, H, W)`` RGB pictures: whole ``float32 (B, H, W)`` numbers."""
    red, green, blue = images.float().unbind(1)
    grey = red * GREY_WEIGHTS[0]
    return grey.add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2]).add_(0.5).floor_()


def reflect_pad(planes: Tensor, rows: int, cols: int) -> Tensor:
    """Mirror ``(B, H, W)`` planes at their borders without repeating the border pixel (OpenCV's reflect-101).

    An axis of length 1 has nothing to mirror and is repeated, as OpenCV does.
    """
    _, height, width = planes.shape
    if min(height - 1, rows) < rows or min(width - 1, cols) < cols:
        row = _mirrored(height, rows, planes.device)
        col = _mirrored(width, cols, planes.device)
        return planes[:, row][:, :, col]
    return F.pad(planes[:, None], (cols, cols, rows, rows), mode="reflect")[:, 0]


def filter_planes(planes: Tensor, taps: tuple[float, ...]) -> Tensor:
    """Filter ``(B, H, W)`` planes by an odd number of ``taps`` along both axes, mirrored at their borders."""
    _, height, width = planes.shape
    margin = len(taps) // 2
    padded = reflect_pad(planes, margin, margin)
    rows = padded[:, :height] * taps[0]
    for shift, tap in enumerate(taps[1:], start=1):
        rows.add_(padded[:, shift : shift + height], alpha=tap)
    filtered = rows[..., :width] * taps[0]
    for shift, tap in enumerate(taps[1:], start=1):
        filtered.add_(rows[..., shift : shift + width], alpha=tap)
    return filtered


def _mirrored(length: int, margin: int, device: torch.device) -> Tensor:
    """Indices ``-margin .. length - 1 + margin`` mirrored into ``0 .. length - 1``, as often as it takes."""
    index = torch.arange(-margin, length + margin, device=device)
    if length == 1:
        return torch.zeros_like(index)
    index = index.abs() % (2 * (length - 1))
    return torch.minimum(index, 2 * (length - 1) - index)
