"""Read mutated weights files; a program, because what goes wrong may end the process.

usage: fuzz.py FOLDER COUNT SEED

Prints, as JSON, for each kind of file how many were refused and how many loaded. Files are changed where it matters:
instructions of a pickle are deleted, doubled, swapped, given other arguments or put in, and the zip around them is
written anew with right checksums. Status 1 with the number of the file and its bytes in FOLDER/w at anything but a
file that is read, twice alike, or refused in one line.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import itertools
import json
import os
import pickle
import pickletools
import random
import resource
import struct
import sys
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from pretrain.weights.files import read_weights  # noqa: E402
from pretrain.weights.networks import find_network  # noqa: E402

KINDS = ("zip", "legacy", "pickle2", "pickle4", "pickle5", "safetensors")
ROOM = 2 << 30  # bytes of memory beyond those of the start
WATCHED = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "exec", "compile", "import", "open", "pickle.")

NAMES = (
    "os system", "posix system", "builtins eval", "builtins exec", "builtins getattr", "builtins __import__",
    "__builtin__ eval", "subprocess Popen", "builtins open", "builtins set", "builtins bytearray", "functools partial",
    "numpy dtype", "numpy ndarray", "numpy.core.multiarray scalar", "numpy.core.multiarray _reconstruct",
    "numpy._core.numeric _frombuffer", "numpy load", "_codecs encode", "collections OrderedDict",
    "collections Counter", "collections defaultdict", "copyreg _reconstructor", "torch load", "torch FloatStorage",
    "torch Size", "torch Tensor", "torch float8_e4m3fn", "torch quint8", "torch device", "torch.storage UntypedStorage",
    "torch.storage _load_from_bytes", "torch.nn.parameter Parameter", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter_with_state", "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_wrapper_subclass", "torch._utils _rebuild_device_tensor_from_numpy",
    "torch._tensor _rebuild_from_type_v2", "torch.jit._pickle build_intlist",
)  # fmt: skip


def text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def global_name(name: str) -> bytes:
    module, _, attribute = name.partition(" ")
    return b"c" + f"{module}\n{attribute}\n".encode()


def snippets(canary: Path) -> list[bytes]:
    """Return instructions to put in: bare ones, and whole calls of what a file should not be able to call."""
    command = text(f"touch {canary}")
    touch = text(f"open({str(canary)!r}, 'w')")
    bare = [
        pickle.REDUCE, pickle.BUILD, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.OBJ, pickle.BINPERSID, b"P0\n",
        pickle.MEMOIZE, pickle.POP, pickle.DUP, pickle.MARK, pickle.POP_MARK, pickle.STOP, pickle.NONE, b"K\x00",
        b"K\x01", b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"\x97", b"\x98", b"h\x00", b"h\x01",
        b"j\xff\xff\xff\x7f", b"q\x00", b"r\xff\xff\xff\x7f", b"}", b"]", b")", b"\x8f", b"\x90", b"\x91", b"t",
        b"l", b"d", b"\x85", b"\x86",
        b"\x87", b"s", b"u", b"a", b"e", b"\x93", b"\x85" * 300_000, b"]" * 2000 + b"a" * 1999,
        b"J\xff\xff\xff\x7f", b"J\x00\x00\x00\x80", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8a\xff" + b"\x7f" * 255,
        b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x96" + struct.pack("<Q", 1 << 40), b"\x96" + b"\xff" * 7 + b"\x7f",
        b"\x8d" + struct.pack("<Q", 1 << 40), b"\x8b\xff\xff\xff\x7f", b"B\xff\xff\xff\xff", b"\x95" + b"\xff" * 8,
        b"\x95" + struct.pack("<Q", 5), b"G" + struct.pack(">d", float("nan")), b"L" + b"9" * 5000 + b"L\n",
        b"F1e999\n", b"S'a'\n", b"Va\\u0041\n", b"]" + b"q\x07h\x07\x86" * 40, b"]q\x09h\x09a", b"}q\x0ah\x0ah\x0as",
    ]  # fmt: skip
    calls = [
        global_name("os system") + command + b"\x85R",
        text("posix") + text("system") + b"\x93" + command + b"\x85R",
        b"(" + command + b"ios\nsystem\n",
        b"(" + global_name("os system") + command + b"o",
        global_name("builtins eval") + touch + b"\x85R",
        global_name("builtins exec") + touch + b"\x85\x81",
        global_name("numpy dtype") + text("O8") + b"\x89\x88\x87R(K\x03" + text("|") + b"NNNK\x08K\x08K\x00tb",
        global_name("numpy dtype") + text("f8") + b"\x89\x88\x87R(K\x03" + text("<") + b"NNNK\x08K\x08K?tb",
        global_name("numpy dtype") + text("V8") + b"\x89\x88\x87R",
        global_name("torch Size") + b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft\x85R",
        global_name("torch.storage UntypedStorage") + b"\x8a\x06" + b"\xff" * 5 + b"\x7f\x85R",
        global_name("builtins bytearray") + b"\x8a\x06" + b"\xff" * 5 + b"\x7f\x85R",
        global_name("torch.storage _load_from_bytes") + pickle.dumps(b"\x80\x02", 2)[2:-1] + b"\x85R",
        global_name("collections OrderedDict") + b")R}" + text("items") + b"K\x05sb",
        global_name("collections Counter") + b"}" + text("a") + text("b") + b"s\x85R",
    ]
    return [*bare, *map(global_name, NAMES), *calls]


class Mutator:
    """Makes one file of a kind after the other, from a seed."""

    def __init__(self, folder: Path, seed: int):
        self.rng = random.Random(seed)
        self.snippets = snippets(folder / "canary")
        model = {f"layer1.{index}.bn1.weight": torch.rand(5, 4) for index in range(3)}
        whole = {
            "model": model,
            "arch": "resnet18",
            "epoch": 3,
            "best": 76.5,
            "args": {"lr": [0.1, 0.2], "x": (1, b"y")},
        }
        arrays = {**whole, "model": {name: value.numpy() for name, value in model.items()}}
        self.zip = io.BytesIO()
        torch.save(whole, self.zip)
        stream = io.BytesIO()
        torch.save(whole, stream, _use_new_zipfile_serialization=False)
        self.legacy = _split(stream.getvalue())
        self.pickles = {f"pickle{protocol}": pickle.dumps(arrays, protocol=protocol) for protocol in (2, 4, 5)}
        from safetensors.torch import save

        self.safetensors = save(model)

    def whole(self, kind: str) -> bytes:
        """Return a file of the kind that is as it should be."""
        if kind == "zip":
            return self.zip.getvalue()
        if kind == "legacy":
            return b"".join(self.legacy)
        return self.safetensors if kind == "safetensors" else self.pickles[kind]

    def file(self, kind: str) -> bytes:
        """Return the next mutated file of the kind."""
        if kind == "zip":
            return self._zip()
        if kind == "legacy":
            parts = list(self.legacy)
            place = self.rng.choice((0, 2, 3, 3, 3, 3, 3, 4, 5))
            parts[place] = self._bytes(parts[place]) if place == 5 else self._pickle(parts[place])
            return b"".join(parts)
        return self._safetensors() if kind == "safetensors" else self._pickle(self.pickles[kind])

    def _pickle(self, data: bytes) -> bytes:
        places = [place for _, _, place in pickletools.genops(data)] + [len(data)]
        parts = [data[first:last] for first, last in itertools.pairwise(places)]
        if self.rng.random() < 0.7:  # a frame's length would no longer be right
            parts = [part for part in parts if part[:1] != pickle.FRAME]
        for _ in range(self.rng.choice((1, 1, 1, 2, 3, 6))):
            place = self.rng.randrange(1, len(parts))  # behind the protocol's number
            what = self.rng.randrange(6)
            if what == 0:
                del parts[place]
            elif what == 1:
                parts.insert(place, parts[self.rng.randrange(len(parts))])
            elif what == 2:
                other = self.rng.randrange(1, len(parts))
                parts[place], parts[other] = parts[other], parts[place]
            elif what == 3:
                parts[place] = self._argument(parts[place])
            else:
                parts.insert(place, self.rng.choice(self.snippets))
            if len(parts) < 2:
                break
        return b"".join(parts)

    def _argument(self, part: bytes) -> bytes:
        """Give an instruction another argument."""
        if part[:1] == pickle.GLOBAL:
            return global_name(self.rng.choice(NAMES))
        if part[:1] in (pickle.BININT1, pickle.BININT2, pickle.BININT):
            return b"J" + struct.pack("<i", self.rng.choice((-1, 0, 1, 2, 19, 21, 255, 1 << 20, 2**31 - 1, -(2**31))))
        return part[:1] + self._bytes(part[1:]) if len(part) > 1 else self.rng.choice(self.snippets)

    def _bytes(self, data: bytes) -> bytes:
        changed = bytearray(data or b"x")
        for _ in range(self.rng.choice((1, 1, 2, 5))):
            place = self.rng.randrange(len(changed))
            what = self.rng.randrange(4)
            if what == 0:
                changed[place] ^= 1 << self.rng.randrange(8)
            elif what == 1:
                changed[place : place + self.rng.randrange(9)] = self.rng.randbytes(self.rng.randrange(9))
            elif what == 2:
                changed[place:place] = self.rng.randbytes(4)
            else:
                del changed[place + 1 :]
            changed = changed or bytearray(b"x")
        return bytes(changed)

    def _zip(self) -> bytes:
        with zipfile.ZipFile(self.zip) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        compression = zipfile.ZIP_STORED
        what = self.rng.randrange(12)
        place = self.rng.randrange(len(members))
        if what == 0:
            members.insert(place, self.rng.choice(members))
        elif what == 1:
            del members[place]
        elif what == 2:
            name, data = members[place]
            members[place] = (name, self._bytes(data))
        elif what == 3:
            name, data = members[place]
            members[place] = (self._bytes(name.encode()).decode("latin1").replace("\0", "0"), data)
        elif what == 4:
            compression = zipfile.ZIP_DEFLATED
        else:
            members = [(name, self._pickle(data) if name.endswith("/data.pkl") else data) for name, data in members]
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w", compression) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of two members of one name
            for name, data in members:
                archive.writestr(name, data)
        return self._bytes(written.getvalue()) if self.rng.random() < 0.1 else written.getvalue()

    def _safetensors(self) -> bytes:
        size = int.from_bytes(self.safetensors[:8], "little")
        header, data = self.safetensors[8 : 8 + size], self.safetensors[8 + size :]
        what = self.rng.randrange(4)
        if what == 0:
            return self._bytes(self.safetensors)
        if what == 1:
            length = self.rng.choice((0, 1, size - 1, size + 1, 1 << 31, 1 << 62, 2**64 - 1))
            return length.to_bytes(8, "little") + header + data
        if what == 2:
            changed = self._bytes(header)
        else:
            entries = json.loads(header)
            entry = entries[self.rng.choice(sorted(set(entries) - {"__metadata__"}))]
            key = self.rng.choice(sorted(entry))
            entry[key] = self.rng.choice(
                (
                    None,
                    [],
                    [0],
                    [-1, 4],
                    [5, 1 << 62],
                    [1 << 62, 4],
                    [0, 80],
                    [80, 0],
                    [0, 1 << 40],
                    "F64",
                    "X",
                    {},
                    1e999,
                )
            )
            changed = json.dumps(entries).encode()
        return len(changed).to_bytes(8, "little") + changed + data


def _split(stream: bytes) -> list[bytes]:
    """Return the five pickles of PyTorch's older files and the storages behind them."""
    file, parts = io.BytesIO(stream), []
    for _ in range(5):
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        parts.append(stream[start : file.tell()])
    return [*parts, stream[file.tell() :]]


