"""The benchmark of a detector in memory runs and finds it equal to the evaluation; how fast it is, people read."""

from pathlib import Path

SMOKE = Path(__file__).resolve().parents[2] / "detection" / "configs" / "smoke.yaml"


def test_bench_detector__runs(load_tool, capsys):
    load_tool("bench_detector").main(
        ["--config-file", str(SMOKE), "--num-images", "3", "--rounds", "2", "MODEL.DEVICE", "cpu",
         "INPUT.MIN_SIZE_TEST", "64", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01"]
    )  # fmt: skip
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("3 pictures: evaluation loop ")
    assert last.startswith("call / loop ")
    assert last.endswith("bit-equal: yes")
