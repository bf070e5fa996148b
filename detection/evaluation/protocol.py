"""The settings behind a number, as a report records them, and which runs agree on all of them.

A report's ``training`` and ``test`` map config keys to values. Reports marked ``complete`` record every key that
affects the number; those before them, the main keys alone.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pretrain.run.settings import recorded_leaves

PARTS = ("training", "test")
# What is shown first of each part.
MAIN_KEYS = {
    "training": (
        "DATASETS.TRAIN", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "INPUT.FORMAT", "INPUT.MIN_SIZE_TRAIN",
        "INPUT.MAX_SIZE_TRAIN", "INPUT.RANDOM_FLIP", "MODEL.BACKBONE.NAME", "MODEL.BACKBONE.FREEZE_AT",
        "MODEL.RESNETS.DEPTH", "MODEL.RESNETS.NORM", "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.ROI_HEADS.NAME",
        "SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER", "SOLVER.BASE_LR", "SOLVER.STEPS", "SOLVER.GAMMA",
        "SOLVER.WARMUP_ITERS", "SOLVER.WEIGHT_DECAY",
    ),
    "test": (
        "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "MODEL.RPN.PRE_NMS_TOPK_TEST", "MODEL.RPN.POST_NMS_TOPK_TEST",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "TEST.DETECTIONS_PER_IMAGE",
    ),
}  # fmt: skip
Settings = Mapping[str, Any]


class Group(NamedTuple):
    """Runs under one protocol, by their places; ``incomplete`` are those whose reports record the main settings alone.

    ``protocol`` has for each of PARTS the settings that all of them share, None where nothing is recorded.
    """

    members: tuple[int, ...]
    incomplete: tuple[int, ...]
    protocol: dict[str, dict[str, Any] | None]


def main_keys_first(part: str, settings: Settings) -> dict[str, Any]:
    """Return ``settings`` in the order in which they are read: MAIN_KEYS of ``part``, then the others by name."""
    main = [key for key in MAIN_KEYS[part] if key in settings]
    return {key: settings[key] for key in (*main, *sorted(set(settings) - set(main)))}


def group_runs(
    protocols: Sequence[Mapping[str, Any]], *, across: Sequence[str] = (), defaults: Settings | None = None
) -> list[Group]:
    """Return which of the runs with these ``protocols`` agree, in order of appearance.

    Complete reports agree where all their settings are the same; a key that one of them lacks is new since, and had its
    value in ``defaults`` (the first defaults of all keys) then. An incomplete report agrees where the settings that it
    has are the same. It joins a complete one's group where it fits just that one, else those that have the very same
    settings as it. Keys of ``across`` do not count.

    Raises:
        ValueError: a key of ``across`` that no run records.
    """
    _check_recorded(across, protocols)
    known = {
        part: {key for one in protocols if one.get("complete") for key in one.get(part) or ()} - set(across)
        for part in PARTS
    }
    defaults = defaults or {}
    settings = [
        {part: _settings(one, part, known[part] if one.get("complete") else (), across, defaults) for part in PARTS}
        for one in protocols
    ]
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(settings):
        if protocols[index].get("complete"):
            groups.setdefault(_text(one), []).append(index)
    complete = list(groups.values())
    incomplete: dict[int, list[int]] = {}  # first member of a group -> those that joined it
    for index, one in enumerate(settings):
        if protocols[index].get("complete"):
            continue
        fitting = [members[0] for members in complete if _agree(one, settings[members[0]])]
        if len(fitting) == 1:
            incomplete.setdefault(fitting[0], []).append(index)
        else:
            groups.setdefault(_text(one), []).append(index)
    found = []
    for members in groups.values():
        joined = incomplete.get(members[0], [])
        protocol = settings[members[0]]
        if not protocols[members[0]].get("complete") and any(protocol.values()):
            joined = members
        found.append(Group(tuple(sorted({*members, *joined})), tuple(joined), protocol))
    return sorted(found, key=lambda group: group.members[0])


def by_method(
    methods: Sequence[str], protocols: Sequence[Mapping[str, Any]], group: Group, across: Sequence[str]
) -> dict[str, list[int]]:
    """Return name -> members of a group; a name says by which keys of ``across`` its runs differ from the others."""
    values = {key: {index: recorded(protocols[index], key) for index in group.members} for key in across}
    varied = [key for key in across if len({repr(value) for value in values[key].values()}) > 1]
    found: dict[str, list[int]] = {}
    for index in group.members:
        shown = [f"{key} {'not recorded' if values[key][index] is None else values[key][index]}" for key in varied]
        found.setdefault(", ".join([methods[index], *shown]), []).append(index)
    return found


def refuse_copies(paths: Sequence[str], protocols: Sequence[Mapping[str, Any]], answers: Sequence[str | None]) -> None:
    """Refuse runs of one method that are known to be the same with a ``ValueError``.

    Their files of weights are the same; or their seed and what they found are, as ``answers`` tell it
    (``answers_digest``): a training that was repeated writes another file, which holds its config as well.
    """
    seen: dict[tuple[str, Any], str] = {}
    for path, protocol, answer in zip(paths, protocols, answers, strict=True):
        weights, seed = (protocol.get("weights") or {}).get("sha256"), protocol.get("seed")
        marks = []
        if weights:
            marks.append((f"are of the same weights (SHA-256 {weights})", weights))
        if answer and seed is not None:
            marks.append((f"have the same seed ({seed}) and found the same to the last digit", answer))
        for mark in marks:
            if mark in seen:
                raise ValueError(f"runs {seen[mark]} and {path} {mark[0]}; the same run is no second seed")
            seen[mark] = path


def differences(protocols: Sequence[Mapping[str, dict[str, Any] | None]]) -> dict[str, list[Any]]:
    """Return ``part.key`` -> its value in each of ``protocols`` (None: not recorded), where two of them differ."""
    result = {}
    for part in PARTS:
        tables = [one[part] or {} for one in protocols]
        for key in main_keys_first(part, {key: None for table in tables for key in table}):
            values = [table[key] for table in tables if key in table]
            if len({_text(value) for value in values}) > 1:
                result[f"{part}.{key}"] = [table.get(key) for table in tables]
    return result


def recorded(protocol: Mapping[str, Any], key: str) -> Any:
    """Return the value of ``key`` in training, else in testing; None where it is not recorded."""
    return next((settings[key] for part in PARTS if key in (settings := protocol.get(part) or {})), None)


def share_backbone(protocols: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether several runs are known to start from one and the same pretraining."""
    sources = [(one.get("backbone") or {}).get("source_sha256") for one in protocols]
    return len(sources) > 1 and None not in sources and len(set(sources)) == 1


