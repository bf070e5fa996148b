"""tools/bench_methods.py: the table that it prints, the JSON that it writes, and what it refuses."""

import json
from pathlib import Path

import pytest
from torch import nn

from pretrain import learner

CONFIGS = Path(__file__).parents[2] / "pretrain/configs"
BASELINE, CUTMIX = (str(CONFIGS / f"cifar10_r18_{method}.yaml") for method in ("baseline", "cutmix"))
RUNS = ["--run", "plain", BASELINE, "--run", "cut", CUTMIX, "MIXING.PROB", "1"]
OPTS = ["DEVICE", "cpu", "SOLVER.BATCH_SIZE", "4"]


@pytest.fixture
def bench_methods(load_tool, tmp_path, monkeypatch):
    """Return the tool's ``main`` in an empty folder, where networks have one layer."""

    def build(arch, num_classes, **options):
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes))

    monkeypatch.setattr(learner, "build_model", build)
    monkeypatch.chdir(tmp_path)
    return load_tool("bench_methods").main


def test_bench_methods__table_and_json(bench_methods, capsys):
    assert not bench_methods([*RUNS, "--rounds", "2", "--iterations", "1", "--output", "timing.json", *OPTS])
    report = json.loads(Path("timing.json").read_text())
    assert [run["name"] for run in report["runs"]] == ["plain", "cut"]
    assert report["runs"][0]["relative"] == 1.0
    assert (report["rounds"], report["iterations"]) == (2, 1)
    header, plain, cut, how = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["run", "s/iteration,"]
    assert plain.split()[:2] == ["plain", f"{report['runs'][0]['seconds_per_iteration']:.4f}"]
    assert cut.split()[3] == f"{report['runs'][1]['relative']:.3f}"
    assert how.startswith("resnet18_cifar, batch 4, float32 on cpu, ")
    assert "data: one batch of noise; 2 rounds of 1 iterations; " in how


@pytest.mark.parametrize("arguments, message", [
    (["--rounds", "0"], "--rounds must be at least 1, but got 0"),
    (["--iterations", "0"], "--iterations must be at least 1, but got 0"),
    (["--output", "nowhere/timing.json"], r"--output nowhere/timing\.json: its folder does not exist"),
    (["--run", "cut", CUTMIX], "--run cut is given twice; every run needs a name of its own"),
])  # fmt: skip
def test_bench_methods__refuses(bench_methods, tmp_path, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        bench_methods([*RUNS, *arguments, *OPTS])
    assert not list(tmp_path.iterdir())
