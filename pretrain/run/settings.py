"""One configuration idiom for everything: YAML files with ``_BASE_``, then ``KEY VALUE`` pairs, checked by name.

A config (pretraining, detection, a study) is a tree of keys with defaults, a table of ``Rule`` that says what a good
value is, and ``Effects`` that say which keys do not decide about a result.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from pretrain.run.text import parse_yaml, read_yaml

BASE = "_BASE_"  # names the file, or the list of files, that a YAML file differs from
MAX_FAULTS = 10  # that one error lists


class Rule(NamedTuple):
    """What holds for a good value of a key, and how to say it after "expected"."""

    holds: Callable[[Any], bool]
    expected: str


def one_of(*options: Any) -> Rule:
    """Return the rule that a value is among ``options``."""
    listed = f"one of {', '.join(options)}" if all(isinstance(option, str) for option in options) else None
    return Rule(lambda value: value in options, listed or " or ".join(map(repr, options)))


def at_least(least: float) -> Rule:
    """Return the rule that a number is finite and not below ``least``."""
    return Rule(lambda value: is_number(value) and value >= least, f"at least {least}")


def above(least: float) -> Rule:
    """Return the rule that a number is finite and above ``least``."""
    return Rule(lambda value: is_number(value) and value > least, f"a finite number above {least}")


def is_number(value: Any) -> bool:
    """Return whether ``value`` is a finite int or float, within the range of a float; a bool is none."""
    return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max


SHARE = Rule(lambda value: is_number(value) and 0 <= value <= 1, "within 0 and 1")
SHARE_BELOW_1 = Rule(lambda value: is_number(value) and 0 <= value < 1, "at least 0 and below 1")
NOT_NEGATIVE = Rule(at_least(0).holds, "a finite number of at least 0")


class ConfigError(ValueError):
    """Everything that is wrong with a config; ``faults`` has a sentence for each, the message one a line."""

    def __init__(self, faults: Sequence[str]):
        shown = list(faults[:MAX_FAULTS])
        if len(faults) > MAX_FAULTS:
            shown.append(f"and {len(faults) - MAX_FAULTS} more faults")
        self.faults = tuple(shown)
        super().__init__("\n".join(shown))


def find_faults(cfg: CfgNode, rules: Mapping[str, Rule], *, note: str = "") -> list[str]:
    """Return a sentence for each key whose value breaks its rule; ``note`` stands behind the value."""
    faults = []
    for key, rule in rules.items():
        value = get_value(cfg, key)
        if not rule.holds(value):
            faults.append(f"{key} is {value!r}{note}; expected {rule.expected}")
    return faults


def refuse_faults(faults: Sequence[str]) -> None:
    """Raise ``ConfigError`` unless there are no ``faults``."""
    if faults:
        raise ConfigError(faults)


def check_choice(key: str, value: Any, known: Collection[str]) -> None:
    """Refuse a ``value`` that is none of ``known`` with a ``ValueError`` that names ``key``."""
    if value not in known:
        raise ValueError(f"{key} is {value!r}; expected one of {', '.join(known)}")


def get_value(cfg: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key."""
    value: Any = cfg
    for name in key.split("."):
        value = value[name]
    return value


@dataclass(frozen=True)
class Effects:
    """The keys of a config that do not decide what a run computes; all others are part of its result.

    Attributes:
        place: where files lie, which are written how often, when a run gives up.
        speed: device, memory layout, workers, compilation: they change a result by rounding at most, and a timing.
        test: read only when a finished network is tested.
        first_defaults: key -> the default that it had when it was new, where that was changed since. What was made
            before a key existed was made by that value.
    """

    place: frozenset[str]
    speed: frozenset[str]
    test: frozenset[str] = frozenset()
    first_defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def free_on_resume(self) -> frozenset[str]:
        """Keys that may differ between the two halves of a resumed run."""
        return self.place | self.speed | self.test

    def of_training(self, cfg: CfgNode) -> dict[str, Any]:
        """Return the keys, with their values, that decide about trained weights."""
        return _without(cfg, self.free_on_resume)

    def of_testing(self, cfg: CfgNode) -> dict[str, Any]:
        """Return the keys that decide about the numbers of a trained network."""
        return _without(cfg, self.place | self.speed)

    def of_timing(self, cfg: CfgNode) -> dict[str, Any]:
        """Return the keys that decide about how long training takes."""
        return _without(cfg, self.place | self.test)

    def first_values(self, defaults: CfgNode) -> dict[str, Any]:
        """Return what each key of ``defaults`` means where it is absent."""
        return {**plain_leaves(defaults), **self.first_defaults}


