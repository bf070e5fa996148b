"""Every picture of a dataset is opened before it is trained on, and opened again only when it has changed."""

import logging
import os
import signal
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.datasets import pictures as module
from detection.datasets.pictures import Defect, look_at_pictures, memory_folder, picture_defects
from detection.datasets.voc import load_voc


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of this test's own, and no set of pictures too small to be remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SOON", 1)
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch):
    """The ids of the pictures that were opened in this process, in order."""
    ids = []

    def record(picture):
        ids.append(picture.image_id)
        return picture_defects(picture)

    monkeypatch.setattr(module, "picture_defects", record)
    return ids


def load(tree):
    return load_voc("voc_2007_trainval", root=tree.root)


def test_picture_defects__what_training_would_meet(voc_tree):
    first, second, third, fourth = load(voc_tree).pictures
    assert picture_defects(first) == []
    second.path.write_bytes(second.path.read_bytes()[:-40])
    (defect,) = picture_defects(second)
    assert defect.kind == "fatal"
    assert "000002.jpg cannot be read: image file is truncated" in defect.text
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(third.path, exif=exif)
    assert picture_defects(third) == [Defect("rotated picture", f"{third.path}: EXIF orientation 6")]
    fourth.path.write_bytes(cv2.imencode(".png", np.full((48, 64), 4000, np.uint16))[1].tobytes())
    assert picture_defects(fourth) == [Defect("picture of 16 bits", f"{fourth.path}: its values have 12 bits")]


def test_look_at_pictures__opens_what_has_changed(voc_tree, cache, opened, caplog):
    caplog.set_level(logging.INFO, "detection")
    dataset = load(voc_tree)
    assert look_at_pictures(dataset) == []
    assert opened == ["000001", "000002", "000003", "000004"]
    assert look_at_pictures(dataset) == []
    assert len(opened) == 4
    assert "opened 0 pictures" in caplog.text
    assert "4 more are as they were" in caplog.text
    Image.new("RGB", (64, 48)).save(dataset.pictures[2].path)  # another size of the file
    os.utime(dataset.pictures[0].path, (1, 1))  # another time
    annotation = voc_tree.annotation("000002")  # another size for the boxes
    annotation.write_text(annotation.read_text().replace("<height>64", "<height>63"))
    (defect,) = look_at_pictures(load(voc_tree))
    assert "48x63 pixels" in defect.text
    assert opened[4:] == ["000001", "000002", "000003"]


def test_look_at_pictures__remembers_what_training_survives_and_nothing_fatal(voc_tree, cache, opened):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (64, 48)).save(voc_tree.picture("000001"), exif=exif)
    voc_tree.picture("000004").write_bytes(b"no picture")
    first = look_at_pictures(load(voc_tree))
    assert [defect.kind for defect in first] == ["rotated picture", "fatal"]
    assert look_at_pictures(load(voc_tree)) == first
    assert opened[4:] == ["000004"]
    assert [path.suffix for path in memory_folder().iterdir()] == [".json"]
    assert memory_folder().is_relative_to(cache)


@pytest.mark.parametrize("content", ["", "[]", '{"rules": "0", "good": [], "survived": {}}', "\0\0"])
def test_look_at_pictures__a_memory_that_cannot_be_read_is_none(voc_tree, cache, opened, content):
    look_at_pictures(load(voc_tree))
    (file,) = memory_folder().iterdir()
    file.write_text(content)
    assert look_at_pictures(load(voc_tree)) == []
    assert len(opened) == 8


def test_look_at_pictures__a_memory_that_cannot_be_written_is_no_error(voc_tree, cache, opened):
    cache.write_text("a file, where a folder is wanted")
    assert look_at_pictures(load(voc_tree)) == look_at_pictures(load(voc_tree)) == []
    assert len(opened) == 8


def test_look_at_pictures__few_pictures_leave_no_file(voc_tree, cache, monkeypatch):
    monkeypatch.setattr(module, "SOON", 4)
    assert look_at_pictures(load(voc_tree), num_workers=2) == []
    assert not cache.exists()


def test_look_at_pictures__loading_processes_find_the_same(voc_tree, cache, opened):
    voc_tree.picture("000001").write_bytes(b"no picture")
    voc_tree.picture("000003").write_bytes(b"no picture either")
    with_processes = look_at_pictures(load(voc_tree), num_workers=2)
    assert opened == []
    assert [" ".join(defect.text.rpartition("/")[2].split()[:2]) for defect in with_processes] == [
        "000001.jpg cannot",
        "000003.jpg cannot",
    ]
    assert look_at_pictures(load(voc_tree)) == with_processes


def test_look_at_pictures__a_killed_process_is_an_error(voc_tree, cache, monkeypatch):
    monkeypatch.setattr(module, "picture_defects", lambda _picture: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(OSError, match=r"a loading process was killed \(SIGKILL\).* lower DATALOADER\.NUM_WORKERS"):
        look_at_pictures(load(voc_tree), num_workers=1)


def test_memory_folder__where_the_user_has_no_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert memory_folder().parents[1] == Path(tempfile.gettempdir())