def equal(one: object, other: object) -> bool:
    """Whether two values of the same place are the same, every number of them; each has to come to an end."""
    if type(one) is not type(other) or getattr(one, "shape", ()) != getattr(other, "shape", ()):
        return False
    if isinstance(one, torch.Tensor):
        if one.dtype != other.dtype:
            return False
        if one.device.type == "meta" or not one.numel():
            return True
        return torch.equal(*(value.reshape(-1).contiguous().view(torch.uint8) for value in (one, other)))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            equal(a, c) and equal(b, d) for (a, b), (c, d) in zip(one.items(), other.items(), strict=True)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other or repr(one) == repr(other)


def main() -> int:
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    mutator, file = Mutator(folder, seed), folder / "w"
    codecs.lookup("cp437")  # of names in a zip
    for kind in KINDS:  # what is imported is imported now
        file.write_bytes(mutator.whole(kind))
        assert equal(read_weights(file), read_weights(file)), kind
        file.write_bytes(mutator.whole(kind)[:-9])
        with contextlib.suppress(ValueError):
            find_network(read_weights(file))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    seen: list[str] = []
    armed = False

    def watch(event: str, arguments: tuple) -> None:
        if armed and event.startswith(WATCHED):
            reading = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not reading:
                seen.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(watch)
    results = {kind: {"refused": 0, "loaded": 0} for kind in KINDS}
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        file.write_bytes(mutator.file(kind))
        armed = True
        outcome = "refused"
        try:
            content = read_weights(file)
            outcome = "loaded"
            assert equal(content, read_weights(file)), "read twice, it is not the same"
            find_network(content)
        except (ValueError, OSError) as error:
            if "\n" in str(error):
                raise AssertionError("more than one line") from error
        armed = False
        results[kind][outcome] += 1
        if seen or (folder / "canary").exists():
            print(f"file {number} ({kind}): {seen or 'the canary is there'}", file=sys.stderr)
            return 1
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        sys.exit(1)
