"""The benchmark of pretraining runs and reports everything that it promises, on sizes that say nothing about speed."""

import json
from pathlib import Path

import pytest
from torch import nn

from pretrain import learner

CONFIG = ["--config-file", str(Path(__file__).parents[2] / "pretrain/configs/imagenet_r50_saliencymix.yaml")]


@pytest.fixture
def small_network(monkeypatch):
    """A network of one layer instead of ResNet-50."""

    def build(arch, num_classes, **options):
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes))

    monkeypatch.setattr(learner, "build_model", build)


def test_bench_pretrain__reports_data_step_and_both(load_tool, small_network, capsys):
    load_tool("bench_pretrain").main(
        [
            "--num-images",
            "4",
            "--rounds",
            "1",
            "--iterations",
            "1",
            *CONFIG,
            "SOLVER.BATCH_SIZE",
            "2",
            "DATA.NUM_WORKERS",
            "0",
            "DATA.IMAGE_SIZE",
            "32",
            "DEVICE",
            "cpu",
        ]
    )
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    contenders = [row["contender"] for row in report["data"]]
    assert {"DATA.DECODER opencv", "DATA.DECODER pillow", "Pillow, draft mode, 8-bit"} < set(contenders)
    assert report["data"][0]["times_the_reference"] == 1.0
    assert report["pixel_differences"]["opencv, decoded"] == {"max": 0, "mean": 0.0}
    assert report["pixel_differences"]["opencv, cropped and resampled"]["max"] <= 1
    assert report["mixing"]["step_with_cutmix_ms"] > 0
    assert 0 <= report["run"]["share_waiting_for_data"] <= 1
    assert "% of the ceiling" in out


@pytest.mark.parametrize("arguments, message", [
    (["--rounds", "0", *CONFIG], "--rounds must be at least 1, but got 0"),
    ([*CONFIG, "SOLVER.EPOCS", "1"], r"unknown config key SOLVER\.EPOCS"),
    (["--num-images", "1", *CONFIG, "DATA.DATASET", "cifar10"], r"DATA\.DATASET is cifar10; only pictures in class"),
])  # fmt: skip
def test_bench_pretrain__refuses(load_tool, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_tool("bench_pretrain").main(arguments)