def plain_leaves(cfg: CfgNode) -> dict[str, Any]:
    """Return dotted keys and values as YAML gives them back (a tuple is a list)."""
    return recorded_leaves(cfg.dump(), "the config")


def recorded_leaves(text: Any, source: str) -> dict[str, Any]:
    """Return dotted keys and values of the config that something carries as YAML; ``source`` says what.

    Raises:
        ValueError: as ``parse_yaml``, or no text of a mapping.
    """
    content = parse_yaml(text, source) if isinstance(text, str) else text
    if not isinstance(text, str) or not isinstance(content, dict):
        raise ValueError(f"{source}: expected a mapping of config keys as YAML, but got {type(content).__name__}")
    return dict(leaves(content))


def _without(cfg: CfgNode, dropped: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in plain_leaves(cfg).items() if key not in dropped and key != "VERSION"}


def check_same_run(saved: str, cfg: CfgNode, defaults: CfgNode, effects: Effects) -> None:
    """Refuse to resume a run under a config that changes its meaning.

    ``saved`` is the YAML text that the checkpoint carries. A key that it lacks was not there yet and had its first
    default; keys that ``effects`` frees may differ.

    Raises:
        ValueError: ``saved`` cannot be read; or lists every other key whose value differs, with both values.
    """
    before = {**effects.first_values(defaults), **recorded_leaves(saved, "the checkpoint's config")}
    now = plain_leaves(cfg)
    changed = [
        f"{key} was {before.get(key, 'absent')!r}, is {now.get(key, 'absent')!r}"
        for key in sorted({*before, *now} - effects.free_on_resume)
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f"cannot resume: the config differs from the checkpoint's ({'; '.join(changed)}); "
            "set these keys back, or start anew in another OUTPUT_DIR"
        )


class Carried(NamedTuple):
    """A config that a file carries beside other things, as YAML; ``source`` says where, for errors."""

    text: Any
    source: str


def load_config(
    defaults: CfgNode,
    config_file: Path | str | None = None,
    opts: Sequence[str] = (),
    *,
    carried: Carried | None = None,
    find: Callable[[CfgNode], list[str]] = lambda cfg: [],
    paths: Sequence[str] = (),
) -> CfgNode:
    """Return a copy of ``defaults`` with the YAML file's values and then the ``KEY VALUE`` pairs merged in.

    ``carried`` is a config that another file carries; it comes before both.

    ``_BASE_`` in a file names the file (or list of files) that it differs from, relative to itself. A string that reads
    as a Python literal is taken as that literal, as in Detectron2 (``"('voc_2007_trainval',)"``); an integer is taken
    where a float is expected and a list where a tuple is. ``~`` at the start of the keys ``paths`` is the home folder.

    Raises:
        FileNotFoundError: a config file does not exist.
        ConfigError: a file that is not YAML, or everything else that is wrong at once: unknown keys (the nearest known
            one is named), values of another type, pairs that are none, and what ``find`` finds in the result.
    """
    cfg = defaults.clone()
    faults: list[str] = []
    if carried is not None:
        for key, value in recorded_leaves(carried.text, carried.source).items():
            _set(cfg, key, value, carried.source, faults)
        if faults:
            faults.append(f"{carried.source} is of another version of the toolkit; say a config that is not")
    if config_file is not None:
        for key, value in leaves(_read_with_bases(Path(config_file)), defaults):
            _set(cfg, key, value, str(config_file), faults)
    for key, value in _pairs(opts, faults):
        _set(cfg, key, value, "command line", faults)
    for key in paths:
        *parents, leaf = key.split(".")
        node = get_value(cfg, ".".join(parents)) if parents else cfg
        node[leaf] = os.path.expanduser(node[leaf])
    refuse_faults([*faults, *find(cfg)])
    return cfg


