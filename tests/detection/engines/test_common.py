"""What both engines say alike."""

from __future__ import annotations

import logging

import pytest

from detection.engines.common import say_random_weights


@pytest.mark.parametrize("norm, freeze_at, keys", [
    ("FrozenBN", 2, ["MODEL.RESNETS.NORM is FrozenBN", "MODEL.BACKBONE.FREEZE_AT is 2"]),
    ("FrozenBN", 0, ["MODEL.RESNETS.NORM is FrozenBN"]),
    ("BN", 1, ["MODEL.BACKBONE.FREEZE_AT is 1"]),
    ("BN", 0, []),
])  # fmt: skip
def test_say_random_weights__warns_of_what_never_learns(make_config, caplog, norm, freeze_at, keys):
    caplog.set_level(logging.INFO, "detection")
    say_random_weights(make_config("c4", {"MODEL.RESNETS.NORM": norm, "MODEL.BACKBONE.FREEZE_AT": freeze_at}))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (1 if keys else 0)
    assert all(key in warnings[0] for key in keys)
    assert ("FREEZE_AT" in caplog.text) == (freeze_at > 0)
