"""What tools/export.py refuses, whatever it is to become; tests/detection/export has what it writes."""

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.run.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("to, beside", [("torchvision", ".py"), ("detectron2", ".yaml")])
@pytest.mark.parametrize("is_target", [True, False])
def test_main__overwrites_nothing(weights, tmp_path, load_tool, to, beside, is_target):
    target = tmp_path / "street.pth"
    there = target if is_target else target.with_suffix(beside)
    there.write_text("mine")
    with pytest.raises(FileExistsError, match=rf"{there.name} is there already, and would be overwritten; choose ano"):
        load_tool("export").main([str(weights), str(target), "--to", to])
    assert there.read_text() == "mine"


@pytest.mark.parametrize("to", ["torchvision", "detectron2"])
def test_main__refuses_what_is_only_a_part_of_a_detector(weights, tmp_path, load_tool, to):
    content = load_checkpoint(weights)
    del content["model"]["backbone.bottom_up.res4.0.conv1.weight"]
    save_checkpoint(content, weights)
    with pytest.raises(ValueError, match=r"model_final.pth fills only a part of the model: .* missing from it"):
        load_tool("export").main([str(weights), str(tmp_path / "new" / "street.pth"), "--to", to])
    assert list((tmp_path / "new").iterdir()) == []


def test_main__refuses_a_backbone_s_file(resnet18, tmp_path, load_tool):
    save_checkpoint({"model": resnet18}, tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=r"backbone.pth is no trained detector, but a backbone or a classifier"):
        load_tool("export").main([str(tmp_path / "backbone.pth"), str(tmp_path / "street.pth"), "--to", "torchvision"])


@pytest.mark.parametrize("target, message", [
    ("street.pkl", "target {folder}/street.pkl ends in '.pkl'; expected .pth"),
    ("model_final.pth", "source and target are the same file, {folder}/model_final.pth"),
])  # fmt: skip
def test_tool__bad_input_is_one_line_and_status_2(weights, tmp_path, target, message):
    command = [sys.executable, ROOT / "tools" / "export.py", weights, tmp_path / target, "--to", "detectron2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"export.py: error: {message.format(folder=tmp_path)}\n"


def test_main__an_unknown_target_is_status_2(weights, tmp_path, load_tool, capsys):
    with pytest.raises(SystemExit) as stop:
        load_tool("export").main([str(weights), str(tmp_path / "street.pth"), "--to", "onnx"])
    assert stop.value.code == 2
    assert "invalid choice: 'onnx'" in capsys.readouterr().err
