"""metrics.json as it is found on disk: repeated iterations, half lines, values that are no numbers."""

from __future__ import annotations

import json

import pytest

from detection.report.training_curves import MAX_POINTS, read_training


def test_read_training__keeps_what_can_be_plotted(tmp_path):
    lines = [
        json.dumps({"iteration": 20, "total_loss": 2.0, "lr": 0.1, "time": 0.5}),
        json.dumps({"iteration": 40, "total_loss": 9.0}),
        json.dumps({"iteration": 40, "total_loss": 1.0, "loss_cls": float("nan"), "loss_box_reg": "x"}),
        '{"iteration": 60, "total_lo',
        "[]",
        json.dumps({"total_loss": 3.0}),
    ]
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    assert read_training(tmp_path) == {
        "lr": {"iteration": [20], "value": [0.1]},
        "total_loss": {"iteration": [20, 40], "value": [2, 1]},
    }


def test_read_training__long_series_are_averaged(tmp_path):
    lines = (json.dumps({"iteration": i, "total_loss": float(i)}) for i in range(10 * MAX_POINTS))
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    curve = read_training(tmp_path)["total_loss"]
    assert len(curve["value"]) == MAX_POINTS
    assert curve["value"][:2] == pytest.approx([4.5, 14.5])
    assert curve["iteration"] == curve["value"]


@pytest.mark.parametrize("content", [None, "", "not JSON\n", '{"iteration": 1, "time": 2}\n'])
def test_read_training__nothing_to_plot(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert read_training(tmp_path) is None
