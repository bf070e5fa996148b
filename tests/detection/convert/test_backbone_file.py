import json
import pickle

import numpy as np
import pytest
import torch
import torchvision

from detection.convert.backbone_file import convert_file
from detection.convert.card import load_card, yaml_fragment
from pretrain.run.files import sha256
from pretrain.weights.description import Preprocessing
from pretrain.weights.files import read_weights
from pretrain.weights.namings import convert_state_dict
from pretrain.weights.resnet import Architecture
from pretrain.weights.torchvision_resnet import build_resnet


@pytest.fixture
def source(resnet18, tmp_path):
    torch.save({"model": resnet18, "arch": "resnet18", "method": "saliencymix"}, tmp_path / "source.pth")
    return tmp_path / "source.pth"


def is_backbone_of(model, state):
    expected = convert_state_dict(state)
    return set(model) == set(expected) and all(
        np.array_equal(np.asarray(model[key]), expected[key].numpy()) for key in expected
    )


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_convert_file__result(suffix, source, resnet18, tmp_path):
    target = tmp_path / f"backbone{suffix}"
    conversion = convert_file(source, target)
    content = read_weights(target)
    assert set(content) == {"model", "__author__", "matching_heuristics", "card"}
    assert content["matching_heuristics"] is True
    assert is_backbone_of(content["model"], resnet18)
    assert conversion.tally() == "100 converted, 22 dropped: 2 fc, 20 num_batches_tracked"
    assert conversion.card["verification"]["same_tensor"] == {"res2": 0, "res3": 0, "res4": 0, "res5": 0}
    assert conversion.card["source_sha256"] == sha256(source)
    assert content["card"] == conversion.card == load_card(target)
    assert json.loads((tmp_path / "backbone.card.json").read_text()) == conversion.card
    assert {path.name for path in tmp_path.iterdir()} == {"source.pth", target.name, "backbone.card.json"}


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_convert_file__and_back(suffix, source, resnet18, tmp_path):
    convert_file(source, tmp_path / f"backbone{suffix}", verify=False)
    conversion = convert_file(tmp_path / f"backbone{suffix}", tmp_path / "back.pth", reverse=True)
    back = read_weights(tmp_path / "back.pth")
    network = torchvision.models.resnet18(num_classes=10)
    missing, unexpected = network.load_state_dict(back["model"], strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    assert all(torch.equal(value, resnet18[key]) for key, value in back["model"].items())
    assert conversion.tally() == "100 converted, 0 dropped"
    assert (back["arch"], back["method"], back["card"]["method"]) == ("resnet18", "saliencymix", "saliencymix")
    again = convert_file(tmp_path / "back.pth", tmp_path / "again.pth", verify=False)  # our own file is a source too
    assert is_backbone_of(read_weights(tmp_path / "again.pth")["model"], resnet18)
    assert again.card["method"] == "saliencymix"


def test_convert_file__a_detector_without_card_says_what_it_assumes(resnet18, tmp_path):
    state = {
        ("roi_heads." if key.startswith("res5.") else "backbone.") + key: value
        for key, value in convert_state_dict(resnet18).items()
    }
    torch.save({"model": state | {"pixel_mean": torch.zeros(3, 1, 1)}}, tmp_path / "model_final.pth")
    conversion = convert_file(tmp_path / "model_final.pth", tmp_path / "back.pth", reverse=True, verify=False)
    assert any("the source has no card: taken to read RGB" in note for note in conversion.notes)
    assert conversion.tally() == "100 converted, 1 dropped: 1 detector"


def test_convert_file__detectron2s_other_convention_cannot_go_back(resnet18, tmp_path):
    torch.save(
        {"model": convert_state_dict(resnet18), "card": {"channel_order": "BGR", "stride_in_1x1": True}},
        tmp_path / "msra.pth",
    )
    with pytest.raises(ValueError, match=r"channel_order 'BGR' and stride_in_1x1 True; torchvision's ResNet reads RGB"):
        convert_file(tmp_path / "msra.pth", tmp_path / "back.pth", reverse=True)


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize("arch", ["R_50_C4", "R_50_FPN"])
def test_convert_file__every_tensor_loads_into_a_detectron2_detector(suffix, arch, random_resnet, tmp_path):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    state = random_resnet(50)
    torch.save(state, tmp_path / "r50.pth")
    convert_file(tmp_path / "r50.pth", tmp_path / f"backbone{suffix}", verify=False)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    if arch == "R_50_FPN":
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
        cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
        cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
        cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 2
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    detector = build_model(cfg)
    DetectionCheckpointer(detector).load(str(tmp_path / f"backbone{suffix}"))
    loaded = detector.state_dict()
    expected = convert_state_dict(state)
    for name, value in expected.items():
        if arch == "R_50_FPN":
            place = f"backbone.bottom_up.{name}"
        else:
            place = f"roi_heads.{name}" if name.startswith("res5.") else f"backbone.{name}"
        assert torch.equal(loaded[place], value), place
    assert len(expected) == 265


@pytest.mark.parametrize("name, widths", [
    ("resnext50_32x4d", (32, 4, 256, 64)),
    ("wide_resnet50_2", (1, 128, 256, 64)),
    ("resnet50w2", (1, 128, 512, 128)),
])  # fmt: skip
def test_convert_file__other_widths_are_proved_and_detectron2_builds_them_from_the_yaml(
    name, widths, random_resnet, tmp_path
):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    with torch.device("meta"):
        widened = build_resnet(Architecture(50, 1, 128, widen=2))
    torch.save(random_resnet(widened if name == "resnet50w2" else name), tmp_path / "source.pth")
    conversion = convert_file(tmp_path / "source.pth", tmp_path / "backbone.pth")
    zero = {"res2": 0, "res3": 0, "res4": 0, "res5": 0}
    card = conversion.card
    assert card["verification"]["same_tensor"] == zero
    assert card["verification"]["detectron2"] == {"loaded": 265, "of": 265, **zero}
    assert card["arch"] == name
    entries = ("num_groups", "width_per_group", "res2_out_channels", "stem_out_channels")
    assert tuple(card[entry] for entry in entries) == widths

    (tmp_path / "detector.yaml").write_text(yaml_fragment(card, tmp_path / "backbone.pth"))
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "detector.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    detector = build_model(cfg)
    DetectionCheckpointer(detector).load(cfg.MODEL.WEIGHTS)
    loaded = detector.state_dict()
    for key, value in read_weights(tmp_path / "backbone.pth")["model"].items():
        place = f"roi_heads.{key}" if key.startswith("res5.") else f"backbone.{key}"
        assert torch.equal(loaded[place], value), place


def test_convert_file__safetensors(resnet18, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(resnet18, tmp_path / "source.safetensors")
    convert_file(tmp_path / "source.safetensors", tmp_path / "backbone.pth", verify=False)
    assert is_backbone_of(read_weights(tmp_path / "backbone.pth")["model"], resnet18)


def test_convert_file__timm(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    network = timm.create_model("resnet18", num_classes=7)
    torch.save(
        {"arch": "resnet18", "state_dict": network.state_dict(), "metric": 70.0, "epoch": 3},
        tmp_path / "model_best.pth.tar",
    )
    conversion = convert_file(tmp_path / "model_best.pth.tar", tmp_path / "backbone.pth")
    assert conversion.card["num_classes"] == 7
    assert is_backbone_of(read_weights(tmp_path / "backbone.pth")["model"], network.state_dict())


def test_convert_file__half_precision_is_noted(resnet18, tmp_path):
    half = {key: value.half() if value.is_floating_point() else value for key, value in resnet18.items()}
    torch.save(half, tmp_path / "half.pth")
    conversion = convert_file(tmp_path / "half.pth", tmp_path / "backbone.pth", verify=False)
    assert "torch.float16 converted to torch.float32" in conversion.notes
    assert {value.dtype for value in read_weights(tmp_path / "backbone.pth")["model"].values()} == {torch.float32}


def test_convert_file__an_older_numpy_pickle_of_detectron2(resnet18, tmp_path):
    model = {key: value.numpy() for key, value in convert_state_dict(resnet18).items()}
    with open(tmp_path / "R-18.pkl", "wb") as file:
        pickle.dump({"model": model, "__author__": "torchvision", "matching_heuristics": True}, file, protocol=2)
    conversion = convert_file(tmp_path / "R-18.pkl", tmp_path / "back.pth", reverse=True, verify=False)
    assert conversion.tally() == "100 converted, 0 dropped"


def poisoned(state, value):
    changed = state["layer2.0.bn1.running_var"].clone()
    changed[0] = value
    return state | {"layer2.0.bn1.running_var": changed}


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda state: poisoned(state, float("nan")), r"res3\.0\.conv1\.norm\.running_var holds 1 values that are not"),
        (lambda state: poisoned(state, -1.0), r"res3\.0\.conv1\.norm\.running_var holds a negative variance, -1"),
        (lambda state: state | {"bn1.running_var": torch.zeros(64)}, r"stem\.conv1\.norm\.running_var is 0 everywhere"),
        (
            lambda state: state | {"bn1.bias": torch.zeros(64, dtype=torch.int64)},
            r"'bn1\.bias' holds torch\.int64 values",
        ),
        (lambda state: {"model": state, "arch": "resnetaa50"}, r"says arch 'resnetaa50'"),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_convert_file__refuses_and_leaves_nothing(break_it, message, verify, resnet18, tmp_path):
    torch.save(break_it(resnet18), tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=message):
        convert_file(tmp_path / "bad.pth", tmp_path / "backbone.pth", verify=verify)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


def test_convert_file__a_failed_proof_leaves_nothing(source, tmp_path, monkeypatch):
    from pretrain.weights import namings as convert

    monkeypatch.setitem(convert.BLOCK_PARTS, "bn1", "conv2.norm")
    monkeypatch.setitem(convert.BLOCK_PARTS, "bn2", "conv1.norm")
    with pytest.raises(ValueError, match="verification failed"):
        convert_file(source, tmp_path / "backbone.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["source.pth"]


def test_convert_file__makes_the_folder_of_the_target_once_all_is_well(source, resnet18, tmp_path):
    torch.save(resnet18 | {"bn1.bias": torch.full((64,), float("nan"))}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth: .*not finite"):
        convert_file(tmp_path / "bad.pth", tmp_path / "new" / "deeper" / "backbone.pth", verify=False)
    assert not (tmp_path / "new").exists()
    conversion = convert_file(source, tmp_path / "new" / "deeper" / "backbone.pth", verify=False)
    assert conversion.target == tmp_path / "new" / "deeper" / "backbone.pth"
    assert {path.name for path in conversion.target.parent.iterdir()} == {"backbone.pth", "backbone.card.json"}


def test_convert_file__expands_the_home_folder(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    conversion = convert_file("~/source.pth", "~/backbone.pth", verify=False)
    assert conversion.target == tmp_path / "backbone.pth"
    assert conversion.target.is_file()
    assert not (tmp_path / "~").exists()


def test_convert_file__a_folder_as_source(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path.name} is a folder; expected a weights file"):
        convert_file(tmp_path, tmp_path / "backbone.pth")


@pytest.mark.parametrize(
    "depth, said",
    [(18, {"channel_order": "BGR"}), (50, {"channel_order": "BGR", "stride_in_1x1": True})],
)
def test_convert_file__a_source_of_another_convention_is_proved_in_it(depth, said, random_resnet, tmp_path):
    torch.save(random_resnet(depth), tmp_path / "caffe.pth")
    said = Preprocessing((1, 2, 3), (4, 5, 6), **said)
    conversion = convert_file(tmp_path / "caffe.pth", tmp_path / "backbone.pth", said=said)
    card = conversion.card
    assert (card["channel_order"], card["pixel_mean"], card["stride_in_1x1"]) == ("BGR", [3, 2, 1], depth == 50)
    assert max(card["verification"]["own_preprocessing"].values()) < 1e-12
    assert not any("--channel-order" in note for note in conversion.notes)
    with pytest.raises(ValueError, match=r"torchvision's ResNet reads RGB and strides in its 3x3 convolutions"):
        convert_file(tmp_path / "backbone.pth", tmp_path / "back.pth", reverse=True)


@pytest.mark.parametrize("said", [{"channel_order": "BGR"}, {"stride_in_1x1": True}])
def test_convert_file__the_other_convention_has_no_way_back(said, source, tmp_path):
    with pytest.raises(ValueError, match=r"torchvision's ResNet reads RGB and strides in its 3x3 convolutions"):
        convert_file(source, tmp_path / "back.pth", reverse=True, said=Preprocessing(**said))


def test_convert_file__a_tensor_without_values(resnet18, tmp_path):
    torch.save(resnet18 | {"bn1.bias": torch.empty(64, device="meta")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth: 'bn1\.bias' has no values \(it lies on the meta device\)"):
        convert_file(tmp_path / "bad.pth", tmp_path / "backbone.pth", verify=False)


@pytest.mark.parametrize(
    "target, reverse, error, message",
    [
        ("backbone.txt", False, ValueError, r"ends in '\.txt'; expected \.pth or \.pkl"),
        ("back.pkl", True, ValueError, r"ends in '\.pkl'; expected \.pth"),
        ("source.pth/none/backbone.pth", False, ValueError, r"target .*backbone\.pth: .*source\.pth is no folder"),
        ("source.pth", False, ValueError, "source and target are the same file"),
    ],
)
def test_convert_file__refuses_the_target_before_reading(target, reverse, error, message, source, tmp_path):
    with pytest.raises(error, match=message):
        convert_file(source, tmp_path / target, reverse=reverse)
