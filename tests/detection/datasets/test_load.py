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


@pytest.mark.parametrize(
    "text, message", [('["dog"', "not a JSON list"), ('["dog", 1]', "expected a JSON list of names")]
)
def test_read_class_list__refuses(text, message):
    with pytest.raises(ValueError, match=message):
        read_class_list(text)
