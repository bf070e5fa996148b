"""Picture files -> RGB pixels, as fast as measured and never different from what Pillow reads.

OpenCV decodes the JPEGs, Pillow everything else and every JPEG that OpenCV refuses or would read in its own way. Both
sit on libjpeg-turbo with the same settings, so their pixels are equal, those of a damaged file too. What they call
unreadable differs, and a walk over the file's markers finds where Pillow has to decide. Measured with
tools/bench_pretrain.py: Pillow's draft mode has little to skip in a picture of 500 x 375 that gives a crop of 224, and
simplejpeg decodes a few percent faster than OpenCV, which is not worth another dependency.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretrain.names import DECODERS
from pretrain.run import pictures
from pretrain.run.pictures import UnreadablePicture

_OPENCV_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_MANY_PIXELS = 1 << 26  # beyond it Pillow decides: it has a limit of its own (179 million)
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; not every libjpeg has the others
_SEGMENTS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, the restart interval, a comment, applications' own
# JFIF, a colour profile (or the list of a file's pictures), Photoshop, Adobe: from which length on nothing is missing
_READ_BY_PILLOW = {0xE0: 16, 0xE2: 16, 0xED: 1 << 16, 0xEE: 14}
_MARKER_AFTER_A_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither a coded 255, a restart nor a fill byte


def read_picture(path: Path | str, decoder: str) -> Tensor | Image.Image:
    """Return the picture in ``path`` as RGB: ``uint8 (3, H, W)`` from "opencv", a PIL picture from "pillow".

    The two kinds go through different resampling code of torchvision's transforms (see the README). The orientation
    that a camera noted is ignored, as in all published ImageNet figures.

    Raises:
        UnreadablePicture: the file is missing, cut short, or no picture.
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}; expected one of {', '.join(DECODERS)}")
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadablePicture(f"picture {path} cannot be read: {error.strerror}", error.strerror) from error
    if decoder == "pillow":
        return pictures.read_picture(path, upright=False, data=data)
    pixels = _decode_opencv(path, data)
    if pixels is None:
        pixels = np.array(pictures.read_picture(path, upright=False, data=data))
    return torch.from_numpy(pixels).permute(2, 0, 1)  # a view, rows of RGB triples: what interpolation is fastest on


def _decode_opencv(path: Path | str, data: bytes) -> np.ndarray | None:
    """Return ``uint8 (H, W, 3)``, or None for what Pillow has to judge."""
    header = _read_jpeg_header(data)
    if header is None or not _ends_as_it_should(data, header):
        return None
    if header.careful:
        with pictures.open_picture(path, data=data):  # raises what Pillow's own reading of the header raises
            pass
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), _OPENCV_FLAGS)
    except cv2.error:
        return None


class _JpegHeader(NamedTuple):
    """``scan`` is where the first scan's coded pixels begin; ``one_scan``: there is no other one.

    ``careful``: it has a segment that libjpeg skips and Pillow reads, so that damage in it stops Pillow alone.
    """

    scan: int
    one_scan: bool
    careful: bool


def _read_jpeg_header(data: bytes) -> _JpegHeader | None:
    """Walk the segments of a JPEG to its first scan; None where there is anything that is not in nearly every file."""
    if data[:2] != b"\xff\xd8":
        return None
    position, frame, careful = 2, None, False
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length, content = int.from_bytes(data[position + 2 : position + 4], "big"), position + 4
        position += 2 + length
        if position > len(data):
            return None
        if marker in _FRAMES:
            frame = data[content : content + 6]
            if length < 11 or frame[0] != 8 or frame[5] not in (1, 3):  # CMYK: OpenCV converts it in its own way
                return None
            height, width = (int.from_bytes(frame[place : place + 2], "big") for place in (1, 3))
            if height * width > _MANY_PIXELS:
                return None
            progressive = marker == 0xC2
        elif marker == 0xDA:
            if frame is None or length < 3:
                return None
            return _JpegHeader(position, not progressive and data[content] == frame[5], careful)
        elif marker not in _SEGMENTS or length < 2:
            return None
        elif marker in _READ_BY_PILLOW:
            usual = length >= _READ_BY_PILLOW[marker] and data[content : content + 4] != b"MPF\0"
            careful = careful or not usual
    return None


def _ends_as_it_should(data: bytes, header: _JpegHeader) -> bool:
    """Return whether the picture is followed by its end marker.

    OpenCV has its pixels by then and does not mind what comes instead, where libjpeg calls it an error, and so Pillow.
    Several scans are read to their end before the first row leaves the decoder; there, both meet the same error.
    """
    if not header.one_scan:  # some versions of OpenCV fill what is missing with grey
        return data.rfind(b"\xff\xd9", header.scan) >= 0
    end = _MARKER_AFTER_A_SCAN.search(data, header.scan)
    return end is not None and end[0] == b"\xff\xd9"
