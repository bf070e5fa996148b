"""The numbers behind a sheet of class activation maps, ready for JSON: a list of pairs, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pretrain.inspect.mixed_pairs import Pair, Seen, View
from pretrain.inspect.pretrained import Pretrained
from pretrain.weights.description import record


def numbers_by_network(
    networks: Mapping[str, Pretrained], views: Sequence[View], classes: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """Return the numbers of a sheet of one method: of each pair how it was mixed, then what each network sees in it.

    ``networks`` are those of ``views``, in order. ``seed`` is that of ``mix_pairs``.
    """
    return {
        "pairs": [
            {
                **_pair(pair, classes),
                **_mixing(pair),
                "networks": [{"name": view.network, **_seen(view.seen[number], pair, classes)} for view in views],
            }
            for number, pair in enumerate(views[0].pairs)
        ],
        "networks": _origins(networks),
        "method": views[0].method,
        "seed": seed,
    }


def numbers_by_method(
    networks: Mapping[str, Pretrained], views: Sequence[View], classes: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """Return the numbers of a sheet of one network: of each pair how each method mixed it and what is seen in that.

    The arguments are those of ``numbers_by_network``.
    """
    return {
        "pairs": [
            {
                **_pair(pair, classes),
                "methods": [
                    {
                        "name": view.method,
                        **_mixing(view.pairs[number]),
                        **_seen(view.seen[number], view.pairs[number], classes),
                    }
                    for view in views
                ],
            }
            for number, pair in enumerate(views[0].pairs)
        ],
        "networks": _origins(networks),
        "methods": [view.method for view in views],
        "seed": seed,
    }


def _pair(pair: Pair, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "source": {"picture": pair.source.name, "class": classes[pair.source.label]},
        "target": {"picture": pair.target.name, "class": classes[pair.target.label]},
    }


def _mixing(pair: Pair) -> dict[str, Any]:
    return {"share_of_target": pair.share, "patch": pair.box._asdict() if pair.box else None}


def _seen(seen: Seen, pair: Pair, classes: Sequence[str]) -> dict[str, Any]:
    top = seen.probabilities.topk(min(2, len(seen.probabilities)))
    return {
        "top2": [
            {"class": classes[label], "probability": probability}
            for probability, label in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ],
        "source": _numbers_of_map(seen.source_map, seen.probabilities, pair.source.label),
        "target": _numbers_of_map(seen.target_map, seen.probabilities, pair.target.label),
    }


def _numbers_of_map(map_: Tensor, probabilities: Tensor, label: int) -> dict[str, float]:
    return {"probability": float(probabilities[label]), "least": float(map_.min()), "most": float(map_.max())}


def _origins(networks: Mapping[str, Pretrained]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "checkpoint": str(network.path),
            "checkpoint_sha256": network.sha256,
            "arch": network.arch,
            "method": record(network.state["method"]),
        }
        for name, network in networks.items()
    ]
