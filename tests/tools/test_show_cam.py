"""tools/show_cam.py: the sheet and the numbers behind it, and refusals in words."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from pretrain import learner
from pretrain.config import load_pretrain_config
from pretrain.names import PAIR_METHODS
from pretrain.run.checkpoint import save_checkpoint

CLASSES = ["dark", "grey", "light"]


def tiny_resnet(arch, num_classes, **options):
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=num_classes)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setattr(learner, "build_model", tiny_resnet)


@pytest.fixture
def folder(tmp_path):
    """Write val/ with three pictures of each class, and two checkpoints of networks with random weights."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (tmp_path / "val" / name).mkdir(parents=True)
        for picture in range(3):
            pixels = rng.integers(70 * number, 70 * number + 100, (16, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / name / f"{picture}.png")
    write_checkpoint(tmp_path / "one.pth", seed=1)
    write_checkpoint(tmp_path / "two.pth", seed=2)
    return tmp_path


def write_checkpoint(path, *, seed, classes=CLASSES, size=16):
    torch.manual_seed(seed)
    opts = ["DATA.IMAGE_SIZE", size, "DATA.EVAL_RESIZE", size, "MIXING.METHOD", "cutmix"]
    cfg = load_pretrain_config(None, [str(item) for item in opts])
    save_checkpoint(
        {
            "model": tiny_resnet(None, len(classes)).state_dict(),
            "config": cfg.dump(),
            "arch": cfg.MODEL.ARCH,
            "method": "cutmix",
            "classes": classes,
        },
        path,
    )


@pytest.fixture
def show_cam(load_tool, folder, monkeypatch):
    """Return a function: more arguments -> the JSON that the tool writes beside the sheet."""
    monkeypatch.chdir(folder)

    def call(*arguments):
        load_tool("show_cam").main(
            [
                "--checkpoints",
                "first=one.pth",
                "second=two.pth",
                "--output",
                "sheet.png",
                "--device",
                "cpu",
                *arguments,
            ]
        )
        return json.loads((folder / "sheet.json").read_text("utf-8"))

    return call


@pytest.mark.parametrize("method", PAIR_METHODS)
def test_show_cam__the_numbers_behind_the_sheet(show_cam, folder, method):
    numbers = show_cam("--data-root", ".", "--num-images", "2", "--methods", method)
    assert [network["name"] for network in numbers["networks"]] == ["first", "second"]
    assert [network["checkpoint"] for network in numbers["networks"]] == ["one.pth", "two.pth"]
    assert len(numbers["pairs"]) == 2
    for pair in numbers["pairs"]:
        assert pair["source"]["class"] != pair["target"]["class"]
        assert pair["source"]["picture"].split("/")[-2] == pair["source"]["class"]
        assert 0 <= pair["share_of_target"] <= 1
        assert (pair["patch"] is not None) == (method in ("cutout", "cutmix", "resizemix", "saliencymix"))
        for network in pair["networks"]:
            best, second = network["top2"]
            assert 1 >= best["probability"] >= second["probability"] >= 0
            if pair["source"]["class"] == best["class"]:
                assert network["source"]["probability"] == best["probability"]
            assert network["source"]["least"] <= network["source"]["most"]
    with Image.open(folder / "sheet.png") as sheet:
        sheet.load()
        assert sheet.width > 600
    again = show_cam("--data-root", ".", "--num-images", "2", "--methods", method)
    assert again == numbers
    assert sorted(path.name for path in folder.iterdir()) == ["one.pth", "sheet.json", "sheet.png", "two.pth", "val"]


def test_show_cam__takes_the_flag_of_the_first_version(show_cam):
    assert show_cam("--data-root", ".", "--num-images", "1", "--method", "mixup")["method"] == "mixup"


def test_show_cam__probabilities_are_those_of_the_mixed_picture(show_cam, folder):
    from pretrain.inspect.pretrained import open_pretrained
    from pretrain.learner import Preparation

    files = ["val/dark/0.png", "val/light/1.png"]
    numbers = show_cam("--input", *files, "--share", "1")  # nothing is pasted: the mixed picture is the target
    pair = numbers["pairs"][0]
    assert pair["share_of_target"] == 1
    assert (pair["source"]["picture"], pair["target"]["picture"]) == tuple(files)

    one = open_pretrained(folder / "one.pth")
    with Image.open(files[1]) as picture:
        pixels = torch.from_numpy(np.array(picture))[:, 1:17].permute(2, 0, 1)  # the centre of 18 columns
    with torch.no_grad():
        prepared = Preparation(one.cfg, torch.device("cpu"))(pixels[None])
        logits = one.network(torch.device("cpu"), CLASSES)(prepared)[0]
    seen = pair["networks"][0]
    assert seen["source"]["probability"] == pytest.approx(float(logits.softmax(0)[0]), rel=1e-5)
    assert seen["target"]["probability"] == pytest.approx(float(logits.softmax(0)[2]), rel=1e-5)
    assert pair["networks"][1]["target"]["probability"] != seen["target"]["probability"]


def test_show_cam__one_network_sees_the_picture_of_each_method(show_cam, folder):
    alone = ("--data-root", ".", "--num-images", "2", "--checkpoints", "first=one.pth")
    order = ["baseline", "mixup", "cutout", "cutmix", "saliencymix"]
    numbers = show_cam(*alone, "--methods", *order)
    assert numbers["methods"] == order
    assert [network["checkpoint"] for network in numbers["networks"]] == ["one.pth"]
    with Image.open(folder / "sheet.png") as sheet:
        sheet.load()
        assert sheet.width > 1200
    for column, method in enumerate(order):
        single = show_cam(*alone, "--methods", method)
        assert single["seed"] == numbers["seed"]
        for pair, expected in zip(numbers["pairs"], single["pairs"], strict=True):
            assert [pair[role] for role in ("source", "target")] == [expected[role] for role in ("source", "target")]
            (network,) = expected["networks"]
            own = {key: expected[key] for key in ("share_of_target", "patch")}
            assert pair["methods"][column] == network | own | {"name": method}
    shares = [one["share_of_target"] for one in numbers["pairs"][0]["methods"]]
    assert shares[0] == shares[2] == 1  # neither the input nor Cutout's picture has a part of the source
    assert all(0 < share < 1 for share in (shares[1], *shares[3:]))


DRAWN = ["--data-root", "."]


@pytest.mark.parametrize("arguments, message", [
    ([*DRAWN, "--output", "sheet.gif"], r"sheet\.gif: the sheet is a PNG or a JPEG"),
    ([*DRAWN, "--output", "nowhere/sheet.png"], "nowhere: no such folder for --output"),
    ([*DRAWN, "--num-images", "0"], "--num-images is 0; expected at least 1"),
    ([*DRAWN, "--num-images", "5"], "5 pairs .* but 9 pictures of 3 classes give only 4"),
    ([*DRAWN, "--seed", "-1"], "--seed is -1; expected at least 0"),
    ([*DRAWN, "--share", "nan"], r"--share must be in 0\.\.1, but got nan"),
    ([*DRAWN, "--methods", "dropblock"], "--methods is 'dropblock'; expected one of baseline, cutout, mixup, cutmix"),
    ([*DRAWN, "--checkpoints", "a=one.pth", "--methods", "mixup", "cutmix", "mixup"],
     "--methods are mixup, cutmix, mixup; expected each once"),
    ([*DRAWN, "--methods", "mixup", "cutmix"], "2 --checkpoints and 2 --methods are too much for a sheet; give one"),
    ([], "no pictures; give --data-root to draw pairs of its validation pictures, or --input"),
    ([*DRAWN, "--checkpoints", "one.pth"], r"--checkpoints: expected NAME=FILE, but got 'one\.pth'"),
    ([*DRAWN, "--checkpoints", "a=one.pth", "a=two.pth"], "--checkpoints: the name 'a' is given twice"),
    ([*DRAWN, "--checkpoints", "a=three.pth"], r"weights file three\.pth does not exist"),
    (["--data-root", "nowhere"], "nowhere.val: no such folder"),
    (["--input", "val/dark/0.png"], "--input are pairs, source and target, but got 1 files"),
    (["--input", "val/dark/0.png", "val/dark/1.png"], "are both of the class dark; mix two classes"),
    (["--input", "val/dark/0.png", "val/grey/9.png"], r"val/grey/9\.png: cannot be read as a picture"),
    (["--input", "val/dark/0.png", "one.pth"], r"one\.pth: its folder .* is none of the 3 classes of one\.pth"),
    (["--input", "val/dark/0.png", "one.pth", *DRAWN], r"one\.pth: its folder .* is none of the 3 classes of \."),
    (["--input", "val/dark/0.png", "val/grey/0.png", "--data-root", "nowhere"], "nowhere.val: no such folder"),
])  # fmt: skip
def test_show_cam__refuses(show_cam, folder, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        show_cam(*arguments)
    assert not list(folder.glob("sheet*"))


def test_show_cam__refuses_networks_that_do_not_go_together(show_cam, folder):
    write_checkpoint(folder / "larger.pth", seed=3, size=24)
    with pytest.raises(ValueError, match=r"DATA\.IMAGE_SIZE is 16 in one\.pth and 24 in larger\.pth"):
        show_cam("--data-root", ".", "--checkpoints", "a=one.pth", "b=larger.pth")
    write_checkpoint(folder / "other.pth", seed=3, classes=["dark", "gray", "light"])
    with pytest.raises(ValueError, match=r"other\.pth knows 3 classes.*only in the checkpoint gray"):
        show_cam("--data-root", ".", "--checkpoints", "a=one.pth", "b=other.pth")


def test_show_cam__names_a_drawn_picture_that_cannot_be_read(show_cam, folder):
    for path in (folder / "val" / "grey").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"val/grey/\d\.png: cannot be read as a picture"):
        show_cam("--data-root", ".", "--num-images", "4")
