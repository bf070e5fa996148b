"""Text, JSON and YAML files: the one reader of each, so that every defect in them is named by file and line.

Nothing that a JSON file says is believed to be of a type: ``read_record`` returns it as one that is declared.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import yaml

T = TypeVar("T")
Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]  # neither 1e999, a number of JSON, nor NaN, which is none

MAX_YAML_ENTRIES = 100_000  # keys and items, counted wherever an alias repeats them
MAX_YAML_LENGTH = 1 << 20  # characters: a minute of parsing

# In this order: the mark of UTF-32 begins with that of UTF-16.
OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"),
)  # fmt: skip


def read_text(path: Path | str) -> str:
    """Return a UTF-8 file as text: without its byte order mark, and with ``\\n`` for every end of a line.

    Raises:
        FileNotFoundError, OSError: there is no such file, or it cannot be read.
        ValueError: other encodings and NUL bytes, with the file, the line and what would be right.
    """
    content = Path(path).read_bytes()
    for mark, encoding in OTHER_MARKS:
        if content.startswith(mark):
            raise ValueError(f"{path}, line 1: the file is {encoding}; save it as UTF-8")
    nul = content.find(b"\0")
    if nul >= 0:
        raise ValueError(f"{path}, line {_line(content, nul)}: a NUL byte; save the file as UTF-8 text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + len(content) - len(error.object)  # the decoder has taken the mark away
        column = start - max(content.rfind(b"\n", 0, start), content.rfind(b"\r", 0, start))
        raise ValueError(
            f"{path}, line {_line(content, start)}: byte {content[start]:#04x} at column {column} is not UTF-8; "
            "save the file as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_json(path: Path | str) -> Any:
    """Return what a JSON file holds; a byte order mark is allowed, a key that stands twice in an object is not.

    Raises:
        FileNotFoundError, OSError: there is no such file, or it cannot be read.
        ValueError: as ``read_text``, or no JSON; with the file and, where it is known, the line.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, source: str) -> Any:
    """Return what JSON text holds, as ``read_json`` does; ``source`` says where it stands.

    Raises:
        ValueError: no JSON; with ``source`` and, where it is known, the line.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}, line {error.lineno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{source}: not JSON that can be read, but deeply nested") from None
    except ValueError as error:  # a key that stands twice, or an integer of thousands of digits
        raise ValueError(f"{source}: not JSON that can be read ({error})") from None


def read_record(path: Path | str, kind: type[T], what: str) -> T:
    """Return what a JSON file holds as a value of ``kind``, as ``to_record`` does.

    Raises:
        FileNotFoundError, OSError: there is no such file, or it cannot be read.
        ValueError: as ``read_json``; or it is not ``what`` (``"a report"``), with the file and the key.
    """
    return to_record(read_json(path), kind, f"{path} is not {what}")


def to_record(content: Any, kind: type[T], complaint: str) -> T:
    """Return plain values of unknown types as ``kind``, a TypedDict, a NamedTuple or a dataclass, or a list of these.

    Keys that ``kind`` does not declare are left out. An integer may stand for a float, a list for a tuple, nothing else
    for anything else.

    Raises:
        ValueError: a key is missing or a value is of another type: ``complaint``, and the path of the key in it.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{complaint}: {str(error).replace(' - at `$', ' at `$').replace('Object m', 'm')}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return result


def read_yaml(path: Path | str) -> Any:
    """Return the plain values of a YAML file.

    Raises:
        FileNotFoundError, OSError: as ``read_text``.
        ValueError: no UTF-8 text, not YAML, or a key that stands in it twice (once as ``A: {B: 1}`` and once as
            ``A.B: 1`` is twice); the file and the lines are named.
    """
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(f"{error} (expected a YAML file)") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Return the plain values of YAML text, as ``read_yaml`` does; ``source`` says where it stands, weights maybe.

    Raises:
        ValueError: not YAML, more than MAX_YAML_LENGTH characters or MAX_YAML_ENTRIES entries, nested too deeply, or a
            key that stands twice; with ``source`` and, where it is known, the line.
    """
    if len(text) > MAX_YAML_LENGTH:
        raise ValueError(f"{source}: {len(text)} characters, and no config has more than {MAX_YAML_LENGTH}")
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            repeated = [] if root is None else _repeated_keys(root)
            if not repeated:
                return None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}" if mark else source
        raise ValueError(f"{where}: not valid YAML ({error.problem or error.context})") from error
    except RecursionError:
        raise ValueError(f"{source}: not valid YAML (nested too deeply)") from None
    except Exception as error:  # a tag with an impossible value (!!int x) raises almost anything
        raise ValueError(f"{source}: not valid YAML ({' '.join(str(error).split())})") from error
    name, first, second = repeated[0]
    more = f" (as are {len(repeated) - 1} more keys)" if len(repeated) > 1 else ""
    raise ValueError(f"{source}: key {name} stands in it twice, in line {first} and in line {second}{more}; keep one")


def _repeated_keys(root: yaml.Node) -> list[tuple[str, int, int]]:
    """Return the dotted name and the two lines of each key that stands twice in its mapping, or twice in full."""
    repeated: list[tuple[str, int, int]] = []
    full_names: dict[str, int] = {}
    count = 0

    def visit(node: yaml.Node, prefix: str) -> None:
        nonlocal count
        count += 1
        if count > MAX_YAML_ENTRIES:
            raise ValueError(f"more than {MAX_YAML_ENTRIES} entries")
        if isinstance(node, yaml.SequenceNode):
            for place, item in enumerate(node.value):
                visit(item, f"{prefix}[{place}].")
        if not isinstance(node, yaml.MappingNode):
            return
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = f"{prefix}{key.value}", key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                visit(value, f"{prefix}<<.")  # only counted; PyYAML copies what is merged
                continue
            group = isinstance(value, yaml.MappingNode)
            first = seen.get(name) or (None if group else full_names.get(name))
            if first is not None:
                repeated.append((name, first, line))
            seen.setdefault(name, line)
            if not group:
                full_names.setdefault(name, line)
            visit(value, f"{name}.")

    visit(root, "")
    return repeated


def _line(content: bytes, position: int) -> int:
    """Return the number, from 1, of the line that the byte at ``position`` is in."""
    before = content[:position].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return before.count(b"\n") + 1
