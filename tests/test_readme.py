"""The READMEs keep their word: what they name exists, what they show runs, and their test command is what CI runs."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
READMES = {
    name: (ROOT / name).read_text("utf-8")
    for name in (
        *("README.md", "pretrain/README.md", "pretrain/inspect/README.md", "detection/README.md"),
        *("tools/studies/README.md", "tools/studies/launching/README.md"),
    )
}
README, ALL = READMES["README.md"], "\n".join(READMES.values())
NAMED = set(re.findall(r"(?:tools|pretrain|detection)/[\w/]+\.(?:py|yaml|md)|docs/[\w.]+", ALL))


@pytest.mark.parametrize("name", sorted(NAMED))
def test_readme__every_file_it_names_exists(name):
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("name", READMES)
def test_readme__is_short(name):
    assert len(READMES[name].splitlines()) <= (200 if name == "README.md" else 120)
    assert name != "README.md" or len(README.split()) <= 1150


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").iterdir()), ids=lambda path: path.name)
def test_readme__its_pictures_are_small(picture):
    assert picture.stat().st_size <= 200_000
    assert f"docs/{picture.name}" in README


def test_readme__its_first_screen():
    """What it is and why, a picture, the two commands of the demo, and one's own checkpoints."""
    first = "\n".join(README.splitlines()[:40])
    for part in ("Does a better pretraining augmentation", "![", "pip install", "tools/demo.py", "tools/transfer.py"):
        assert part in first


def test_readme__its_test_command_is_the_one_that_ci_runs():
    shown = re.search(r'pip install -e "\.\[test\]" && pytest\n', README)
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert shown
    assert re.search(r'pip install .*-e "\.\[test\]"', ci)
    assert "pytest" in ci


def test_readme__every_tool_is_mentioned():
    for tool in (ROOT / "tools").glob("[!_]*.py"):
        assert tool.name in ALL


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


# ----------------------------------------------------------------------------------------------- every shell command
NOT_RUN = {  # the READMEs say so too, under "Tests" of the first
    r"pip install": "what CI runs before the tests",
    r"curl|hf ": "fetches from the network",
    r"torchrun": "GPUs or machines by the number; tests of processes start torchrun with what there is",
    r"--num-gpus": "needs as many GPUs",
    r"DATA\.DOWNLOAD": "fetches from the network",
    r"tools/demo\.py": "tests/tools/test_demo.py runs it, made tiny",
}
SMALL_NETWORK = ["DATA.IMAGE_SIZE", "32", "DATA.EVAL_RESIZE", "32", "DATA.NUM_WORKERS", "0"]
SMALL_DETECTION = [
    *("MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2"),
    *("SOLVER.BASE_LR", "1e-6", "MODEL.RESNETS.NORM", "BN"),  # what was hardly trained has no statistics worth a freeze
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.RPN.POST_NMS_TOPK_TEST", "5"),
]
SMALLER = {  # what makes a command small, by its tool; it stands at the end
    "pretrain": [
        *SMALL_NETWORK,
        "SOLVER.BASE_LR",
        "1e-5",
        "SOLVER.EPOCHS",
        "1",
        "SOLVER.STEPS",
        "()",
        "SOLVER.BATCH_SIZE",
        "2",
    ],
    "train_net": SMALL_DETECTION,
    "show_mixing": ["--size", "32"],
    "evaluate_checkpoint": ["--image-size", "32", "--eval-resize", "32"],
    "probe": ["--image-size", "32", "--eval-resize", "32", "--k", "2", "--device", "cpu"],
    "attack": ["--steps", "1", "--num-images", "2"],
    "show_cam": ["--num-images", "1"],
    "bench_pretrain": [*SMALL_NETWORK, "SOLVER.BATCH_SIZE", "2"],
    "bench_methods": ["DATA.NUM_WORKERS", "0", "SOLVER.BATCH_SIZE", "2"],
    "voc_map": ["--resamples", "4"],
    "bench_detector": ["INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu"],
    "bench_gpu": [*SMALL_NETWORK, "DEVICE", "cpu", "MODEL.ARCH", "resnet18", "SOLVER.BATCH_SIZE", "2"],
    "bench_engines": ["MODEL.DEVICE", "cpu"],
}
SMALLER_FIRST = {  # likewise, but before what the README shows
    "bench_pretrain": ["--num-images", "2", "--rounds", "1", "--iterations", "1"],
    "bench_mixing": ["--num-images", "4", "--size", "32", "--rounds", "1"],
    "bench_methods": ["--rounds", "1", "--iterations", "1"],
    "bench_detector": ["--num-images", "2", "--rounds", "1"],
    "bench_engines": ["--size", "64", "80", "--rounds", "1", "--kinds", "fpn"],
    "bench_gpu": [
        "--num-images",
        "2",
        "--rounds",
        "1",
        "--iterations",
        "1",
        "--size",
        "64",
        "80",
        "--batch",
        "1",
        "--no-tests",
    ],
    "bench_evaluation": ["--num-images", "4", "--detections", "5", "--resamples", "4", "--skip-detectron2"],
    "study": ["--dry-run"],
    "transfer": ["--dry-run"],
}


