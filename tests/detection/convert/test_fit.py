import pytest
import torch

from detection.config import get_cfg
from detection.convert.fit import read_model_file
from pretrain.weights.namings import convert_state_dict
from pretrain.weights.resnet import Architecture, backbone_shapes


def backbone(depth, prefix="", heads=""):
    names = backbone_shapes(Architecture(depth))
    return {(heads if name.startswith("res5.") else prefix) + name: torch.zeros(1) for name in names}


@pytest.fixture
def cfg_of(tmp_path):
    """Return a function that writes ``content`` and returns a config of ResNet-50 that names the file."""

    def write(content):
        torch.save(content, tmp_path / "w.pth")
        cfg = get_cfg()
        cfg.MODEL.WEIGHTS, cfg.MODEL.RESNETS.DEPTH = str(tmp_path / "w.pth"), 50
        return cfg

    return write


@pytest.mark.parametrize(
    "content",
    [
        backbone(50),
        {"model": backbone(50)},
        {"model": backbone(50, "backbone.", "roi_heads."), "config": "", "iteration": 1},
        {"model": backbone(50, "backbone.bottom_up.", "backbone.bottom_up.")},
        {"model": {"layer1.0.conv1.weight": torch.zeros(1)}},  # too little to tell a depth by
    ],
    ids=["bare", "backbone", "C4 detector", "FPN detector", "a part"],
)
def test_read_model_file__accepts(content, cfg_of):
    cfg = cfg_of(content)
    assert set(read_model_file(cfg)["model"]) == set(content.get("model", content))


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], r"w\.pth holds no weights, but a list"),
        ({}, r"w\.pth holds no weights: it has no tensor"),
        ({"model": {"a": "b"}}, r"w\.pth holds no weights: it has no tensor"),
        ({"model": "resnet50", "epoch": 3}, r"w\.pth holds no weights: it has no tensor"),
        ({"model": backbone(50), "card": ["x"]}, r"w\.pth: the file's card is \['x'\]; expected a dict"),
        ({"model": backbone(50), "card": {}}, r"w\.pth: the backbone's card lacks 'channel_order'"),
        ({"model": backbone(101)}, r"w\.pth holds a ResNet-101, but MODEL\.RESNETS\.DEPTH is 50 in the config"),
        (
            {"model": backbone(34, "backbone.", "roi_heads.")},
            r"w\.pth holds a ResNet-34, but MODEL\.RESNETS\.DEPTH is 50",
        ),
    ],
)
def test_read_model_file__refuses(content, message, cfg_of):
    with pytest.raises(ValueError, match=message):
        read_model_file(cfg_of(content))


def test_read_model_file__names_in_torchvisions_way(resnet18, cfg_of):
    with pytest.raises(ValueError, match=r"holds a ResNet-18, but MODEL\.RESNETS\.DEPTH is 50"):
        read_model_file(cfg_of({"model": resnet18}))
    with pytest.raises(ValueError, match=r"holds a ResNet-18, but MODEL\.RESNETS\.DEPTH is 50"):
        read_model_file(cfg_of({"model": convert_state_dict(resnet18)}))


@pytest.mark.parametrize(
    "weights, error, message",
    [
        ("none.pth", FileNotFoundError, r"none\.pth does not exist"),
        (".", ValueError, r"is a folder; expected a weights file"),
        ("https://example.org/w.pth", ValueError, r"https://\S+ is an address, and nothing is fetched unasked"),
        ("detectron2://x.pkl", ValueError, r"is an address, and nothing is fetched unasked"),
    ],
)
def test_read_model_file__no_file(weights, error, message):
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS = weights
    with pytest.raises(error, match=message):
        read_model_file(cfg)
