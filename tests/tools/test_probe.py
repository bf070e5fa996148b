"""tools/probe.py on checkpoints of several layouts; the oracle of the features is torchvision's own network."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import transforms

import pretrain.inspect.features
import pretrain.inspect.pretrained
from pretrain.config import get_cfg
from pretrain.run.checkpoint import load_checkpoint, save_checkpoint
from pretrain.weights.resnet import Architecture
from pretrain.weights.torchvision_resnet import build_resnet
from tests.conftest import random_resnet

CLASSES = ("ant", "bee", "cat")
SMALL = ("--image-size", "32", "--eval-resize", "40", "--k", "3", "--device", "cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

pytestmark = pytest.mark.usefixtures("load_in_this_process")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with train/ (3 x 6 pictures) and val/ (3 x 3) of three colours, and four files of one ResNet-18."""
    folder = tmp_path_factory.mktemp("probed")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for number, name in enumerate(CLASSES):
            (folder / "data" / split / name).mkdir(parents=True)
            for picture in range(count):
                pixels = rng.integers(0, 160, (44, 48 + picture, 3), dtype=np.uint8)
                pixels[..., number] += 80
                Image.fromarray(pixels).save(folder / "data" / split / name / f"{picture}.png")
    state = random_resnet(18)
    torch.save(state, folder / "supervised.pth")
    moco = {f"module.encoder_{which}.{key}": value for which in "qk" for key, value in state.items()}
    moco = {key: value for key, value in moco.items() if ".fc." not in key}
    moco |= {f"module.encoder_q.fc.{layer}.weight": torch.zeros(4, 4) for layer in (0, 2)}
    torch.save({"state_dict": moco | {"module.queue": torch.zeros(4, 8)}}, folder / "moco.pth.tar")
    torch.save({key: value for key, value in state.items() if not key.startswith("fc.")}, folder / "bare.pth")
    two = {f"a.{key}": value for key, value in state.items()}
    torch.save(two | {f"b.{key}": value for key, value in random_resnet(18, seed=1).items()}, folder / "two.pth")
    return folder


@pytest.fixture
def probe(load_tool, whole, tmp_path):
    """Return a function: words -> what the tool writes."""

    def call(*words, root=whole / "data"):
        output = tmp_path / "out"
        load_tool("probe").main([*words, "--data-root", str(root), "--output", str(output), *SMALL])
        return json.loads((output / "probes.json").read_text("utf-8"))["checkpoints"]

    return call


def kept_features(tmp_path, sha256, split):
    (path,) = (tmp_path / "out" / "features").glob(f"{sha256[:12]}-{split}-*.pth")
    return load_checkpoint(path)


@torch.no_grad()
def pooled(state, folder, mean=MEAN, std=STD):
    """The pooled features of torchvision's own network and transforms, in the order of its ImageFolder."""
    network = torchvision.models.resnet18(num_classes=10)
    network.load_state_dict(state)
    network.fc = torch.nn.Identity()
    view = transforms.Compose([
        transforms.Resize(40), transforms.CenterCrop(32), transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float), transforms.Normalize(mean, std),
    ])  # fmt: skip
    pictures = list(torchvision.datasets.ImageFolder(str(folder)))
    return network.eval()(torch.stack([view(one) for one, _ in pictures])), [label for _, label in pictures]


def test_probe__features_are_the_pooled_ones_of_torchvisions_network(probe, whole, tmp_path, capsys):
    (found,) = probe(f"mine={whole}/supervised.pth")
    for split, count in (("train", 18), ("val", 9)):
        kept = kept_features(tmp_path, found["protocol"]["checkpoint_sha256"], split)
        expected, labels = pooled(random_resnet(18), whole / "data" / split)
        assert kept["values"].shape == (count, 512)
        torch.testing.assert_close(kept["values"], expected, rtol=1e-4, atol=1e-4)
        assert kept["labels"].tolist() == labels
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == str(tmp_path / "out" / "probes.json")
    numbers = [f"{found[key]:.2f}" for key in ("knn_top1", "linear_top1")]
    assert out[-2].split()[:4] == ["mine", *numbers, f"{found['linear']['C']:g}"]
    assert (found["num_images"], found["num_train_images"], found["num_classes"]) == (9, 18, 3)
    assert (found["protocol"]["k"], found["protocol"]["temperature"]) == (3, 0.07)
    assert "the file does not say how it was evaluated" in out[0]


