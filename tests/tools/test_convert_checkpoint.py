import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from detection.config import load_detection_config
from detection.convert.card import check_card, load_card

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_checkpoint.py"


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / "r18.pth")
    return tmp_path / "r18.pth"


def test_main__prints_tally_figures_card_and_yaml(source, tmp_path, load_tool, capsys):
    target = tmp_path / "backbone.pth"
    assert load_tool("convert_checkpoint").main([str(source), str(target)]) == 0
    printed = capsys.readouterr().out
    assert "100 converted, 22 dropped: 2 fc, 20 num_batches_tracked\n" in printed
    assert "the same tensor, float32: res2 0, res3 0, res4 0, res5 0 (allowed: 0)" in printed
    card = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    assert card["depth"] == 18
    fragment = yaml.safe_load(printed[printed.index("MODEL:") : printed.index("\nNext:")])
    assert fragment["MODEL"]["WEIGHTS"] == str(target)
    assert target.is_file()
    assert printed.endswith(
        "\nNext:\npython tools/train_net.py --config-file detection/configs/voc_r50_fpn_paper.yaml \\\n"
        f"    MODEL.WEIGHTS {target} MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 "
        "VOC.ROOT /data/VOCdevkit\n"
    )


def test_main__unverified_says_so(source, tmp_path, load_tool, capsys):
    load_tool("convert_checkpoint").main([str(source), str(tmp_path / "backbone.pkl"), "--no-verify"])
    assert "not verified: the two networks were not run (--no-verify)" in capsys.readouterr().out


def test_main__what_nobody_said_is_a_note_and_what_was_said_is_in_the_card(source, tmp_path, load_tool, capsys):
    main = load_tool("convert_checkpoint").main
    main([str(source), str(tmp_path / "new" / "backbone.pth"), "--no-verify"])
    assert (
        "note: the source has no card: taken to read RGB (--channel-order), with mean 123.675"
        in capsys.readouterr().out
    )
    said = ["--pixel-mean", "3", "2", "1", "--pixel-std", "1", "1", "1", "--channel-order", "BGR"]
    main([str(source), str(tmp_path / "new" / "backbone.pth"), "--no-verify", *said])
    printed = capsys.readouterr().out
    assert "--channel-order" not in printed
    fragment = yaml.safe_load(printed[printed.index("MODEL:") : printed.index("\nNext:")])
    assert (fragment["INPUT"]["FORMAT"], fragment["MODEL"]["PIXEL_MEAN"]) == ("BGR", [1, 2, 3])


def test_main__the_next_command_says_what_the_backbone_needs(source, tmp_path, load_tool, capsys):
    said = ["--pixel-mean", "3", "2", "1", "--channel-order", "BGR"]
    load_tool("convert_checkpoint").main([str(source), str(tmp_path / "my backbone.pth"), "--no-verify", *said])
    command = capsys.readouterr().out.partition("Next:\n")[2].replace("\\\n", " ")
    words = shlex.split(command)
    cfg = load_detection_config(words[3], words[4:-2])  # but for VOC.ROOT, which is the user's
    assert (tmp_path / "my backbone.pth").samefile(cfg.MODEL.WEIGHTS)
    assert (cfg.INPUT.FORMAT, list(cfg.MODEL.PIXEL_MEAN), cfg.MODEL.RESNETS.DEPTH) == ("BGR", [1, 2, 3], 18)
    check_card(load_card(cfg.MODEL.WEIGHTS), cfg)


def test_main__a_network_on_its_way_back_has_no_config(source, tmp_path, load_tool, capsys):
    main = load_tool("convert_checkpoint").main
    main([str(source), str(tmp_path / "backbone.pth"), "--no-verify"])
    capsys.readouterr()
    main([str(tmp_path / "backbone.pth"), str(tmp_path / "back.pth"), "--no-verify", "--reverse"])
    assert "Next:" not in capsys.readouterr().out


def run(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_tool__bad_input_is_one_line_and_status_2(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>not found</html>")
    result = run(tmp_path / "page.pth", tmp_path / "backbone.pth")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "page.pth is a web page, not weights" in result.stderr
    assert not (tmp_path / "backbone.pth").exists()


def test_tool__help_answers_at_once_with_an_example():
    started = time.monotonic()
    result = run("--help")
    assert time.monotonic() - started < 2  # one second on an idle machine
    assert result.returncode == 0
    assert "python tools/convert_checkpoint.py output/" in result.stdout
