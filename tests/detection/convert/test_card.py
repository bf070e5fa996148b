import json
import re

import pytest
import torch
import yaml

from detection.config import get_cfg
from detection.convert.card import (
    check_card,
    in_rgb,
    load_card,
    make_card,
    yaml_fragment,
)
from pretrain.weights.description import Preprocessing, assumptions
from pretrain.weights.networks import find_network
from pretrain.weights.resnet import Architecture


def card_of(content, tmp_path, depth=18, **kwargs):
    return make_card(
        find_network(content, **kwargs), Architecture(depth), source=tmp_path / "source.pth", source_sha256="ab" * 32
    )


@pytest.fixture
def card(resnet18, tmp_path):
    return card_of(resnet18, tmp_path)


def test_make_card__bare_weights(card):
    assert card["source"] == "source.pth"
    assert card["source_sha256"] == "ab" * 32
    assert card["tool"].startswith("detection-transfer-toolkit")
    assert (card["arch"], card["depth"], card["num_classes"]) == ("resnet18", 18, 10)
    assert (card["method"], card["recipe"], card["top1"], card["top5"]) == (None,) * 4  # not known
    assert card["channel_order"] == "RGB"
    assert card["pixel_mean"] == [123.675, 116.28, 103.53]
    assert card["pixel_std"] == [58.395, 57.12, 57.375]
    assert card["stride_in_1x1"] is False
    assert card["res2_out_channels"] == 64
    json.dumps(card, allow_nan=False)


def test_make_card__our_checkpoint(resnet18, tmp_path):
    content = {
        "model": resnet18,
        "ema": resnet18,
        "arch": "resnet18",
        "method": "saliencymix",
        "config": "SEED: 1\n",
        "top1": 71.5,
        "top5": 90.25,
        "pixel_mean": [1.0, 2.0, 3.0],
        "pixel_std": [4.0, 5.0, 6.0],
    }
    card = card_of(content, tmp_path)
    assert (card["method"], card["recipe"], card["top1"], card["top5"]) == ("saliencymix", "SEED: 1\n", 71.5, 90.25)
    assert (card["pixel_mean"], card["pixel_std"]) == ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    averaged = card_of(content, tmp_path, ema=True)
    assert (averaged["ema"], averaged["top1"]) == (True, None)  # not measured on these weights


@pytest.mark.parametrize(
    "metadata, top1, top5",
    [
        ({"best_err1": 21.25, "best_err5": torch.tensor(5.75)}, 78.75, 94.25),
        ({"best_acc1": torch.tensor(76.5)}, 76.5, None),
    ],
)
def test_make_card__accuracy_of_other_layouts(metadata, top1, top5, resnet18, tmp_path):
    card = card_of({"state_dict": resnet18, **metadata}, tmp_path)
    assert (card["top1"], card["top5"]) == (top1, top5)


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"arch": "resnetaa50"}, r"says arch 'resnetaa50', its tensors are those of a plain resnet18"),
        ({"arch": "resnet50"}, r"says arch 'resnet50'"),
        ({"pixel_std": [1.0, 0.0, 1.0]}, r"pixel_std in the file is \[1\.0, 0\.0, 1\.0\]; expected three numbers"),
        ({"pixel_mean": "x"}, r"pixel_mean in the file is 'x'"),
        ({"top1": 120.0}, r"top1 in the file is 120\.0; expected percent"),
        ({"best_err1": float("nan")}, r"best_err1 in the file is nan; expected percent"),
        ({"top1": "abc"}, r"top1 in the file is 'abc'; expected percent"),
        ({"best_acc1": torch.tensor([1.0, 2.0])}, r"best_acc1 in the file is \[1\.0, 2\.0\]; expected percent"),
        ({"top5": torch.tensor(float("nan"))}, r"top5 in the file is nan; expected percent"),
        ({"arch": b"resnetaa50"}, r"arch in the file is b'resnetaa50'; expected text"),
        ({"arch": {"type": "ResNet"}}, r"arch in the file is \{'type': 'ResNet'\}; expected text"),
        ({"card": ["a"]}, r"the file's card is \['a'\]; expected a dict"),
        ({"card": {"top1": "abc"}}, r"top1 in the file is 'abc'"),
        ({"card": {"pixel_mean": {"r": 1}}}, r"pixel_mean in the file is \{'r': 1\}; expected three numbers"),
        ({"pixel_mean": [True, 1.0, 2.0]}, r"pixel_mean in the file is \[True, 1\.0, 2\.0\]; expected three numbers"),
        ({"pixel_mean": "123"}, r"pixel_mean in the file is '123'; expected three numbers"),
        ({"pixel_mean": [float("nan")] * 3}, r"pixel_mean in the file is \[nan, nan, nan\]; expected three numbers"),
        (
            {"pixel_mean": [0.485, 0.456, 0.406]},
            r"pixel_mean .* 0\.406\]; expected .*255 pixels \(those of 0\.\.1 times 255\)",
        ),
        (
            {"pixel_std": [0.229, 0.224, 0.225]},
            r"pixel_std .* 0\.225\]; expected .*255 pixels \(those of 0\.\.1 times 255\)",
        ),
        ({"arch": "x" * 1000}, r"arch 'xx.{0,90}\.\.\., its tensors"),
    ],
)
def test_make_card__refuses(metadata, message, resnet18, tmp_path):
    with pytest.raises(ValueError, match=message):
        card_of({"model": resnet18, **metadata}, tmp_path)


