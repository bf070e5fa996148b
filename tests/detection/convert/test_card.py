import json

import pytest
import torch
import yaml

from detection.config import get_cfg
from detection.convert.card import check_card, load_card, make_card, yaml_fragment
from pretrain.weights.networks import find_network


def card_of(content, tmp_path, depth=18, **kwargs):
    return make_card(find_network(content, **kwargs), depth, source=tmp_path / "source.pth", source_sha256="ab" * 32)


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
    ],
)
def test_make_card__refuses(metadata, message, resnet18, tmp_path):
    with pytest.raises(ValueError, match=message):
        card_of({"model": resnet18, **metadata}, tmp_path)


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
            "RESNETS": {"DEPTH": 18, "STRIDE_IN_1X1": False, "RES2_OUT_CHANNELS": 64},
        },
        "INPUT": {"FORMAT": "RGB"},
    }


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
    ],
)
def test_check_card__names_key_and_both_values(key, value, message, card, fitting_cfg):
    fitting_cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        check_card(card, fitting_cfg)


def test_check_card__an_incomplete_card(card, fitting_cfg):
    del card["stride_in_1x1"]
    with pytest.raises(ValueError, match=r"card lacks 'stride_in_1x1'; convert it again"):
        check_card(card, fitting_cfg)


def test_load_card__a_file_without_one(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "w.pth")
    assert load_card(tmp_path / "w.pth") is None
