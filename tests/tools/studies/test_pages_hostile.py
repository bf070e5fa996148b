"""A study of names that want to be more than text: in a browser, and in Markdown, they are text."""

import copy
import json

import pytest
from PIL import Image

from tools.studies.pages.write import render_markdown, write_pages

OWN = {
    "file",
    "nothing",
    "pretraining",
    "done",
    "failed",
    "running",
    "not run",
    "transfer",
    "pretrain",
    "%",
    "voc07_AP50",
}
UNTYPED = ("protocol", "versions", "processes", "machine")


@pytest.fixture
def study(result):
    """Two models on two data sets, with every kind of value that a study can have."""
    result["baseline"] = result["rows"][0]["method"] = "first"  # its own name is a key, too
    for part in (0, 1, 2):
        row = copy.deepcopy(result["rows"][part])
        result["rows"].append(row | {"model": "R18", "data": "digits"})
    result["rows"][0] |= {"paper_std": {"voc07_AP50": 0.2}, "paper_only": {"a column": 1.5}}
    result["stages"][0] |= {"machine": "node", "processes": 2}
    result["protocol"]["nested"] = {"list": ["a text", 1]}
    result["figures"] = [{"label": "Maps", "src": "absent.png"}]
    return result


@pytest.fixture
def transfer(transfer_result):
    """A study of checkpoints; its baseline is called otherwise, because that name is a key, too."""
    renamed = json.loads(json.dumps(transfer_result).replace('"baseline"', '"first"'))
    return {"baseline" if key == "first" else key: value for key, value in renamed.items()}


@pytest.mark.parametrize("kind", ["study", "transfer"])
def test_study__hostile_values_are_text(hostile, browser, request, kind, tmp_path):
    study = request.getfixturevalue(kind)
    for number, payload in enumerate(hostile.PAYLOADS):
        content, texts = hostile.hostile(study, payload, names=OWN, untyped=UNTYPED)
        folder = tmp_path / str(number)
        folder.mkdir()
        Image.new("RGB", (8, 4)).save(folder / "javascript:window.hit=1.png")
        content["figures"].append({"label": payload, "src": "javascript:window.hit=1.png"})
        write_pages(content, folder)
        text = hostile.check_page(browser, folder / "study.html", payload, columns=None)
        links = {run["link"] for row in content["rows"] for run in row["runs"]} | {
            *(stage["link"] for stage in content["stages"]),
            *(link["href"] for link in content["links"]),
        }
        assert not hostile.unseen([one for one in texts if one not in links], text), payload
        assert browser.evaluate("document.links.length") > 10
        assert browser.evaluate("document.images[0].naturalWidth") == 8


@pytest.mark.parametrize("kind", ["study", "transfer"])
def test_markdown__hostile_values_change_nothing_but_words(hostile, request, kind):
    study = request.getfixturevalue(kind)
    for payload in hostile.PAYLOADS:
        content, _ = hostile.hostile(study, payload, names=OWN, untyped=UNTYPED)
        assert hostile.structure(render_markdown(content)) == hostile.structure(render_markdown(study)), payload
