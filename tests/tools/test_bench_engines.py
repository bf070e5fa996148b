"""The benchmark of the engines runs and finds them equal; how fast they are is for people to read."""

import json

import pytest


def test_device_name__is_of_the_device_that_computes(monkeypatch):
    from tools.benchmarks.engines import device_name

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"GPU {device.index}")
    assert device_name("cuda:1") == "GPU 1"
    assert device_name("cpu").endswith("CPU thread(s)")


def test_bench_engines__rows_and_json(load_tool, tmp_path, capsys):
    pytest.importorskip("detectron2", reason="Detectron2 is what it compares with")
    load_tool("bench_engines").main(
        [
            "--kinds",
            "fpn",
            "--size",
            "64",
            "80",
            "--rounds",
            "2",
            "--output",
            str(tmp_path / "bench.json"),
            "MODEL.DEVICE",
            "cpu",
            "MODEL.RESNETS.DEPTH",
            "18",
            "MODEL.RESNETS.RES2_OUT_CHANNELS",
            "64",
            "MODEL.FPN.OUT_CHANNELS",
            "16",
            "MODEL.ROI_BOX_HEAD.FC_DIM",
            "16",
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
            "8",
        ]
    )
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed[1:3]] == [["fpn", "training"], ["fpn", "inference"]]
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [row["step"] for row in rows] == ["training", "inference"]
    for row in rows:
        assert row["equal"]
        assert row["device"].endswith("CPU thread(s)")
        assert len(row["seconds"]["torchvision"]) == len(row["seconds"]["detectron2"]) == 2
        assert row["ratio"] == pytest.approx(row["median"]["torchvision"] / row["median"]["detectron2"])
