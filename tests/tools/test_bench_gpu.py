"""The benchmark for a GPU runs small on a CPU; what a GPU does is for people with one to read."""

import json

import torch

from tools.benchmarks import gpu


class SmallNetwork(torch.nn.Module):
    """In the place of BASNet, which takes seconds a picture on a CPU."""

    def forward(self, pictures):
        return pictures.mean(dim=1, keepdim=True)


def test_bench_gpu__table_and_json(load_tool, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "BASNet", SmallNetwork)
    monkeypatch.setattr(gpu, "run_tests", lambda: {"status": 0, "summary": "3 passed"})
    file = tmp_path / "gpu.json"
    load_tool("bench_gpu").main(
        [
            *("--num-images", "8", "--rounds", "1", "--iterations", "1", "--size", "64", "80", "--batch", "1"),
            *("--output", str(file), "DEVICE", "cpu", "MODEL.ARCH", "resnet18", "SOLVER.BATCH_SIZE", "2"),
            *("DATA.IMAGE_SIZE", "32", "DATA.NUM_WORKERS", "0"),
        ]
    )
    printed = capsys.readouterr().out
    report = json.loads(file.read_text())
    names = [row["saliency"] for row in report["saliency"]]
    assert names == [
        *("fine_grained", "spectral_residual", "frequency_tuned", "background_subtraction", "official", "basnet"),
    ]
    assert all(row["maps_per_second"] > 0 for row in report["saliency"])
    assert report["mixing"].keys() == {
        *("step_ms", "cutmix_step_ms", "cutmix_percent_of_step", "saliencymix_step_ms", "saliencymix_percent_of_step"),
    }
    ours = [(row["detector"], row["precision"]) for row in report["detectors"] if row["engine"] == "torchvision"]
    assert ours == [("c4", "float32"), ("c4", "bfloat16"), ("fpn", "float32"), ("fpn", "bfloat16")]
    assert report["environment"]["device"] == "cpu"
    assert "target 2 %" in printed
    assert "GPU tests: 3 passed" in printed


def test_milliseconds__the_first_round_warms_up():
    calls = []
    times = gpu.milliseconds([lambda: calls.append("a"), lambda: calls.append("b")], 2, torch.device("cpu"))
    assert calls == ["a", "b"] * 3
    assert len(times) == 2
