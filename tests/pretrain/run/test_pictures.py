"""One reader of picture files: depth, orientation, and what it calls unreadable."""

import contextlib
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from pretrain.data import decoding
from pretrain.run.pictures import (
    UnreadablePicture,
    displayed_size,
    exif_orientation,
    open_picture,
    pictures_in,
    read_picture,
    sixteen_bit_fill,
)

LIT_AT_LEFT = np.zeros((20, 30, 3), np.uint8)
LIT_AT_LEFT[:, :10] = 200
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DDS", "JPEG2000", "TGA", "PPM", "ICO")


def save_oriented(path, orientation, suffix, kind=3):
    """Write LIT_AT_LEFT with an EXIF orientation of TIFF's type ``kind``: 2 text, 3 of 16 bits, 4 of 32 bits."""
    exif = Image.Exif()
    exif[0x0112] = 1
    content = exif.tobytes()
    entry = bytes([1, 0x12, 0, kind]) if b"MM" in content else bytes([0x12, 1, kind, 0])
    order = "big" if b"MM" in content else "little"
    old = bytes([1, 0x12, 0, 3]) if order == "big" else bytes([0x12, 1, 3, 0])
    value = orientation if isinstance(orientation, bytes) else orientation.to_bytes(2 if kind == 3 else 4, order)
    place = content.index(old)
    content = content[:place] + entry + (1).to_bytes(4, order) + value.ljust(4, b"\0") + content[place + 12 :]
    Image.fromarray(LIT_AT_LEFT).save(path, suffix, exif=content, **({"quality": 95} if suffix == "JPEG" else {}))


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "TIFF grey", "TIFF 16 bits"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_picture__upright_or_as_the_camera_held_it(tmp_path, suffix, orientation):
    """Where the lit side lies after turning, from the table of the EXIF standard: what the 0th column shows."""
    path = tmp_path / "a"
    if suffix.startswith("TIFF"):
        grey = LIT_AT_LEFT[..., 0]
        pixels = {"TIFF": LIT_AT_LEFT, "TIFF grey": grey, "TIFF 16 bits": grey.astype(np.uint16) * 257}[suffix]
        Image.fromarray(pixels).save(path, "TIFF", tiffinfo={0x0112: orientation})
    else:
        save_oriented(path, orientation, suffix)
    sideways = orientation >= 5
    assert displayed_size(path) == ((20, 30) if sideways else (30, 20))
    upright = np.asarray(read_picture(path))[..., 0] > 100
    edges = [upright[:, 0].all(), upright[:, -1].all(), upright[0].all(), upright[-1].all()]
    side = {1: 0, 2: 1, 3: 1, 4: 0, 5: 2, 6: 2, 7: 3, 8: 3}[orientation]  # left, right, top, bottom
    assert [place for place, lit in enumerate(edges) if lit] == [side]
    held = np.asarray(read_picture(path, upright=False))
    assert np.array_equal(held[..., 0] > 100, LIT_AT_LEFT[..., 0] > 100)


@pytest.mark.parametrize("orientation, kind", [(0, 3), (9, 3), (65535, 3), (65537, 4), (b"6\0", 2)])
def test_exif_orientation__what_is_none_means_no_turn(tmp_path, orientation, kind):
    save_oriented(tmp_path / "a.jpg", orientation, "JPEG", kind)
    with open_picture(tmp_path / "a.jpg") as picture:
        assert picture.getexif().get(0x0112) not in range(1, 9)
        assert exif_orientation(picture) == 1
    assert displayed_size(tmp_path / "a.jpg") == read_picture(tmp_path / "a.jpg").size == (30, 20)


@pytest.mark.parametrize("largest, bits", [
    (0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14), (16384, 16), (65535, 16),
])  # fmt: skip
@pytest.mark.parametrize("channels, suffix", [(1, ".png"), (3, ".png"), (4, ".png"), (1, ".tif"), (3, ".tif")])
def test_read_picture__sixteen_bits_by_what_they_hold(tmp_path, channels, suffix, largest, bits):
    colours = min(channels, 3)
    values = np.full((2, 3, channels), 65535 if channels == 4 else 0, np.uint16)  # full opacity, and nothing else
    values[..., :colours] = np.linspace(0, largest, 6 * colours).reshape(2, 3, colours)
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), values[..., 0] if channels == 1 else values)  # in OpenCV's order, BGR(A)
    rgb = values.repeat(3, axis=2) if channels == 1 else values[..., 2::-1]
    assert np.array_equal(np.asarray(read_picture(path)), rgb >> (bits - 8))
    assert sixteen_bit_fill(path) == bits


