import argparse
import collections
import enum
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from pretrain.weights.files import read_weights
from pretrain.weights.networks import find_network
from pretrain.weights.safe_copy import copy_safely, main


class Opaque:
    """Pickled by name: not safe to load."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Kind(enum.Enum):
    BEST = "best"


Pair = collections.namedtuple("Pair", "online target")


def function():
    """Pickled by name, like a schedule."""


def copied(content, tmp_path, *, legacy=False):
    torch.save(content, tmp_path / "source.pth", _use_new_zipfile_serialization=not legacy)
    left_out = copy_safely(tmp_path / "source.pth", tmp_path / "copy.pth")
    return torch.load(tmp_path / "copy.pth", weights_only=True), left_out


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "value, expected",
    [
        (np.float64(76.5), 76.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("resnet18"), "resnet18"),
        (Kind.BEST, "best"),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (torch.Size([2, 3]), (2, 3)),
        (Pair({"a": 1}, 2), {"online": {"a": 1}, "target": 2}),
        (argparse.Namespace(lr=0.1, arch="resnet18", steps=[1, 2]), {"lr": 0.1, "arch": "resnet18", "steps": [1, 2]}),
        (Opaque(inner=Opaque(lr=1)), {"inner": {"lr": 1}}),
        ((1, [True, {"a": b"bytes"}], None), (1, [True, {"a": b"bytes"}], None)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_copy_safely__values_become_plain(value, expected, tmp_path):
    copy, left_out = copied({"value": value, "unsafe": Opaque(a=1)}, tmp_path)
    assert copy["value"] == expected
    assert repr(copy["value"]) == repr(expected)  # 3 and True, not their NumPy kin; dict, not OrderedDict
    assert left_out == []


@pytest.mark.parametrize(
    "value, kind",
    [
        (function, "function"),
        (Opaque, "type"),
        (torch.float32, "torch.dtype"),
        (Opaque(), f"{Opaque.__module__}.Opaque"),
        (np.array([None]), "numpy.ndarray"),
        (np.longdouble(1), "numpy.longdouble"),
        ({1, 2}, "set"),
        (torch.eye(2).to_sparse(), "a sparse, quantised or nested tensor"),
        (torch.eye(2).to_sparse_csr(), "a sparse, quantised or nested tensor"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8), "a sparse, quantised or nested tensor"),
    ],
    ids=["function", "class", "dtype", "empty", "object array", "long double", "set", "sparse", "rows", "quantised"],
)
@pytest.mark.filterwarnings("ignore")
def test_copy_safely__what_is_not_plain_is_left_out_by_name(value, kind, tmp_path):
    copy, left_out = copied({"arch": "resnet18", "inner": {"odd": value, "lr": 1}, "list": [value, 2]}, tmp_path)
    assert copy == {"arch": "resnet18", "inner": {"lr": 1}, "list": [2]}
    assert left_out == [f"inner.odd ({kind})", f"list.0 ({kind})"]


def test_copy_safely__a_key_that_is_not_plain_is_left_out(tmp_path):
    copy, left_out = copied({"state": {torch.float32: 1, np.int64(3): 2}}, tmp_path)
    assert copy == {"state": {3: 2}}
    assert left_out == ["state.torch.float32 (its key is a torch.dtype)"]


def test_copy_safely__a_circle_ends(tmp_path):
    content = {"lr": 1, "a": Opaque(b=2)}
    content["a"].outer = content
    copy, left_out = copied(content, tmp_path)
    assert copy == {"lr": 1, "a": {"b": 2}}
    assert left_out == ["a.outer (a circle)"]


def test_copy_safely__what_is_there_twice_is_no_circle(tmp_path):
    shared = {"w": torch.ones(2)}
    copy, _ = copied({"model": shared, "best": shared, "unsafe": Opaque(a=1)}, tmp_path)
    assert torch.equal(copy["model"]["w"], copy["best"]["w"])


@pytest.mark.parametrize("legacy", [False, True])
def test_copy_safely__tensors_keep_type_and_values(legacy, tmp_path):
    tensors = {
        "half": torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(7),
        "view": torch.arange(6.0).reshape(2, 3).t(),
    }
    copy, _ = copied({"state": tensors, "unsafe": Opaque(a=1)}, tmp_path, legacy=legacy)
    for name, value in tensors.items():
        assert torch.equal(copy["state"][name], value)
        assert copy["state"][name].dtype == value.dtype
        assert type(copy["state"][name]) is torch.Tensor


def test_copy_safely__arrays_of_a_pickle_become_tensors(tmp_path):
    content = {"model": {"a": np.arange(3, dtype=">f4")}, "unsafe": Opaque(a=1)}
    (tmp_path / "source.pkl").write_bytes(pickle.dumps(content))
    copy_safely(tmp_path / "source.pkl", tmp_path / "copy.pth")
    assert torch.equal(read_weights(tmp_path / "copy.pth")["model"]["a"], torch.tensor([0.0, 1.0, 2.0]))


def test_copy_safely__a_network_becomes_its_state_dict(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    copy, _ = copied(network, tmp_path)
    assert set(copy) == {"0.weight", "0.bias"}
    copy, _ = copied({"net": network, "epoch": 3}, tmp_path)
    assert (set(copy["net"]), copy["epoch"]) == ({"0.weight", "0.bias"}, 3)


@pytest.mark.parametrize("config", ["pretrained_cfg", "default_cfg"])
@pytest.mark.parametrize("wrap", [lambda network: network, torch.nn.Sequential], ids=["bare", "wrapped"])
def test_copy_safely__a_network_that_knows_its_architecture_keeps_it(config, wrap, tmp_path):
    network = torch.nn.Linear(2, 2)
    setattr(network, config, {"architecture": "resnetblur18"})  # as timm has it
    copy, _ = copied(wrap(network), tmp_path)
    assert copy["arch"] == "resnetblur18"
    assert len(copy["state_dict"]) == 2
    assert copied({"model": wrap(network)}, tmp_path)[0]["arch"] == "resnetblur18"
    assert copied({"model": wrap(network), "arch": "mine"}, tmp_path)[0]["arch"] == "mine"


def test_copy_safely__the_training_script_of_timm(resnet18, tmp_path):
    content = {"arch": "resnetblur18", "state_dict": resnet18, "state_dict_ema": resnet18}
    copy, _ = copied({**content, "args": argparse.Namespace(lr=0.1)}, tmp_path)
    assert find_network(copy).metadata == find_network(content).metadata == {"arch": "resnetblur18"}


def test_copy_safely__the_averaged_weights_of_torchvisions_script(resnet18, random_resnet, tmp_path):
    average = random_resnet(18, seed=1)
    ema = collections.OrderedDict(n_averaged=torch.tensor(5), **prefixed("module.", average))
    copy, _ = copied({"model": resnet18, "model_ema": ema, "args": argparse.Namespace(lr=0.1)}, tmp_path)
    assert torch.equal(find_network(copy, ema=True).state["conv1.weight"], average["conv1.weight"])
    assert torch.equal(find_network(copy).state["conv1.weight"], resnet18["conv1.weight"])


def test_copy_safely__student_and_teacher_of_dino(resnet18, random_resnet, tmp_path):
    networks = [
        {key: value for key, value in state.items() if not key.startswith("fc.")}
        for state in (resnet18, random_resnet(18, seed=1))
    ]
    head = {"head.mlp.0.weight": torch.zeros(4, 4)}
    content = {
        "student": prefixed("module.", prefixed("backbone.", networks[0]) | head),
        "teacher": prefixed("backbone.", networks[1]) | head,
        "args": argparse.Namespace(arch="resnet18"),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }
    copy, _ = copied(content, tmp_path)
    for prefix, expected in (("student.module.backbone.", networks[0]), ("teacher.backbone.", networks[1])):
        found = find_network(copy, prefix=prefix)
        assert torch.equal(found.state["conv1.weight"], expected["conv1.weight"])
        assert found.beside == {"outside --prefix": 1}


def test_copy_safely__names_the_module_that_is_missing(tmp_path, monkeypatch):
    module = types.ModuleType("their_models")
    module.Net = type("Net", (), {"__module__": "their_models"})
    monkeypatch.setitem(sys.modules, "their_models", module)
    torch.save({"net": module.Net()}, tmp_path / "source.pth")
    monkeypatch.delitem(sys.modules, "their_models")
    with pytest.raises(ValueError, match=r"source\.pth needs the module 'their_models' .*PYTHONPATH"):
        copy_safely(tmp_path / "source.pth", tmp_path / "copy.pth")
    assert not (tmp_path / "copy.pth").exists()


def explode():
    raise LookupError("two\nlines")


class Explosive:
    def __reduce__(self):
        return explode, ()


def test_copy_safely__whatever_the_file_raises_is_one_line(tmp_path):
    torch.save({"a": Explosive()}, tmp_path / "source.pth")
    with pytest.raises(ValueError, match=r"source\.pth cannot be opened even so: LookupError: two$"):
        copy_safely(tmp_path / "source.pth", tmp_path / "copy.pth")


def test_copy_safely__nothing_plain_in_it(tmp_path):
    torch.save(function, tmp_path / "source.pth")
    with pytest.raises(ValueError, match=r"source\.pth holds no tensors and no plain values, but a function"):
        copy_safely(tmp_path / "source.pth", tmp_path / "copy.pth")


def test_copy_safely__never_over_its_source(tmp_path):
    torch.save({"a": Opaque(b=1)}, tmp_path / "source.pth")
    with pytest.raises(ValueError, match=r"source and target are the same file"):
        copy_safely(tmp_path / "source.pth", tmp_path / ".." / tmp_path.name / "source.pth")


def test_main__says_what_was_left_out(tmp_path, capsys):
    torch.save({"odd": [function] * 12, "lr": 1}, tmp_path / "source.pth")
    assert main([str(tmp_path / "source.pth"), str(tmp_path / "copy.pth")]) == 0
    printed = capsys.readouterr().out
    assert "left out, as neither tensors nor plain values: odd.0 (function), " in printed
    assert "and 2 more" in printed
    assert f"written: {tmp_path / 'copy.pth'}" in printed
