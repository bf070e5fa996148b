"""A reference of config keys, read off the code that defines them: key, default, what stands behind it as a comment."""

from __future__ import annotations

import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Mapping
from types import ModuleType

from pretrain.run.settings import Rule, leaves

KEY = re.compile(r"\s*cfg\.([A-Z0-9_.]+) = ")
WIDTH = 120


def config_reference(module: ModuleType) -> str:
    """Return a line ``KEY default  # comment [what is accepted]`` for every key of ``module.get_cfg()``, in its order.

    ``module`` also has RULES, by key. A comment that stands above a key, or a group of keys, stays above it.
    """
    above, beside = _comments(inspect.getsource(inspect.getmodule(module.get_cfg)))
    rules: Mapping[str, Rule] = module.RULES
    lines: list[str] = []
    group = ""
    for key, value in leaves(module.get_cfg()):
        parent = key.rpartition(".")[0]
        if parent != group:
            group = parent
            heading = [*above.get(group, ()), *([beside[group]] if group in beside else [])]
            lines += ["", *_wrapped(" ".join(heading))]
        lines += _wrapped(" ".join(above.get(key, ())))
        remarks = [beside[key]] if key in beside else []
        if key in rules:
            remarks.append(f"[{rules[key].expected}]")
        text = f"{key} {value!r}"
        whole = f"{text}  # {' '.join(remarks)}" if remarks else text
        lines += [whole] if len(whole) <= WIDTH else [text, *_wrapped(" ".join(remarks), indent="    ")]
    return "\n".join(lines).strip("\n") + "\n"


def _wrapped(comment: str, indent: str = "") -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(comment, WIDTH, initial_indent=prefix, subsequent_indent=prefix) if comment else []


def _comments(source: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return, by key, the comment lines directly above its assignment, and the comment behind it."""
    lines = source.splitlines()
    comments = {
        token.start[0] - 1: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    above: dict[str, list[str]] = {}
    beside: dict[str, str] = {}
    waiting: list[str] = []
    for number, line in enumerate(lines):
        key = KEY.match(line)
        if key:
            if waiting:
                above[key[1]] = waiting
            if number in comments:
                beside[key[1]] = comments[number]
        waiting = [*waiting, comments[number]] if number in comments and line.lstrip().startswith("#") else []
    return above, beside
