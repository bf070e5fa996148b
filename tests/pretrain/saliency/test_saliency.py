"""Saliency maps against OpenCV, scikit-image and flat truths, on photographs and on pictures made to provoke."""

import numpy as np
import pytest
import torch

import pretrain.saliency.batches as batches
from pretrain.names import SALIENCIES
from pretrain.saliency import (
    background_subtraction,
    fine_grained,
    frequency_tuned,
    make_saliency,
    official,
    spectral_residual,
)

cv2 = pytest.importorskip("cv2")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN = tuple(name for name in SALIENCIES if name != "basnet")  # those that need no file


def photographs() -> list[np.ndarray]:
    """Crops of scikit-image's photographs (they lie in its wheel) as uint8 (H, W, 3) RGB."""
    data = pytest.importorskip("skimage.data", reason="scikit-image has the photographs")
    sizes = ((224, 224), (32, 32), (97, 120), (256, 256))
    return [
        cv2.resize(picture(), size, interpolation=cv2.INTER_AREA)
        for picture in (data.astronaut, data.chelsea, data.coffee, data.rocket)
        for size in sizes
    ]


def made_pictures(count: int = 60, largest: int = 256) -> list[np.ndarray]:
    """Noise, flat pictures, bright noise (OpenCV's sums round there), a rectangle on black; of random sizes."""
    random = np.random.default_rng(0)
    pictures = []
    for number in range(count):
        height, width = random.integers(2, largest + 1, 2)
        picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        kind = number % 4
        if kind == 1:
            picture[:] = random.integers(0, 256)
        elif kind == 2:
            picture = 224 + picture // 8
        elif kind == 3:
            picture[:] = 0
            picture[height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = random.integers(0, 256, 3)
        pictures.append(picture)
    # The largest that OpenCV's float32 sums hold, all white but for noise.
    pictures.append(255 - random.integers(0, 3, (256, 256, 3), dtype=np.uint8))
    return pictures


def to_batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def opencv_map(detector, picture: np.ndarray) -> np.ndarray:
    done, map_ = detector.computeSaliency(np.ascontiguousarray(picture))
    assert done
    return map_


@pytest.mark.parametrize("pictures", [photographs, made_pictures])
def test_fine_grained__same_bytes_as_opencv(pictures):
    detector = cv2.saliency.StaticSaliencyFineGrained_create()
    for picture in pictures():
        expected = opencv_map(detector, picture[..., ::-1])  # OpenCV takes BGR
        found = fine_grained(to_batch(picture))[0].numpy()
        assert (found != expected).sum() == 0, picture.shape


def test_fine_grained__a_chunk_at_a_time_gives_the_same(monkeypatch):
    images = torch.randint(0, 256, (7, 3, 20, 30), dtype=torch.uint8)
    together = fine_grained(images)
    monkeypatch.setitem(batches.CHUNK_PIXELS, "cpu", 2 * 20 * 30)  # 2 + 2 + 2 + 1 pictures
    assert torch.equal(fine_grained(images), together)
    assert torch.equal(together, torch.cat([fine_grained(image[None]) for image in images]))


def test_fine_grained__byte_wraps_as_in_opencv():
    # Pixels between a dark line and a dark block, found by search: bright and dark differences add up to 259 there, a
    # byte of 3, so that the most salient place of the picture gets next to no saliency.
    picture = np.full((128, 128, 3), 255, np.uint8)
    picture[57:58, 71:82] = 21
    picture[113:126, 68:112] = 28
    expected = opencv_map(cv2.saliency.StaticSaliencyFineGrained_create(), picture)
    found = fine_grained(to_batch(picture))[0].numpy()
    assert np.array_equal(found, expected)
    neighbours = np.stack([np.roll(found, shift, axis) for axis in (0, 1) for shift in (-1, 1)])
    assert ((found * 255 < 8) & (neighbours.max(0) * 255 > 200)).any()


def test_fine_grained__single_precision_gives_the_bytes_of_double():
    # OpenCV: trunc(255.0 * float32(sum / largest)), for all sums of six differences of bytes.
    largest = torch.arange(1, 6 * 255 + 1)
    quotient = torch.arange(6 * 255 + 1)[:, None].minimum(largest).float() / largest.float()
    assert torch.equal((quotient * 255).to(torch.uint8), (quotient.double() * 255).to(torch.uint8))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_fine_grained__tiny_pictures(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = fine_grained(to_batch(picture))[0].numpy()
    expected = opencv_map(cv2.saliency.StaticSaliencyFineGrained_create(), picture[..., ::-1])
    assert np.array_equal(found, expected)


def test_fine_grained__above_256_pixels_only_rounding_differs():
    picture = cv2.resize(photographs()[0], (320, 320), interpolation=cv2.INTER_CUBIC)
    expected = opencv_map(cv2.saliency.StaticSaliencyFineGrained_create(), picture[..., ::-1])
    difference = np.abs(fine_grained(to_batch(picture))[0].numpy() - expected) * 255
    assert difference.max() < 1.5
    assert (difference > 0.5).mean() < 1e-3


@pytest.mark.parametrize("pictures", [photographs, made_pictures])
def test_spectral_residual__within_1e4_of_opencv(pictures):
    detector = cv2.saliency.StaticSaliencySpectralResidual_create()
    for number, picture in enumerate(pictures()):
        if pictures is made_pictures and number % 4 == 3:
            continue  # the spectrum of a rectangle has zeros, where the phase is rounding noise in OpenCV too
        expected = opencv_map(detector, picture[..., ::-1])
        found = spectral_residual(to_batch(picture))[0].numpy()
        assert np.abs(found - expected).max() <= 1e-4, picture.shape
        # The same peak, or one that OpenCV's own map has as a tie (two equal rows in a picture 2 pixels high).
        assert expected.flat[found.argmax()] >= expected.max() - 1e-6, picture.shape


@pytest.mark.parametrize("pictures", [photographs, made_pictures])
def test_frequency_tuned__agrees_with_scikit_image(pictures):
    colour = pytest.importorskip("skimage.color")
    binomial = np.array([1, 4, 6, 4, 1]) / 16
    for picture in pictures():
        lab = colour.rgb2lab(picture / 255)
        blurred = cv2.sepFilter2D(lab, cv2.CV_64F, binomial, binomial, borderType=cv2.BORDER_REFLECT_101)
        expected = np.linalg.norm(blurred - lab.mean((0, 1)), axis=-1)
        expected = expected / expected.max() if expected.max() > 1e-3 else np.zeros_like(expected)
        found = frequency_tuned(to_batch(picture))[0].numpy()
        assert np.abs(found - expected).max() <= 1e-4, picture.shape
        assert found.argmax() == expected.argmax(), picture.shape


@pytest.mark.parametrize("pictures", [photographs, made_pictures])
def test_official__same_bytes_as_opencv_fed_with_normalised_floats(pictures):
    detector = cv2.saliency.StaticSaliencyFineGrained_create()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for picture in pictures():
        batch = to_batch(picture)
        normalised = (batch[0].float().div(255) - mean) / std  # torchvision's ToTensor and Normalize
        expected = opencv_map(detector, normalised.permute(1, 2, 0).numpy())
        assert (official(batch)[0].numpy() != expected).sum() == 0, picture.shape


def test_official__has_nothing_to_do_with_the_picture():
    astronaut = photographs()[0]
    right, true = official(to_batch(astronaut))[0], fine_grained(to_batch(astronaut))[0]
    assert abs(torch.corrcoef(torch.stack([right.flatten(), true.flatten()]))[0, 1]) < 0.1


def test_background_subtraction__is_the_votes_of_four_blurs_and_four_thresholds():
    grey = np.random.default_rng(0).integers(0, 256, (40, 64))
    votes = np.zeros(grey.shape)

    def weights(length: int, sigma: float) -> np.ndarray:
        return np.exp(-((np.arange(length)[:, None] - np.arange(length)) ** 2) / (2 * sigma**2))

    for sigma in (1, 2, 4, 8):  # pixels: 1/64 .. 1/8 of the longer side
        rows, cols = weights(40, sigma), weights(64, sigma)
        background = (rows / rows.sum(1, keepdims=True)) @ grey @ (cols / cols.sum(1, keepdims=True)).T
        for threshold in (9.0625, 18.125, 27.1875, 36.25):
            votes += np.abs(grey - background) >= threshold
    smoothed = weights(40, 2) @ votes @ weights(64, 2)
    found = background_subtraction(to_batch(np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)))[0].numpy()
    np.testing.assert_allclose(found, smoothed / smoothed.max(), atol=1e-5)


def test_background_subtraction__finds_the_odd_disc():
    row, col = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    disc = (row - 30) ** 2 + (col - 90) ** 2 < 12**2
    picture = torch.where(disc, 200, 60).to(torch.uint8).expand(1, 3, -1, -1)
    map_ = background_subtraction(picture)[0]
    assert map_.max() == 1
    assert disc.flatten()[map_.argmax()]


@pytest.mark.parametrize("name", [name for name in OWN if name not in ("official", "spectral_residual")])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_flat_picture__has_no_saliency(name, level):
    # The spectral residual of a flat picture is that of its corner of the spectrum; the official map is of mantissas.
    assert make_saliency(name)(torch.full((2, 3, 40, 56), level, dtype=torch.uint8)).abs().max() == 0


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("size", [(2, 2), (7, 33), (64, 48)])
def test_every_detector__range_type_and_picture_by_picture(name, size):
    images = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    untouched = images.clone()
    maps = make_saliency(name)(images)
    assert maps.shape == (3, *size)
    assert maps.dtype == torch.float32
    assert 0 <= maps.min() <= maps.max() <= 1
    assert torch.equal(images, untouched)
    for number in range(3):
        torch.testing.assert_close(make_saliency(name)(images[number : number + 1])[0], maps[number], rtol=0, atol=1e-5)


def test_resolution__is_the_map_of_the_reduced_picture_enlarged():
    small = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8)
    images = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # 2 x 2 blocks whose means are exact
    found = make_saliency("fine_grained", resolution=32)(images)
    expected = torch.nn.functional.interpolate(
        fine_grained(small, length_scale=0.5)[:, None], scale_factor=2.0, mode="bilinear"
    )[:, 0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [(41, 30), (31, 64), (5, 100)])
