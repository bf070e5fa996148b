"""What tests of several tools share."""

import pytest

import pretrain.inspect.pretrained
from pretrain.config import get_cfg


@pytest.fixture
def load_in_this_process(monkeypatch):
    """Let networks that are looked at load few pictures themselves: starting loading processes takes longer."""

    def without_workers():
        cfg = get_cfg()
        cfg.DATA.NUM_WORKERS = 0
        return cfg

    monkeypatch.setattr(pretrain.inspect.pretrained, "get_cfg", without_workers)
