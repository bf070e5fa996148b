"""Names that every system can give a file, and files of the longest."""

import re
from pathlib import Path

import pytest

from pretrain.run.cli import setup_logging
from pretrain.run.files import atomic_write, file_name_fault, open_to_append, same_file_names


@pytest.mark.parametrize(
    "name", ["cat", "traffic light", "a.b", ".hidden", "\xe9l\xe9phant", "icon", "com10", "x" * 255, "\u72ac" * 85]
)
def test_file_name_fault__good_names(name):
    assert file_name_fault(name) is None


@pytest.mark.parametrize(
    "name, fault",
    [
        ("", "is empty"), (" ", "is empty"), (".", "nothing but dots"), ("..", "nothing but dots"),
        (". .", "nothing but dots"),
        ("a/b", "a slash"), ("a\\b", "a slash"), ("/", "a slash"),
        ("a\0b", "a control character"), ("a\nb", "a control character"), ("a\x7f", "a control character"),
        ("a\ud800", "a control character"), ("\ufeffa", "a control character"), ("a\u2028b", "a control character"),
        (" a", "begins with a blank"), ("a ", "ends in a blank"), ("a.", "or a dot"), ("a\u00a0", "ends in a blank"),
        ("CON", "a device's on Windows"), ("nul", "a device's"), ("Com1", "a device's"), ("aux.txt", "a device's"),
        ("x" * 256, "is longer than 255 bytes"), ("\u72ac" * 86, "is longer than 255 bytes"),
    ],
)  # fmt: skip
def test_file_name_fault__says_what_is_wrong(name, fault):
    assert fault in file_name_fault(name)


def test_file_name_fault__leaves_room_for_what_stands_beside_it():
    assert file_name_fault("x" * 90, longest=90) is None
    assert file_name_fault("x" * 91, longest=90) == "is longer than 90 bytes"


@pytest.mark.parametrize(
    "names, pair, without_case",
    [
        (["a", "b", "a"], None, None),
        (["dog", "cat", "Dog"], None, ("dog", "Dog")),
        (["\xe9", "e\u0301"], ("\xe9", "e\u0301"), ("\xe9", "e\u0301")),
        (["STRASSE", "stra\xdfe"], None, ("STRASSE", "stra\xdfe")),
    ],
)
def test_same_file_names__by_form_and_where_files_are_so_by_case(names, pair, without_case, monkeypatch):
    monkeypatch.setattr("pretrain.run.files.FOLDS_CASE", False)
    assert same_file_names(names) == pair
    monkeypatch.setattr("pretrain.run.files.FOLDS_CASE", True)
    assert same_file_names(names) == without_case


def test_open_to_append__writes_through_no_link(tmp_path):
    (tmp_path / "theirs.txt").write_text("theirs")
    (tmp_path / "log.txt").symlink_to(tmp_path / "theirs.txt")
    for write in (open_to_append, lambda path: setup_logging(path.parent)):
        with pytest.raises(OSError, match="symbolic links"):
            write(tmp_path / "log.txt")
    assert (tmp_path / "theirs.txt").read_text() == "theirs"
    (tmp_path / "log.txt").unlink()
    for line in ("a\n", "b\n"):
        with open_to_append(tmp_path / "log.txt") as file:
            file.write(line)
    assert (tmp_path / "log.txt").read_text() == "a\nb\n"


def test_atomic_write__a_file_of_the_longest_name(tmp_path):
    path = tmp_path / ("\u72ac" * 85)
    with atomic_write(path, "w") as file:
        file.write("a")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


# module -> why what it opens for writing goes through neither atomic_write nor open_to_append
OPENED_OTHERWISE = {
    "pretrain/run/files.py": "these two themselves",
    "pretrain/run/lock.py": "the lock, made anew or not at all",
    "pretrain/run/checkpoint.py": "PyTorch writes into the file of atomic_write",
    "detection/datasets/digits.py": "a new folder beside its name, renamed when it is whole",
    "tools/bench_study.py": "a temporary folder",
    "tools/benchmarks/evaluation.py": "a temporary folder",
    "tools/benchmarks/mixing.py": "the system's own counter of memory",
    "tools/benchmarks/pretrain.py": "a temporary folder",
    "tools/studies/worker.py": "the log and the locks of a stage, in the study's folder",
}
WRITES = re.compile(
    r"""open\([^()]*["'][wxa]b?\+?["']|\.write_(text|bytes)\(|(np|numpy|torch)\.save\w*\(|shutil\.(copy|move)|O_CREAT"""
    r"""|\.save\((path|folder|target|str)\b|\.save\(folders"""
)


def test_product__files_are_opened_for_writing_in_one_place():
    root = Path(__file__).resolve().parents[3]
    files = [path for top in ("pretrain", "detection", "tools") for path in (root / top).rglob("*.py")]
    found = {str(path.relative_to(root)) for path in files if WRITES.search(path.read_text("utf-8"))}
    assert found == set(OPENED_OTHERWISE)
