"""The README keeps its word: what it names exists, and what it shows is what CI runs."""

import re
from pathlib import Path

import pytest
from PIL import Image

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


def test_readme__its_python_runs(weights, tmp_path, monkeypatch):
    """A block mixes a batch of the shapes that it names, one imports from the packages' faces, one holds a detector."""
    torch = pytest.importorskip("torch")
    mixing, faces, detector = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "labels": torch.tensor([0, 999])}
    exec(mixing, names)
    assert (names["images"].dtype, names["soft_labels"].shape) == (torch.uint8, (2, 1000))
    exec(faces, names)
    assert names["fine_grained"](names["images"]).shape == (2, 32, 32)
    assert all(callable(names[name]) for name in ("convert_state_dict", "evaluate_voc"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    weights.rename(tmp_path / "output" / "model_final.pth")
    Image.new("RGB", (60, 40), "red").save(tmp_path / "street.jpg")
    exec(detector, names)
    assert len(names["found"]) > 0
    assert (tmp_path / "detector.pth").is_file()
