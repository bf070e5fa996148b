import random
import re

import pytest
import torch
import torchvision

from pretrain.weights.namings import (
    check_backbone,
    convert_state_dict,
    count_dropped,
    recognise_depth,
    revert_state_dict,
)
from pretrain.weights.networks import DETECTRON2, TORCHVISION, find_network
from pretrain.weights.resnet import BLOCKS, NAMED, Architecture, backbone_shapes


def meta_resnet(name):
    with torch.device("meta"):
        return torchvision.models.get_model(name).state_dict()


@pytest.mark.parametrize("depth, num_tensors", [(18, 100), (34, 180), (50, 265), (101, 520), (152, 775)])
def test_convert_state_dict__there_and_back_is_bit_equal(depth, num_tensors, random_resnet):
    source = random_resnet(depth, seed=depth)
    converted = convert_state_dict(source)
    back = revert_state_dict(converted)
    assert len(converted) == num_tensors
    kept = {key for key in source if not key.startswith("fc.") and not key.endswith("num_batches_tracked")}
    assert set(back) == kept
    assert all(torch.equal(back[key], source[key]) for key in kept)


@pytest.mark.parametrize(
    "source, expected",
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer1.0.downsample.0.weight", "res2.0.shortcut.weight"),
        ("layer1.0.downsample.1.bias", "res2.0.shortcut.norm.bias"),
        ("layer3.5.conv2.weight", "res4.5.conv2.weight"),
        ("layer4.2.bn3.running_mean", "res5.2.conv3.norm.running_mean"),
    ],
)
def test_convert_state_dict__known_names(source, expected):
    state = meta_resnet("resnet50")
    assert convert_state_dict(state)[expected] is state[source]


def test_convert_state_dict__leaves_the_source_alone(resnet18):
    before = dict(resnet18)
    convert_state_dict(resnet18)
    assert list(resnet18) == list(before)
    assert all(resnet18[key] is before[key] for key in before)


def test_count_dropped__by_rule():
    assert count_dropped(meta_resnet("resnet50")) == {"fc": 2, "num_batches_tracked": 53}


HEADS = (
    "projection_head.0.weight", "projection_head.1.running_mean", "prototypes.weight", "prototypes0.weight",
    "projector.0.weight", "predictor.3.bias", "classifier.weight", "queue", "queue_ptr", "queue2", "queue2_ptr",
)  # fmt: skip


@pytest.mark.parametrize("key", HEADS)
def test_convert_state_dict__drops_a_head_inside_the_network_by_a_named_rule(key):
    state = meta_resnet("resnet18")
    assert convert_state_dict(state | {key: torch.empty(4)}).keys() == convert_state_dict(state).keys()
    rule = re.match(r"queue|[a-z_]+", key)[0]
    assert count_dropped([key]) == {rule: 1}


def test_dropped__no_rule_drops_a_part_of_a_backbone():
    """Nor a part under a head's name that lies inside a layer, nor a name that only begins like a head's."""
    for depth in BLOCKS:
        names = set(backbone_shapes(Architecture(depth))) | set(revert_state_dict(backbone_as_tensors(depth)))
        assert count_dropped(names) == {}
    assert count_dropped([f"layer1.0.{key}" for key in HEADS] + [f"res2.0.{key}" for key in HEADS]) == {}
    assert count_dropped(["projection_heads.weight", "prototypes", "queue3x", "classifier", "xprojector.0"]) == {}


def backbone_as_tensors(depth):
    return {name: torch.empty(shape, device="meta") for name, shape in backbone_shapes(Architecture(depth)).items()}


WIDENED = (Architecture(50, 1, 128, widen=2), Architecture(50, 1, 256, widen=4), Architecture(50, 1, 320, widen=5))


@pytest.mark.parametrize("architecture", [*NAMED.values(), *WIDENED], ids=lambda architecture: architecture.name)
def test_backbone_shapes__are_those_of_detectron2(architecture):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = architecture.depth
    cfg.MODEL.RESNETS.NUM_GROUPS = architecture.num_groups
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = architecture.width_per_group
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if architecture.depth < 50 else 256 * architecture.widen
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64 * architecture.widen
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    with torch.device("meta"):
        state = build_resnet_backbone(cfg, ShapeSpec(channels=3)).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == dict(backbone_shapes(architecture))
    assert check_backbone(state) == architecture  # found again by its tensors alone


@pytest.mark.parametrize("name", NAMED)
def test_check_backbone__the_name_is_torchvisions(name):
    assert check_backbone(convert_state_dict(meta_resnet(name))).name == name


@pytest.mark.parametrize("architecture, name", [
    (Architecture(101, 32, 16), "resnext101_32x16d"), (Architecture(50, 1, 128, 2), "resnet50w2"),
    (Architecture(50, 1, 96), "wide_resnet50_1.5"),
])  # fmt: skip
def test_architecture__names_of_what_torchvision_has_not(architecture, name):
    assert (architecture.name, architecture.fault()) == (name, None)


