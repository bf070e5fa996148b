"""Class lists as the command line has them."""

import pytest

from detection.datasets.load import read_class_list


@pytest.mark.parametrize(
    "text, names",
    [
        ("dog, cat,,car", ["dog", "cat", "car"]),
        ('["dog, large", "cat"]', ["dog, large", "cat"]),
        (",".join(f"class number {n}" for n in range(80)), [f"class number {n}" for n in range(80)]),  # no file's name
    ],
    ids=["commas", "JSON", "long"],
)
def test_read_class_list__of_a_text(text, names):
    assert read_class_list(text) == names


def test_read_class_list__of_a_file(tmp_path):
    (tmp_path / "[names").write_text("dog, large\n\n cat\n")
    assert read_class_list(str(tmp_path / "[names")) == ["dog, large", "cat"]


def test_read_class_list__of_a_file_with_a_mark_or_none(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfdog\r\ncat\r\n")
    assert read_class_list(str(path)) == ["dog", "cat"]
    path.write_bytes(b"dog\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"names.txt, line 2: byte 0xe9 at column 4 is not UTF-8"):
        read_class_list(str(path))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"class list .*names.txt does not exist"):
        read_class_list(str(path))


@pytest.mark.parametrize(
    "text, message",
    [
        ('["dog"', "line 1: not JSON"),
        ('["dog", 1]', "expected a JSON list of names"),
        ("dog,cat, dog", "class list 'dog,cat, dog': class name 'dog' stands twice"),
        ('["dog", "dog"]', "class name 'dog' stands twice"),
        ("dog,a/c unit", "class name 'a/c unit' holds a slash"),
        (" ,", "class list ' ,': it names no class"),
    ],
)
def test_read_class_list__refuses(text, message):
    with pytest.raises(ValueError, match=message):
        read_class_list(text)
