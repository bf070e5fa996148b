import argparse
import os
import pickle
import random
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.run.cli import one_line
from pretrain.weights import safe_copy
from pretrain.weights.files import read_weights
from pretrain.weights.networks import find_network

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3)}


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


class MaliciousSystem(Malicious):
    def __reduce__(self):
        return os.system, (f"touch {shlex.quote(str(self.path))}",)


@pytest.mark.parametrize("attack", [Malicious, MaliciousSystem])
@pytest.mark.parametrize(
    "write",
    [
        lambda content, path: torch.save(content, path),
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content, path: path.write_bytes(pickle.dumps(content)),
        lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    ],
    ids=["zip", "legacy", "pickle", "pickle2"],
)
def test_read_weights__executes_nothing(attack, write, tmp_path):
    file, trap = tmp_path / "weights.pth", tmp_path / "executed"
    write({"state_dict": STATE, "extra": attack(trap)}, file)
    assert not trap.exists()
    with pytest.raises(
        ValueError,
        match=r"weights\.pth holds a [\w.]+, which is more than tensors and plain values; "
        "nothing in it was executed",
    ):
        read_weights(file)
    assert not trap.exists()


@pytest.mark.parametrize(
    "content, type_name",
    [
        ({"state_dict": STATE, "args": argparse.Namespace(lr=0.1)}, r"argparse\.Namespace"),
        ({"model": STATE, "best": np.float64(76.1)}, r"numpy\.\w+\.multiarray\.scalar"),
        (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_read_weights__names_the_type_and_a_line_that_makes_a_safe_copy(content, type_name, tmp_path):
    folder = tmp_path / "it's  the $HOME"  # a line of an error loses the second of two spaces
    folder.mkdir()
    torch.save(content, folder / "unsafe.pth")
    with pytest.raises(ValueError, match=rf"holds a {type_name}, .*Only if you trust") as refusal:
        read_weights(folder / "unsafe.pth")
    line = one_line(refusal.value).partition("(this line executes what it holds), make a safe copy: ")[2]
    program, script, *arguments = shlex.split(line)
    assert program == sys.executable
    assert script == safe_copy.__file__
    safe_copy.main(arguments)
    assert "weight" in repr(read_weights(folder / "unsafe.pth.safe.pth"))


def test_read_weights__the_line_is_a_program_wherever_it_is_pasted(tmp_path):
    torch.save({"model": STATE, "args": argparse.Namespace(lr=0.1)}, tmp_path / "unsafe.pth")
    with pytest.raises(ValueError, match="make a safe copy: ") as refusal:
        read_weights(tmp_path / "unsafe.pth")
    line = one_line(refusal.value).partition("make a safe copy: ")[2]
    ran = subprocess.run(line, shell=True, cwd="/", capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert read_weights(tmp_path / "unsafe.pth.safe.pth")["args"] == {"lr": 0.1}


def test_read_weights__torchscript(tmp_path):
    archive = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), archive)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"script\.pt holds a TorchScript program, .*make a safe copy: "):
            read_weights(archive)
        safe_copy.copy_safely(archive, tmp_path / "copy.pth")
    assert set(read_weights(tmp_path / "copy.pth")) == {"weight", "bias"}


def test_read_weights__a_folder(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path.name} is a folder; expected a weights file"):
        read_weights(tmp_path)


class Spelled:
    """Pickled as the call ``function(*arguments)``, then with ``state`` where there is one."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


RECONSTRUCT = np.zeros(1).__reduce__()[0]
FLOAT32 = np.dtype("f4")
EMPTY = (np.ndarray, (0,), b"b")


@pytest.mark.parametrize(
    "content, message",
    [
        (np.zeros(1, dtype="O"), "holds a numpy array of type O, which is more than tensors"),
        (np.zeros(1, dtype=[("a", "O")]), "holds a numpy array of type V8, which is more than tensors"),
        (np.zeros(1, dtype=[("a", "f4")]), "holds a numpy array of type V4, which is more than tensors"),
        (Spelled(np.dtype, "O", state=(3, "<", None, None, None, 8, 8, 0)), "holds a numpy array of type O"),
        (
            Spelled(np.dtype, "f4", state=(3, "<", (FLOAT32, (2,)), None, None, -1, -1, 0)),
            "holds a numpy array of type V4",
        ),
        (Spelled(np.ndarray, (1,), "O", b"12345678"), "is damaged"),
        (Spelled(RECONSTRUCT, *EMPTY, state=(1, (2,), FLOAT32, False, b"1234")), "is damaged or cut short: .*4 bytes"),
        (Spelled(RECONSTRUCT, *EMPTY, state=(1, (-1,), FLOAT32, False, b"")), "is damaged or cut short: .*shape"),
        (Spelled(RECONSTRUCT, *EMPTY, state=(1, (1,), FLOAT32, False, [1.0])), "is damaged"),
        (Spelled(RECONSTRUCT, *EMPTY, state=(1, (1,), "O", False, b"12345678")), "is damaged"),
    ],
)
def test_read_weights__an_array_is_made_of_numbers_only(content, message, tmp_path):
    """What NumPy itself would make of such a pickle ends the process, or waits to do so."""
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": content}, protocol=4))
    with pytest.raises(ValueError, match=rf"w\.pkl {message}"):
        read_weights(tmp_path / "w.pkl")


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6).reshape(2, 3)[:, ::2],
        np.array(1.5, dtype="f2"),
        np.zeros((0, 3), dtype="f4"),
        np.array(["a", "bcd"]),
        np.array([True, False]),
        np.array([1 + 2j]),
    ],
    ids=["big-endian", "Fortran", "strided", "one number", "empty", "text", "bool", "complex"],
)
def test_read_weights__every_array_of_numbers_as_it_was(array, protocol, tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": array}, protocol=protocol))
    read = read_weights(tmp_path / "w.pkl")["a"]
    assert type(read) is np.ndarray
    assert (read.dtype.newbyteorder("="), read.shape) == (array.dtype.newbyteorder("="), array.shape)
    assert np.array_equal(read, array)


def test_read_weights__a_memo_of_a_billion_places_costs_no_memory(tmp_path):
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")  # an empty dict, kept under number 2^31 - 1
    assert read_weights(tmp_path / "w.pkl") == {}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".", "it ends within an array"),
        (b"\x80\x04]" + b"q\x00h\x00\x86" * 40 + b".", "it repeats its parts"),
        (b"\x80\x04]q\x00h\x00a.", "it holds lists or dicts in a circle"),
        (b"\x80\x04})" + b"\x85" * 1000 + b"K\x01s.", "a tuple is no key of a dict"),
        (
            b"\x80\x04c_codecs\nencode\nq\x00X\x40\x42\x0f\x00"
            + b"a" * 1_000_000
            + b"X\x00\x00\x00\x00\x86q\x01R"
            + b"h\x00h\x01R" * 3
            + b".",
            "it makes more of its parts than it has bytes",
        ),
        (b"\x80\x04cnumpy\ndtype\n]\x85R.", "an array is of no type that NumPy has"),
    ],
)
def test_read_weights__a_pickle_takes_no_more_than_it_has(content, message, tmp_path):
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\.pkl is damaged or cut short: {message}"):
        read_weights(tmp_path / "w.pkl")


def mutated(data, rng):
    """Flip, replace, drop or insert some bytes, or cut the end."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place] = rng.randrange(256)
        elif kind == 2:
            del data[place : place + rng.randrange(1, 9)]
        elif kind == 3:
            data[place:place] = rng.randbytes(4)
        else:
            del data[place + 1 :]
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle2", "pickle4", "safetensors"])
def test_read_weights__damaged_bytes_are_read_or_refused_in_one_line(kind, tmp_path):
    content = {"model": {f"layer1.{index}.bn1.weight": torch.rand(5, 4) for index in range(3)}, "arch": "resnet18"}
    file = tmp_path / "w"
    if kind.startswith("pickle"):
        arrays = {name: value.numpy() for name, value in content["model"].items()}
        file.write_bytes(pickle.dumps({**content, "model": arrays}, protocol=int(kind[-1])))
    elif kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(content["model"], file)
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    whole, rng = file.read_bytes(), random.Random(kind)
    refusals = []
    for _ in range(150):
        file.write_bytes(mutated(whole, rng))
        try:
            find_network(read_weights(file))
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 75
    assert not [text for text in refusals if "\n" in text]
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize("legacy", [False, True])
def test_read_weights__pytorch(legacy, tmp_path):
    torch.save(STATE, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert torch.equal(read_weights(tmp_path / "w.pth")["a.weight"], STATE["a.weight"])


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_read_weights__numpy_pickle(protocol, tmp_path):
    file = tmp_path / "w.pkl"
    large = np.zeros(600_000, dtype=np.float32)  # more than any file may hold: counted by the file itself
    file.write_bytes(
        pickle.dumps(
            {"model": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": large}, "__author__": "x"},
            protocol=protocol,
        )
    )
    content = read_weights(file)
    assert np.array_equal(content["model"]["a"], np.arange(6).reshape(2, 3))
    assert np.array_equal(content["model"]["b"], large)
    assert content["__author__"] == "x"


def test_read_weights__safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(STATE, tmp_path / "w.safetensors")
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["a.weight"], STATE["a.weight"])


def test_read_weights__safetensors_whose_first_byte_is_a_pickle_s(tmp_path):
    """The length of the header, which comes first, is 128 and a multiple of 256: one file in 32 is such a one."""
    safetensors = pytest.importorskip("safetensors.torch")
    for count in range(300):
        content = safetensors.save(STATE, {"note": "x" * count})
        if content[0] == 0x80:
            break
    assert content[0] == 0x80
    (tmp_path / "w.safetensors").write_bytes(content)
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["a.weight"], STATE["a.weight"])


def test_read_weights__safetensors_without_the_package(tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"reading it needs `pip install safetensors`"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page, not weights"),
        (b"<HTML>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"hello", r"is not a weights file: it starts with b'hello'"),
        (b"PK\x03\x04 and nothing more", "is damaged or not a PyTorch file"),
        (b"\x80\x04\x95", "is damaged or cut short"),
        (b"\x80\x04K\x01K\x02R.", "is damaged or cut short"),
        (b"\x80\x02cnumpy\n\x1b[1md\rtype\n.", "is damaged or cut short: its pickle names a type that cannot be"),
    ],
)
def test_read_weights__not_weights(content, message, tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\.pth {message}") as error:
        read_weights(file)
    assert "\n" not in str(error.value)


def test_read_weights__no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        read_weights(tmp_path / "none.pth")


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "safetensors"])
def test_read_weights__truncated(kind, share, tmp_path):
    file = tmp_path / "w"
    state = {f"a{index}.weight": torch.rand(20, 20) for index in range(5)}
    if kind == "pickle":
        file.write_bytes(pickle.dumps({name: value.numpy() for name, value in state.items()}))
    elif kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="w is damaged"):
        read_weights(file)