@pytest.mark.parametrize("architecture, message", [
    (Architecture(26), r"no ResNet-26; depths are 18, 34"),
    (Architecture(18, 32, 4), r"the blocks of a ResNet-18 have neither groups nor another width than 64"),
    (Architecture(50, 0), r"fewer than one group or channel"),
    (Architecture(50, 32, 4, widen=2), r"2 times as many channels go with one group of 128"),
])  # fmt: skip
def test_backbone_shapes__of_no_network(architecture, message):
    with pytest.raises(ValueError, match=message):
        backbone_shapes(architecture)


def without(key):
    return lambda state: state.pop(key)


def reshaped(key, *shape):
    return lambda state: state.update({key: torch.empty(shape, device="meta")})


@pytest.mark.parametrize(
    "break_it, message",
    [
        (without("bn1.bias"), r"compared with ResNet-18 the file lacks stem\.conv1\.norm\.bias"),
        (without("layer2.0.downsample.0.weight"), r"lacks res3\.0\.shortcut\.weight"),
        (
            reshaped("layer1.0.extra.weight", 4),
            r"no rule for the key 'layer1\.0\.extra\.weight'; expected torchvision's",
        ),
        (reshaped("conv1.1.weight", 64), r"no rule for the key 'conv1\.1\.weight': a ResNet-D or ResNet-C stem"),
        (reshaped("conv2.weight", 32, 32, 3, 3), r"no rule for the key 'conv2\.weight': a stem of three convolutions"),
        (reshaped("layer2.0.downsample.2.weight", 4), r"'layer2\.0\.downsample\.2\.weight': ResNet-D's shortcuts"),
        (reshaped("layer1.0.se.fc1.weight", 4), r"'layer1\.0\.se\.fc1\.weight': attention over channels"),
        (reshaped("layer1.0.se_module.fc1.weight", 4), r"se_module\.fc1\.weight': attention over channels"),
        (reshaped("layer1.0.attn.conv.weight", 4), r"'layer1\.0\.attn\.conv\.weight': attention over channels"),
        (reshaped("layer2.0.conv2.1.filt", 4), r"'layer2\.0\.conv2\.1\.filt': blur pooling"),
        (reshaped("layer2.0.aa.filt", 4), r"'layer2\.0\.aa\.filt': blur pooling"),
        (reshaped("layer1.0.bn1.IN.weight", 4), r"'layer1\.0\.bn1\.IN\.weight': instance normalisation"),
        (reshaped("layer1.0.conv1.bias", 64), r"has in excess res2\.0\.conv1\.bias"),
        (reshaped("layer1.2.conv1.weight", 64, 64, 3, 3), r"has in excess res2\.2\.conv1\.weight"),
        (reshaped("layer9.0.conv1.weight", 64), r"no rule for the key 'layer9\.0\.conv1\.weight'"),
        (reshaped("layer1.00.conv1.weight", 64, 64, 3, 3), r"no rule for the key 'layer1\.00\.conv1\.weight'"),
        (reshaped("layer1.0.num_batches_tracked"), r"no rule for the key 'layer1\.0\.num_batches_tracked'"),
        (
            reshaped("layer1.0.bn1.bias", 63),
            r"layer1\.0\.bn1\.bias \(res2\.0\.conv1\.norm\.bias\) has shape \(63,\), "
            r"resnet18 needs \(64,\)",
        ),
        (reshaped("conv1.weight", 64, 3, 3, 3), "a CIFAR stem"),
        (
            reshaped("conv1.weight", 64, 1, 7, 7),
            r"needs \(64, 3, 7, 7\): a network for pictures of 1 channel; detection",
        ),
        (
            reshaped("conv1.weight", 64, 4, 7, 7),
            r"needs \(64, 3, 7, 7\): a network for pictures of 4 channels; detection",
        ),
        (reshaped("conv1.weight", 64, 3, 5, 5), r"has shape \(64, 3, 5, 5\), resnet18 needs \(64, 3, 7, 7\)$"),
        (reshaped("conv1.weight", 32, 3, 7, 7), r"has shape \(32, 3, 7, 7\), resnet18 needs \(64, 3, 7, 7\)$"),
        (reshaped("conv1.weight", 64, 3), r"has shape \(64, 3\), resnet18 needs \(64, 3, 7, 7\)$"),
    ],
)
def test_convert_state_dict__refuses(break_it, message):
    state = dict(meta_resnet("resnet18"))
    break_it(state)
    with pytest.raises(ValueError, match=message):
        convert_state_dict(state)


