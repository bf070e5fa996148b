"""The benchmark runs, and finds both evaluators equal."""

from __future__ import annotations

import re

import pytest


def test_bench_evaluation__ours_alone(load_tool, capsys):
    arguments = ["--num-images", "8", "--detections", "10", "--resamples", "10", "--skip-detectron2"]
    assert load_tool("bench_evaluation").main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("8 pictures x 10 detections, 20 classes\n")
    assert "whole report" in printed


def test_bench_evaluation__coco_s_numbers_are_bit_equal(load_tool, capsys):
    arguments = ["--num-images", "2", "--detections", "10", "--resamples", "5", "--skip-detectron2", "--coco", "6"]
    assert load_tool("bench_evaluation").main(arguments) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^COCO: 6 pictures, \d\d objects, 60 detections, 80 classes\n", printed, re.MULTILINE)
    assert printed.endswith("all twelve numbers bit-equal: yes\n")


def test_bench_evaluation__another_number_is_a_failure(load_tool, capsys, monkeypatch):
    monkeypatch.setattr("tools.benchmarks.coco.by_hotcoco", lambda *_: [0.5] * 12)
    arguments = ["--num-images", "2", "--detections", "10", "--resamples", "5", "--skip-detectron2", "--coco", "6"]
    assert load_tool("bench_evaluation").main(arguments) == 1
    assert capsys.readouterr().out.endswith("all twelve numbers bit-equal: NO\n")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Detectron2's 0 / 0 for classes without ground truth
def test_bench_evaluation__bit_equal_to_detectron2(load_tool, capsys):
    pytest.importorskip("detectron2", reason="the comparison is with Detectron2's own evaluator")
    assert load_tool("bench_evaluation").main(["--num-images", "8", "--detections", "10", "--resamples", "10"]) == 0
    assert "bit-equal under its rules: yes" in capsys.readouterr().out
