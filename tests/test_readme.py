"""The README keeps its word: what it names exists, and what it shows is what CI runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


NAMED = set(re.findall(r"(?:tools|pretrain|detection)/[\w/]+\.(?:py|yaml)", README))


@pytest.mark.parametrize("name", sorted(NAMED))
def test_readme__every_file_it_names_exists(name):
    assert (ROOT / name).is_file()


def test_readme__its_test_command_is_the_one_that_ci_runs():
    shown = re.search(r'pip install -e "\.\[test\]" && pytest\n', README)
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert shown
    assert re.search(r'pip install .*-e "\.\[test\]"', ci)
    assert "pytest" in ci


def test_readme__every_tool_is_mentioned():
    for tool in (ROOT / "tools").glob("[!_]*.py"):
        assert f"tools/{tool.name}" in README
