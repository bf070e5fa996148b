"""Decoding: the fast decoder reads what Pillow reads, bit for bit, and refuses what Pillow refuses."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.decoding import read_picture
from pretrain.run import pictures
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


def intact(rng):
    """A JPEG as some encoder writes it: its size, its settings and what stands in its header are drawn."""
    width, height = (int(side) for side in rng.integers(16, 300, 2))
    small = rng.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    quality, progressive, optimize = int(rng.integers(30, 99)), bool(rng.random() < 0.3), bool(rng.random() < 0.5)
    if rng.random() < 0.25:
        parameters = {
            cv2.IMWRITE_JPEG_QUALITY: quality, cv2.IMWRITE_JPEG_PROGRESSIVE: int(progressive),
            cv2.IMWRITE_JPEG_OPTIMIZE: int(optimize), cv2.IMWRITE_JPEG_RST_INTERVAL: int(rng.integers(20)),
        }  # fmt: skip
        return cv2.imencode(".jpg", np.array(image), [part for pair in parameters.items() for part in pair])[
            1
        ].tobytes()
    options = {"quality": quality, "progressive": progressive, "optimize": optimize}
    if rng.random() < 0.15:
        image = image.convert("L")
    else:
        options["subsampling"] = int(rng.integers(3))
    if rng.random() < 0.3:
        options[("restart_marker_rows", "restart_marker_blocks")[rng.integers(2)]] = int(rng.integers(1, 9))
    if rng.random() < 0.3:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = int(rng.integers(1, 9))
    if rng.random() < 0.2:
        options |= {"comment": b"a comment", "icc_profile": rng.bytes(3000)}
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    content = buffer.getvalue()
    if rng.random() < 0.2:
        block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\x04abcd"
        content = content[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block + content[2:]
    return content + rng.bytes(100) * bool(rng.random() < 0.05)


def damaged(rng, content):
    """Return ``content`` cut, with bits flipped (anywhere, or in the header), or bytes replaced, lost or blanked."""
    content, kind = bytearray(content), rng.integers(6)
    place, length = rng.integers(1, len(content)), rng.integers(1, 300)
    if kind == 0:
        del content[place:]
    elif kind == 1:
        del content[place : place + length // 5]
    elif kind == 2:
        content[place : place + length] = bytes(len(content[place : place + length]))
    else:
        end = min(700, len(content)) if kind == 3 else len(content)
        for place in rng.integers(0, end, rng.integers(1, 4 if kind < 5 else 40)):
            content[place] ^= 1 << rng.integers(8) if kind < 5 else rng.integers(1, 256)
    return bytes(content)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_read_picture__both_decoders_call_the_same_damage_unreadable(tmp_path, count):
    rng, readable = np.random.default_rng(5), 0
    for number in range(count):
        fast, reference = both(tmp_path, damaged(rng, intact(rng)))
        assert (fast is None) == (reference is None), number
        if reference is not None:
            assert torch.equal(fast, reference), number
            readable += 1
    assert readable >= 0.3 * count


def test_read_picture__intact_files_take_the_fast_path(tmp_path, monkeypatch):
    handed = []
    monkeypatch.setattr(pictures, "read_picture", lambda *_args, **_options: handed.append(1) or picture())
    rng = np.random.default_rng(4)
    for _ in range(100):
        (tmp_path / "a.jpg").write_bytes(intact(rng))
        read_picture(tmp_path / "a.jpg", "opencv")
    assert len(handed) <= 2


@pytest.mark.parametrize(
    "after", [b"\xff\xc4\x00\x03\x00", b"\xff\x02", b"\xff\xd8"], ids=["table", "unknown", "start"]
)
def test_read_picture__an_error_behind_the_last_row_counts_too(tmp_path, after):
    """All pixels are there by then, and so OpenCV alone returns them."""
    whole = CASES["4:4:4"]
    assert cv2.imdecode(np.frombuffer(whole[:-2] + after + whole[-2:], np.uint8), cv2.IMREAD_COLOR) is not None
    assert both(tmp_path, whole[:-2] + after + whole[-2:]) == [None, None]


def test_read_picture__a_header_that_only_pillow_reads(tmp_path):
    block = b"Photoshop 3.0\x008BIM\x04\x04"  # and then nothing, where Pillow looks for a name
    for marker, content in ((0xED, block), (0xEE, b"Adobe"), (0xE0, b"JFIF\0")):
        segment = bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
        assert both(tmp_path, CASES["4:2:0"][:2] + segment + CASES["4:2:0"][2:]) == [None, None]


def test_read_picture__a_header_cut_or_altered_anywhere(tmp_path):
    data = CASES["4:2:0"]
    for place in range(2, data.index(b"\xff\xda") + 14, 3):
        for content in (data[:place], data[:place] + b"\xff\xc0\x00\x11", data[:place] + b"\xff" + data[place + 1 :]):
            fast, reference = both(tmp_path, content)
            assert (fast is None) == (reference is None), place
