"""Picture files: opened, measured and read by one set of rules (depth, orientation, what is refused).

Pretraining, detection, reports and contact sheets all read them here, and so see the same pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # the first that exists is taken
TURN = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadablePicture(ValueError):
    """A file that no decoder can read. The message names it; ``reason`` is what is wrong, without the path."""

    def __init__(self, message: str, reason: str = ""):  # PyTorch raises it anew with the message alone
        super().__init__(message)
        self.reason = reason or message


def exif_orientation(picture: Image.Image) -> int:
    """Return how an opened picture is to be turned for display: 1 (as it is) to 8, of which 5 to 8 swap the sides."""
    try:
        return picture.getexif().get(0x0112, 1)
    except Exception:  # broken metadata raises errors of many kinds, and says nothing about the pixels
        return 1


def displayed_size(path: Path | str) -> tuple[int, int]:
    """Return the picture's width and height after its EXIF orientation is applied, from the file's header.

    Raises:
        FileNotFoundError, UnreadablePicture: as ``open_picture``.
    """
    with open_picture(path) as picture:
        sideways = exif_orientation(picture) in (5, 6, 7, 8)
        return (picture.height, picture.width) if sideways else (picture.width, picture.height)


@contextmanager
def open_picture(path: Path | str, *, data: bytes | None = None) -> Iterator[Image.Image]:
    """Open a picture without decoding it; what goes wrong with it inside the block is one error that names the file.

    ``data`` is what the file holds, where that has been read already.

    Raises:
        FileNotFoundError: no such file.
        UnreadablePicture: no picture, a damaged one, or one of more pixels (179 million) than Pillow considers safe.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from half of that on: big, but wanted
            with Image.open(path if data is None else io.BytesIO(data)) as picture:
                yield picture
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # decoders of other people's raise errors of every kind
        known = not isinstance(error, UnidentifiedImageError)
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__)
        reason = reason if known else "not a picture of a known format"
        raise UnreadablePicture(f"picture {path} cannot be read: {reason}", reason) from error


def read_picture(path: Path | str, *, upright: bool = True, data: bytes | None = None) -> Image.Image:
    """Return the picture in RGB of 8 bits, ``upright`` (its EXIF orientation applied) or as the camera held it.

    Raises:
        FileNotFoundError, UnreadablePicture: as ``open_picture``; or pixels that are neither 8 nor 16 bits.
    """
    with open_picture(path, data=data) as picture:
        turn = TURN.get(exif_orientation(picture)) if upright else None
        turned = picture if turn is None else picture.transpose(turn)
        if turned.mode.startswith("I"):
            return _from_16_bits(turned)
        if turned.mode == "F":
            raise ValueError("floating-point pixels have no fixed range of brightness; save it with 8 or 16 bits")
        return turned.convert("RGB")


def _from_16_bits(picture: Image.Image) -> Image.Image:
    """Return a grey picture of 16 bits in RGB of 8: Pillow (and so Detectron2) would turn all above 255 white."""
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"its pixels are {values.min()} to {values.max()}, but 8 or 16 bits are 0 to 65535")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
