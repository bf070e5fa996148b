"""Trains a detector at one rate of a sweep and tests it on the pictures that are held out.

``trial.py METRIC FOLDER``, then the words of ``train_net.py``, which does the work; FOLDER is its OUTPUT_DIR. A rate at
which training diverges is a result, not a failure: the choice is to go on without it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean

sys.path[0] = str(Path(__file__).resolve().parents[3])  # not this folder, which holds no package

from pretrain.run.cli import one_line, run_tool


def main(argv: list[str] | None = None) -> None:
    metric, folder, *words = sys.argv[1:] if argv is None else argv

    from detection.engines import is_first_process
    from pretrain.run.files import atomic_write
    from tools import train_net
    from tools.studies.planning.detectors import HELD_OUT

    trial = {"value": None, "diverged": ""}
    try:
        train_net.main(words)
    except FloatingPointError as error:
        trial["diverged"] = one_line(error)
    if not is_first_process():
        return
    if not trial["diverged"]:
        trial["value"] = mean_over_sets(Path(folder), metric)
    with atomic_write(Path(folder) / HELD_OUT, "w") as file:
        json.dump(trial, file)


def mean_over_sets(folder: Path, metric: str) -> float:
    """Return the mean of ``metric`` over the reports in ``folder``, each counted by its pictures.

    Raises:
        ValueError: one has no such number, because its pictures have no objects.
    """
    from pretrain.run.text import read_json
    from tools.studies.values import read_values

    counts, values = [], []
    for file in sorted(folder.glob("inference/*/report.json")):
        found, _ = read_values("evaluate", folder, [str(file.relative_to(folder))])
        if found[metric] is None:
            raise ValueError(f"{file} has no {metric}: its pictures hold no object to find")
        values.append(found[metric])
        counts.append(read_json(file)["num_images"])
    return fmean(values, weights=counts)


if __name__ == "__main__":
    run_tool(main)