def _pairs(opts: Sequence[str], faults: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the ``KEY VALUE`` pairs of a command line up to the first word that is out of place."""
    for place in range(0, len(opts), 2):
        key, value = opts[place], opts[place + 1] if place + 1 < len(opts) else None  # a value may be any plain one
        late = next((word for word in (key, value) if isinstance(word, str) and re.match("--[A-Za-z]", word)), None)
        if late is not None:
            faults.append(f"command line: the option {late} stands among the KEY VALUE pairs; options go before them")
            return
        if "=" in key:
            name, _, given = key.partition("=")
            faults.append(f"command line: {key!r} is no pair; write {name} {given}, with a space in place of the =")
            return
        if place + 1 == len(opts):
            faults.append(f"command line: expected KEY VALUE pairs, but {key!r} has no value")
            return
        yield key, value


def _read_with_bases(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the mapping in ``path``, merged over those of its ``_BASE_``: a file or a list of files.

    A base is relative to the file that names it; ``above`` are the files that led here.

    Raises:
        FileNotFoundError, ValueError: as ``read_yaml``; not a mapping, or bases in a circle.
    """
    if path.resolve() in [one.resolve() for one in above]:
        raise ValueError(f"{above[-1]}: {BASE} goes round in a circle: {' -> '.join(map(str, (*above, path)))}")
    named_by = f", which {above[-1]} names as its {BASE}," if above else ""
    if path.is_dir():
        raise ValueError(f"config file {path}{named_by} is a folder")
    if not path.is_file():
        raise FileNotFoundError(f"config file {path}{named_by} does not exist")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of config keys, but got {type(content).__name__}")
    named = content.pop(BASE, [])
    bases = named if isinstance(named, list) else [named]
    merged: dict[str, Any] = {}
    for base in bases:
        if not isinstance(base, str) or not base:
            raise ValueError(f"{path}: {BASE} is {named!r}; expected a file, or a list of files")
        _merge(_read_with_bases(path.parent / os.path.expanduser(base), (*above, path)), merged, base)
    _merge(content, merged, str(path))
    return merged


def _merge(new: dict[str, Any], into: dict[str, Any], source: str) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise ValueError(
                    f"{source}: {key} is a group of keys, but its {BASE} has the value {into[key]!r} there"
                )
            _merge(value, into[key], source)
        else:
            into[key] = value


def leaves(tree: dict[str, Any], defaults: CfgNode | None = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; a mapping is descended into unless ``defaults`` has a plain value at its key."""
    for name, value in tree.items():
        known = defaults.get(name) if isinstance(defaults, CfgNode) else None
        if isinstance(value, dict) and (known is None or isinstance(known, CfgNode)):
            yield from leaves(value, known, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _set(cfg: CfgNode, key: str, value: Any, source: str, faults: list[str]) -> None:
    """Set one dotted key of ``cfg``, or add to ``faults`` why not; ``source`` says where the value came from."""
    *parents, leaf = key.split(".")
    node = cfg
    for name in parents:
        node = node.get(name) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or leaf not in node:
        known = [name for name, _ in leaves(cfg, None)]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        faults.append(f"{source}: unknown config key {key}; did you mean {near[0]}?")
    elif isinstance(node[leaf], CfgNode):
        faults.append(f"{source}: {key} is a group of keys ({', '.join(node[leaf])}), but got the value {value!r}")
    else:
        try:
            node[leaf] = _coerce(key, value, node[leaf])
        except ValueError as error:
            faults.append(f"{source}: {error}")


def _coerce(key: str, value: Any, default: Any) -> Any:
    if isinstance(value, str) and not isinstance(default, str):
        # what is no literal stays a string, which the type check below names
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = ast.literal_eval(value)
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted in (tuple, list) and isinstance(value, (tuple, list)):
        return wanted(value)
    if default is not None and type(value) is not wanted:  # None stands for "not set" and says nothing of the type
        raise ValueError(f"{key} expects {wanted.__name__} (such as {default!r}), but got {value!r}")
    return value
