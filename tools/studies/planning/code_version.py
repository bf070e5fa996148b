"""The version of the code behind a stage: a hash of every module of ours that it can reach, words left out.

What counts is what the code does. Comments, docstrings and layout do not, nor do modules that only talk to the user or
hold settings; so a corrected sentence or a new key never repeats a week of pretraining.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tools.studies.experiments import ROOT

# Where the code of a stage begins. A long stage does not begin at its tool, whose help is text that counts.
STAGES = {
    "data": ("detection.datasets.digits",),
    "pretrain": ("pretrain.trainer",),
    "convert": ("detection.convert.backbone_file",),
    "fine_tune": ("detection.engines.{engine}",),
    "sweep": ("detection.engines.{engine}", "detection.fine_tune"),
    "choice": ("tools.studies.sweep.choice",),
    "evaluate": ("detection.engines.{engine}", "detection.fine_tune"),
    "comparison": ("detection.evaluation.comparison", "detection.report.comparison"),
    "accuracy": ("pretrain.inspect.accuracy",),
    "attack": ("pretrain.inspect.robustness",),
    "timing": ("tools.benchmarks.methods",),
    "cam": ("pretrain.inspect.cam_sheet", "pretrain.inspect.cam_numbers"),
}
NOT_OF_TRAINING = frozenset({"detection.evaluation.voc"})  # scores on the way do not change what training computes
PACKAGES = ("pretrain", "detection", "tools")
# They show progress, draw pages or write logs; no number depends on them, nor on what only they import.
PRESENTATION = (
    "pretrain.run.cli", "pretrain.run.run_folder", "detection.report.charts", "detection.report.templates",
    "detection.report.illustrations", "detection.report.html", "detection.report.markdown",
    "detection.report.comparison_pictures", "detection.report.training_curves",
)  # fmt: skip
# They hold settings, which stand in a stage's inputs by value; a new key must make nothing stale.
SETTINGS = ("pretrain.run.settings", "pretrain.names", "pretrain.config", "detection.config", "detection.defaults")


def stage_version(kind: str, engine: str = "") -> str:
    """Return the version of the code behind a stage of ``kind``; ``engine`` is that of fine-tuning and detection."""
    modules = tuple(module.format(engine=engine) for module in STAGES[kind])
    return code_version(modules, leave_out=NOT_OF_TRAINING if kind == "fine_tune" else frozenset())


@cache
def code_version(modules: tuple[str, ...], *, leave_out: frozenset[str] = frozenset(), root: Path = ROOT) -> str:
    """Return the first 16 hex digits of a hash over ``modules`` (dotted names) and everything of ours they import.

    Imports inside functions count too; the modules ``leave_out`` do not, nor what only they import. ``root`` is the
    folder that holds the packages.
    """
    digest = hashlib.sha256()
    for name in sorted(reachable(modules, leave_out=leave_out, root=root)):
        digest.update(f"{name} {_module_hash(_module_file(name, root))}\n".encode())
    return digest.hexdigest()[:16]


def reachable(modules: Iterable[str], *, leave_out: frozenset[str] = frozenset(), root: Path = ROOT) -> set[str]:
    """Return the names of ``modules`` and of all modules of ours that they import, directly or through each other."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name in leave_out or name in PRESENTATION or name in SETTINGS:
            continue
        if _module_file(name, root) is None:
            continue
        found.add(name)
        waiting += _imports(name, _module_file(name, root))
        if "." in name:
            package = name.rpartition(".")[0]  # importing a module runs its package's __init__
            path = _module_file(package, root)
            if path is not None and not _is_face(path):
                waiting.append(package)
    return found


def _is_face(path: Path) -> bool:
    """Return whether a package's ``__init__`` only says what it is and hands on names of its modules."""

    def hands_on(node: ast.stmt) -> bool:
        is_list = isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
        return is_list or isinstance(node, (ast.Import, ast.ImportFrom))

    body = _tree(path).body
    return all(hands_on(node) for node in (body[1:] if _has_docstring(_tree(path)) else body))


@cache
def _module_file(name: str, root: Path) -> Path | None:
    if name.partition(".")[0] not in PACKAGES:
        return None
    path = root.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None  # a name inside a module


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


@cache
def _imports(name: str, path: Path) -> tuple[str, ...]:
    """Return the dotted names that a module imports; among them are names of functions, which no file answers to."""
    return tuple(_imported(name, path))


def _imported(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def _module_hash(path: Path) -> str:
    return hashlib.sha256(repr(_canonical(_tree(path))).encode()).hexdigest()


def _canonical(node: Any) -> Any:
    """Return a syntax tree as tuples that are equal in every Python version: no positions, no empty fields."""
    if isinstance(node, list):
        return tuple(_canonical(item) for item in node)
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _has_docstring(node):
        fields["body"] = node.body[1:]
    return (
        type(node).__name__,
        *((name, _canonical(value)) for name, value in fields.items() if value is not None and value != []),
    )


def _has_docstring(node: Any) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