def recipe_differences(protocols: Sequence[Mapping[str, Any]], place: Collection[str]) -> list[str]:
    """Return the keys in which the pretrainings differ that the runs' backbones record, but for SEED and ``place``."""
    recipes = list(filter(None, map(_recipe, protocols)))
    keys = sorted({key for recipe in recipes for key in recipe} - {"SEED", *place})
    return [key for key in keys if len({_text(recipe.get(key)) for recipe in recipes}) > 1]


def _recipe(protocol: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config of the backbone's pretraining; None where that is not known, or another tool's."""
    text = (protocol.get("backbone") or {}).get("recipe")
    try:
        return recorded_leaves(text, "recipe")
    except ValueError:
        return None


def agrees_with(settings: Settings | None, wanted: Settings) -> bool:
    """Return whether ``settings`` has every key of ``wanted`` with its value; a list equals the tuple of its items."""
    return settings is not None and all(
        key in settings and _text(settings[key]) == _text(value) for key, value in wanted.items()
    )


def _settings(
    protocol: Mapping[str, Any], part: str, known: Iterable[str], across: Sequence[str], defaults: Settings
) -> dict[str, Any] | None:
    given = protocol.get(part)
    if given is None:
        return None
    absent = {key: defaults[key] for key in known if key not in given and key in defaults}
    return main_keys_first(part, {key: value for key, value in {**given, **absent}.items() if key not in across})


def _agree(few: Mapping[str, Settings | None], many: Mapping[str, Settings | None]) -> bool:
    for part in PARTS:
        mine, theirs = few[part], many[part]
        if mine is None or theirs is None:
            if mine is not theirs:
                return False
        elif any(_text(mine[key]) != _text(theirs[key]) for key in mine.keys() & theirs.keys()):
            return False
    return True


def _check_recorded(keys: Sequence[str], protocols: Sequence[Mapping[str, Any]]) -> None:
    known = sorted({key for one in protocols for part in PARTS for key in one.get(part) or ()})
    for key in keys:
        if not known:
            raise ValueError(f"--across {key}: no run records any setting, so that there is nothing to leave out")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise ValueError(f"--across {key}: no run records it; did you mean {near[0]}?")


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
