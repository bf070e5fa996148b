"""What holds for every tool: help without heavy imports and with a runnable example, one-line errors, exit statuses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if path.stem != "__init__")
HEAVY = ("torch", "torchvision", "matplotlib", "detectron2", "cv2", "hotcoco", "pycocotools", "sklearn", "skimage")


def run(*command, cwd=ROOT):
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_help__imports_nothing_heavy_and_shows_a_runnable_example(tool):
    code = (
        f"import runpy, sys; sys.argv = [{str(tool)!r}, '--help']\n"
        f"try:\n    sys.path.insert(0, {str(tool.parent)!r}); runpy.run_path({str(tool)!r}, run_name='__main__')\n"
        f"except SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert "HEAVY []" in result.stdout
    assert f"python tools/{tool.name}" in result.stdout
    for named in re.findall(r"(?:pretrain|detection)/configs/\w+\.yaml", result.stdout):
        assert (ROOT / named).is_file()


@pytest.mark.parametrize("arguments, message", [
    (["pretrain.py", "--config-file", "nowhere.yaml"], "config file nowhere.yaml does not exist"),
    (["pretrain.py", "--config-file", "pretrain/configs/imagenet_r50_baseline.yaml", "SOLVER.EPOCS", "1"],
     "command line: unknown config key SOLVER.EPOCS; did you mean SOLVER.EPOCHS?"),
    (["demo.py", "--seed", "-1"], "--seed is -1; expected at least 0"),
])  # fmt: skip
def test_tools__a_user_error_is_one_line_and_status_2(arguments, message):
    result = run(ROOT / "tools" / arguments[0], *arguments[1:])
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == f"{arguments[0]}: error: {message}"
    assert "Traceback" not in result.stderr


def test_pretrain__an_unreadable_picture_is_one_line_even_from_a_worker(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            (folder / "a.jpg").write_bytes(b"not a picture")
    result = run(
        ROOT / "tools" / "pretrain.py",
        "--config-file",
        ROOT / "pretrain/configs/demo_r18_saliencymix.yaml",
        "DATA.ROOT",
        tmp_path / "data",
        "OUTPUT_DIR",
        tmp_path / "run",
        "DATA.NUM_WORKERS",
        "1",
        "SOLVER.BATCH_SIZE",
        "2",
    )
    assert result.returncode == 2
    assert re.fullmatch(
        r"pretrain\.py: error: .*a\.jpg: cannot be read as a picture .*", result.stderr.splitlines()[-1]
    )
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "run").glob("*.pth"))