@pytest.mark.parametrize("value", [torch.zeros(3), {"a": float("nan")}, {1, 2}, b"x" * 1000, ["SEED"]])
def test_make_card__what_is_only_recorded_never_breaks_the_card(value, resnet18, tmp_path):
    card = card_of({"model": resnet18, "method": value, "config": value}, tmp_path)
    json.dumps(card, allow_nan=False)
    assert card["recipe"] is not None


def said_card(state, tmp_path, depth=18, **said):
    network = find_network(state)
    return make_card(
        network, Architecture(depth), source=tmp_path / "s.pth", source_sha256="", said=Preprocessing(**said)
    )


def test_make_card__what_the_user_says(resnet18, tmp_path):
    card = said_card(resnet18, tmp_path, pixel_mean=(1, 2, 3), pixel_std=(4, 5, 6))
    assert (card["pixel_mean"], card["pixel_std"], card["channel_order"]) == ([1, 2, 3], [4, 5, 6], "RGB")
    card = said_card(resnet18, tmp_path, pixel_mean=(1, 2, 3), pixel_std=(4, 5, 6), channel_order="BGR")
    assert (card["pixel_mean"], card["pixel_std"], card["channel_order"]) == ([3, 2, 1], [6, 5, 4], "BGR")
    assert in_rgb(card, "pixel_mean") == [1, 2, 3]


@pytest.mark.parametrize(
    "said, message",
    [
        ({"pixel_mean": (0.5, 0.5, 0.5)}, r"--pixel-mean is \(0\.5, 0\.5, 0\.5\); expected three numbers"),
        ({"pixel_std": (1.0, 0.0, 1.0)}, r"--pixel-std is \(1\.0, 0\.0, 1\.0\); expected three numbers"),
        ({"pixel_mean": (300, 1, 1)}, r"--pixel-mean is \(300, 1, 1\); expected three numbers"),
        ({"channel_order": "rgb"}, r"--channel-order is 'rgb'; expected RGB or BGR"),
        ({"stride_in_1x1": True}, r"--stride-in-1x1, but the blocks of a ResNet-18 have no 1x1 convolution"),
    ],
)
def test_make_card__refuses_what_the_user_says(said, message, resnet18, tmp_path):
    with pytest.raises(ValueError, match=message):
        said_card(resnet18, tmp_path, **said)


