"""AP by ``rules="devkit"`` against the official devkit's own VOCevaldet.m, run by GNU Octave.

The devkit is not part of this repository. To run these tests, install Octave (Debian: octave) and name the folders that
hold VOCevaldet.m: VOC2007's (11 points) and that of any year from 2010 on (area, with VOCap.m), or one of the two:

  VOCDEVKIT_CODE=devkit_2007/VOCcode:devkit_2012/VOCcode python -m pytest tests/detection/test_devkit.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from detection.datasets.voc import load_voc
from detection.evaluation.detection_files import read_detections, write_detections
from detection.evaluation.detections import PictureDetections
from detection.evaluation.matching import match_detections
from detection.evaluation.voc import IOU_PERCENT, VOC_METRICS, ap_table

FOLDERS = [Path(folder) for folder in os.environ.get("VOCDEVKIT_CODE", "").split(os.pathsep) if folder]
CLASSES = ("dog", "cat", "cow", "car", "other")  # "other" fills the pictures that have nothing else
NUM_CASES = 24
PERCENT = (50, 60, 75)

pytestmark = [
    pytest.mark.skipif(not FOLDERS, reason="VOCDEVKIT_CODE does not name the devkit's VOCcode (see the docstring)"),
    pytest.mark.skipif(not shutil.which("octave-cli"), reason="the devkit needs octave-cli, which is not installed"),
]

# textread and strmatch are the devkit's; that Octave calls them obsolete is no matter here.
DRIVER = """
warning('off', 'all');
addpath('{code}');
for number = 0:{last}
  folder = sprintf('{root}/%d', number);
  VOCopts.testset = 'test';
  VOCopts.imgsetpath = [folder '/devkit_%s.txt'];
  VOCopts.annopath = [folder '/VOC2012/Annotations/%s.xml'];
  VOCopts.annocachepath = [folder '/%s_annotations.mat'];
  VOCopts.detrespath = [folder '/%s_det_test_%s.txt'];
  tic;
  for overlap = [{overlaps}]
    VOCopts.minoverlap = overlap;
    for name = {{{classes}}}
      [recall, precision, ap] = VOCevaldet(VOCopts, 'comp4', name{{1}}, false);
      printf('AP %.17g\\n', ap);
    end
  end
end
"""


def write_case(root: Path, seed: int) -> None:
    """Write the XML, image set and detection files of one case full of ties, duplicates and IoUs of exactly 1/2.

    The devkit reads no picture without an object and needs ids like 2008_000001 from 2010 on. It takes equal scores in
    the order of the lines, so the lines stand in ours: by picture, then box.
    """
    rng = np.random.default_rng(seed)
    annotations, sets = root / "VOC2012" / "Annotations", root / "VOC2012" / "ImageSets" / "Main"
    annotations.mkdir(parents=True)
    sets.mkdir(parents=True)
    names = CLASSES[: 3 if seed % 2 else 4]  # odd cases have no car
    ids = [f"2008_{index:06d}" for index in range(1, int(rng.integers(3, 12)))]
    detections = {}
    for image_id in ids:
        corners = rng.integers(1, 60, (rng.integers(0, 6), 2))
        boxes = np.concatenate([corners, corners + 2 * rng.integers(0, 20, corners.shape) + 1], axis=1)  # even sides
        labels = rng.integers(0, len(names), len(boxes))
        objects = [(names[label], box, rng.random() < 0.3) for label, box in zip(labels, boxes.tolist(), strict=True)]
        (annotations / f"{image_id}.xml").write_text(xml(image_id, objects or [("other", [1, 1, 9, 9], False)]))
        rows = np.repeat(np.arange(len(boxes)), rng.integers(0, 4, len(boxes)))
        found, labels = boxes[rows].astype(float), labels[rows]
        halves = rng.random(len(rows)) < 0.3
        found[halves, 2] -= (found[halves, 2] - found[halves, 0] + 1) / 2  # the left half
        found[~halves] += rng.integers(-4, 5, (np.count_nonzero(~halves), 4)) if seed % 3 else rng.normal(0, 3, 4)
        strays = np.tile([5.0, 5.0, 30.0, 30.0], (rng.integers(0, 4), 1))
        found = np.concatenate([found, strays])
        labels = np.concatenate([labels, rng.integers(0, 4, len(strays))])  # cars too, where there are none
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
        scores = np.round(rng.random(len(found)), 1 if seed % 4 else 6)
        order = np.lexsort(found.T[::-1])
        if rng.random() < 0.8:
            detections[image_id] = PictureDetections((found - [1, 1, 0, 0])[order], scores[order], labels[order])
    (sets / "test.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    (root / "devkit_test.txt").write_text("".join(f"{image_id} 1\n" for image_id in ids))  # Octave wants both columns
    dataset = load_voc("voc_2012_test", root=root, classes=CLASSES, check_pictures=False)
    write_detections(dataset, detections, root)


def xml(image_id: str, objects: list[tuple]) -> str:
    """An annotation with every tag that the devkit's reader asks for."""
    tags = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult:d}</difficult>"
        f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
        for name, (xmin, ymin, xmax, ymax), difficult in objects
    )
    return (
        f"<annotation><folder>VOC2012</folder><filename>{image_id}.jpg</filename><source><database>made</database>"
        "<annotation>made</annotation><image>made</image></source><size><width>200</width><height>200</height>"
        f"<depth>3</depth></size><segmented>0</segmented>{tags}</annotation>"
    )


