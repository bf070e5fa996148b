"""The benchmark runs, and finds both evaluators equal."""

from __future__ import annotations

import pytest


def test_bench_evaluation__ours_alone(load_tool, capsys):
    arguments = ["--pictures", "8", "--detections", "10", "--resamples", "10", "--skip-detectron2"]
    assert load_tool("bench_evaluation").main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("8 pictures x 10 detections, 20 classes\n")
    assert "whole report" in printed


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Detectron2's 0 / 0 for classes without ground truth
def test_bench_evaluation__bit_equal_to_detectron2(load_tool, capsys):
    pytest.importorskip("detectron2", reason="the comparison is with Detectron2's own evaluator")
    assert load_tool("bench_evaluation").main(["--pictures", "8", "--detections", "10", "--resamples", "10"]) == 0
    assert "bit-equal under its rules: yes" in capsys.readouterr().out
