"""Resampled AP against a dataset in which the drawn pictures really stand as often as they were drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detection.datasets.coco import load_coco
from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation import coco
from detection.evaluation.coco import coco_outcomes
from detection.evaluation.intervals import confidence
from detection.evaluation.matching import ClassOutcomes, match_detections
from detection.evaluation.resampling import draw_halves, resampled_ap, resampled_coco_ap, summarise_resamples
from detection.evaluation.results import load_results
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


@pytest.mark.parametrize("seed", range(6))
def test_resampled_coco_ap__equals_pycocotools_on_the_pictures_of_a_half(coco_files, tmp_path, seed):
    """Crowds, equal scores, areas out of range, more than 100 detections: what ``coco_files.make`` has."""
    content, results = coco_files.make(10 * seed)
    coco_files.write(tmp_path, content, results)
    dataset = load_coco("gt.json", root=tmp_path, check_pictures=False)
    detections = load_results(dataset, tmp_path / "results.json")
    halves = draw_halves(len(dataset.pictures), num_resamples=8, seed=seed)
    summary = summarise_resamples(resampled_coco_ap(coco_outcomes(dataset, detections), halves))
    for column in range(8):
        kept = {picture.number for picture, drawn in zip(dataset.pictures, halves[:, column], strict=True) if drawn}
        part = content | {
            "images": [image for image in content["images"] if image["id"] in kept],
            "annotations": [item for item in content["annotations"] if item["image_id"] in kept],
        }
        found = [entry for entry in results if entry["image_id"] in kept]
        if found:  # of none pycocotools has no numbers
            expected = coco_files.numbers(part, found)
            for name, samples in summary.items():
                ap = np.nan if expected[name] is None else expected[name]
                assert samples[0, column] == pytest.approx(ap, abs=1e-9, nan_ok=True), (column, name)


def test_resampled_coco_ap__of_classes_and_without_hotcoco(coco_files, tmp_path, monkeypatch):
    content, results = coco_files.make(3)
    coco_files.write(tmp_path, content, results)
    dataset = load_coco("gt.json", root=tmp_path, check_pictures=False)
    detections = load_results(dataset, tmp_path / "results.json")
    outcomes = coco_outcomes(dataset, detections)
    once = np.ones((len(dataset.pictures), 1), np.uint8)
    by_class = 100 * np.nanmean(resampled_coco_ap(outcomes, once)[0, :, :, 0], axis=0)
    expected = coco_files.numbers(content, results)["per_class"]
    assert by_class.tolist() == pytest.approx(
        [np.nan if expected[name] is None else expected[name] for name in dataset.classes], nan_ok=True
    )
    monkeypatch.setattr(coco, "coco_evaluator", lambda: coco.Evaluator("pycocotools", coco._prepare_pycocotools))
    for ours, theirs in zip(outcomes, coco_outcomes(dataset, detections), strict=True):
        for field in ClassOutcomes._fields:
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
