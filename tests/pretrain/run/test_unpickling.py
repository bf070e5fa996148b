"""What a file of PyTorch may hold, and what it may not claim."""

import pickletools
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from pretrain.run.checkpoint import UnsafeError, load_checkpoint
from pretrain.run.unpickling.plain import MAX_DEPTH, check_amount

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = torch.arange(24.0)
TYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.complex64, torch.uint16, torch.float8_e4m3fn,
)  # fmt: skip


def with_attribute(tensor):
    tensor.is_norm = True
    return tensor


COMPLEX = torch.tensor([1 + 2j, 3 - 4j])
LINEAR = torch.nn.Linear(2, 3)
CONTENTS = {
    "views": {"a": NUMBERS.view(2, 3, 4).transpose(0, 2), "b": NUMBERS[3:7], "c": NUMBERS[::2], "d": NUMBERS[:1]},
    "empty": {"a": torch.empty(0, 3), "b": torch.tensor(1.5)},
    "expanded": {"a": torch.ones(1).expand(50, 60)},
    "types": {str(one): torch.ones(3).to(one) for one in TYPES},
    "parameters": {"a": torch.nn.Parameter(NUMBERS), "b": with_attribute(torch.nn.Parameter(NUMBERS))},
    "attributes": {"a": with_attribute(torch.ones(2))},
    "network": LINEAR.state_dict(),
    "optimizer": torch.optim.Adam(LINEAR.parameters()).state_dict(),
    "schedule": torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD(LINEAR.parameters(), lr=0.1), [3, 4]).state_dict(),
    "random": {"state": torch.get_rng_state()},
    "plain": {"a": {1, 2}, "b": b"\xff", "c": b"", "d": 2**200, "e": (1, "x", None, True, [float("inf")]), 3: "\xe9"},
    "sizes": {"size": torch.Size([1, 2]), "type": torch.float16, "layout": torch.strided},
    "devices": {"a": torch.device("cuda", 1), "b": torch.device("cpu")},
    "odd": {"a": bytearray(b"\xffa"), "b": 1 - 2j, ("a", (1, 2)): 3, (): 4},
    "conjugate": {"a": COMPLEX.conj(), "b": COMPLEX.conj()[1:]},
    "negative": {"a": COMPLEX.conj().imag},
}


def same(found, saved):
    if isinstance(saved, torch.Tensor):
        assert (found.dtype, found.shape, found.stride()) == (saved.dtype, saved.shape, saved.stride())
        assert not found.requires_grad
        both = [one.detach().resolve_conj().resolve_neg().reshape(-1).contiguous() for one in (found, saved)]
        return not saved.numel() or torch.equal(*(one.view(torch.uint8) for one in both))
    if isinstance(saved, dict):
        assert (type(found), list(found)) == (type(saved), list(saved))
        return all(same(found[key], saved[key]) for key in saved)
    if isinstance(saved, (list, tuple)):
        return len(found) == len(saved) and all(map(same, found, saved))
    return found == saved and type(found) is type(saved)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", CONTENTS)
