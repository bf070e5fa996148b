"""The benchmark runs, reports what it promises and refuses nonsense. Its figures are not judged here."""

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

from tools.benchmarks import mixing
from tools.benchmarks.mixing import guided_mixup


@pytest.fixture
def bench_mixing(load_tool):
    threads = torch.get_num_threads()
    yield load_tool("bench_mixing").main
    torch.set_num_threads(threads)


def test_bench_mixing__table_and_json(bench_mixing, capsys):
    assert not bench_mixing(["--num-images", "4", "--size", "32", "--rounds", "1", "--threads", "1"])
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert [case["target"] for case in report["cases"][:3]] == [4, 4, 12]
    assert all(case["ms_per_picture"] > 0 and case["ratio"] > 0 for case in report["cases"])
    by_name = {case["case"]: case for case in report["cases"]}
    assert by_name["ResizeMix, 32"]["target"] == pytest.approx(1 / 3)
    combinations = [name for name, case in by_name.items() if case["other"] == "SaliencyMix"]
    assert len(combinations) == 7 * 3 - 1  # a shrunk picture has no relative label
    assert {"uniform, relative", "resized, absolute", "nonsalient_to_salient, area"} <= set(combinations)
    assert any("at half size" in line for line in table)
    assert any("MB extra" in line for line in table)
    assert report["memory"][0]["device"] == "cpu"
    assert report["environment"]["threads"] == 1


class TheirSaliency:
    """GuidedMixup's class, as a test knows it: made for a device, called with floats in 0..1."""

    def __init__(self, device):
        assert device == "cpu"

    def transform_spectral_residual(self, images):
        assert images.is_floating_point()
        assert images.max() <= 1
        return images[:, 0]


def test_guided_mixup__is_found_where_pythonpath_names_it(monkeypatch):
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    module = ModuleType("spectral_residual")
    module.__spec__ = ModuleSpec("spectral_residual", None)
    monkeypatch.setitem(sys.modules, "spectral_residual", module)
    module.__file__ = "elsewhere/spectral_residual.py"
    with pytest.raises(ValueError, match=r"elsewhere/spectral_residual.py has no SpectralResidual; expected that of"):
        guided_mixup(images)
    module.SpectralResidual = TheirSaliency
    assert guided_mixup(images)().shape == (2, 8, 8)


def test_bench_mixing__says_which_peers_are_left_out(bench_mixing, monkeypatch, capsys):
    monkeypatch.setattr(mixing, "mixup_package", lambda images, labels: None)
    monkeypatch.setattr(mixing, "guided_mixup", lambda images: None)
    assert not bench_mixing(["--num-images", "2", "--size", "16", "--rounds", "1", "--threads", "1"])
    *table, last = capsys.readouterr().out.splitlines()
    left_out = json.loads(last)["left_out"]
    assert [reason.split()[0] for reason in left_out] == ["mixup", "spectral_residual"]
    assert [line for line in table if line.startswith("left out: ")] == [f"left out: {reason}" for reason in left_out]


@pytest.mark.parametrize("arguments, message", [
    (["--num-images", "1"], "--num-images must be at least 2, but got 1"),
    (["--rounds", "0"], "--rounds must be at least 1, but got 0"),
    (["--threads", "0"], "--threads must be at least 1, but got 0"),
])  # fmt: skip
def test_bench_mixing__refuses(bench_mixing, arguments, message):
    with pytest.raises(ValueError, match=message):
        bench_mixing(arguments)