def test_probe__every_layout_of_one_network_gives_the_same_numbers(probe, whole):
    files = ("supervised.pth", "moco.pth.tar", "bare.pth")  # the last two have no classifier of one layer
    found = probe(*(f"n{number}={whole}/{file}" for number, file in enumerate(files)), f"one={whole}/two.pth",
                  "--prefix", "one=a.")  # fmt: skip
    assert [one["name"] for one in found] == ["n0", "n1", "n2", "one"]
    assert [one["prefix"] for one in found] == ["", "state_dict.module.encoder_q.", "", "a."]
    for key in ("knn_top1", "linear_top1", "linear"):
        assert all(one[key] == found[0][key] for one in found)


def test_probe__averaged_weights_and_the_files_own_pixel_statistics(probe, whole, tmp_path):
    other = random_resnet(18, seed=2)
    cfg = get_cfg()
    cfg.MODEL.ARCH = "resnet18"
    cfg.DATA.IMAGE_SIZE, cfg.DATA.EVAL_RESIZE, cfg.DATA.NUM_WORKERS = 32, 40, 0
    cfg.DATA.DECODER = "pillow"
    cfg.DATA.PIXEL_MEAN, cfg.DATA.PIXEL_STD = (127.5, 127.5, 127.5), (51.0, 51.0, 51.0)
    state = {"model": random_resnet(18), "ema": other, "config": cfg.dump(), "arch": "resnet18", "method": "baseline",
             "classes": [f"c{number}" for number in range(10)]}  # fmt: skip
    save_checkpoint(state, tmp_path / "model_final.pth")
    (found,) = probe(f"mine={tmp_path}/model_final.pth", "--ema", "mine")
    assert found["prefix"] == "ema."
    assert found["protocol"]["preprocessing"]["pixel_std"] == [51.0, 51.0, 51.0]
    kept = kept_features(tmp_path, found["protocol"]["checkpoint_sha256"], "val")
    expected, _ = pooled(other, whole / "data" / "val", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    torch.testing.assert_close(kept["values"], expected, rtol=1e-4, atol=1e-4)


def test_probe__two_networks_of_one_file_are_kept_apart(probe, whole, tmp_path):
    one, other = probe(f"one={whole}/two.pth", f"other={whole}/two.pth", "--prefix", "one=a.", "--prefix", "other=b.")
    assert one["protocol"]["checkpoint_sha256"] == other["protocol"]["checkpoint_sha256"]
    kept = [load_checkpoint(path)["values"] for path in (tmp_path / "out" / "features").glob("*-val-*.pth")]
    assert len(kept) == 2
    assert not torch.equal(*kept)


@pytest.fixture
def computed(monkeypatch):
    """Return the names of the splits whose features are computed from now on."""
    names = []
    original = pretrain.inspect.features.compute_features
    monkeypatch.setattr(
        pretrain.inspect.features,
        "compute_features",
        lambda pretrained, split, device: names.append(split.folder.name) or original(pretrained, split, device),
    )
    return names


def test_probe__a_second_call_computes_nothing_anew(probe, whole, computed, monkeypatch):
    first = probe(f"mine={whole}/supervised.pth")
    assert computed == ["train", "val"]
    computed.clear()
    monkeypatch.setattr("pretrain.inspect.probes.probe", None)
    assert probe(f"mine={whole}/supervised.pth") == first
    assert computed == []


def test_probe__other_neighbours_take_the_features_that_are_there(probe, whole, computed):
    (first,) = probe(f"mine={whole}/supervised.pth")
    computed.clear()
    (second,) = probe(f"mine={whole}/supervised.pth", "--temperature", "0.5")
    assert computed == []
    assert second["protocol"]["temperature"] == 0.5
    assert second["linear"] == first["linear"]


@pytest.mark.parametrize("change", ["weights", "size", "statistics", "pictures", "code"])
def test_probe__what_features_depend_on_makes_them_anew(probe, whole, tmp_path, computed, monkeypatch, change):
    root = tmp_path / "data"
    shutil.copytree(whole / "data", root)
    file, words = shutil.copy(whole / "supervised.pth", tmp_path), []
    probe(f"mine={file}", root=root)
    computed.clear()
    anew = ["train", "val"]
    if change == "weights":
        torch.save(random_resnet(18, seed=5), file)
    if change == "statistics":
        words = ["--pixel-std", "60", "60", "60"]
    if change == "size":
        words = ["--interpolation", "bicubic"]
    if change == "pictures":
        path, anew = root / "val" / "bee" / "1.png", ["val"]
        os.utime(path, ns=(0, 0))
    if change == "code":
        monkeypatch.setattr("tools.studies.planning.code_version.code_version", lambda modules: "another")
    probe(f"mine={file}", *words, root=root)
    assert computed == anew


def test_probe__a_damaged_file_is_made_anew(probe, whole, tmp_path, computed, caplog):
    (first,) = probe(f"mine={whole}/supervised.pth")
    computed.clear()
    for path in (tmp_path / "out" / "features").iterdir():
        if "-train-" not in path.name:
            path.write_bytes(path.read_bytes()[:-9])
    assert probe(f"mine={whole}/supervised.pth") == [first]
    assert computed == ["val"]


def test_probe__a_part_of_the_pictures(probe, whole):
    (found,) = probe(f"mine={whole}/supervised.pth", "--num-images", "3", "--num-train-images", "6")
    assert (found["num_images"], found["num_train_images"]) == (3, 6)


def test_probe__a_picture_that_cannot_be_read_is_left_out_and_named(probe, whole, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(whole / "data", root)
    (root / "val" / "bee" / "1.png").write_bytes(b"no picture")
    (found,) = probe(f"mine={whole}/supervised.pth", root=root)
    assert found["num_images"] == 8
    assert [name.endswith("1.png") for name in found["unreadable"]] == [True]


def test_probe__refuses_all_that_cannot_be_opened_at_once(probe, whole, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"x\.pth is not a weights file") as caught:
        probe(f"x={tmp_path}/x.pth", f"two={whole}/two.pth", f"mine={whole}/supervised.pth")
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["x", "two"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, value, message", [
    ("conv1.weight", torch.nan, r"broken\.pth: conv1\.weight holds 9408 values that are not finite numbers"),
    ("bn1.running_var", 1e-45, r"broken\.pth: its features of .*train are not finite"),
    ("bn1.weight", 0.0, r"broken\.pth: all pictures of .*train have the same features: a dead network"),
])  # fmt: skip
def test_probe__refuses_a_network_that_tells_nothing(probe, tmp_path, name, value, message):
    state = random_resnet(18)
    state[name] = torch.full_like(state[name], value)
    if value == 1e-45:
        state["bn1.weight"] = torch.full_like(state["bn1.weight"], 3e38)
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=message):
        probe(f"x={tmp_path}/broken.pth")


