import argparse
import os
import pickle
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


@pytest.mark.parametrize("spec", ["O", [("a", "O")]], ids=["objects", "a record of objects"])
def test_read_weights__an_array_of_objects_is_never_made(spec, tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": np.zeros(1, dtype=spec)}))
    with pytest.raises(ValueError, match=r"w\.pkl holds a numpy array of objects, which is more than tensors"):
        read_weights(tmp_path / "w.pkl")


@pytest.mark.parametrize("legacy", [False, True])
def test_read_weights__pytorch(legacy, tmp_path):
    torch.save(STATE, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert torch.equal(read_weights(tmp_path / "w.pth")["a.weight"], STATE["a.weight"])


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_read_weights__numpy_pickle(protocol, tmp_path):
    file = tmp_path / "w.pkl"
    file.write_bytes(
        pickle.dumps(
            {"model": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, "__author__": "x"}, protocol=protocol
        )
    )
    content = read_weights(file)
    assert np.array_equal(content["model"]["a"], np.arange(6).reshape(2, 3))
    assert content["__author__"] == "x"


def test_read_weights__safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(STATE, tmp_path / "w.safetensors")
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