@pytest.mark.parametrize(
    "name, key, shape, message",
    [
        (
            "resnext50_32x4d",
            "layer2.0.conv2.weight",
            (256, 256, 3, 3),
            r"\(256, 256, 3, 3\), resnext50_32x4d needs \(256, 8",
        ),
        ("wide_resnet50_2", "layer4.1.conv1.weight", (512, 2048, 1, 1), r"wide_resnet50_2 needs \(1024, 2048, 1, 1\)"),
        ("resnet50", "layer1.0.conv2.weight", (64, 65, 3, 3), r"\(64, 65, 3, 3\), resnet50 needs \(64, 64, 3, 3\)"),
        ("resnet50", "conv1.weight", (128, 3, 7, 7), r"\(128, 3, 7, 7\), resnet50 needs \(64, 3, 7, 7\)"),
    ],
)
def test_convert_state_dict__refuses_a_tensor_of_another_network(name, key, shape, message):
    state = meta_resnet(name)
    state[key] = torch.empty(shape, device="meta")
    with pytest.raises(ValueError, match=message):
        convert_state_dict(state)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("resnet50d", r"a ResNet-D or ResNet-C stem"),
        ("resnet50c", r"a ResNet-D or ResNet-C stem"),
        ("seresnet50", "attention over channels"),
        ("ecaresnet50t", "a ResNet-D or ResNet-C stem"),
    ],
)
def test_convert_state_dict__says_which_network_of_timm_it_is(name, reason):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    with pytest.raises(ValueError, match=reason):
        find_network(state)


def test_convert_state_dict__norms_without_statistics():
    state = {key: value for key, value in meta_resnet("resnet18").items() if "running" not in key}
    with pytest.raises(ValueError, match=r"lacks .*: norm layers without running statistics, such as GroupNorm"):
        convert_state_dict(state)


def test_revert_state_dict__refuses_an_unknown_key():
    state = convert_state_dict(meta_resnet("resnet18"))
    with pytest.raises(ValueError, match=r"no rule for the key 'res2\.0\.conv1\.norm\.extra'"):
        revert_state_dict(state | {"res2.0.conv1.norm.extra": torch.empty(64)})


@pytest.mark.parametrize("depth", BLOCKS)
def test_recognise_depth__from_names_alone(depth):
    assert recognise_depth(backbone_shapes(Architecture(depth))) == depth


def fuzz(state, other, rng):
    """Change names, shapes or both in one to four random ways."""
    state = dict(state)
    for _ in range(rng.randint(1, 4)):
        key = rng.choice(list(state))
        kind = rng.randrange(11)
        if kind == 0:
            del state[key]
        elif kind == 1:  # another character somewhere in the name
            place = rng.randrange(len(key) + 1)
            state[key[:place] + rng.choice("0123456789.abnorm") + key[place + 1 :]] = state.pop(key)
        elif kind == 2:
            state[key] = torch.empty([rng.choice((1, 3, 64, 65)) for _ in state[key].shape], device="meta")
        elif kind == 3:
            state[key] = state[rng.choice(list(state))]
        elif kind == 4:
            state[f"{rng.choice(('module.', 'fc.', 'x', 'layer5.0.'))}{key}"] = state.pop(key)
        elif kind == 5:
            prefix = rng.choice(("module.", "module.encoder_q.", "backbone.", "a.b."))
            state = {prefix + name: value for name, value in state.items()}
        elif kind == 6:
            state |= {f"module.encoder_k.{name}": value for name, value in other.items()}
        elif kind == 7:
            state |= other
        elif kind == 8:
            state[rng.choice(("queue", "fc.9", "n_averaged", "epoch"))] = torch.empty((), device="meta")
        elif kind == 9:  # harmless
            state = dict(rng.sample(list(state.items()), len(state)))
        else:
            ending = rng.choice(("fc.weight", "fc.bias", "bn1.bias", "num_batches_tracked"))
            state = {name: value for name, value in state.items() if not name.endswith(ending)}
        if not state:
            return state
    return state


def test_find_network__ten_thousand_fuzzed_key_sets_load_whole_or_not_at_all():
    rng = random.Random(0)
    networks = [dict(meta_resnet("resnet18")), dict(meta_resnet("resnet18"))]
    shorter = dict(meta_resnet("resnet18"))  # of another width of head, and without counters
    shorter = {key: value for key, value in shorter.items() if not key.endswith("num_batches_tracked")}
    networks.append(convert_state_dict(shorter))
    outcomes = {"converted": 0, "refused": 0}
    for _ in range(10_000):
        state = fuzz(rng.choice(networks), shorter, rng)
        try:
            network = find_network(state, rng.choice((TORCHVISION, TORCHVISION, DETECTRON2)))
            if "stem.conv1.weight" in network.state:
                converted = convert_state_dict(revert_state_dict(network.state))
            else:
                converted = convert_state_dict(network.state)
        except ValueError:
            outcomes["refused"] += 1
            continue
        outcomes["converted"] += 1
        assert {name: tuple(value.shape) for name, value in converted.items()} == dict(
            backbone_shapes(Architecture(18))
        )
    assert min(outcomes.values()) > 500, outcomes
