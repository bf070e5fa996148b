"""tools/attack.py on a miniature network that really was trained: the numbers it writes and what it refuses."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pretrain import learner
from pretrain.config import load_pretrain_config
from pretrain.run.checkpoint import load_checkpoint, save_checkpoint
from pretrain.trainer import evaluate_checkpoint, train


class TinyNet(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Linear(8, num_classes)

    def forward(self, images):
        features = self.bn(self.conv(images)).relu().mean(dim=(2, 3))
        return self.fc(nn.functional.dropout(features, 0.2, self.training))


@pytest.fixture(autouse=True, scope="module")
def tiny_net():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "build_model", lambda arch, num_classes, **options: TinyNet(num_classes))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_net):
    """Return a folder with data/ (three overlapping classes of brightness, an unreadable file in val/) and a run."""
    folder = tmp_path_factory.mktemp("attack")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 6)):
        for name, level in (("bright", 90), ("dark", 0), ("grey", 45)):
            target = folder / "data" / split / name
            target.mkdir(parents=True)
            for number in range(count):
                low = level + rng.integers(-40, 40) if level else rng.integers(0, 40)
                pixels = rng.integers(low, low + 60, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(target / f"{number}.png")
    (folder / "data" / "val" / "grey" / "broken.png").write_bytes(b"no picture")
    train(load_pretrain_config(None, opts(folder)), resume=False)
    return folder


def opts(folder):
    fixed = {
        "DATA.ROOT": folder / "data",
        "OUTPUT_DIR": folder / "run",
        "DATA.IMAGE_SIZE": 16,
        "DATA.EVAL_RESIZE": 16,
        "DATA.NUM_WORKERS": 0,
        "DATA.CROP": "none",
        "DATA.COLOR_JITTER": 0.0,
        "SOLVER.EPOCHS": 4,
        "SOLVER.BATCH_SIZE": 5,
        "SOLVER.STEPS": (3,),
        "DEVICE": "cpu",
    }
    return [str(item) for pair in fixed.items() for item in pair]


@pytest.fixture
def attack(load_tool, run, tmp_path):
    """Return a function: more arguments -> what the tool writes."""

    def call(*arguments):
        output = tmp_path / "attack.json"
        load_tool("attack").main(
            [
                str(run / "run" / "model_final.pth"),
                "--data-root",
                str(run / "data"),
                "--output",
                str(output),
                "--device",
                "cpu",
                *arguments,
            ]
        )
        return json.loads(output.read_text("utf-8"))

    return call


def test_attack__the_clean_accuracy_is_exactly_that_of_the_evaluation(attack, run):
    report = attack("--epsilons", "0", "20", "--steps", "3")
    expected = evaluate_checkpoint(load_pretrain_config(None, opts(run)))
    assert report["clean_top1"] == 100 - expected["top1_error"]
    assert report["clean_top1"] == load_checkpoint(run / "run" / "model_final.pth")["top1"]
    assert 30 < report["clean_top1"] < 100  # a number that could differ
    assert report["num_images"] == expected["num_images"] == 18  # 3 x 6, without the one that cannot be read

    assert [(entry["attack"], entry["epsilon"]) for entry in report["attacks"]] == [
        ("fgsm", 0.0),
        ("fgsm", 20.0),
        ("pgd", 0.0),
        ("pgd", 20.0),
    ]
    for entry in report["attacks"]:
        assert entry["top1"] == 100 - entry["top1_error"]
        if entry["epsilon"] == 0:
            assert entry["top1"] == report["clean_top1"]
        else:
            assert entry["top1"] < report["clean_top1"]
    protocol = report["protocol"]
    assert protocol["pgd_steps"] == 3
    assert protocol["batch_size"] == 5  # that of the evaluation
    assert protocol["arch"] == "resnet50"
    assert protocol["method"] == "baseline"
    assert len(protocol["checkpoint_sha256"]) == 64
    assert protocol["pictures"] == "all"
    assert [name.endswith("broken.png") for name in protocol["unreadable"]] == [True]


def test_attack__repeats_and_fgsm_does_not_depend_on_the_batch_size(attack, capsys):
    once = attack("--epsilons", "6", "--seed", "1")
    table = capsys.readouterr().out.splitlines()
    assert attack("--epsilons", "6", "--seed", "1") == once
    assert table[1].split() == ["none", "0", f"{once['clean_top1']:.2f}", "%"]
    assert table[2].split() == ["fgsm", "6", f"{once['attacks'][0]['top1']:.2f}", "%"]
    other = attack("--epsilons", "6", "--attacks", "fgsm", "--batch-size", "19")
    assert other["attacks"] == once["attacks"][:1]
    assert other["protocol"]["batch_size"] == 19


def test_attack__a_part_of_the_pictures_is_the_same_for_every_seed(attack, monkeypatch):
    from pretrain.data.batches import Pictures

    read = []
    original = Pictures.__getitem__
    monkeypatch.setattr(Pictures, "__getitem__", lambda self, item: read.append(item[0]) or original(self, item))

    def pictures_of(seed):
        read.clear()
        report = attack("--num-images", "6", "--attacks", "fgsm", "--epsilons", "0", "--seed", seed)
        assert report["protocol"]["pictures"].startswith("6 of 19, spread over the classes")
        return sorted(set(read))

    chosen = pictures_of("0")
    assert pictures_of("5") == chosen
    assert [index // 6 if index < 12 else 2 for index in chosen] == [0, 0, 1, 1, 2, 2]  # two of each class


def test_attack__refuses_another_set_of_classes(load_tool, run, tmp_path):
    shutil.copytree(run / "data" / "val", tmp_path / "other" / "val")
    (tmp_path / "other" / "val" / "grey").rename(tmp_path / "other" / "val" / "gray")
    with pytest.raises(ValueError, match="only in the checkpoint grey; only in the data gray"):
        load_tool("attack").main(
            [
                str(run / "run" / "model_final.pth"),
                "--data-root",
                str(tmp_path / "other"),
                "--output",
                str(tmp_path / "attack.json"),
            ]
        )


@pytest.mark.parametrize("arguments, message", [
    (["--epsilons", "2", "-1"], r"epsilon is -1; expected 0\.\.255"),
    (["--epsilons", "nan"], r"epsilon is nan; expected 0\.\.255"),
    (["--attacks", "deepfool"], "unknown attack 'deepfool'; expected one of fgsm, pgd"),
    (["--steps", "0"], "steps is 0; expected at least 1"),
    (["--step-size", "-1"], "the step size is -1"),
    (["--num-images", "20"], "--num-images is 20, but there are only 19 validation pictures"),
    (["--num-images", "-2"], "--num-images is -2; expected at least 0"),
    (["--batch-size", "-1"], "--batch-size is -1; expected at least 0"),
    (["--output", "nowhere/attack.json"], "nowhere: no such folder for --output"),
    (["--data-root", "nowhere"], "nowhere.val: no such folder"),
    (["--device", "tpu9"], "DEVICE is 'tpu9'; expected auto, cpu"),
])  # fmt: skip
def test_attack__refuses(attack, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        attack(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content, message", [
    (None, r"weights file .*x\.pth does not exist"),
    ({"state_dict": {}}, r"x\.pth: no ResNet in torchvision's names: none of 0 keys"),
    ({"config": "NO_SUCH_KEY: 1"}, r"x\.pth: its config cannot be used \(.*NO_SUCH_KEY"),
    ({"arch": "resnet18"}, r"x\.pth holds a resnet18, but MODEL\.ARCH is resnet50"),
    ({"model": {"conv.weight": torch.zeros(1)}}, r"x\.pth does not fit resnet50"),
])  # fmt: skip
def test_attack__refuses_what_is_no_checkpoint(load_tool, run, tmp_path, content, message):
    if isinstance(content, dict) and "state_dict" not in content:
        content = {**load_checkpoint(run / "run" / "model_final.pth"), **content}
    if content is not None:
        save_checkpoint(content, tmp_path / "x.pth")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_tool("attack").main(
            [
                str(tmp_path / "x.pth"),
                "--data-root",
                str(run / "data"),
                "--output",
                str(tmp_path / "attack.json"),
            ]
        )
    assert not (tmp_path / "attack.json").exists()
