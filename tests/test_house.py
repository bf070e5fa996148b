"""The walls of the house: which package may import which, without circles, and how large a room may be."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP = ("pretrain", "detection", "tools")
FILES = sorted(path for name in TOP for path in (ROOT / name).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
# What each package or module of the middle floors may import, besides itself; a name stands for all that is in it.
PRETRAIN = {
    "pretrain.names": (),
    "pretrain.run": (),
    "pretrain.weights": ("pretrain.run",),
    "pretrain.saliency": ("pretrain.names", "pretrain.run"),
    "pretrain.data": ("pretrain.names", "pretrain.run"),
    "pretrain.mixing": ("pretrain.names", "pretrain.run", "pretrain.saliency"),
    "pretrain.models": ("pretrain.names", "pretrain.run", "pretrain.weights"),
    "pretrain.config": ("pretrain.names", "pretrain.run"),
}
DETECTION = {
    "detection.datasets": (),
    "detection.convert": (),
    "detection.defaults": (),
    "detection.config": ("detection.datasets", "detection.defaults"),
    "detection.evaluation": ("detection.datasets",),
    "detection.run_data": ("detection.config", "detection.datasets"),
    "detection.samples": ("detection.config", "detection.datasets"),
    "detection.report": ("detection.datasets", "detection.evaluation"),
    "detection.engines": (
        "detection.config", "detection.convert", "detection.datasets", "detection.defaults", "detection.evaluation",
        "detection.run_data", "detection.samples",
    ),
    "detection.export": (
        "detection.config", "detection.convert", "detection.datasets", "detection.defaults", "detection.engines",
        "detection.evaluation",
    ),
}  # fmt: skip


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def imports_of(name: str) -> set[str]:
    """The modules of ours that a module imports, inside functions and for annotations too."""
    tree = ast.parse(MODULES[name].read_text("utf-8"))
    nodes = list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {one for one in found if one in MODULES and one not in ("pretrain", "detection", "tools")}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("pretrain")])
def test_imports__pretrain_knows_nothing_above_it(name):
    assert not {one for one in imports_of(name) if one.startswith(("detection", "tools"))}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("detection")])
def test_imports__detection_comes_through_two_doors(name):
    others = {one for one in imports_of(name) if not is_within(one, "detection")}
    assert {
        one for one in others if not (is_within(one, "pretrain.run") or is_within(one, "pretrain.weights"))
    } == set()


@pytest.mark.parametrize(
    "floors, top", [(PRETRAIN, "pretrain"), (DETECTION, "detection")], ids=["pretrain", "detection"]
)
def test_imports__run_downward_floor_by_floor(floors, top):
    for room, below in floors.items():
        for name in (name for name in MODULES if is_within(name, room)):
            inside = {one for one in imports_of(name) if is_within(one, top)}
            strangers = {one for one in inside if not any(is_within(one, allowed) for allowed in (room, *below))}
            assert not strangers, f"{name} imports {strangers}"


def test_imports__no_circle_of_modules_or_packages():
    """A package's ``__init__`` runs before its modules, and so counts as imported by whoever imports one of them."""
    edges = {}
    for name in MODULES:
        direct = imports_of(name)
        edges[name] = {one for one in direct if one != name and not is_within(name, one)}
    for circle in circles(edges):
        raise AssertionError(" -> ".join(circle))
    packages = {}
    for name, others in edges.items():
        own = room_of(name)
        packages.setdefault(own, set()).update(room_of(other) for other in others if room_of(other) != own)
    for circle in circles(packages):
        raise AssertionError(" -> ".join(circle))


def room_of(name: str) -> str:
    """The package of a module, or the module itself where it stands beside packages."""
    return ".".join(name.split(".")[:2])


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    done: set[str] = set()
    found: list[list[str]] = []

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(edges.get(name, ())):
                visit(other, [*path, name])
            done.add(name)

    for name in sorted(edges):
        visit(name, [])
    return found


def test_circles__finds_one():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == [["a", "b", "c", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_folders__at_most_twelve_modules_side_by_side():
    folders = {path.parent for path in FILES if path.parent != ROOT / "tools"}
    counts = {folder: sum(one.name != "__init__.py" for one in folder.glob("*.py")) for folder in folders}
    assert not {str(folder): count for folder, count in counts.items() if count > 12}


def test_modules__at_most_400_lines():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.parametrize("tool", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_tools__no_main_over_40_lines(tool):
    functions = [node for node in ast.parse(tool.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
    assert not [node.name for node in functions if node.name == "main" and node.end_lineno - node.lineno >= 40]


FACES = (
    "pretrain", "pretrain.saliency", "pretrain.mixing", "pretrain.weights", "detection.convert", "detection.datasets",
    "detection.evaluation", "detection.report",
)  # fmt: skip


@pytest.mark.parametrize("name", FACES)
def test_faces__public_functions_and_methods_are_typed_and_say_what_they_do(name):
    face = importlib.import_module(name)
    functions = []
    for public in face.__all__:
        thing = getattr(face, public)
        assert inspect.getdoc(thing) or not callable(thing), f"{name}.{public} has no docstring"
        if inspect.isfunction(thing):
            functions.append(thing)
        elif inspect.isclass(thing) and thing.__module__.startswith(name.split(".")[0]):
            functions += [one for key, one in vars(thing).items() if inspect.isfunction(one) and key[0] != "_"]
    assert face.__all__
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        untyped = [one.name for one in parameters if one.name != "self" and one.annotation is inspect.Parameter.empty]
        assert not untyped, f"{function.__qualname__}: {untyped}"
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty, function.__qualname__


@pytest.mark.parametrize("name", MODULES)
def test_modules__leave_tags_to_the_templates(name):
    """What is put into a template is escaped; what is put between tags in a string of Python is not."""
    tag = re.compile(r"</?(html|head|body|main|section|div|span|p|a|b|i|t[drh]|table|svg|rect|img|style|script)\b")
    nodes = list(ast.walk(ast.parse(MODULES[name].read_text("utf-8"))))
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in alone]
    assert not [text for text in texts if isinstance(text, str) and tag.search(text)]


def test_templates__switch_no_escaping_off():
    for template in (path for name in TOP for path in (ROOT / name).rglob("*.jinja")):
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", template.read_text("utf-8")), template


def test_packages__say_that_they_are_typed():
    assert all((ROOT / name / "py.typed").is_file() for name in ("pretrain", "detection"))


def test_top_level__holds_nothing_else():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert folders - {"output", "demo_output", "build"} <= {*TOP, "docs", "tests"} | {
        name for name in folders if name.endswith(".egg-info")
    }