def test_load_checkpoint__gives_back_what_pytorch_saved(name, zipped, tmp_path):
    torch.save(CONTENTS[name], tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = load_checkpoint(tmp_path / "a.pth")
    assert same(found, CONTENTS[name])
    assert getattr(found, "_metadata", None) == getattr(CONTENTS[name], "_metadata", None)


def test_load_checkpoint__tensors_share_what_they_shared(tmp_path):
    torch.save({"a": NUMBERS, "b": NUMBERS[2:]}, tmp_path / "a.pth")
    found = load_checkpoint(tmp_path / "a.pth")
    found["a"][2] = -1
    assert found["b"][0] == -1


def test_load_checkpoint__numbers_of_another_machine(tmp_path):
    torch.save({"a": torch.tensor([1.0, 2.0])}, tmp_path / "a.pth")
    other = {"little": b"big", "big": b"little"}[sys.byteorder]
    rewrite(
        tmp_path / "a.pth",
        lambda name, data: (
            other if name.endswith("byteorder") else data[3::-1] + data[:3:-1] if "/data/" in name else data
        ),
    )
    assert load_checkpoint(tmp_path / "a.pth")["a"].tolist() == [1.0, 2.0]


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    """Write a zip file anew, with right checksums: each member as ``change`` of its name and bytes."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, change(name, data))


def saved(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def with_pickle(path, data):
    rewrite(path, lambda name, old: data if name.endswith("/data.pkl") else old)
    return path


def number(value):
    return b"J" + struct.pack("<i", value)


@pytest.mark.parametrize(
    "old, new, message",
    [
        (b"K\x18\x85", number(2**31 - 1) + b"\x85", r"shape \(2147483647,\) asks for more than its storage of 24 num"),
        (b"K\x18\x85", number(25) + b"\x85", r"shape \(25,\) asks for more than its storage of 24 numbers has"),
        (b"K\x18\x85", number(-1) + b"\x85", r"\(-1,\) are no sizes of a tensor"),
        (b"K\x00K\x18\x85", b"K\x01K\x18\x85", r"shape \(24,\) asks for more than its storage of 24 numbers has"),
        (b"K\x01\x85", b"K\x02\x85", r"shape \(24,\) asks for more than its storage of 24 numbers has"),
        (b"K\x01\x85", number(-1) + b"\x85", r"\(-1,\) are no sizes of a tensor"),
    ],
    ids=["huge", "one too long", "negative size", "offset", "stride", "negative stride"],
)
def test_load_checkpoint__a_tensor_lies_within_its_storage(old, new, message, tmp_path):
    path = saved(tmp_path, {"a": NUMBERS})
    with zipfile.ZipFile(path) as archive:
        data = archive.read("a/data.pkl")
    plain = pickletools.optimize(data)  # without the places that it remembers and never asks for
    assert plain.count(old) == 1
    with pytest.raises(ValueError, match=rf"a\.pth is damaged or not a PyTorch file: .*{message}"):
        load_checkpoint(with_pickle(path, plain.replace(old, new)))


def test_load_checkpoint__an_expanded_tensor_is_bounded(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(1).expand(1 << 20, 1 << 20)})
    with pytest.raises(ValueError, match="asks for more than its storage of 1 numbers has"):
        load_checkpoint(path)


def test_load_checkpoint__members_that_are_compressed_are_refused(tmp_path):
    """A million zeros are a thousand bytes so."""
    path = saved(tmp_path, {"a": torch.zeros(250_000)})
    rewrite(path, lambda _name, data: data, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"members are compressed, which PyTorch never does; pack them again"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content, what",
    [
        ({"a": torch.eye(3).to_sparse()}, r"torch\._utils\._rebuild_sparse_tensor"),
        ({"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)}, r"torch\._utils\._rebuild_qtensor"),
        ({"a": LINEAR}, r"torch\.nn\.modules\.linear\.Linear"),
        ({"a": frozenset({3})}, r"\w+\.frozenset"),
        ({"a": torch.ones(3).untyped_storage()}, "Storage"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_load_checkpoint__more_than_plain_tensors(content, what, tmp_path):
    try:
        path = saved(tmp_path, content)
    except RuntimeError as error:
        pytest.skip(f"PyTorch cannot save it: {error}")
    with pytest.raises(
        UnsafeError, match=rf"a\.pth cannot be loaded safely: it holds a {what}; nothing in it was exec"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "instructions, message",
    [
        (b"]" + b"q\x00h\x00\x86" * 40, "it repeats its parts: more than 1000000 entries"),
        (b"]q\x00h\x00a", "lists or dicts in a circle"),
        (b"}q\x00X\x01\x00\x00\x00ah\x00s", "lists or dicts in a circle"),
        (b"]" * 200 + b"a" * 199, f"lists or dicts more than {MAX_DEPTH} deep"),
        (b"\x8a\xff" + b"\x7f" * 255, "an integer of 2039 bits"),
        (b"ctorch.storage\nUntypedStorage\n\x8a\x06" + b"\xff" * 5 + b"\x7f\x85R", "it calls a _StorageType"),
        (b"ctorch.nn.parameter\nParameter\n)\x81", "an instruction that no such file needs"),
        (b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R", "an array of bytes of something else"),
        (
            b"}q\x00(" + b"".join(b"M" + struct.pack("<H", one) + b"N" for one in range(60_000)) + b"u"
            b"\x85q\x01" + b"ccollections\nOrderedDict\nq\x02h\x01R" + b"h\x02h\x01R" * 20,
            "it makes more of its parts than it has bytes",
        ),
        (b"}(" + b"K\x01" * 17 + b"tNs", "a tuple is no key of a dict"),
        (b"K\x05K\x01K\x02s", "it adds to a int"),
    ],
    ids=[
        "doubling",
        "circle",
        "own value",
        "deep",
        "integer",
        "storage",
        "object",
        "room",
        "copies",
        "long key",
        "target",
    ],
)
def test_load_checkpoint__whoever_walks_through_it_comes_to_an_end(instructions, message, tmp_path):
    path = with_pickle(saved(tmp_path, {}), b"\x80\x02" + instructions + b".")
    with pytest.raises(ValueError, match=rf"a\.pth is damaged or not a PyTorch file: .*{message}"):
        load_checkpoint(path)


def test_load_checkpoint__a_key_too_deep_to_be_hashed_does_not_end_the_process(tmp_path):
    instructions = b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s."
    path = with_pickle(saved(tmp_path, {}), instructions)
    code = f"from pretrain.run.checkpoint import load_checkpoint; load_checkpoint({str(path)!r})"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 1, f"status {ran.returncode}"  # and no signal
    assert "PyTorch file: a tuple is no key of a dict" in ran.stderr


def test_check_amount__parts_may_be_shared():
    shared = ["a"] * 100
    check_amount({number: shared for number in range(5000)}, 0, ())
    with pytest.raises(ValueError, match="repeats its parts: more than 1000000 entries out of 500 bytes"):
        check_amount({number: shared for number in range(10_000)}, 500, ())
    check_amount({number: shared for number in range(10_000)}, 1 << 21, ())  # as large as if nothing was shared
