"""Resampled AP against a dataset in which the drawn pictures really stand as often as they were drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.intervals import confidence
from detection.evaluation.matching import match_detections
from detection.evaluation.resampling import draw_halves, resampled_ap, summarise_resamples
from detection.evaluation.voc import VOC_METRICS, PictureDetections, evaluate_voc

CLASSES = ("dog", "cat", "cow")


def random_case(seed: int, num_pictures: int = 9):
    rng = np.random.default_rng(seed)
    pictures, detections = [], {}
    for index in range(num_pictures):
        corners = rng.integers(1, 80, (rng.integers(0, 5), 2))
        boxes = np.concatenate([corners, corners + rng.integers(5, 40, corners.shape)], axis=1)
        labels = rng.integers(0, 2, len(boxes))  # no cow anywhere
        objects = tuple(
            AnnotatedObject(CLASSES[label], tuple(map(float, box)), bool(rng.random() < 0.2))
            for label, box in zip(labels, boxes, strict=True)
        )
        pictures.append(AnnotatedPicture(f"{index:03d}", Path("x.jpg"), Path("x.xml"), 150, 150, objects))
        found = np.repeat(boxes, 2, axis=0) - [1, 1, 0, 0] + rng.normal(0, 4, (2 * len(boxes), 4))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
        detections[f"{index:03d}"] = PictureDetections(found, rng.random(len(found)), rng.integers(0, 3, len(found)))
    return DetectionDataset("made", Path("."), "made", CLASSES, tuple(pictures)), detections


def repeated(dataset, detections, counts):
    """The same with picture i standing ``counts[i]`` times, under ids of its own that keep the order."""
    pictures, found = [], {}
    for picture, count in zip(dataset.pictures, counts.tolist(), strict=True):
        for copy in range(count):
            image_id = f"{picture.image_id}-{copy}"
            pictures.append(AnnotatedPicture(image_id, picture.path, picture.annotation, 150, 150, picture.objects))
            found[image_id] = detections[picture.image_id]
    return DetectionDataset("made", Path("."), "made", CLASSES, tuple(pictures)), found


@pytest.mark.parametrize("rules", ["standard", "devkit"])
@pytest.mark.parametrize("seed", range(3))
def test_resampled_ap__equals_evaluation_with_repeated_pictures(seed, rules):
    dataset, detections = random_case(seed)
    counts = np.random.default_rng(seed).multinomial(9, [1 / 9] * 9, 20).T.astype(np.uint8)  # repeated and left out
    counts[:, 10:] = draw_halves(9, num_resamples=10, seed=seed)
    summary = summarise_resamples(resampled_ap(match_detections(dataset, detections, rules=rules), counts))
    for column in range(20):
        expected = evaluate_voc(*repeated(dataset, detections, counts[:, column]), rules=rules)
        for index, metric in enumerate(VOC_METRICS):
            for name, samples in summary.items():
                assert samples[index, column] == pytest.approx(expected[metric][name], abs=1e-9)


def test_resampled_ap__every_picture_once_is_the_evaluation():
    dataset, detections = random_case(7)
    once = np.ones((len(dataset.pictures), 1), np.uint8)
    table = resampled_ap(match_detections(dataset, detections), once)
    per_class = evaluate_voc(dataset, detections)["voc10"]["per_class"]
    assert 100 * table[1, 0, :2, 0] == pytest.approx([per_class["dog"], per_class["cat"]])
    assert np.isnan(table[:, :, 2]).all()


@pytest.mark.parametrize("num_pictures, sizes", [(50, {25}), (51, {25, 26}), (1, {0, 1}), (0, {0})])
def test_draw_halves__without_replacement(num_pictures, sizes):
    halves = draw_halves(num_pictures, num_resamples=30, seed=1)
    assert (halves.shape, halves.dtype) == ((num_pictures, 30), np.uint8)
    assert set(halves.ravel()) <= {0, 1}
    assert set(halves.sum(axis=0, dtype=int)) == sizes
    np.testing.assert_array_equal(halves, draw_halves(num_pictures, num_resamples=30, seed=1))


def test_draw_halves__every_picture_is_as_likely():
    halves = draw_halves(40, num_resamples=2000)
    assert np.abs(halves.mean(axis=1) - 0.5).max() < 4.5 * 0.5 / 2000**0.5
    assert len(np.unique(halves, axis=1).T) == 2000


def test_resampled_ap__at_some_thresholds():
    dataset, detections = random_case(0)
    matches, halves = match_detections(dataset, detections), draw_halves(9, num_resamples=7)
    some = resampled_ap(matches, halves, thresholds=(75, 50))
    np.testing.assert_array_equal(some, resampled_ap(matches, halves)[:, [5, 0]])


def test_confidence__contains_the_estimate_and_narrows_with_more_pictures():
    widths = []
    for size in (40, 400):
        dataset, detections = random_case(0, size)
        low, high = confidence(dataset, match_detections(dataset, detections), num_resamples=200)["voc10"]["AP50"]
        assert low < evaluate_voc(dataset, detections)["voc10"]["AP50"] < high
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 10**0.5, rel=0.35)