def test_read_picture__sixteen_bits_are_the_same_for_every_reader(tmp_path):
    values = np.arange(0, 4000, 10, dtype=np.uint16).reshape(20, 20)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    expected = np.repeat((values >> 4).astype(np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png")), expected)
    fast = decoding.read_picture(tmp_path / "a.png", "opencv").permute(1, 2, 0).numpy()
    assert np.array_equal(fast, expected)
    assert np.array_equal(np.asarray(decoding.read_picture(tmp_path / "a.png", "pillow")), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_sixteen_bit_fill__none_of_eight_bits(tmp_path, mode):
    Image.fromarray(LIT_AT_LEFT).convert(mode).save(tmp_path / "a.png")
    assert sixteen_bit_fill(tmp_path / "a.png") is None


def test_read_picture__refuses_numbers_without_range(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "wide.tif")
    Image.fromarray(np.full((4, 4), -1, np.int32)).save(tmp_path / "below.tif")
    with pytest.raises(UnreadablePicture, match=r"float\.tif cannot be read: floating-point pixels have no fixed"):
        read_picture(tmp_path / "float.tif")
    with pytest.raises(UnreadablePicture, match=r"wide\.tif cannot be read: its pixels are 70000 to 70000"):
        read_picture(tmp_path / "wide.tif")
    with pytest.raises(UnreadablePicture, match=r"below\.tif cannot be read: its pixels are -1 to -1"):
        read_picture(tmp_path / "below.tif")


@pytest.mark.parametrize("raised", [RuntimeError("a\n  b"), MemoryError(), RecursionError("deep"), StopIteration()])
def test_open_picture__whatever_a_decoder_raises_names_the_file(tmp_path, raised):
    Image.fromarray(LIT_AT_LEFT).save(tmp_path / "a.png")
    text = r"a\.png cannot be read: (a b|MemoryError|deep|StopIteration)$"
    with pytest.raises(UnreadablePicture, match=text), open_picture(tmp_path / "a.png"):
        raise raised


def test_open_picture__a_file_that_a_decoder_misses_is_no_missing_picture(tmp_path):
    Image.fromarray(LIT_AT_LEFT).save(tmp_path / "a.png")
    with pytest.raises(UnreadablePicture, match=r"a\.png cannot be read: no gs"), open_picture(tmp_path / "a.png"):
        raise FileNotFoundError("no gs")  # as an EPS does without Ghostscript
    with pytest.raises(FileNotFoundError, match="No such file"), open_picture(tmp_path / "b.png"):
        pass


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of metadata that is damaged too
@pytest.mark.parametrize("suffix", FORMATS)
def test_read_picture__damaged_files_are_a_picture_or_unreadable(tmp_path, suffix):
    rng, buffer = np.random.default_rng(FORMATS.index(suffix)), io.BytesIO()
    noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((32, 32)).save(buffer, suffix)
    whole, path = buffer.getvalue(), tmp_path / "a"
    for number in range(20):
        content = bytearray(whole[: rng.integers(1, len(whole))] if number % 2 else whole)
        for place in rng.integers(0, len(content), 1 + number // 4):
            content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        for read in (read_picture, lambda file: decoding.read_picture(file, "opencv")):
            with contextlib.suppress(UnreadablePicture):
                read(path)


def test_pictures_in__visible_files_by_name(tmp_path):
    for name in ("b.PNG", "a.jpg", "._a.jpg", ".c.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "more").mkdir()
    assert [file.name for file in pictures_in(tmp_path)] == ["a.jpg", "b.PNG"]
    with pytest.raises(ValueError, match=r"folder .*more has no picture \(\.jpg, "):
        pictures_in(tmp_path / "more")
