"""The benchmark of pretraining runs and reports everything that it promises, on sizes that say nothing about speed."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain import learner
from pretrain.config import load_pretrain_config
from tools.benchmarks import pretrain

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
    assert report["environment"]["gpu"] is None
    assert report["mixing"]["step_with_cutmix_ms"] > 0
    assert 0 <= report["run"]["share_waiting_for_data"] <= 1
    assert "% of the ceiling" in out


@pytest.mark.parametrize("opts", [
    ["DATA.IMAGE_SIZE", "32"],
    ["DATA.TRAIN_SIZE", "32", "DATA.TRIVIAL_AUGMENT", "True", "DATA.ERASE_PROB", "1.0"],
])  # fmt: skip
def test_bench_pretrain__the_reference_makes_the_augmentations_of_the_config(tmp_path, opts):
    cfg = load_pretrain_config(None, [*opts, "DATA.FLIP_PROB", "1.0"])
    path = str(next(pretrain.make_pictures(tmp_path, 2).rglob("*.jpg")))
    contenders = pretrain.Contenders(cfg).loaders
    torch.manual_seed(0)
    theirs = contenders["the same, 8-bit"](path)
    torch.manual_seed(0)
    assert theirs.shape == (3, 32, 32)
    assert torch.equal(theirs, contenders["DATA.DECODER pillow"](path))  # the same draws, and Pillow on both sides


def test_measure_run__uses_up_what_was_loaded_ahead_and_times_ten_batches_a_process(
    small_network, tmp_path, monkeypatch
):
    asked = []
    real = pretrain.training_batches
    monkeypatch.setattr(
        pretrain, "training_batches", lambda *args, **options: asked.append(options["stop"]) or real(*args, **options)
    )
    opts = [
        "DATA.ROOT",
        str(pretrain.make_pictures(tmp_path, 4)),
        "DATA.IMAGE_SIZE",
        "16",
        "SOLVER.BATCH_SIZE",
        "2",
        "DEVICE",
        "cpu",
    ]
    for workers in ("0", "2"):
        report = pretrain.measure_run(load_pretrain_config(None, [*opts, "DATA.NUM_WORKERS", workers]), 1)
        assert report["pictures_per_second"] > 0
        assert report["gpu_memory_gib"] is None
    assert asked == [2 + 1] * 2 + [3 * 2 + 10 * 2] * 2


class Event:
    """A CUDA event by a clock that ``work`` moves on."""

    now = 0.0

    def __init__(self, *, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.now

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return other.at - self.at


def test_gpu_seconds__counts_the_call_and_not_what_is_ahead_of_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)

    def work(milliseconds):
        def run():
            Event.now += milliseconds

        return run

    assert pretrain.gpu_seconds([work(2), work(5)], 3, ahead=work(1000)) == [[0.002] * 3, [0.005] * 3]


@pytest.mark.parametrize("arguments, message", [
    (["--rounds", "0", *CONFIG], "--rounds must be at least 1, but got 0"),
    ([*CONFIG, "SOLVER.EPOCS", "1"], r"unknown config key SOLVER\.EPOCS"),
    (["--num-images", "1", *CONFIG, "DATA.DATASET", "cifar10"], r"DATA\.DATASET is cifar10; only pictures in class"),
])  # fmt: skip
def test_bench_pretrain__refuses(load_tool, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_tool("bench_pretrain").main(arguments)
