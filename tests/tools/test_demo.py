"""The demo from end to end, with everything made tiny: the same stages, reused by a second call."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason='the demo needs scikit-learn; pip install -e ".[demo]"')
pytest.importorskip("skimage", reason='the demo needs scikit-image; pip install -e ".[demo]"')

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def demo(load_tool, monkeypatch, tmp_path):
    """Return the tool with few pictures and configs that differ from the real ones in the length of the schedule."""
    tool = load_tool("demo")
    short = {
        "pretrain/configs/demo_r18_saliencymix.yaml": "SOLVER: {EPOCHS: 1, BATCH_SIZE: 8, STEPS: ()}",
        "detection/configs/demo_r18_fpn.yaml": "SOLVER: {MAX_ITER: 2, IMS_PER_BATCH: 2, STEPS: ()}",
    }
    for name, difference in short.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"_BASE_: {ROOT / name}\n{difference}\n")
    for name, value in {
        "ROOT": tmp_path,
        "PICTURE_SIDE": 32,
        "SCENE_SIDE": 64,
        "TRAIN_PER_CLASS": 2,
        "VAL_PER_CLASS": 1,
        "TRAINVAL_SCENES": 3,
        "TEST_SCENES": 3,
    }.items():
        monkeypatch.setattr(tool, name, value)
    return tool


def check_demo(demo, tmp_path, capsys, engine):
    arguments = ["--output", str(tmp_path / "out"), "--engine", engine]
    demo.main(arguments)
    first = capsys.readouterr().out
    pages = sorted((tmp_path / "out" / "seed0").glob("*/inference/voc_2007_test/report.html"))
    assert len(pages) == 2
    assert "(11-point, IoU .5, held-out scenes)" in first
    for page in pages:
        assert str(page) in first
        report = json.loads(page.with_suffix(".json").read_text())
        assert report["protocol"]["engine"] == engine
        assert report["num_images"] == 3
    pretrained, random = (
        json.loads((page.parent / "report.json").read_text())["protocol"]["backbone"] for page in pages
    )
    assert pretrained["method"] == "saliencymix"
    assert random is None

    stamps = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.suffix in (".pth", ".json")
    }
    demo.main(arguments)
    second = capsys.readouterr().out
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}  # nothing complete is made again
    assert second.splitlines()[-6:-2] == first.splitlines()[-6:-2]  # then come the time and what to do next
    assert second.splitlines()[-1].startswith("python tools/transfer.py ")


def test_demo__end_to_end_and_a_second_call_reuses_everything(demo, tmp_path, capsys):
    check_demo(demo, tmp_path, capsys, "torchvision")


def test_demo__the_same_with_detectron2(demo, tmp_path, capsys):
    pytest.importorskip("detectron2", reason="needs Detectron2; see 'Two engines' in detection/README.md")
    check_demo(demo, tmp_path, capsys, "detectron2")


def test_process_beside__its_last_line_where_it_fails(load_tool):
    code = "import sys; print('step 1', file=sys.stderr); sys.exit('train_net.py: error: no disk')"
    with (
        pytest.raises(ValueError, match=r"^train_net.py: error: no disk$"),
        load_tool("demo").process_beside([sys.executable, "-c", code], threads=1),
    ):
        pass


def test_process_beside__ends_with_what_ends_the_context(load_tool, monkeypatch):
    demo, processes = load_tool("demo"), []
    start = subprocess.Popen
    monkeypatch.setattr(
        demo.subprocess, "Popen", lambda *args, **kw: processes.append(start(*args, **kw)) or processes[0]
    )
    with (
        pytest.raises(KeyboardInterrupt),
        demo.process_beside([sys.executable, "-c", "import time; time.sleep(600)"], threads=1),
    ):
        raise KeyboardInterrupt
    assert processes[0].returncode == -signal.SIGTERM  # not waited for


def test_demo__opens_the_page_of_the_pretrained_detector(demo, tmp_path, capsys, monkeypatch):
    """Or says where it is, where no browser can be opened."""
    page = tmp_path / "out" / "seed0" / "pretrained_torchvision" / "inference" / "voc_2007_test" / "report.html"
    for opened in (True, False):
        addresses = []
        monkeypatch.setattr(demo.webbrowser, "open", lambda address: addresses.append(address) or opened)  # noqa: B023
        demo.main(["--output", str(tmp_path / "out"), "--engine", "torchvision", "--open"])
        assert addresses == [page.as_uri()]
        assert (str(page) in capsys.readouterr().out.splitlines()[-1]) is not opened
