"""Probes of the backbones beside the detectors that they became: what tools/probe.py wrote, by row, and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from pretrain.run.text import Finite, read_record

PROBES = {"knn_top1": "k-NN", "linear_top1": "linear"}  # key -> name
SETTINGS = ("data_root", "k", "temperature")
MIN_ROWS = 8  # of a rank correlation: fewer leave an interval of nearly -1 to 1
NORMAL_95 = 1.96  # standard deviations to both sides that hold 95 % of a normal distribution

# worked out from the tables in mmselfsup's configs/selfsup/*/README.md (commit db861f3)
CLAIM = (
    "Probes rank recognition. Among checkpoints of one architecture they predict detection badly: over the ResNet-50s "
    "of mmselfsup's tables, one run each, k-NN accuracy on ImageNet correlates (Pearson) by 0.02 with VOC AP50 (ten) "
    "and by 0.78 with COCO AP (nine)."
)


class _Protocol(TypedDict):
    checkpoint_sha256: str
    data_root: str
    k: int
    temperature: Finite


class _Probed(TypedDict):
    prefix: str
    knn_top1: Finite
    linear_top1: Finite
    protocol: _Protocol


class Probes(TypedDict):
    """What is used of probes.json."""

    checkpoints: list[_Probed]


@cache
def read_probes(path: str) -> Probes:
    """Return what tools/probe.py wrote, as it was when first read: a study may outlive the file.

    Raises:
        OSError, ValueError: it cannot be read, or is none.
    """
    return read_record(path, Probes, "probes of tools/probe.py")


def probes_of(
    path: str, sources: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], metric: str
) -> dict[str, Any] | None:
    """Return the probes in the file ``path`` of the rows of a study; None without a file.

    A row's are those of the weights on its card, known by the hash of their file and their place in it; None where
    there are none. ``sources`` are what ``sources_of`` tells of each of ``rows``.

    Returns:
        ``{"file", "rows", "correlations", "settings"}``: ``rows`` holds ``method``, ``model``, ``data``, the probes and
        the mean of ``metric``; ``correlations`` what ``rank_correlation`` says of each probe for each model and data
        set, ``settings`` what the probes are of.

    Raises:
        OSError, ValueError: as ``read_probes``.
    """
    if not path:
        return None
    probed = {(one["protocol"]["checkpoint_sha256"], one["prefix"]): one for one in read_probes(path)["checkpoints"]}
    lines, used = [], []
    for source, row in zip(sources, rows, strict=True):
        card, summary = source["card"], row["summary"][metric]
        one = card and probed.get((card["source_sha256"], card["source_prefix"]))
        used += [one] if one else []
        lines.append(
            {
                **{key: row[key] for key in ("method", "model", "data")},
                **{key: one[key] if one else None for key in PROBES},
                "detection": summary and summary["mean"],
            }
        )
    families = list(dict.fromkeys((line["model"], line["data"]) for line in lines))
    correlations = []
    for family in families:
        name = " ".join(filter(None, family)) if len(families) > 1 else None
        correlations += [{"of": name, "probe": key, **_correlation(lines, family, key)} for key in PROBES]
    settings = [
        dict(zip(SETTINGS, values, strict=True))
        for values in dict.fromkeys(tuple(one["protocol"][key] for key in SETTINGS) for one in used)
    ]
    return {"file": Path(path).name, "rows": lines, "correlations": correlations, "settings": settings}


def _correlation(lines: Sequence[Mapping[str, Any]], family: tuple[str, str], key: str) -> dict[str, Any]:
    pairs = [
        (line[key], line["detection"])
        for line in lines
        if (line["model"], line["data"]) == family and None not in (line[key], line["detection"])
    ]
    return rank_correlation(pairs)


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return ``{"n", "rho", "interval"}``: Spearman's correlation of ``pairs`` and its 95 % interval, None for both of
    fewer than MIN_ROWS pairs, or where one side is the same for all.

    The interval is by Fisher's transformation, with the standard error of Bonett and Wright (2000). It has none at a
    correlation of 1 or -1, where the interval is None.
    """
    from scipy.stats import spearmanr

    nothing = {"n": len(pairs), "rho": None, "interval": None}
    if len(pairs) < MIN_ROWS or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return nothing
    rho = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    if math.isclose(abs(rho), 1):
        return {**nothing, "rho": round(rho)}
    margin = NORMAL_95 * math.sqrt((1 + rho**2 / 2) / (len(pairs) - 3))
    return {**nothing, "rho": rho, "interval": [math.tanh(math.atanh(rho) + side * margin) for side in (-1, 1)]}


class ProbeTable(NamedTuple):
    """The probes of a study, ready for its page: a head, a line of texts for each row, and sentences."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    sentences: list[str]


def probe_table(result: Mapping[str, Any]) -> ProbeTable | None:
    """Return the probes of a study in words; None where it has none."""
    probes = (result["transfer"] or {}).get("probes")
    if probes is None:
        return None
    label = result["metrics"][0]["label"]
    several = [key for key in ("model", "data") if len({row[key] for row in probes["rows"]}) > 1]
    rows = [
        (" ".join(row[key] for key in (*several, "method")), *(_percent(row[key]) for key in (*PROBES, "detection")))
        for row in probes["rows"]
    ]
    settings = "; ".join(
        f"pictures of {one['data_root']}, {one['k']} neighbours, T {one['temperature']:g}" for one in probes["settings"]
    )
    said = f"Top-1 accuracy in % from {probes['file']}, of the very weights of a row"
    sentences = [f"{said}: {settings}." if settings else f"{said}, of which it knows none.", CLAIM]
    sentences += [_in_words(one, label) for one in probes["correlations"]]
    return ProbeTable(("method", *PROBES.values(), label), rows, sentences)


def _in_words(one: Mapping[str, Any], label: str) -> str:
    about = f"{one['of']}: " if one["of"] else ""
    what = f"{about}Spearman's rank correlation of {PROBES[one['probe']]} and {label}"
    if one["n"] < MIN_ROWS:
        return f"{what} is told of {MIN_ROWS} rows or more; {one['n']} have both."
    if one["rho"] is None:
        return f"{what}: none, since all {one['n']} rows are equal in one of them."
    interval = one["interval"]
    how_sure = f"95 % interval {interval[0]:.2f} to {interval[1]:.2f}" if interval else "no interval at full agreement"
    return f"{what}: {one['rho']:.2f} over {one['n']} rows ({how_sure})."


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
