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
# Folders that tools and file systems make for themselves, besides those whose names start with a dot.
TOOL_FOLDERS = (
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
)
SIXTEEN_BIT_FILLS = (8, 10, 12, 14, 16)  # bits that a file of 16 is taken to hold
COLOUR_OF_16_BITS = (";16B", ";16L", ";16N")  # in Pillow's names of how a file holds its pixels
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
TURN = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED_BACK = {6: 8, 8: 6}  # the orientation whose turn undoes another's; the rest undo themselves


class UnreadablePicture(ValueError):
    """A file that no decoder can read. The message names it; ``reason`` is what is wrong, without the path."""

    def __init__(self, message: str, reason: str = ""):  # PyTorch raises it anew with the message alone
        super().__init__(message)
        self.reason = reason or message


def is_no_data(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or made by a tool for itself: ``._a.jpg``, ``@eaDir``."""
    return name.startswith(".") or name in TOOL_FOLDERS


def pictures_in(folder: Path | str) -> list[Path]:
    """Return the picture files that lie in ``folder`` itself, by name; hidden ones are left out.

    Raises:
        ValueError: there is none. OSError: the folder cannot be read.
    """
    files = sorted(Path(folder).iterdir())
    files = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES and not is_no_data(file.name)]
    if not files:
        raise ValueError(f"folder {folder} has no picture ({', '.join(PICTURE_SUFFIXES)})")
    return files


def exif_orientation(picture: Image.Image) -> int:
    """Return how an opened picture is to be turned for display: 1 (as it is) to 8, of which 5 to 8 swap the sides.

    What is not one of these numbers says nothing, and is 1.
    """
    try:
        orientation = picture.getexif().get(0x0112, 1)
    except Exception:  # broken metadata raises errors of many kinds, and says nothing about the pixels
        return 1
    return orientation if type(orientation) is int and 1 <= orientation <= 8 else 1


def displayed_size(path: Path | str) -> tuple[int, int]:
    """Return the picture's width and height after its EXIF orientation is applied, from the file's header.

    Raises:
        FileNotFoundError, UnreadablePicture: as ``open_picture``.
    """
    with open_picture(path) as picture:
        size = picture.size
        if picture.format == "TIFF":  # of which some versions of Pillow give the size as displayed
            size = (picture.tag_v2[TIFF_WIDTH], picture.tag_v2[TIFF_HEIGHT])
        return size[::-1] if exif_orientation(picture) in (5, 6, 7, 8) else size


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
            # A file and not its path, of which Pillow would map pixels into memory: a rotated TIFF wrongly.
            with open(path, "rb") if data is None else io.BytesIO(data) as file, Image.open(file) as picture:
                yield picture
    except Exception as error:  # decoders of other people's raise errors of every kind
        if isinstance(error, FileNotFoundError) and data is None and not Path(path).exists():
            raise
        known = not isinstance(error, UnidentifiedImageError)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = " ".join(reason.split()) if known else "not a picture of a known format"
        raise UnreadablePicture(f"picture {path} cannot be read: {reason}", reason) from error


def read_picture(path: Path | str, *, upright: bool = True, data: bytes | None = None) -> Image.Image:
    """Return the picture in RGB of 8 bits, ``upright`` (its EXIF orientation applied) or as the camera held it.

    A file of 16 bits is shifted to 8 by what it holds: by the smallest of 8, 10, 12, 14 and 16 bits that its largest
    value fits into. Cameras and microscopes of 12 bits write such files; the upper byte of theirs is nearly black.

    Raises:
        FileNotFoundError, UnreadablePicture: as ``open_picture``; or pixels that are neither 8 nor 16 bits.
    """
    with open_picture(path, data=data) as picture:
        deep = _has_sixteen_bits(picture)  # asked first: looking for the orientation of a PNG decodes it
        turns_itself = picture.format == "TIFF"  # when Pillow decodes it
        noted = exif_orientation(picture) if upright or turns_itself else 1
        rgb = _shifted(_sixteen_bit_values(picture, path, data)) if deep else picture.convert("RGB")
        left = exif_orientation(picture) if turns_itself else noted
        if not upright:
            left = 1 if left == noted else TURNED_BACK.get(noted, noted)
        return rgb if left == 1 else rgb.transpose(TURN[left])


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture that somebody has opened, or made, as ``read_picture`` returns its file: upright, RGB, 8 bits.

    Raises:
        ValueError: floating-point pixels, or colours of 16 bits, of which Pillow itself keeps the upper byte.
        OSError: its file is damaged.
    """
    deep = _has_sixteen_bits(picture)
    if deep and not picture.mode.startswith("I"):
        raise ValueError("it has colours of 16 bits, which only its file tells whole; give the path instead")
    rgb = _shifted(_sixteen_bit_values(picture, "", None)) if deep else picture.convert("RGB")
    orientation = exif_orientation(picture)  # asked last: a TIFF is turned where it is decoded
    return rgb if orientation == 1 else rgb.transpose(TURN[orientation])


def sixteen_bit_fill(path: Path | str) -> int | None:
    """Return how many bits ``read_picture`` takes the values of a file of 16 bits to have; None for all other files.

    Raises:
        FileNotFoundError, UnreadablePicture: as ``read_picture``.
    """
    with open_picture(path) as picture:
        return _filled_bits(_sixteen_bit_values(picture, path, None)) if _has_sixteen_bits(picture) else None


def _has_sixteen_bits(picture: Image.Image) -> bool:
    """Return whether a picture that is opened and not decoded, or made in memory, has 16 bits a channel.

    Raises:
        ValueError: its pixels are floating-point numbers.
    """
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no fixed range of brightness; save it with 8 or 16 bits")
    tiles = map(str, getattr(picture, "tile", ()))  # one made in memory has none
    return picture.mode.startswith("I") or any(kind in tile for tile in tiles for kind in COLOUR_OF_16_BITS)


def _shifted(values: np.ndarray) -> Image.Image:
    """Return values of 16 bits as RGB of 8."""
    return Image.fromarray((values >> (_filled_bits(values) - 8)).astype(np.uint8)).convert("RGB")


def _filled_bits(values: np.ndarray) -> int:
    return next(bits for bits in SIXTEEN_BIT_FILLS if values.max() < 1 << bits)


def _sixteen_bit_values(picture: Image.Image, path: Path | str, data: bytes | None) -> np.ndarray:
    """Return the values of a picture of 16 bits, ``(H, W)`` or RGB ``(H, W, 3)``, as stored.

    Raises:
        ValueError: values that are no 16 bits; OSError and others as Pillow raises them.
    """
    if picture.mode.startswith("I"):  # of which Pillow (and so Detectron2) would turn all above 255 white
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"its pixels are {values.min()} to {values.max()}, but 8 or 16 bits are 0 to 65535")
        return values
    upper = np.asarray(picture.convert("RGB"))  # Pillow has no 16 bits for colour, and keeps the upper byte alone
    if upper.max() >= 1 << 6:  # more than 14 bits: that byte is all that is wanted
        return upper.astype(np.uint16) << 8
    return _colour_of_sixteen_bits(path, data, upper)


def _colour_of_sixteen_bits(path: Path | str, data: bytes | None, upper: np.ndarray) -> np.ndarray:
    import cv2  # only here, and not at the top, because tools import this module before they parse

    content = np.frombuffer(Path(path).read_bytes() if data is None else data, np.uint8)
    values = cv2.imdecode(content, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if values is None or values.shape != upper.shape or not np.array_equal(values[..., ::-1] >> 8, upper):
        raise ValueError("its 16 bits are empty at the top and of an unusual kind; save it with 8 bits")
    return values[..., ::-1]
