"""tools/evaluate_checkpoint.py and tools/attack.py on weights that somebody else published.

The oracle is torchvision's own reference evaluation (references/classification), written down here with its transforms.
"""

import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn import functional
from torchvision import transforms

import pretrain.inspect.pretrained
from pretrain.config import get_cfg
from pretrain.run.checkpoint import save_checkpoint

CLASSES = [f"n{number:08}" for number in range(7)]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

pytestmark = pytest.mark.usefixtures("load_in_this_process")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with val/: seven classes of three JPEGs each, of sizes around 300 pixels."""
    folder = tmp_path_factory.mktemp("released")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (folder / "val" / name).mkdir(parents=True)
        for number in range(3):
            small = rng.integers(0, 256, (12, 14, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize(tuple(rng.integers(240, 360, 2)), Image.Resampling.BICUBIC)
            picture.save(folder / "val" / name / f"{number}.jpg", quality=90)
    return folder


def pictures(data):
    """Return (picture, label) of every file, as torchvision's ImageFolder has them."""
    return list(torchvision.datasets.ImageFolder(str(data / "val")))


SMALL = ("--image-size", "96", "--eval-resize", "112")  # in a fifth of the time


def small_view():
    return reference_view(112, 96)


def reference_view(resize=256, crop=224, interpolation=transforms.InterpolationMode.BILINEAR):
    return transforms.Compose([
        transforms.Resize(resize, interpolation=interpolation, antialias=True), transforms.CenterCrop(crop),
        transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float), transforms.Normalize(MEAN, STD),
    ])  # fmt: skip


@torch.no_grad()
def reference_hits(model, data, view):
    """Return top-1 and top-5 accuracy in percent, as references/classification/utils.py counts them."""
    images = torch.stack([view(picture) for picture, _ in pictures(data)])
    labels = torch.tensor([label for _, label in pictures(data)])
    _, predicted = model(images).topk(5, 1, True, True)
    hits = predicted.t().eq(labels[None])
    return [float(hits[:k].flatten().sum() * (100.0 / len(labels))) for k in (1, 5)]


@pytest.fixture(scope="module")
def model(data):
    """Return a ResNet-18 of random weights whose answers depend on the picture."""
    torch.manual_seed(3)
    model = torchvision.models.resnet18(num_classes=len(CLASSES)).eval()
    view, features = reference_view(), []
    hook = model.fc.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        model(torch.stack([view(picture) for picture, _ in pictures(data)]))
        hook.remove()
        middle, spread = features[0].mean(dim=0), features[0].std(dim=0) + 1e-6
        model.fc.weight.copy_(torch.randn(model.fc.weight.shape) / spread)
        model.fc.bias.copy_(-model.fc.weight @ middle)
    return model


@pytest.fixture
def evaluate(load_tool, data, tmp_path):
    """Return a function: content of a file, more arguments -> what the tool writes."""

    def call(content, *arguments, tool="evaluate_checkpoint", name="weights.pth"):
        path = tmp_path / name
        if path.suffix == ".safetensors":
            pytest.importorskip("safetensors.torch").save_file(content, path)
        else:
            torch.save(content, path)
        output = tmp_path / "report.json"
        fixed = ["--data-root", str(data), "--output", str(output), "--device", "cpu"]
        load_tool(tool).main([str(path), *fixed, *arguments])
        return json.loads(output.read_text("utf-8"))

    return call


@pytest.mark.parametrize("wrap, name", [
    (lambda state: state, "resnet18.pth"),
    (lambda state: {"model": state, "epoch": 89, "args": {}}, "torchvision_reference.pth"),
    (lambda state: {"arch": "resnet", "best_err1": 21.26, "best_err5": 5.75, "epoch": 299,
                    "state_dict": {f"module.{key}": value for key, value in state.items()}}, "model_best.pth.tar"),
    (lambda state: {key: value.clone() for key, value in state.items()}, "timm.safetensors"),
], ids=["torchvision", "torchvision's script", "authors and CutMix", "safetensors"])  # fmt: skip
def test_evaluate__top1_and_top5_are_torchvisions_own(evaluate, data, model, capsys, wrap, name):
    top1, top5 = reference_hits(model, data, reference_view())
    assert 0 < top1 < top5 < 100
    report = evaluate(wrap(model.state_dict()), name=name)
    assert (report["top1"], report["top5"]) == pytest.approx((top1, top5), abs=1e-5)  # float32 there
    assert round(report["top1"] * report["num_images"] / 100, 6).is_integer()
    assert report["num_images"] == 21
    assert report["protocol"]["preprocessing"]["decoder"] == "pillow"
    stated = {"top1": pytest.approx(78.74), "top5": pytest.approx(94.25)}
    assert report["stated"] == (stated if "best" in name else {"top1": None, "top5": None})
    out = capsys.readouterr().out
    assert "note: the file does not say how it was evaluated: taken a centre crop of 224 pixels (--image-size)" in out
    assert ("; stated by the file or its publisher: top-1 78.740 %, top-5 94.250 %" in out) == ("best" in name)


