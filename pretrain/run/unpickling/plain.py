"""An unpickler that makes plain values and calls nothing but what a table lists; and what they may amount to.

Neither PyTorch's own safe loading nor NumPy is asked: what they believe of a file (the state of a dtype, the size of a
storage) has ended processes before, and differs between their versions.
"""

from __future__ import annotations

import os
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

MAX_DEPTH = 100  # of lists and dicts in each other; real files have some ten
MAX_REPEATED = 1_000_000  # entries of a file that shares its parts, counted wherever they are reached
MAX_KEY_PARTS = 16  # of a tuple that is a key, and of tuples in it; each use of it goes through them
MAX_BITS = 1024  # of an integer; what is larger is infinite as a float, and cannot even be printed
COPIES = 2  # of a file's bytes: an array of protocol 2 is text, of which bytes are made, of which the array is
_KEYS = (type(None), bool, int, float, complex, str, bytes)
_PLAIN = (*_KEYS, bytearray)


class UnsafeTypeError(Exception):
    """A pickle names something that is neither a tensor nor a plain value."""


def reason(error: BaseException) -> str:
    """Return what ``error`` says as the end of a line, whatever of the file itself it repeats."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in text)


class Call:
    """A function that a pickle may call; the values that it is given are the file's own."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function


def check_key(key: Any) -> Any:
    """Return ``key``, of a dict or a set: a plain value or a tuple of some.

    Raises:
        ValueError: anything else, and more than MAX_KEY_PARTS in tuples; Python itself ends where tuples that lie
            thousands deep are hashed.
    """
    waiting, num_parts = [key], 0
    while waiting:
        part = waiting.pop()
        if type(part) is tuple:
            num_parts += max(1, len(part))
            waiting += part if num_parts <= MAX_KEY_PARTS else (part,)
        if type(part) not in (*_KEYS, tuple) or num_parts > MAX_KEY_PARTS:
            raise ValueError(f"a {type(key).__name__} is no key of a dict")
    return key


def _plain_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    items = list(pairs.items()) if isinstance(pairs, dict) else [(key, value) for key, value in pairs]
    return OrderedDict((check_key(key), value) for key, value in items)


def _plain_set(items: list[Any]) -> set[Any]:
    return {check_key(item) for item in items}


def _bytearray(data: str | bytes = b"", encoding: str = "latin-1") -> bytearray:
    if type(data) not in (str, bytes) or encoding != "latin-1":
        raise ValueError("it makes an array of bytes of something else")  # a number makes room for as many
    return bytearray(data.encode("latin-1") if isinstance(data, str) else data)


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")


PLAIN_CALLS: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Call(_plain_dict),
    ("collections", "Counter"): Call(lambda pairs=(): Counter(dict(_plain_dict(pairs)))),  # in rate schedules
    ("_codecs", "encode"): Call(_latin1),  # how protocol 2 spells bytes
    **{
        (module, name): Call(function)
        for module in ("__builtin__", "builtins")
        for name, function in (
            ("bytes", lambda: b""),  # protocol 2 spells no bytes at all so
            ("bytearray", _bytearray),
            ("complex", complex),
            ("set", _plain_set),
        )
    },
}


def _is_version(value: Any) -> bool:
    return isinstance(value, dict) and all(type(one) is int for one in value.values())


