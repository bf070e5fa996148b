"""Text and JSON are read in one way, and what cannot be read is named by file and line."""

import pytest

from pretrain.run.text import read_json, read_text


@pytest.mark.parametrize(
    "content, text",
    [
        (b"a\nb\n", "a\nb\n"),
        (b"\xef\xbb\xbfa\r\nb", "a\nb"),
        (b"a\rb\r", "a\nb\n"),
        ("pict\xe9\n".encode(), "pict\xe9\n"),
        (b"", ""),
    ],
)
def test_read_text__one_form_for_marks_and_line_ends(tmp_path, content, text):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_text(tmp_path / "a.txt") == text


@pytest.mark.parametrize(
    "content, message",
    [
        ("a\nb".encode("utf-16"), r"a\.txt, line 1: the file is UTF-16; save it as UTF-8"),
        ("a\nb".encode("utf-32"), r"a\.txt, line 1: the file is UTF-32"),
        ("a\nb".encode("utf-16-le"), r"a\.txt, line 1: a NUL byte"),
        (b"a\r\nb\rc\0", r"a\.txt, line 3: a NUL byte"),
        ("a\nxy\xe9".encode("latin-1"), r"a\.txt, line 2: byte 0xe9 at column 3 is not UTF-8; save the file as UTF-8"),
        (b"\xef\xbb\xbfa\rb\xff", r"a\.txt, line 2: byte 0xff at column 2 is not UTF-8"),
    ],
)
def test_read_text__names_file_and_line(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "a.txt")


def test_read_json__allows_a_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5]}


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{\n"a": }', r"a\.json, line 2: not JSON"),
        (b"[" * 200_000, r"a\.json(, line 1)?: not JSON"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', r"a\.json: .*the key 'b' stands twice in one object"),
        (b"[1" + b"0" * 5000 + b"]", r"a\.json: not JSON that can be read \(Exceeds"),
    ],
)
def test_read_json__names_the_file(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "a.json")
