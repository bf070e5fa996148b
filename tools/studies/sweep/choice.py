"""Chooses among the rates of a sweep: the one whose detector found most on the pictures that were held out.

``choice.py CONFIG FOLDER RATE=FILE...``: FILE is what ``trial.py`` left. It writes the choice with all that was found,
and a config that differs from CONFIG in the rate alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[3])  # not this folder, which holds no package

from pretrain.run.cli import run_tool
from pretrain.run.files import atomic_write
from pretrain.run.text import read_record
from tools.studies.values import Choice, Trial, Tried


def choose(curve: Sequence[Tried]) -> Choice:
    """Return the rate with the highest value, of equal ones the lowest, and whether it is at an edge of the grid.

    At an edge the best may lie beyond: ``edge`` is "lowest" or "highest". Rates at which training diverged have no
    value.

    Raises:
        ValueError: training diverged at every rate.
    """
    curve = sorted(curve, key=lambda one: one["rate"])
    known = [one for one in curve if one["value"] is not None]
    if not known:
        rates = ", ".join(f"{one['rate']:g}" for one in curve)
        raise ValueError(
            f"training diverged at every rate of {rates} ({curve[0]['diverged']}); add lower ones to SWEEP.RATES"
        )
    best = max(known, key=lambda one: (one["value"], -one["rate"]))
    edge = {0: "lowest", len(curve) - 1: "highest"}.get(curve.index(best), "")
    return {"rate": best["rate"], "edge": edge, "curve": list(curve)}


def main(argv: list[str] | None = None) -> None:
    from tools.studies.planning.detectors import CHOICE, OWN_RATE

    config, folder, *tried = sys.argv[1:] if argv is None else argv
    curve: list[Tried] = []
    for word in tried:
        rate, _, file = word.partition("=")
        curve.append({"rate": float(rate), **read_record(file, Trial, "what was found at a rate")})
    choice = choose(curve)
    with atomic_write(Path(folder) / CHOICE, "w") as file:
        json.dump(choice, file, indent=2)
    with atomic_write(Path(folder) / OWN_RATE, "w") as file:
        file.write(f"_BASE_: {json.dumps(config)}\nSOLVER: {{BASE_LR: {choice['rate']}}}\n")
    print(f"{choice['rate']:g}")


if __name__ == "__main__":
    run_tool(main)