def test_evaluate__as_the_user_says(evaluate, data, model):
    says = ["--image-size", "160", "--eval-resize", "176", "--interpolation", "bicubic"]
    view = reference_view(176, 160, transforms.InterpolationMode.BICUBIC)
    top1, top5 = reference_hits(model, data, view)
    report = evaluate(model.state_dict(), *says)
    assert (report["top1"], report["top5"]) == pytest.approx((top1, top5), abs=1e-5)
    shown = report["protocol"]["preprocessing"]
    assert (shown["image_size"], shown["eval_resize"], shown["interpolation"]) == (160, 176, "bicubic")
    assert [note for note in report["protocol"]["notes"] if "--image-size" in note or "--eval-resize" in note] == []
    assert "mean 123.675 116.28 103.53 (--pixel-mean)" in report["protocol"]["notes"][-1]


@pytest.mark.parametrize("says, change", [
    (["--pixel-mean", "0", "0", "0"], {"mean": [0, 0, 0]}), (["--pixel-std", "255", "255", "255"], {"std": [1, 1, 1]}),
], ids=["mean", "std"])  # fmt: skip
def test_evaluate__with_another_mean_or_std(evaluate, data, model, says, change):
    view = small_view()
    view.transforms[-1] = transforms.Normalize(**{"mean": MEAN, "std": STD, **change})
    expected = reference_hits(model, data, view)
    assert expected != reference_hits(model, data, small_view())
    report = evaluate(model.state_dict(), *says, *SMALL)
    assert [report["top1"], report["top5"]] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("beginning, title, resize, accuracy", [
    ("f37072fd", "ResNet18_Weights.IMAGENET1K_V1", 256, 69.758),
    ("0676ba61", "ResNet50_Weights.IMAGENET1K_V1", 256, 76.13),
    ("11ad3fa6", "ResNet50_Weights.IMAGENET1K_V2", 232, 80.858),
])  # fmt: skip
def test_evaluate__a_release_is_known_by_its_hash(evaluate, model, monkeypatch, beginning, title, resize, accuracy):
    monkeypatch.setattr(pretrain.inspect.pretrained, "sha256", lambda path: beginning + "5" * 56)
    report = evaluate(model.state_dict())
    assert report["protocol"]["notes"] == [f"known by its SHA-256: torchvision {title}; evaluated as published"]
    shown = report["protocol"]["preprocessing"]
    assert (shown["eval_resize"], shown["image_size"], shown["interpolation"]) == (resize, 224, "bilinear")
    assert shown["pixel_mean"] == pytest.approx([255 * value for value in MEAN])
    assert report["stated"]["top1"] == accuracy


def test_attack__fgsm_on_published_weights_is_a_few_lines(evaluate, data, model):
    """Eight levels of 255 along the sign of the gradient, in pixels, clipped to what a picture can hold."""
    view = small_view()
    normalise = view.transforms.pop()
    hits = 0
    for picture, label in pictures(data):
        image = view(picture)[None].requires_grad_()
        functional.cross_entropy(model(normalise(image)), torch.tensor([label])).backward()
        attacked = (image.detach() + 8 / 255 * image.grad.sign()).clamp(0, 1)
        hits += int(model(normalise(attacked)).argmax() == label)
    report = evaluate(model.state_dict(), "--attacks", "fgsm", "--epsilons", "8", *SMALL, tool="attack")
    assert report["attacks"][0]["top1"] == pytest.approx(100 * hits / 21)
    assert report["clean_top1"] == pytest.approx(reference_hits(model, data, small_view())[0], abs=1e-5)
    assert hits / 21 != report["clean_top1"] / 100
    assert report["protocol"]["arch"] == "resnet18"
    assert report["protocol"]["method"] is None


