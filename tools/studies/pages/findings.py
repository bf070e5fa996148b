"""What a page says besides its tables: who wins, where each backbone comes from, what other pictures would change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from detection.report.markdown import percent
from tools.studies.pages.tables import Table, baseline_of, gain, signed
from tools.studies.verdict import verdict_in_words


class Source(NamedTuple):
    """Where the backbone of a row comes from, in words; ``sha256`` and ``assumed`` may be empty."""

    method: str
    file: str
    sha256: str
    network: str
    reads: str
    assumed: str


def sources_in_words(result: Mapping[str, Any]) -> list[Source]:
    """Return what is told of the backbone of each row."""
    return [_source(one) for one in (result["transfer"] or {"sources": ()})["sources"]]


def _source(one: Mapping[str, Any]) -> Source:
    if one["from"] == "nothing":
        return Source(one["method"], "random weights, drawn from each seed", "", "as the config builds it", "", "")
    card = one["card"]
    if card is None:
        file = f"pretrained by {one['file']}" if one["from"] == "pretraining" else one["file"]
        return Source(one["method"], file, "", "not converted yet" if one["from"] == "file" else "", "", "")
    top1 = "" if card["top1"] is None else f", top-1 {card['top1']:.2f} % as the file says"
    under = f", under {card['source_prefix']}" if card["source_prefix"] else ""
    mean, std = (" ".join(f"{value:g}" for value in card[key]) for key in ("pixel_mean", "pixel_std"))
    return Source(
        one["method"],
        f"pretrained by {one['file']}" if one["from"] == "pretraining" else card["source"] + under,
        card["source_sha256"],
        card["arch"] + top1,
        f"{card['channel_order']}, mean {mean}, std {std}",
        card.get("assumed") or "",
    )


# The metric that detectors are compared by on the same pictures -> its name, and the title of its table by class.
HEADLINES = {
    "voc07_AP50": ("mAP (11 points)", "AP50 by class, 11 points, means over seeds"),
    "coco_AP": ("COCO AP", "COCO AP by class, means over seeds"),
}


class OnPictures(NamedTuple):
    """The difference of a row to the baseline in the headline, with its intervals over seeds, pictures and both."""

    method: str
    difference: str
    over_seeds: str
    over_pictures: str
    over_both: str
    needed: str
    clear: bool


def on_pictures(result: Mapping[str, Any], tables: list[Table]) -> list[OnPictures]:
    """Return a line for each row whose detectors were compared with the baseline's on the same pictures."""
    known = (result["transfer"] or {"over_pictures": {}})["over_pictures"]
    if not known or len(tables) != 1:
        return []
    headline = result["transfer"]["headline"]
    column = next((one for one in tables[0].columns if one.metric["key"] == headline), None)
    found = []
    for lines in tables[0].models.values() if column else ():
        for line in lines:
            said = gain(line, column, baseline_of(lines, result))
            if line.method not in known or said.absent:
                continue
            pictures, both = (
                " to ".join(signed(bound, column) for bound in known[line.method][key] or ()) or "-"
                for key in ("pictures", "both")
            )
            found.append(
                OnPictures(line.method, said.mean, said.interval or "-", pictures, both, said.needed or "-", said.clear)
            )
    return found


def verdicts_in_words(result: Mapping[str, Any]) -> list[tuple[str | None, str, str]]:
    """Return of each model and data set its name, None where there is one, the headline, and how sure it is."""
    metrics = {metric["key"]: metric for metric in result["metrics"]}
    return [(one["of"], *verdict_in_words(one, metrics[one["metric"]])) for one in result["verdicts"]]


def headline_in_words(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return what ``on_pictures`` is about, and a title for ``class_rows``; empty where nothing was compared."""
    return HEADLINES.get((result["transfer"] or {"headline": None})["headline"], ("", ""))


def class_rows(result: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the methods, and of each class its mean in the headline by method."""
    known = (result["transfer"] or {"per_class": {}})["per_class"]
    methods = list(next(iter(known.values()))) if known else []
    return methods, [(name, [percent(values[method]) for method in methods]) for name, values in known.items()]
