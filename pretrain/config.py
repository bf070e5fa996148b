"""One configuration idiom for both halves: YAML files with ``_BASE_``, then ``KEY VALUE`` pairs, checked by name.

This file holds the reading of configs and every setting of pretraining; ``detection.config`` holds those of detection.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode


def load_config(defaults: CfgNode, config_file: Path | str | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Return a copy of ``defaults`` with the YAML file's values and then the ``KEY VALUE`` pairs merged in.

    ``_BASE_`` in a file names the file (or list of files) that it differs from, relative to itself. A string that reads
    as a Python literal is taken as that literal, as in Detectron2 (``"('voc_2007_trainval',)"``); an integer is taken
    where a float is expected and a list where a tuple is.

    Raises:
        FileNotFoundError: a config file does not exist.
        ValueError: not YAML, an unknown key (the nearest known one is named), or a value of another type than the default.
    """
    cfg = defaults.clone()
    if config_file is not None:
        for key, value in _leaves(_read_yaml(Path(config_file)), defaults):
            _set(cfg, key, value, str(config_file))
    if len(opts) % 2:
        raise ValueError(f"command line: expected KEY VALUE pairs, but {opts[-1]!r} has no value")
    for key, value in zip(opts[0::2], opts[1::2], strict=True):
        _set(cfg, key, value, "command line")
    return cfg


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"config file {path} does not exist")
    try:
        content = CfgNode.load_yaml_with_base(str(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else str(path)
        raise ValueError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from error
    except (AssertionError, TypeError, AttributeError) as error:  # fvcore's answers to a file that is not a mapping
        raise ValueError(f"{path}: expected a mapping of config keys ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of config keys, but got {type(content).__name__}")
    return content


def _leaves(tree: dict[str, Any], defaults: CfgNode | None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; a mapping is descended into unless ``defaults`` has a plain value at its key."""
    for name, value in tree.items():
        known = defaults.get(name) if isinstance(defaults, CfgNode) else None
        if isinstance(value, dict) and (known is None or isinstance(known, CfgNode)):
            yield from _leaves(value, known, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _set(cfg: CfgNode, key: str, value: Any, source: str) -> None:
    """Set one dotted key of ``cfg``; ``source`` says in errors where the value came from."""
    *parents, leaf = key.split(".")
    node = cfg
    for name in parents:
        node = node.get(name) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or leaf not in node:
        known = [name for name, _ in _leaves(cfg, None)]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise ValueError(f"{source}: unknown config key {key}; did you mean {near[0]}?")
    if isinstance(node[leaf], CfgNode):
        raise ValueError(f"{source}: {key} is a group of keys ({', '.join(node[leaf])}), but got the value {value!r}")
    node[leaf] = _coerce(key, value, node[leaf], source)


def _coerce(key: str, value: Any, default: Any, source: str) -> Any:
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pass  # stays a string, which the type check below names
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted in (tuple, list) and isinstance(value, (tuple, list)):
        return wanted(value)
    if type(value) is not wanted:
        raise ValueError(f"{source}: {key} expects {wanted.__name__} (such as {default!r}), but got {value!r}")
    return value
