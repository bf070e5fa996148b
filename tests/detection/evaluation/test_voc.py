"""VOC AP against cases worked by hand, a slow oracle written from the rules, and Detectron2's evaluator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.evaluation.average_precision import area_ap, eleven_point_ap, precision_recall
from detection.evaluation.detection_files import read_detections
from detection.evaluation.voc import IOU_PERCENT, PictureDetections, evaluate_voc

BOX = (1.0, 1.0, 100.0, 100.0)  # 100 x 100 pixels, as in the XML
HALF = (1.0, 1.0, 50.0, 100.0)  # IoU with BOX is exactly 1/2
NEAR = (1.0, 1.0, 60.0, 100.0)  # 6/10
TINY = (1.0, 1.0, 4.0, 4.0)
FAR = (301.0, 301.0, 320.0, 320.0)


def make_dataset(*pictures: list[tuple], classes=("dog",)) -> DetectionDataset:
    """A dataset whose pictures "0", "1", ... hold objects (box, difficult=False, name=classes[0])."""
    made = []
    for index, objects in enumerate(pictures):
        items = [_complete(item, classes) for item in objects]
        items = [AnnotatedObject(name, box, difficult) for box, difficult, name in items]
        made.append(AnnotatedPicture(str(index), Path(f"{index}.jpg"), Path(f"{index}.xml"), 400, 400, tuple(items)))
    return DetectionDataset("voc_2007_test", Path("VOC2007"), "test", tuple(classes), tuple(made))


def _complete(item: tuple, classes: tuple) -> tuple:
    return (*item, *(False, classes[0])[len(item) - 1 :])


def found(*rows: tuple) -> PictureDetections:
    """Detections (score, box as in the XML, label=0)."""
    boxes = np.array([row[1] for row in rows], np.float32).reshape(-1, 4) - np.float32([1, 1, 0, 0])
    scores = np.array([row[0] for row in rows], np.float32)
    return PictureDetections(boxes, scores, np.array([row[2] if len(row) > 2 else 0 for row in rows], np.int64))


def ap50(dataset, detections, metric="voc10", **options):
    return evaluate_voc(dataset, detections, **options)[metric]["AP50"] / 100


# ---------------------------------------------------------------------------------------------------- worked by hand
@pytest.mark.parametrize(
    "hits, num_positives, area, points",
    [
        ([1], 1, 1, 1),
        ([0], 1, 0, 0),
        ([], 3, 0, 0),
        ([1], 2, 1 / 2, 6 / 11),  # recall 1/2 reaches 0, .1, ... .5
        ([1, 0, 1], 2, 1 / 2 + 1 / 2 * 2 / 3, (6 + 5 * 2 / 3) / 11),
        ([0, 1, 1], 2, 2 / 3, 2 / 3),  # the envelope lifts the first half to 2/3
        ([-1, 1], 1, 1, 1),  # a match with a difficult object is no detection at all
        ([1] * 3, 10, 3 / 10, 3 / 11),  # recall .3 is less than 3 * .1
        ([1] * 7, 10, 7 / 10, 7 / 11),  # and .7 less than 7 * .1
    ],
)
def test_average_precision__worked_by_hand(hits, num_positives, area, points):
    recall, precision = precision_recall(np.array(hits, np.int8), num_positives)
    assert area_ap(recall, precision) == pytest.approx(area, abs=1e-15)
    assert eleven_point_ap(recall, precision) == pytest.approx(points, abs=1e-15)


@pytest.mark.parametrize(
    "objects, rows, expected",
    [
        ([(BOX,)], [(0.9, BOX)], 1),
        ([(BOX,)], [(0.9, HALF)], 0),  # IoU must exceed .5
        ([(BOX,)], [(0.9, NEAR)], 1),
        ([(BOX,)], [(0.9, FAR), (0.8, BOX)], 1 / 2),
        ([(BOX,), (FAR,)], [(0.9, BOX), (0.8, BOX), (0.7, FAR)], 1 / 2 + 1 / 2 * 2 / 3),  # a duplicate
        ([(BOX, True), (FAR,)], [(0.9, BOX), (0.8, BOX), (0.7, FAR)], 1),  # difficult: neither right nor wrong
        ([(BOX, True), (NEAR,)], [(0.9, BOX)], 0),  # BOX takes the detection; NEAR (IoU .6) is no second choice
        ([(BOX,), (NEAR,)], [(0.9, BOX), (0.8, BOX)], 1 / 2),  # nor is NEAR once BOX is taken
        ([(BOX,), (FAR,)], [], 0),
        ([((9.0, 1.0, 4.0, 4.0),), (TINY,)], [(0.9, TINY)], 1 / 2),  # inverted, area -16: 0 / 0 hides no other
    ],
)
def test_evaluate_voc__matching_rules(objects, rows, expected):
    assert ap50(make_dataset(objects), {"0": found(*rows)}) == pytest.approx(expected, abs=1e-15)


def test_evaluate_voc__devkit_counts_an_iou_that_equals_the_threshold():
    dataset, detections = make_dataset([(BOX,)]), {"0": found((0.9, HALF))}
    assert ap50(dataset, detections, rules="devkit") == 1
    assert ap50(dataset, detections, rules="detectron2") == 0


def test_evaluate_voc__ap_runs_over_ten_thresholds():
    result = evaluate_voc(make_dataset([(BOX,)]), {"0": found((0.9, NEAR))})["voc10"]
    assert (result["AP50"], result["AP75"]) == (100, 0)
    assert result["AP"] == 20  # IoU .6 exceeds .5 and .55


def test_evaluate_voc__class_without_ground_truth_is_left_out():
    dataset = make_dataset([(BOX,), (FAR, True, "cat")], classes=("dog", "cat", "cow"))
    detections = {"0": found((0.9, BOX), (0.8, BOX, 1), (0.7, FAR, 2))}
    for part in evaluate_voc(dataset, detections).values():
        assert part["per_class"] == {"dog": pytest.approx(100), "cat": None, "cow": None}  # all cats are difficult
        assert (part["AP50"], part["num_classes_scored"]) == (pytest.approx(100), 1)
    theirs = evaluate_voc(dataset, detections, rules="detectron2")
    assert theirs["voc07"]["AP50"] == pytest.approx(100 / 3)
    assert np.isnan(theirs["voc10"]["AP50"])


def test_evaluate_voc__equal_scores_are_ordered_by_picture_then_box():
    dataset = make_dataset([(BOX,)], [(FAR,)])
    detections = {"1": found((0.5, BOX), (0.5, FAR)), "0": found((0.5, BOX))}
    assert ap50(dataset, detections) == 1 / 2 + 1 / 2 * 2 / 3  # "0" BOX right, "1" BOX wrong, "1" FAR right


def test_evaluate_voc__devkit_takes_equal_scores_by_line(tmp_path):
    dataset = make_dataset([(BOX,)], [(FAR,)])
    right, wrong = (" ".join(map(str, box)) for box in (BOX, TINY))
    for lines, expected in (
        ([f"1 .5 {wrong}", f"0 .5 {right}"], 1 / 4),
        ([f"0 .5 {right}", f"1 .5 {wrong}"], 1 / 2),
        ([f"0 .5 {wrong}", f"0 .5 {right}"], 1 / 4),
    ):
        (tmp_path / "comp4_det_test_dog.txt").write_text("\n".join(lines))
        assert ap50(dataset, read_detections(dataset, tmp_path), rules="devkit") == expected
    # Of no file: as they would be written, picture by picture in the dataset's order.
    assert ap50(dataset, {"1": found((0.5, FAR)), "0": found((0.5, TINY))}, rules="devkit") == 1 / 4


def test_evaluate_voc__no_ground_truth_at_all():
    with pytest.raises(ValueError, match=r"voc_2007_test \(2 pictures of VOC2007/ImageSets/Main/test\.txt\)"):
        evaluate_voc(make_dataset([(BOX, True)], []), {})


@pytest.mark.parametrize(
    "detections, message",
    [
        ({"7": found((0.5, BOX))}, "detections for picture '7', which voc_2007_test does not have"),
        ({"0": found((np.nan, BOX))}, "picture '0': score is not finite: nan"),
        ({"0": found((0.5, (1, 1, np.inf, 5)))}, "picture '0': box is not finite"),
        ({"0": found((0.5, (9, 1, 5, 5)))}, r"picture '0': box is inverted: \[8.0, 0.0, 5.0, 5.0\]"),
        ({"0": found((0.5, BOX, 3))}, r"picture '0': class is not in 0\.\.0: 3"),
        ({"0": found((0.5, BOX))._replace(scores=np.zeros(2))}, r"expected boxes \(N, 4\)"),
    ],
)
def test_evaluate_voc__refuses_bad_detections(detections, message):
    with pytest.raises(ValueError, match=message):
        evaluate_voc(make_dataset([(BOX,)]), detections)


def test_evaluate_voc__refuses_unknown_rules():
    with pytest.raises(ValueError, match="'coco' do not exist; choose from standard, devkit, detectron2"):
        evaluate_voc(make_dataset([(BOX,)]), {}, rules="coco")


# ------------------------------------------------------------------------------------------------------ random cases
def random_case(seed: int, *, decimals: int | None = None):
    """Few pictures full of ties, duplicates, difficult objects, degenerate boxes and empty classes and pictures."""
    rng = np.random.default_rng(seed)
    classes = ("dog", "cat", "cow", "car")
    pictures = []
    for _ in range(rng.integers(1, 9)):
        corners = rng.integers(1, 60, (rng.integers(0, 6), 2))
        sides = rng.integers(0, 40, corners.shape)
        names = rng.choice(classes[:3] if seed % 2 else classes, len(corners))
        pictures.append(
            [
                (tuple(map(float, (*corner, *(corner + side)))), bool(rng.random() < 0.3), str(name))
                for corner, side, name in zip(corners, sides, names, strict=True)
            ]
        )
    dataset = make_dataset(*pictures, classes=classes)
    detections = {}
    for index, objects in enumerate(pictures):
        if rng.random() < 0.2:
            continue
        rows = [(box, classes.index(name)) for box, _, name in objects for _ in range(rng.integers(0, 4))]
        rows += [((5.0, 5.0, 30.0, 30.0), int(rng.integers(0, 4))) for _ in range(rng.integers(0, 5))]
        boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
        boxes += rng.integers(-8, 9, boxes.shape) if decimals == 0 else rng.normal(0, 3, boxes.shape)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        scores = np.round(rng.random(len(rows)), 1 if seed % 3 else 6).astype(np.float32)
        labels = np.array([label for _, label in rows], np.int64)
        detections[str(index)] = PictureDetections(boxes, scores, labels)
    has_objects = any(not difficult for objects in pictures for _, difficult, _ in objects)
    return (dataset, detections) if has_objects else random_case(seed + 1000, decimals=decimals)


def oracle(dataset, detections, name, threshold, metric, *, equal_matches):
    """AP of one class by the words of the rules, one detection at a time."""
    label = dataset.classes.index(name)
    lines = []
    for image_id, (boxes, scores, labels) in detections.items():
        for (xmin, ymin, xmax, ymax), score in zip(
            boxes[labels == label].tolist(), scores[labels == label].tolist(), strict=True
        ):
            lines.append((-score, image_id, xmin + 1, ymin + 1, xmax, ymax))
    objects = {one.image_id: [item for item in one.objects if item.name == name] for one in dataset.pictures}
    num_positives = sum(not item.difficult for items in objects.values() for item in items)
    taken, right, wrong, curve = set(), 0, 0, []
    in_turn = sorted(lines, key=lambda line: line[0]) if equal_matches else sorted(lines)  # the devkit sorts stably
    for _, image_id, *box in in_turn:
        best, best_index = -1.0, None
        for index, item in enumerate(objects[image_id]):
            width = min(box[2], item.box[2]) - max(box[0], item.box[0]) + 1
            height = min(box[3], item.box[3]) - max(box[1], item.box[1]) + 1
            if width > 0 and height > 0:
                areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, item.box)]
                iou = width * height / (areas[0] + areas[1] - width * height)
                if iou > best:
                    best, best_index = iou, index
        if best > threshold or (equal_matches and best == threshold):
            if objects[image_id][best_index].difficult:
                continue
            if (image_id, best_index) in taken:
                wrong += 1
            else:
                taken.add((image_id, best_index))
                right += 1
        else:
            wrong += 1
        curve.append((right / num_positives, right / (right + wrong)))
    if metric == "voc07":
        points = [0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 6 * 0.1, 7 * 0.1, 0.8, 0.9, 1.0]
        return sum(max((p for r, p in curve if r >= point), default=0) for point in points) / 11
    area, last = 0.0, 0.0
    for recall in sorted({r for r, _ in curve}):
        area += (recall - last) * max(p for r, p in curve if r >= recall)
        last = recall
    return area


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rules", ["standard", "devkit"])
def test_evaluate_voc__equals_oracle(seed, rules):
    dataset, detections = random_case(seed, decimals=0 if seed % 2 else None)
    present = {item.name for picture in dataset.pictures for item in picture.objects if not item.difficult}
    result = evaluate_voc(dataset, detections, rules=rules)
    for metric, part in result.items():
        table = [
            [
                oracle(dataset, detections, name, percent / 100, metric, equal_matches=rules == "devkit") * 100
                for name in dataset.classes
                if name in present
            ]
            for percent in IOU_PERCENT
        ]
        assert [ap for ap in part["per_class"].values() if ap is not None] == pytest.approx(table[0], abs=1e-9)
        assert part["AP"] == pytest.approx(np.mean(table), abs=1e-9)
        assert part["AP75"] == pytest.approx(np.mean(table[5]), abs=1e-9)
        assert part["num_classes_scored"] == len(present)


@pytest.mark.parametrize("seed", range(5))
def test_evaluate_voc__does_not_depend_on_order(seed):
    dataset, detections = random_case(seed, decimals=0)
    expected = evaluate_voc(dataset, detections)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        shuffled = {}
        for image_id in rng.permutation(list(detections)):
            order = rng.permutation(len(detections[image_id].scores))
            shuffled[str(image_id)] = PictureDetections(*(part[order] for part in detections[image_id]))
        other = DetectionDataset(
            dataset.name,
            dataset.folder,
            dataset.image_set,
            dataset.classes,
            tuple(dataset.pictures[i] for i in rng.permutation(len(dataset.pictures))),
        )
        assert evaluate_voc(dataset, shuffled) == expected
        assert evaluate_voc(other, shuffled) == expected


def detectron2_scores(dataset, detections, folder: Path, year: int) -> dict[str, float]:
    """Run Detectron2's evaluator on a VOC tree written to ``folder``."""
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator, pascal_voc_evaluation
    from detectron2.structures import Boxes, Instances

    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{p.image_id}\n" for p in dataset.pictures))
    for picture in dataset.pictures:
        objects = "".join(
            f"<object><name>{item.name}</name><pose>?</pose><truncated>0</truncated><difficult>{item.difficult:d}"
            f"</difficult><bndbox><xmin>{item.box[0]:.0f}</xmin><ymin>{item.box[1]:.0f}</ymin>"
            f"<xmax>{item.box[2]:.0f}</xmax><ymax>{item.box[3]:.0f}</ymax></bndbox></object>"
            for item in picture.objects
        )
        (folder / "Annotations" / f"{picture.image_id}.xml").write_text(f"<annotation>{objects}</annotation>")
    name = str(folder)
    MetadataCatalog.get(name).set(dirname=str(folder), split="test", year=year, thing_classes=list(dataset.classes))
    pascal_voc_evaluation.parse_rec.cache_clear()  # it knows files by their path, which is another test's too
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    for picture in dataset.pictures:
        one = detections.get(picture.image_id, found())
        instances = Instances((400, 400))
        instances.pred_boxes = Boxes(torch.from_numpy(one.boxes.copy()))
        instances.scores, instances.pred_classes = torch.from_numpy(one.scores), torch.from_numpy(one.classes)
        evaluator.process([{"image_id": picture.image_id}], [{"instances": instances}])
    return dict(evaluator.evaluate()["bbox"])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # its 0 / 0 for classes without ground truth
@pytest.mark.parametrize("seed", range(12))
def test_evaluate_voc__bit_equal_to_detectron2(seed, tmp_path):
    pytest.importorskip("detectron2", reason="the equality is with Detectron2's own evaluator")
    dataset, detections = random_case(seed, decimals=None if seed % 4 else 0)
    ours = evaluate_voc(dataset, detections, rules="detectron2")
    for year, metric in ((2007, "voc07"), (2012, "voc10")):
        theirs = detectron2_scores(dataset, detections, tmp_path / str(year), year)
        np.testing.assert_array_equal([ours[metric][key] for key in theirs], list(theirs.values()))


def test_evaluate_voc__agrees_with_detectron2_where_rounding_changes_nothing():
    dataset = make_dataset([(BOX,), (FAR,)], [(NEAR,)])
    detections = {"0": found((0.9, BOX), (0.25, FAR)), "1": found((0.5, FAR), (0.125, NEAR))}
    ours, theirs = (evaluate_voc(dataset, detections, rules=rules) for rules in ("standard", "detectron2"))
    assert ours == theirs