def test_probe__a_network_that_no_config_names_as_its_program_reads_pictures(probe, tmp_path):
    """SwAV's RN50w2, whose pictures were normalised by a std of its own."""
    state = build_resnet(Architecture(50, width_per_group=128, widen=2)).state_dict()
    state = {f"module.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    state |= {"module.projection_head.0.weight": torch.zeros(4, 4096), "module.prototypes.weight": torch.zeros(4, 4)}
    torch.save(state, tmp_path / "swav.pth.tar")
    (found,) = probe(f"swav={tmp_path}/swav.pth.tar")
    protocol = found["protocol"]
    assert protocol["arch"] == "resnet50w2"
    assert protocol["preprocessing"]["pixel_std"] == [58.14, 57.12, 57.375]


@pytest.mark.parametrize("words, message", [
    (["random"], "random: only files are probed; leave it out"),
    (["SOLVER.MAX_ITER", "7"], r"SOLVER\.MAX_ITER is a config key, and probes have no config"),
    (["--num-images", "-1"], "--num-images is -1; expected at least 0"),
    (["--num-images", "10"], r"--num-images is 10, but there are only 9 pictures in .*val"),
    (["--num-train-images", "19"], r"--num-train-images is 19, but there are only 18 pictures in .*train"),
    (["--num-train-images", "2"], "--k is 3, but only 2 training pictures are there"),
    (["--seed", str(2**63)], r"--seed is 9223372036854775808; expected at least 0 and less than 2\*\*63"),
    (["--temperature", "0"], r"--temperature is 0\.0; expected a number above 0"),
])  # fmt: skip
def test_probe__refuses(probe, whole, words, message):
    with pytest.raises(ValueError, match=message):
        probe(f"mine={whole}/supervised.pth", *words)


def test_probe__refuses_other_classes_in_the_two_folders(probe, whole, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(whole / "data", root)
    (root / "val" / "bee").rename(root / "val" / "wasp")
    with pytest.raises(ValueError, match="same class folders, but bee only in train/, wasp only in val/"):
        probe(f"mine={whole}/supervised.pth", root=root)