def test_evaluate__averaged_weights_and_those_under_a_prefix(evaluate, data, model):
    other = {key: value for key, value in model.state_dict().items()}
    other["fc.bias"] = other["fc.bias"].roll(1)
    rolled = torchvision.models.resnet18(num_classes=7).eval()
    rolled.load_state_dict(other)
    expected = reference_hits(rolled, data, small_view())
    assert expected != reference_hits(model, data, small_view())
    content = {"model": model.state_dict(), "model_ema": other}
    assert evaluate(content, *SMALL)["top1"] == pytest.approx(reference_hits(model, data, small_view())[0], abs=1e-5)
    assert evaluate(content, "--ema", *SMALL)["top1"] == pytest.approx(expected[0], abs=1e-5)
    two = {"a." + key: value for key, value in model.state_dict().items()} | {"b." + key: other[key] for key in other}
    assert evaluate(two, "--prefix", "b.", *SMALL)["top1"] == pytest.approx(expected[0], abs=1e-5)


def own_checkpoint(model, folder, **entries):
    cfg = get_cfg()
    cfg.MODEL.ARCH = "resnet18"
    cfg.DATA.DECODER = "pillow"
    cfg.DATA.NUM_WORKERS = 0
    content = {"config": cfg.dump(), "arch": "resnet18", "method": "cutmix", "classes": CLASSES}
    save_checkpoint({"model": model.state_dict(), **content, **entries}, folder / "own.pth")
    return torch.load(folder / "own.pth", weights_only=True)


def test_evaluate__a_checkpoint_of_ours(evaluate, data, model, tmp_path):
    expected = reference_hits(model, data, small_view())
    report = evaluate(own_checkpoint(model, tmp_path, top1=55.5, top5=88.25), *SMALL)
    assert [report["top1"], report["top5"]] == pytest.approx(expected, abs=1e-5)
    assert report["stated"] == {"top1": 55.5, "top5": 88.25}
    assert report["protocol"]["notes"] == []
    worse = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    averaged = evaluate(own_checkpoint(model, tmp_path, top1=55.5, ema=worse), "--ema", *SMALL)
    assert averaged["top1"] == pytest.approx(100 / 7)  # the first class, always
    assert averaged["stated"] == {"top1": None, "top5": None}


def without(state, *keys):
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize("change, says, message", [
    (lambda state: without(state, "fc.weight", "fc.bias"), [], "no classifier of one linear layer"),
    (lambda state: without(state, "fc.bias"), [], "no classifier of one linear layer"),
    (lambda state: {**without(state, "fc.weight"), "fc.0.weight": torch.zeros(9, 512)}, [], "no classifier of one lin"),
    (lambda state: {**state, "fc.weight": torch.zeros(6, 512), "fc.bias": torch.zeros(6)}, [],
     "weights.pth knows 6 classes, the data has 7"),
    (lambda state: {"state_dict": state, "arch": "resnetaa18"}, [], "compute something else"),
    (lambda state: state, ["--image-size", "300"], "centre crop of 300 pixels .* shorter side is 256"),
    (lambda state: state, ["--interpolation", "nearest"], "EVAL_INTERPOLATION is 'nearest'; expected one of bilinear"),
    (lambda state: state, ["--image-size", "0"], "IMAGE_SIZE is 0"),
    (lambda state: state, ["--pixel-mean", "0.485", "0.456", "0.406"], "of 0..255 pixels"),
    (lambda state: state, ["--num-images", "22"], "--num-images is 22, but there are only 21"),
    (lambda state: state, ["--batch-size", "-1"], "--batch-size is -1"),
    (lambda state: state, ["--ema"], "--ema asks for averaged weights"),
    (lambda state: state, ["--prefix", "backbone."], "no torchvision ResNet under the prefix 'backbone.'"),
])  # fmt: skip
def test_evaluate__refuses(evaluate, model, change, says, message):
    with pytest.raises(ValueError, match=message):
        evaluate(change(model.state_dict()), *says)


@pytest.mark.parametrize("entries, says, message", [
    ({}, ["--prefix", "module."], "holds one network; leave --prefix out"),
    ({}, ["--ema"], "has no averaged weights"),
    ({}, ["--pixel-std", "255", "255", "255"], r"--pixel-std says \(255.0, 255.0, 255.0\), the file \(58.395"),
    ({"classes": [*CLASSES[:-1], "n99999999"]}, [], "only in the checkpoint n99999999"),
])  # fmt: skip
def test_evaluate__refuses_of_a_checkpoint_of_ours(evaluate, model, tmp_path, entries, says, message):
    with pytest.raises(ValueError, match=message):
        evaluate(own_checkpoint(model, tmp_path, **entries), *says)