def commands_of(text: str) -> list[str]:
    """The commands of the shell blocks, whole and without comments."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [line for line in blocks.splitlines() if line and not line.startswith("#")]


def reason_not_to_run(command: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command)), None)


def test_readme__every_command_is_run_or_said_not_to_be():
    for text in READMES.values():
        for command in commands_of(text):
            assert reason_not_to_run(command) or re.match(r"python tools/\w+\.py ?", command), command


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which the READMEs' paths are small things of their kind; what a command makes stays for the next."""
    pytest.importorskip("sklearn", reason="the small data are scikit-learn's digits")
    from detection.datasets import digits
    from tests.conftest import random_resnet

    folder = tmp_path_factory.mktemp("world")
    data = folder / "data"
    digits.write_image_folder(data / "imagenet", seed=0, train_per_class=2, val_per_class=1, side=32)
    digits.write_devkit(data / "VOCdevkit", seed=0, trainval=4, test=3, side=64)
    cells = shutil.copytree(data / "VOCdevkit" / "VOC2007", data / "cells")
    renamed = dict(zip(digits.DIGIT_CLASSES, ["RBC", "WBC", "Platelets"] * 4, strict=False))
    challenge = dict(zip(digits.DIGIT_CLASSES, ["dog", "person", "car", "cat", "bird"] * 2, strict=True))
    for path, names in ((cells, renamed), *((data / "VOCdevkit" / f"VOC{year}", challenge) for year in (2007, 2012))):
        for file in (path / "Annotations").glob("*.xml"):
            text = file.read_text()
            for old, new in names.items():
                text = text.replace(f"<name>{old}</name>", f"<name>{new}</name>")
            file.write_text(text)
    (cells / "ImageSets" / "Main" / "train.txt").write_text((cells / "ImageSets/Main/trainval.txt").read_text())
    import torch
    from safetensors.torch import save_file

    torch.save(random_resnet(50, num_classes=10), folder / "resnet50-0676ba61.pth")
    for name in ("resnet50.pth", "moco_v2.pth.tar"):
        shutil.copy(folder / "resnet50-0676ba61.pth", folder / name)
    save_file(random_resnet(50, num_classes=10), folder / "a1_in1k.safetensors")
    Image.new("RGB", (60, 40), "red").save(folder / "street.jpg")
    for name in ("pretrain", "detection", "tools"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "docs").mkdir()
    return SimpleNamespace(folder=folder, data=data)


@pytest.mark.slow
def test_readme__every_command_runs(world, weights, load_tool, monkeypatch):
    """One after the other, since what one leaves the next takes up; all that fail are told at once."""
    monkeypatch.chdir(world.folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world.data / "VOCdevkit"))
    failed = []
    for command in (line for text in READMES.values() for line in commands_of(text) if not reason_not_to_run(line)):
        _, path, *words = shlex.split(command)
        tool = Path(path).stem
        if tool in ("bench_engines", "bench_evaluation") and find_spec("detectron2") is None:
            continue  # it compares with that
        words = [word.replace("/data/", f"{world.data}/") for word in words]
        if "OUTPUT_DIR" in words:  # which another README's command may have filled
            shutil.rmtree(words[words.index("OUTPUT_DIR") + 1], ignore_errors=True)
        if tool == "export":  # two steps of training leave a detector that finds nothing, which it refuses
            shutil.copy(weights, "output/voc_saliencymix/model_final.pth")
        if "baseline=output/voc_baseline" in words:  # which no command has made
            shutil.copytree("output/voc_saliencymix", "output/voc_baseline")
        try:
            status = load_tool(tool).main([*SMALLER_FIRST.get(tool, []), *words, *SMALLER.get(tool, [])])
        except (Exception, SystemExit) as error:
            status = f"{type(error).__name__}: {error}"
        if status:
            failed.append(f"{command}\n    {status}")
    assert not failed, "\n".join(failed)