class PlainUnpickler(pickle._Unpickler):  # in Python: the one in C makes room for any number that a file names
    """Unpickles plain values; ``table`` has what else a name stands for: a ``Call``, or a value that one is given.

    A name that the table lacks is an ``UnsafeTypeError``. What a damaged file raises is of any type.
    """

    def __init__(self, file: IO[bytes], table: Mapping[tuple[str, str], Any], *, encoding: str = "ASCII"):
        super().__init__(file, encoding=encoding)
        self._file = file
        self._table = {**PLAIN_CALLS, **table}
        self._room = max(MAX_REPEATED, COPIES * _size(file))

    def find_class(self, module: str, name: str) -> Any:
        found = self._table.get((module, name))
        if found is None:
            if not re.fullmatch(r"[\w.]{1,200}", f"{module}.{name}"):
                raise ValueError("its pickle names a type that cannot be")
            raise UnsafeTypeError(f"{module}.{name}")
        return found

    def build(self, instance: Any, state: Any) -> None:
        """Give ``instance``, which a call has made, its ``state``."""
        if type(instance) is not OrderedDict:
            raise ValueError(f"it sets the state of a {type(instance).__name__}")
        versions = state.get("_metadata") if isinstance(state, dict) else None
        if isinstance(versions, dict) and all(map(_is_version, versions.values())):
            instance._metadata = versions  # of the layers, as PyTorch hangs them on a network's state

    def size_of(self, made: Any) -> int:
        """Return how many bytes or entries of its own a value takes that a call has made."""
        return len(made) if isinstance(made, (bytes, bytearray, dict, set)) else 0

    def account(self, size: int) -> None:
        """Notice what is made, which may be of one part of the file again and again.

        Raises:
            ValueError: it is more than the file itself accounts for.
        """
        self._room -= size
        if self._room < 0:
            raise ValueError("it makes more of its parts than it has bytes")

    def load_build(self) -> None:
        state = self.stack.pop()
        self.build(self.stack[-1], state)

    def load_reduce(self) -> None:
        arguments, call = self.stack.pop(), self.stack.pop()
        if type(call) is not Call or type(arguments) is not tuple:
            raise ValueError(f"it calls a {type(call).__name__}")
        made = call.function(*arguments)
        self.account(self.size_of(made))
        self.append(made)

    def load_global(self) -> None:
        lines = self.readline(), self.readline()
        if not all(line.endswith(b"\n") for line in lines):
            raise EOFError("it ends within a name")
        self.append(self.find_class(*(line[:-1].decode("utf-8") for line in lines)))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._target(dict, OrderedDict, Counter)[check_key(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        target = self._target(dict, OrderedDict, Counter)
        for place in range(0, len(items), 2):
            target[check_key(items[place])] = items[place + 1]

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({check_key(items[place]): items[place + 1] for place in range(0, len(items), 2)})

    def load_append(self) -> None:
        item = self.stack.pop()
        self._target(list).append(item)

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._target(list).extend(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        self._target(set).update(map(check_key, items))

    def load_frozenset(self) -> None:
        self.append(_plain_set(self.pop_mark()))

    def load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        if length > _size(self._file):  # Python would make room first
            raise EOFError("it ends within an array")
        self.append(bytearray(self.read(length)))

    def _target(self, *types: type) -> Any:
        if type(self.stack[-1]) not in types:
            raise ValueError(f"it adds to a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("its pickle has an instruction that no such file needs")

    _OWN = {  # noqa: RUF012 - a constant table
        pickle.BUILD: load_build, pickle.REDUCE: load_reduce, pickle.GLOBAL: load_global,
        pickle.SETITEM: load_setitem, pickle.SETITEMS: load_setitems, pickle.DICT: load_dict,
        pickle.APPEND: load_append, pickle.APPENDS: load_appends, pickle.ADDITEMS: load_additems,
        pickle.FROZENSET: load_frozenset, pickle.BYTEARRAY8: load_bytearray8,
    }  # fmt: skip
    # Objects by their class, by a number of this process, or in a buffer elsewhere; then those of text protocols, which
    # Python has not written for twenty years, and neither PyTorch nor NumPy ever has.
    _REFUSED = (
        pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
        pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.PERSID,
        pickle.INT, pickle.LONG, pickle.FLOAT, pickle.STRING, pickle.UNICODE, pickle.PUT, pickle.GET,
    )  # fmt: skip
    dispatch = {  # noqa: RUF012 - a constant table
        **dict.fromkeys(range(256), _refuse),
        **pickle._Unpickler.dispatch,
        **{code[0]: function for code, function in _OWN.items()},
        **dict.fromkeys((code[0] for code in _REFUSED), _refuse),
    }


def check_amount(content: Any, num_bytes: int, leaves: tuple[type, ...]) -> None:
    """Check that whoever walks through ``content`` comes to an end, and meets nothing but plain values and ``leaves``.

    ``num_bytes`` is what the pickle takes: a list that stands in it once may be reached in a million ways.

    Raises:
        UnsafeTypeError: something else is there.
        ValueError: circles, more than MAX_DEPTH lists and dicts in each other, or more entries than all this allows.
    """
    known = {*_PLAIN, *leaves}
    measured: dict[int, tuple[int, int]] = {}  # of lists, dicts: entries as often as they are reached, and depth
    around: set[int] = set()
    waiting = [content]
    while waiting:
        one = waiting[-1]
        inside = list(_containers(one, known))
        unknown = [] if id(one) in around else [part for part in inside if id(part) not in measured]
        if unknown and id(one) not in measured:
            around.add(id(one))
            if len(around) > MAX_DEPTH or any(id(part) in around for part in unknown):
                what = "in a circle" if len(around) <= MAX_DEPTH else f"more than {MAX_DEPTH} deep"
                raise ValueError(f"it holds lists or dicts {what}")
            waiting += unknown
            continue
        waiting.pop()
        around.discard(id(one))
        if id(one) not in measured:
            size = (len(one) if type(one) not in known else 0) + 1
            size += sum(measured[id(part)][0] for part in inside)
            depth = 1 + max((measured[id(part)][1] for part in inside), default=0)
            if size > max(MAX_REPEATED, num_bytes):
                raise ValueError(f"it repeats its parts: more than {MAX_REPEATED} entries out of {num_bytes} bytes")
            if depth > MAX_DEPTH:
                raise ValueError(f"it holds lists or dicts more than {MAX_DEPTH} deep")
            measured[id(one)] = size, depth


def _containers(value: Any, known: set[type]) -> Iterator[Any]:
    """Yield the lists, tuples and dicts in one; all else must be of ``known`` types."""
    if type(value) in (dict, OrderedDict, Counter):
        parts = value.values()
    elif type(value) in (list, tuple):
        parts = value
    elif type(value) is set:
        return
    else:
        parts = (value,)
    for part in parts:
        kind = type(part)
        if kind is int and part.bit_length() > MAX_BITS:
            raise ValueError(f"it holds an integer of {part.bit_length()} bits")
        if kind in (dict, OrderedDict, Counter, list, tuple, set):
            yield part
        elif kind not in known:
            raise UnsafeTypeError("function or class" if kind is Call else kind.__name__.lstrip("_"))


def _size(file: IO[bytes]) -> int:
    place = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(place)
    return end