def test_resolution__sizes_that_the_blocks_do_not_divide(size):
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    seen = []
    maps = make_saliency(lambda pictures: seen.append(pictures.shape) or pictures[:, 0].float(), resolution=20)(images)
    assert maps.shape == (2, *size)
    factor = -(-max(size) // 20)  # the smallest that brings the longer side down to 20
    assert seen == [(2, 3, -(-size[0] // factor), -(-size[1] // factor))]


def test_resolution__small_pictures_are_left_alone():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(make_saliency("fine_grained", resolution=32)(images), fine_grained(images))


def test_make_saliency__takes_a_function():
    images = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    assert torch.equal(make_saliency(lambda pictures: pictures[:, 1] / 255)(images), images[:, 1] / 255)


def test_make_saliency__options_reach_the_detector():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR's
    found = make_saliency("official", mean=mean, std=std)(images)
    assert torch.equal(found, official(images, mean=mean, std=std))
    assert not torch.equal(found, official(images))


GOOD = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("images, message", [
    (GOOD.float(), "8-bit pictures .* got torch.float32"),
    (GOOD[0], "batched input with 4 dims, but got 3"),
    (GOOD[:, :1], r"RGB pictures of shape \(B, 3, H, W\), but got shape \(2, 1, 8, 8\)"),
    (GOOD[:0], r"at least one picture and one pixel, but got shape \(0, 3, 8, 8\)"),
    (GOOD[..., :0], r"at least one picture and one pixel, but got shape \(2, 3, 8, 0\)"),
    (GOOD.numpy(), "images must be a tensor, but got <class 'numpy.ndarray'>"),
])  # fmt: skip
def test_every_detector__refuses_what_is_no_8_bit_rgb_batch(name, images, message):
    with pytest.raises(ValueError, match=message):
        make_saliency(name)(images)


@pytest.mark.parametrize("arguments, message", [
    ({"saliency": "montabone"}, "unknown saliency 'montabone'; known: fine_grained, .*basnet, or a function"),
    ({"saliency": "fine_grained", "resolution": 1}, "resolution must be at least 2 pixels, but got 1"),
    ({"saliency": "fine_grained", "mean": MEAN}, "saliency 'fine_grained' has no option 'mean'; known: none"),
    ({"saliency": "official", "resolution": 112}, "no reduced resolution"),
    ({"saliency": "basnet"}, "needs the option checkpoint"),
    ({"saliency": fine_grained, "mean": MEAN}, r"takes no options, but got \['mean'\]"),
])  # fmt: skip
def test_make_saliency__refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_saliency(**arguments)


@pytest.mark.parametrize("result", [torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8), None])
def test_make_saliency__refuses_what_a_function_returns(result):
    with pytest.raises(ValueError, match=r"must return a floating-point \(2, 8, 8\) tensor, but got"):
        make_saliency(lambda images: result)(GOOD)


def test_fine_grained__refuses_a_length_scale_of_zero():
    with pytest.raises(ValueError, match="length_scale must be greater than 0, but got 0"):
        fine_grained(GOOD, length_scale=0)


def test_official__refuses_two_means():
    with pytest.raises(ValueError, match="three values each"):
        official(GOOD, mean=(0.5, 0.5))
