"""The reference of config keys: read off a module by hand, and complete for every tool that has keys."""

from __future__ import annotations

import importlib
import sys

import pytest

from pretrain.run.help_config import config_reference
from pretrain.run.settings import leaves

SOURCE = """
from fvcore.common.config import CfgNode

from pretrain.run.settings import at_least

RULES = {"SIDE": at_least(1), "B.LAST": at_least(0)}


def get_cfg():
    cfg = CfgNode()
    cfg.SIDE = 3  # pixels; "#" is no comment here
    # a comment of two lines
    # above its key
    cfg.NAME = "a # b"
    # of nothing

    cfg.B = CfgNode()  # only for b
    cfg.B.LAST = 0.5
    cfg.B.LONG = "x"  # {long}
    return cfg
"""


def test_config_reference__by_hand(tmp_path, monkeypatch):
    (tmp_path / "toy_config.py").write_text(SOURCE.replace("{long}", " ".join(["word"] * 30)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_config", raising=False)
    assert config_reference(importlib.import_module("toy_config")).splitlines() == [
        'SIDE 3  # pixels; "#" is no comment here [at least 1]',
        "# a comment of two lines above its key",
        "NAME 'a # b'",
        "",
        "# only for b",
        "B.LAST 0.5  # [at least 0]",
        "B.LONG 'x'",
        "    # " + " ".join(["word"] * 23),
        "    # " + " ".join(["word"] * 7),
    ]


@pytest.mark.parametrize(
    "tool, module",
    [
        ("pretrain", "pretrain.config"),
        ("train_net", "detection.config"),
        ("study", "tools.studies.config"),
        ("transfer", "detection.config"),
        ("predict", "detection.config"),
    ],
)
def test_help_config__every_key_of_the_tool(load_tool, capsys, tool, module):
    with pytest.raises(SystemExit) as end:
        load_tool(tool).main(["--help-config"])
    assert end.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    keys = [key for key, _ in leaves(importlib.import_module(module).get_cfg())]
    assert [line.split()[0] for line in printed if line[:1].isalpha()] == keys
    assert max(map(len, printed)) <= 120