def run_devkit(code: Path, root: Path) -> np.ndarray:
    """Return VOCevaldet's AP (case, IoU, class); NaN or anything else for a class without ground truth."""
    script = DRIVER.format(
        code=code.resolve(),
        root=root,
        last=NUM_CASES - 1,
        classes=" ".join(f"'{name}'" for name in CLASSES),
        overlaps=" ".join(str(percent / 100) for percent in PERCENT),
    )
    (root / "run_devkit.m").write_text(script)
    done = subprocess.run(["octave-cli", "--norc", "run_devkit.m"], cwd=root, capture_output=True, text=True)
    values = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("AP ")]
    assert len(values) == NUM_CASES * len(PERCENT) * len(CLASSES), done.stderr
    return np.reshape(values, (NUM_CASES, len(PERCENT), len(CLASSES)))


@pytest.mark.parametrize("code", FOLDERS, ids=str)
def test_ap_table__equals_the_devkit(code, tmp_path):
    ours = np.full((NUM_CASES, len(VOC_METRICS), len(PERCENT), len(CLASSES)), np.nan)
    strict = ours.copy()
    for seed in range(NUM_CASES):
        root = tmp_path / str(seed)
        write_case(root, seed)
        dataset = load_voc("voc_2012_test", root=root, classes=CLASSES, check_pictures=False)
        detections = read_detections(dataset, root)
        for rules, table in (("devkit", ours), ("standard", strict)):
            matches = match_detections(dataset, detections, rules=rules)
            scored = matches.truth.num_positives > 0
            rows = [IOU_PERCENT.index(percent) for percent in PERCENT]
            table[seed][..., scored] = ap_table(matches)[:, rows][..., scored]
    theirs = run_devkit(code, tmp_path)

    metric = VOC_METRICS.index("voc10" if (code / "VOCap.m").is_file() else "voc07")
    scored = ~np.isnan(ours[:, metric])
    if metric == 0:
        np.testing.assert_array_equal(ours[:, metric][scored], theirs[scored])
    else:  # the same terms, but numpy does not add them one after the other
        np.testing.assert_allclose(ours[:, metric][scored], theirs[scored], rtol=0, atol=1e-12)
    assert (ours[:, metric] != strict[:, metric])[scored].mean() > 0.05  # there are IoUs equal to a threshold
