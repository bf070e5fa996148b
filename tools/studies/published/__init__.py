"""What others published under a protocol of ours, and what they say that it takes: a YAML file for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detection.config import EFFECTS, read_detection_config
from pretrain.run.text import read_yaml
from tools.studies.experiments import ROOT, repository_file
from tools.studies.planning.plan import Plan


def published_of(plan: Plan) -> dict[str, Any] | None:
    """Return what others published under the very protocol of the study's fine-tuning, or None.

    It is that of a config which a file here names: every key that affects training or test is the same.
    """
    if plan.detection is None:
        return None
    for content in _contents():
        config = read_detection_config(ROOT / content["CONFIG"], [])
        if EFFECTS.of_testing(config) == EFFECTS.of_testing(plan.detection):
            return {"protocol": content["PROTOCOL"], "rows": content["ROWS"]}
    return None


def published_cost(config_file: Path | str) -> dict[str, Any]:
    """Return the COST keys of a study that fine-tunes by ``config_file``; none where nobody published a rate."""
    given = repository_file(config_file)
    return next((one["COST"] for one in _contents() if given == ROOT / one["CONFIG"]), {})


def _contents() -> Iterator[dict[str, Any]]:
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        yield read_yaml(path)
