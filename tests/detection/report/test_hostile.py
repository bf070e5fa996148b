"""Reports and comparisons of names that want to be more than text: in a browser, and in Markdown, they are text."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from detection.evaluation.comparison import PAPER_PROTOCOL, PAPER_TABLE, Run, compare_runs
from detection.report.comparison import render_html as render_comparison
from detection.report.comparison import render_markdown as comparison_markdown
from detection.report.comparison import write_comparison
from detection.report.comparison_pictures import Picture, Pictures
from detection.report.html import render_html
from detection.report.illustrations import DrawnBox, Illustration
from detection.report.markdown import render_markdown
from detection.report.write import write_report

SETTINGS = {"SOLVER.MAX_ITER": 41000, "SOLVER.BASE_LR": 0.004, "SOLVER.GAMMA": 0.1, "SOLVER.STEPS": [33000]}
OWN = {
    "standard", "voc", "training", "test", "method", "evaluation_rules", "weights", "file", "sha256", "seed", *SETTINGS,
}  # fmt: skip
JPEG = io.BytesIO()
Image.new("RGB", (4, 3)).save(JPEG, "JPEG")
UNTYPED = ("protocol", "seeds", "weights", "differences")


def protocol(seed, **changes):
    return {
        "method": "a method",
        "seed": seed,
        "a note": "says",
        "engine": "torchvision",
        "training": {**SETTINGS, "MODEL.X": 3, **changes},
        "weights": {"file": f"{seed}.pth", "sha256": f"hash of {seed}"},
        "complete": True,
    }


@pytest.fixture
def report(dataset, detections, tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 1, "loss_a": 2}\n{"iteration": 5, "loss_a": 1}\n')
    return write_report(dataset, detections, tmp_path, protocol(1), run_folder=tmp_path, num_resamples=20)


@pytest.fixture
def comparison(dataset, detections):
    """Two protocols, one of them the paper's, and a run whose settings are not all known."""
    runs = [
        Run("first", "a", protocol(1), {}),
        Run("cutmix", "b", protocol(2), detections),
        Run("cutmix", "c", protocol(3) | {"complete": False}, detections),
        Run("other", "d", protocol(4, **{"MODEL.X": 5}), detections),
    ]
    content = compare_runs(dataset, runs, baseline="first", num_resamples=20)
    content["groups"][0]["is_papers"] = True
    content["groups"][0]["methods"][0]["recipe_differences"] = ["A.KEY"]
    content["across"] = ["B.KEY"]
    return content | {"paper": {"protocol": PAPER_PROTOCOL, "voc07_AP50": PAPER_TABLE}}


def pictures_of(content, payload):
    """What ``draw_pictures`` would return of a comparison, every other picture without a file."""
    missed = content["missed_by_all"]["listed"]
    pairs = [pair for group in content["groups"] for pair in group["disagreements"]]
    shown = [(pair, entry["image_id"]) for pair in pairs for entry in (*pair["better"], *pair["worse"])]
    assert missed
    assert shown
    box = DrawnBox("right", f"{payload} box", 0.1, 0.1, 0.5, 0.5)
    ids = dict.fromkeys([*(image_id for _, image_id in shown), *(entry["image_id"] for entry in missed)])
    detected = {}
    for pair, image_id in shown:
        for path in pair["runs"].values():
            detected.setdefault(path, {})[image_id] = [box]
    pictures = {
        image_id: Picture(number, (JPEG.getvalue(), None)[number % 2], 4, 3) for number, image_id in enumerate(ids)
    }
    return Pictures(pictures, detected, [[box]] * len(missed))


def test_markdown__hostile_values_change_nothing_but_words(hostile, dataset, report, comparison, tmp_path):
    (tmp_path / "report.html").touch()
    reports = [str(tmp_path / "report.json")]
    pages = [(render_markdown, report), (lambda content: comparison_markdown(content, tmp_path), comparison)]
    for render, clean in pages:
        for payload in hostile.PAYLOADS:
            content, _ = hostile.hostile(clean, payload, names=OWN, untyped=UNTYPED)
            for group in (one for page in (clean, content) for one in page.get("groups", ())):
                group["methods"][0]["reports"] = reports
            assert hostile.structure(render(content)) == hostile.structure(render(clean)), payload


def test_report__hostile_values_are_text(hostile, browser, dataset, report, tmp_path):
    picture = dataset.pictures[0].path.read_bytes()
    for payload in hostile.PAYLOADS:
        content, texts = hostile.hostile(report, payload, names=OWN, untyped=("protocol",))
        box = DrawnBox("right", f"{payload} box", 0.1, 0.1, 0.5, 0.5)
        shown = {
            name: [
                Illustration(entry, file, 4, 3, [box]) for entry, file in zip(entries, (picture, None), strict=False)
            ]
            for name, entries in content["pictures"].items()
        }
        page = tmp_path / "hostile.html"
        page.write_text(render_html(content, shown), "utf-8")
        text = hostile.check_page(browser, page, payload, columns="#classes th button")
        unsaid = set(hostile.texts_of(content["confidence"]))  # why one of many numbers has no interval
        assert not hostile.unseen([*(one for one in texts if one not in unsaid), f"{payload} box"], text), payload


def test_comparison__hostile_values_are_text(hostile, browser, comparison, tmp_path):
    for number, payload in enumerate(hostile.PAYLOADS):
        content, texts = hostile.hostile(comparison, payload, names=OWN, untyped=UNTYPED)
        folder = tmp_path / str(number)
        # A folder may be called anything but / and NUL, and be longer than no name of a file is.
        linked = folder / payload.replace("/", ":").replace("\0", "").encode("utf-8", "replace").decode()[:200]
        linked.mkdir(parents=True)
        (linked / "report.html").touch()
        content["groups"][0]["methods"][0]["reports"] = [str(linked / "report.json")]
        content["groups"][1]["methods"][0]["reports"] = [f"{payload}/report.json"]  # no file, nor could one be
        write_comparison(content, folder)
        page = render_comparison(content, folder, pictures_of(content, payload))
        (folder / "comparison.html").write_text(page, "utf-8")
        text = hostile.check_page(browser, folder / "comparison.html", payload, columns="thead button")
        assert not hostile.unseen([*texts, f"{payload} box"], text), payload
        assert browser.evaluate("document.links.length") == 1
        where = browser.evaluate("decodeURIComponent(document.links[0].pathname)")
        assert where == str(linked / "report.html")
        assert json.loads((folder / "comparison.json").read_text()) == content
