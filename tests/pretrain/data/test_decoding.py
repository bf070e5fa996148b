"""Decoding: the fast decoder reads what Pillow reads, bit for bit, and refuses what Pillow refuses."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.decoding import jpeg_components, read_picture
from pretrain.run.pictures import UnreadablePicture


def picture(height=45, width=60):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(mode="RGB", suffix="JPEG", **options):
    buffer = io.BytesIO()
    picture().convert(mode).save(buffer, suffix, **options)
    return buffer.getvalue()


def rotated():
    """A JPEG whose camera noted that it should be turned; nobody turns ImageNet's."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(exif=exif)


CASES = {
    "4:2:0": encoded(), "4:4:4": encoded(subsampling=0), "4:2:2": encoded(subsampling=1),
    "progressive": encoded(progressive=True), "grey": encoded("L"), "CMYK": encoded("CMYK"),
    "orientation": rotated(), "PNG": encoded(suffix="PNG"), "alpha": encoded("RGBA", "PNG"),
    "palette": encoded("P", "PNG"), "16 bit": encoded("I;16", "PNG"), "WebP": encoded(suffix="WEBP"),
    "trailing zeros": encoded() + bytes(20), "fill bytes": encoded()[:2] + b"\xff\xff" + encoded()[2:],
}  # fmt: skip


def both(tmp_path, data):
    """Return the pixels, or None for a refusal, of the fast decoder and of Pillow."""
    (tmp_path / "picture").write_bytes(data)
    answers = []
    for decoder in ("opencv", "pillow"):
        try:
            answer = read_picture(tmp_path / "picture", decoder)
        except UnreadablePicture:
            answers.append(None)
            continue
        answers.append(answer if decoder == "opencv" else torch.from_numpy(np.array(answer)).permute(2, 0, 1))
    return answers


@pytest.mark.parametrize("kind", CASES)
def test_read_picture__the_same_pixels_from_both_decoders(tmp_path, kind):
    fast, reference = both(tmp_path, CASES[kind])
    assert (fast.shape, fast.dtype) == ((3, 45, 60), torch.uint8)
    assert torch.equal(fast, reference)


@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "PNG"])
def test_read_picture__a_file_cut_anywhere_is_refused_by_both(tmp_path, kind):
    data = CASES[kind]
    for length in range(0, len(data) - 20, max(1, len(data) // 25)):
        fast, reference = both(tmp_path, data[:length])
        assert reference is None or kind == "PNG"  # a PNG whose last rows are there can lack its end
        assert (fast is None) == (reference is None)


def test_read_picture__altered_files_are_a_picture_or_unreadable(tmp_path):
    rng, data = np.random.default_rng(1), CASES["4:2:0"]
    for _ in range(60):
        altered = bytearray(data)
        altered[rng.integers(2, len(data) - 2)] ^= 1 << rng.integers(8)
        both(tmp_path, bytes(altered))


@pytest.mark.parametrize("content, reason", [
    (None, "No such file or directory"), (b"", "not a picture of a known format"), (b"<html>", "not a picture"),
    (CASES["4:2:0"][:-100], "image file is truncated"),
], ids=["missing", "empty", "web page", "truncated"])  # fmt: skip
def test_read_picture__says_why(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadablePicture, match=reason):
        read_picture(tmp_path / "a.jpg", "opencv")


def test_read_picture__refuses_an_unknown_decoder(tmp_path):
    with pytest.raises(ValueError, match="unknown decoder 'turbo'; expected one of opencv, pillow"):
        read_picture(tmp_path / "a.jpg", "turbo")


@pytest.mark.parametrize("kind, components", [
    ("4:2:0", 3), ("progressive", 3), ("grey", 1), ("CMYK", 4), ("PNG", None),
])  # fmt: skip
def test_jpeg_components__reads_the_frame_header(kind, components):
    assert jpeg_components(CASES[kind]) == components


def test_jpeg_components__none_in_a_cut_header():
    assert all(jpeg_components(CASES["4:2:0"][:length]) is None for length in range(20))