@pytest.mark.parametrize(
    "said, message",
    [
        ({"pixel_mean": (4, 5, 6)}, r"--pixel-mean says \[4\.0, 5\.0, 6\.0\], the file \[1\.0, 2\.0, 3\.0\]"),
        ({"channel_order": "BGR"}, r"--channel-order says 'BGR', the file 'RGB'"),
        ({"stride_in_1x1": True}, r"--stride-in-1x1 says True, the file False"),
    ],
)
def test_make_card__refuses_what_the_file_contradicts(said, message, resnet18, tmp_path):
    depth = 50 if "stride_in_1x1" in said else 18  # the blocks of a ResNet-18 have no 1x1 convolution
    card = {"pixel_mean": [1.0, 2.0, 3.0], "channel_order": "RGB", "stride_in_1x1": False}
    with pytest.raises(ValueError, match=message):
        said_card({"model": resnet18, "card": card}, tmp_path, depth, **said)
    said_card({"model": resnet18, "card": card}, tmp_path, pixel_mean=(1, 2, 3), channel_order="RGB")


def test_assumptions__name_what_nobody_said(resnet18):
    bare, named = find_network(resnet18), find_network({"model": resnet18, "arch": "resnet18"})
    note = assumptions(bare, Architecture(50), Preprocessing())
    assert note == (
        "the source has no card: taken to read RGB (--channel-order), with mean 123.675 116.28 103.53 (--pixel-mean) "
        "and std 58.395 57.12 57.375 (--pixel-std), to stride in its 3x3 convolutions (--stride-in-1x1), and to be "
        "plain (without blur pooling, for example); its tensors cannot show that"
    )
    assert "--stride-in-1x1" not in assumptions(bare, Architecture(18), Preprocessing())
    assert "plain" not in assumptions(named, Architecture(50), Preprocessing())
    assert "--pixel-mean" not in assumptions(bare, Architecture(50), Preprocessing(pixel_mean=(1, 2, 3)))
    assert assumptions(named, Architecture(18), Preprocessing((1, 2, 3), (4, 5, 6), "RGB")) is None


@pytest.fixture
def swav(resnet18):
    """A file of SwAV's program, which divides by its own std: .228 .224 .225 of 0..1."""
    heads = {"projection_head.0.weight": torch.zeros(2), "prototypes.weight": torch.zeros(2)}
    state = {key: value for key, value in resnet18.items() if not key.startswith("fc.")} | heads
    return {f"module.{key}": value for key, value in state.items()}


def test_make_card__swav_brings_its_std(swav, tmp_path):
    card = card_of(swav, tmp_path)
    assert (card["pixel_mean"], card["pixel_std"]) == ([123.675, 116.28, 103.53], [58.14, 57.12, 57.375])
    assert "std 58.14 57.12 57.375 (--pixel-std)" in assumptions(find_network(swav), Architecture(18), Preprocessing())
    said = said_card(swav, tmp_path, pixel_std=(58.395, 57.12, 57.375), channel_order="BGR")  # the user knows better
    assert (said["pixel_mean"], said["pixel_std"]) == ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395])


@pytest.mark.parametrize("head", ["projection_head", "prototypes"])
def test_make_card__one_of_its_heads_alone_is_not_swavs(head, swav, tmp_path):
    others = {key: value for key, value in swav.items() if head in key or not key.startswith(("module.p",))}
    assert card_of(others, tmp_path)["pixel_std"] == [58.395, 57.12, 57.375]


@pytest.mark.parametrize("place", ["top", "card"])
def test_assumptions__none_where_the_file_says_it(place, resnet18):
    says = {"arch": "resnet18", "pixel_mean": [1.0, 2.0, 3.0], "pixel_std": [4.0, 5.0, 6.0]}
    network = find_network({"model": resnet18, **(says if place == "top" else {"card": says})})
    assert assumptions(network, Architecture(50), Preprocessing()) is None


@pytest.mark.parametrize("arch", ["resnet18", "tv_resnet18", "resnet18.a1_in1k", "resnet"])
def test_make_card__accepts_the_names_of_plain_resnets(arch, resnet18, tmp_path):
    assert card_of({"state_dict": resnet18, "arch": arch}, tmp_path)["arch"] == "resnet18"


@pytest.fixture
def fitting_cfg(card):
    cfg = get_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = card["pixel_mean"], card["pixel_std"]
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    return cfg


