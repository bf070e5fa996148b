"""Picture files -> RGB pixels, as fast as measured and never different from what Pillow reads.

OpenCV decodes the JPEGs, Pillow everything else and every JPEG that OpenCV refuses or would read in its own way. Both
sit on libjpeg-turbo with the same settings, so their pixels are equal. Measured with tools/bench_pretrain.py: Pillow's
draft mode has little to skip in a picture of 500 x 375 that gives a crop of 224, and simplejpeg decodes a few percent
faster than OpenCV, which is not worth another dependency.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretrain.names import DECODERS
from pretrain.run import pictures
from pretrain.run.pictures import UnreadablePicture

_OPENCV_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


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
    pixels = _decode_opencv(data)
    if pixels is None:
        pixels = np.array(pictures.read_picture(path, upright=False, data=data))
    return torch.from_numpy(pixels).permute(2, 0, 1)  # a view, rows of RGB triples: what interpolation is fastest on


def _decode_opencv(data: bytes) -> np.ndarray | None:
    """Return ``uint8 (H, W, 3)``, or None for what Pillow has to judge."""
    if jpeg_components(data) not in (1, 3):  # no JPEG, or CMYK, which OpenCV converts in its own way
        return None
    if data.rfind(b"\xff\xd9", -64) < 0:  # no end marker: some versions of OpenCV fill what is missing with grey
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), _OPENCV_FLAGS)
    except cv2.error:  # more pixels than OpenCV's limit
        return None


def jpeg_components(data: bytes) -> int | None:
    """Return the number of colour components that a JPEG's frame header declares, None where there is no header."""
    if data[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame, not one of its tables
            return data[position + 9]
        if marker == 0xFF:  # a fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None
