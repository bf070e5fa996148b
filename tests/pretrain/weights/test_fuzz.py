"""Weights files that mean harm are read or refused in one line; ``fuzz.py`` makes and reads them in its own process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_read_weights__mutated_files_neither_end_the_process_nor_execute_anything(count, tmp_path):
    command = [sys.executable, str(FUZZ), str(tmp_path), str(count), "2026"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, f"status {ran.returncode}: {ran.stderr[-2000:]}"
    outcomes = json.loads(ran.stdout)
    assert sum(sum(one.values()) for one in outcomes.values()) == count
    for kind, one in outcomes.items():
        assert one["refused"] > one["loaded"], f"{kind}: the files are hardly changed"
    assert sum(one["loaded"] for one in outcomes.values()) > count / 50  # what is never read shows nothing
