"""Text, JSON and YAML are read in one way, and what cannot be read is named by file and line."""

import copy
import json
import random
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import pytest
from typing_extensions import NotRequired

from detection.config import load_detection_config
from pretrain.config import load_pretrain_config
from pretrain.run.settings import recorded_leaves
from pretrain.run.text import Finite, parse_yaml, read_json, read_record, read_text, read_yaml
from tools.studies.config import load_study

ROOT = Path(__file__).resolve().parents[3]
PIECES = (b"", b":", b"\n", b"&a ", b"*a", b"[", b"{", b"\t", b"- ", b"<<: ", b"!!int ", b"9" * 40, b"~")


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
        pytest.param(b"[" * 200_000, r"a\.json(, line 1)?: not JSON", id="deep"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', r"a\.json: .*the key 'b' stands twice in one object"),
        pytest.param(b"[1" + b"0" * 5000 + b"]", r"a\.json: not JSON that can be read \(Exceeds", id="digits"),
    ],
)
def test_read_json__names_the_file(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "a.json")


class Part(TypedDict):
    size: Finite
    names: dict[str, int | None]
    free: dict[str, Any]


class Whole(TypedDict):
    parts: list[Part]
    note: NotRequired[str]


RIGHT = {"parts": [{"size": 1, "names": {"a": None, "b": 3}, "free": {"x": ["<b>"]}, "new": 1}], "newer": []}


def test_read_record__returns_declared_types_and_no_other_keys(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(RIGHT))
    part = {"size": 1.0, "names": {"a": None, "b": 3}, "free": {"x": ["<b>"]}}
    assert read_record(tmp_path / "a.json", Whole, "a whole") == {"parts": [part]}
    assert type(read_record(tmp_path / "a.json", Whole, "a whole")["parts"][0]["size"]) is float


@pytest.mark.parametrize(
    "path, value, message",
    [
        ((), [], r"a\.json is not a whole: Expected `object`, got `array`"),
        (("parts",), None, r"a\.json is not a whole: Expected `array`, got `null` at `\$\.parts`"),
        (("parts", 0), {"size": 1, "names": {}}, r"missing required field `free` at `\$\.parts\[0\]`"),
        (("parts", 0, "size"), "1", r"Expected `float`, got `str` at `\$\.parts\[0\]\.size`"),
        (("parts", 0, "size"), True, r"Expected `float`, got `bool`"),
        (("parts", 0, "size"), 10**400, r"size"),
        (("parts", 0, "names", "a"), 1.5, r"Expected `int \| null`, got `float` at `\$\.parts\[0\]\.names\[\.\.\.\]`"),
        (("note",), 1, r"Expected `str`, got `int` at `\$\.note`"),
    ],
)
def test_read_record__names_file_and_key(tmp_path, path, value, message):
    content = {"": copy.deepcopy(RIGHT)}
    place = content
    for key in ("", *path)[:-1]:
        place = place[key]
    place[("", *path)[-1]] = value
    (tmp_path / "a.json").write_text(json.dumps(content[""]))
    with pytest.raises(ValueError, match=message):
        read_record(tmp_path / "a.json", Whole, "a whole")


@pytest.mark.parametrize("number, limit", [("1e999", "<= 1e"), ("-1e999", ">= -1e"), ("NaN", ">= -1e")])
def test_read_record__refuses_numbers_that_are_not_finite(tmp_path, number, limit):
    (tmp_path / "a.json").write_text(f'{{"parts": [{{"size": {number}, "names": {{}}, "free": {{}}}}]}}')
    with pytest.raises(ValueError, match=rf"Expected `float` {limit}\+?300 at `\$\.parts\[0\]\.size`"):
        read_record(tmp_path / "a.json", Whole, "a whole")


@pytest.mark.parametrize("repeat", ["[{0}, {0}, {0}]", "{{b: {0}, c: {0}, d: {0}}}", "{{<<: [{0}, {0}, {0}]}}"])
def test_read_yaml__refuses_aliases_that_multiply(tmp_path, repeat):
    lines = ["x0: &a0 {b: 1}", *(f"x{n}: &a{n} {repeat.format(f'*a{n - 1}')}" for n in range(1, 40))]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"a\.yaml: not valid YAML \(more than 100000 entries\)"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [", r"it, line 1: not valid YAML \("),
        ("[" * 5000, r"it: not valid YAML \(nested too deeply\)"),
        ("a: !!python/object:os.system {}", r"it, line 1: not valid YAML \(could not determine a constructor"),
        ("a: !!int x", r"it: not valid YAML \("),
        ("a: 1\na: 2", r"it: key a stands in it twice, in line 1 and in line 2"),
        ("# " + "x" * (1 << 20), r"it: 1048578 characters, and no config has more than 1048576"),
    ],
)
def test_parse_yaml__names_what_carries_it(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text, "it")


@pytest.mark.parametrize("text", ["[]", "", "3", None, {"a": 1}, "- a: 1"])
def test_recorded_leaves__of_no_mapping(text):
    with pytest.raises(ValueError, match="x: expected a mapping of config keys as YAML, but got"):
        recorded_leaves(text, "x")


def test_product__parses_text_in_one_place():
    """Where there is a bound on what it may amount to."""
    files = [path for top in ("pretrain", "detection", "tools") for path in (ROOT / top).rglob("*.py")]
    found = re.compile(r"yaml\.(safe_)?load|load_cfg|yaml\.\w*Loader\(")
    assert [path.name for path in files if found.search(path.read_text("utf-8"))] == ["text.py"]


@pytest.mark.parametrize("load, folder, name", [
    (load_pretrain_config, "pretrain/configs", "demo_r18_saliencymix.yaml"),
    (load_detection_config, "detection/configs", "smoke.yaml"),
    (load_study, "tools/studies/configs", "table3_small.yaml"),
])  # fmt: skip
def test_configs__of_damaged_files(tmp_path, load, folder, name):
    """A config, or an error that a tool turns into a line."""
    content = (ROOT / folder / name).read_bytes().replace(b'_BASE_: "', f'_BASE_: "{ROOT / folder}/'.encode())
    draw = random.Random(0)
    read = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 3, 20))):
            place = draw.randrange(len(damaged))
            end = place + draw.choice((0, 1, 1, 8))
            damaged[place:end] = draw.choice(PIECES) or bytes([draw.randrange(256)])
        (tmp_path / name).write_bytes(damaged)
        with suppress(ValueError, FileNotFoundError):
            load(tmp_path / name, [])
            read += 1
    assert 0 < read < 150