def test_check_card__accepts_what_explain_prints(card, fitting_cfg):
    check_card(card, fitting_cfg)
    fragment = yaml.safe_load(yaml_fragment(card, "out/backbone.pth"))
    assert fragment == {
        "MODEL": {
            "WEIGHTS": "out/backbone.pth",
            "PIXEL_MEAN": card["pixel_mean"],
            "PIXEL_STD": card["pixel_std"],
            "RESNETS": {
                "DEPTH": 18, "STRIDE_IN_1X1": False, "RES2_OUT_CHANNELS": 64,
                "NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64, "STEM_OUT_CHANNELS": 64,
            },
        },
        "INPUT": {"FORMAT": "RGB"},
    }  # fmt: skip


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("INPUT.FORMAT", "BGR", r"INPUT\.FORMAT is 'BGR' in the config, but the backbone's card says 'RGB'"),
        (
            "MODEL.PIXEL_MEAN",
            [103.53, 116.28, 123.675],
            r"MODEL\.PIXEL_MEAN is \[103\.53, 116\.28, 123\.675\] in the .* says \[123\.675, 116\.28, 103\.53\]",
        ),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], r"MODEL\.PIXEL_STD is \[1\.0, 1\.0, 1\.0\] in the config"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", True, r"STRIDE_IN_1X1 is True in the config, .* says False"),
        (
            "MODEL.RESNETS.DEPTH",
            50,
            r"MODEL\.RESNETS\.DEPTH is 50 in the config, .* says 18; set MODEL\.RESNETS\.DEPTH 18",
        ),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", 256, r"RES2_OUT_CHANNELS is 256 in the config, .* says 64"),
        (
            "MODEL.RESNETS.NUM_GROUPS",
            32,
            r"NUM_GROUPS is 32 in the config, .* says 1; set MODEL\.RESNETS\.NUM_GROUPS 1",
        ),
        ("MODEL.RESNETS.WIDTH_PER_GROUP", 4, r"WIDTH_PER_GROUP is 4 in the config, .* says 64"),
        ("MODEL.RESNETS.STEM_OUT_CHANNELS", 128, r"STEM_OUT_CHANNELS is 128 in the config, .* says 64"),
    ],
)
def test_check_card__names_key_and_both_values(key, value, message, card, fitting_cfg):
    fitting_cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        check_card(card, fitting_cfg)


@pytest.mark.parametrize("name, key", [
    ("num_groups", "NUM_GROUPS"), ("width_per_group", "WIDTH_PER_GROUP"), ("stem_out_channels", "STEM_OUT_CHANNELS"),
])  # fmt: skip
def test_check_card__a_card_of_the_time_when_there_were_only_plain_resnets(name, key, card, fitting_cfg):
    plain = card.pop(name)
    check_card(card, fitting_cfg)
    fitting_cfg.MODEL.RESNETS[key] = 2 * plain
    with pytest.raises(ValueError, match=rf"{key} is {2 * plain} in the config, .* says {plain};"):
        check_card(card, fitting_cfg)


def test_check_card__an_incomplete_card(card, fitting_cfg):
    del card["stride_in_1x1"]
    with pytest.raises(ValueError, match=r"card lacks 'stride_in_1x1'; convert it again"):
        check_card(card, fitting_cfg)


@pytest.mark.parametrize(
    "key, value",
    [
        ("channel_order", ["RGB"]),
        ("pixel_mean", "123"),
        ("pixel_mean", ["1", "2", "3"]),
        ("pixel_mean", {"r": 1}),
        ("pixel_std", None),
        ("pixel_std", [float("nan")] * 3),
        ("stride_in_1x1", 0),
        ("depth", "18"),
        ("depth", True),
        ("res2_out_channels", 64.5),
        ("num_groups", True),
    ],
)
def test_check_card__a_value_of_another_type(key, value, card, fitting_cfg):
    with pytest.raises(ValueError, match=rf"the backbone's card says {key} {re.escape(repr(value))}; expected "):
        check_card(card | {key: value}, fitting_cfg)


def test_load_card__a_file_without_one(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "w.pth")
    assert load_card(tmp_path / "w.pth") is None
