"""Class folders: what is a class, what is a sample, and which numbers classes have."""

import shutil

import pytest
from PIL import Image

from pretrain.data.sources import ClassFolders


@pytest.fixture
def folder(tmp_path):
    """Two classes of two pictures, the names of whose folders frame most others in the alphabet."""
    for name in ("#zebra", "dog"):
        (tmp_path / name / "more").mkdir(parents=True)
        for file in ("0.png", "more/1.JPG"):
            Image.new("RGB", (4, 4)).save(tmp_path / name / file, "PNG")
    return tmp_path


def samples(folder):
    source = ClassFolders(folder, "pillow")
    return source.classes, [(path.removeprefix(f"{folder}/"), label) for path, label in source.samples]


EXPECTED = (
    ["#zebra", "dog"],
    [("#zebra/0.png", 0), ("#zebra/more/1.JPG", 0), ("dog/0.png", 1), ("dog/more/1.JPG", 1)],
)


def test_class_folders__are_numbered_in_alphabetical_order(folder):
    assert samples(folder) == EXPECTED


@pytest.mark.parametrize("name", [
    ".ipynb_checkpoints", ".git", ".AppleDouble", "__MACOSX", "@eaDir", "__pycache__", "$RECYCLE.BIN", "lost+found",
])  # fmt: skip
def test_class_folders__hidden_and_tool_folders_are_no_classes(folder, name, caplog):
    caplog.set_level("INFO", "pretrain")
    shutil.copytree(folder / "dog", folder / name)
    shutil.copytree(folder / "dog", folder / "#zebra" / "more" / name)
    assert samples(folder) == EXPECTED
    assert caplog.messages == [f"{folder}: no class, because hidden or a tool's own: {name}"]


@pytest.mark.parametrize("name", ["._0.png", ".hidden.jpg", "Thumbs.db", "labels.csv", "clip.gif", "jpg"])
def test_class_folders__other_files_are_no_samples(folder, name):
    (folder / "dog" / name).write_bytes(b"no picture")
    assert samples(folder) == EXPECTED


def test_class_folders__a_hidden_folder_above_them_hides_nothing(folder, tmp_path):
    (tmp_path / ".cache").mkdir()
    moved = shutil.move(folder / "dog", tmp_path / ".cache" / "train" / "dog")
    assert samples(moved.parent)[0] == ["dog"]
    assert len(samples(moved.parent)[1]) == 2


def test_class_folders__refuses_folders_without_data(folder, tmp_path):
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="empty: Couldn't find any class folder"):
        ClassFolders(tmp_path / "empty", "pillow")
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; DATA\.ROOT must hold"):
        ClassFolders(tmp_path / "nowhere", "pillow")
    (folder / "ant").mkdir()
    (folder / "ant" / "._0.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"Found no valid file for the classes ant, empty"):
        ClassFolders(folder, "pillow")
