import numpy as np
import pytest
import torch

from pretrain.weights.namings import convert_state_dict, count_dropped
from pretrain.weights.networks import DETECTRON2, as_float32, find_network


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


@pytest.fixture(scope="module")
def other(random_resnet):
    """The second network of a file, told apart by its values."""
    return random_resnet(18, seed=1)


def is_network(found, expected):
    return all(found.state[key] is value for key, value in expected.items())


def test_find_network__bare_torchvision(resnet18):
    found = find_network(resnet18)
    assert found.prefix == ""
    assert is_network(found, resnet18)
    assert found.notes == ()


def test_find_network__our_checkpoint(resnet18):
    content = {
        "model": resnet18,
        "arch": "resnet18",
        "iteration": 7,
        "top1": 71.5,
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "rng": {"cpu": torch.zeros(8), "cuda": []},
    }
    found = find_network(content)
    assert found.prefix == "model."
    assert is_network(found, resnet18)
    assert found.metadata == {"arch": "resnet18", "top1": 71.5}


@pytest.mark.parametrize("place", ["ema", "model_ema", "state_dict_ema"])
def test_find_network__averaged_weights_only_where_asked_for(place, resnet18, other):
    content = {"model": resnet18, place: other}
    plain, averaged = find_network(content), find_network(content, ema=True)
    assert is_network(plain, resnet18)
    assert is_network(averaged, other)
    assert (plain.ema, averaged.ema) == (False, True)
    assert "which --ema takes" in plain.notes[0]
    assert "as --ema says" in averaged.notes[0]


def test_find_network__torchvision_reference_average(resnet18, other):
    content = {"model": resnet18, "model_ema": prefixed("module.", other) | {"n_averaged": torch.tensor(9)}}
    found = find_network(content, ema=True)
    assert is_network(found, other)
    assert found.beside == {"n_averaged": 1}


def test_find_network__no_average_in_the_file(resnet18):
    with pytest.raises(ValueError, match=r"--ema asks for averaged weights .*found the keys without prefix"):
        find_network(resnet18, ema=True)


def test_find_network__the_authors_releases(resnet18):
    content = {
        "epoch": 300,
        "arch": "resnet18",
        "state_dict": prefixed("module.", resnet18),
        "best_err1": 21.26,
        "best_err5": torch.tensor(5.75),
        "optimizer": {},
    }
    found = find_network(content)
    assert found.prefix == "state_dict.module."
    assert is_network(found, resnet18)
    assert found.metadata == {"arch": "resnet18", "best_err1": 21.26, "best_err5": 5.75}


def moco(trained, average, queries="encoder_q.", keys="encoder_k."):
    head = {f"fc.{layer}.{field}": torch.zeros(3) for layer in (0, 2) for field in ("weight", "bias")}
    encoders = {}
    for prefix, state in ((queries, trained), (keys, average)):
        kept = {key: value for key, value in state.items() if not key.startswith("fc.")}
        encoders |= prefixed(f"module.{prefix}", kept | head)
    return {"arch": "resnet18", "state_dict": encoders}


def test_find_network__moco(resnet18, other):
    content = moco(resnet18, other)
    content["state_dict"] |= {"module.queue": torch.zeros(2, 2), "module.queue_ptr": torch.zeros(1)}
    found = find_network(content)
    assert found.prefix == "state_dict.module.encoder_q."
    assert found.state["conv1.weight"] is resnet18["conv1.weight"]
    assert found.beside == {"module.encoder_k.*": 124, "queue": 2}
    assert "encoder_q. taken rather than encoder_k.: MoCo trains" in found.notes[0]


def test_find_network__moco_v3(resnet18, other):
    content = moco(resnet18, other, "base_encoder.", "momentum_encoder.")
    content["state_dict"] |= {"module.predictor.0.weight": torch.zeros(2, 2)}
    found = find_network(content)
    assert found.prefix == "state_dict.module.base_encoder."
    assert found.beside == {"module.momentum_encoder.*": 124, "predictor": 1}


@pytest.mark.parametrize("prefix", ["state_dict.module.encoder_k.", "module.encoder_k."])
def test_find_network__prefix_overrides_the_rules(prefix, resnet18, other):
    found = find_network(moco(resnet18, other), prefix=prefix)
    assert found.state["conv1.weight"] is other["conv1.weight"]
    assert found.beside == {"outside --prefix": 124}


@pytest.mark.parametrize("place", ["", "module."])
def test_find_network__swav_whose_heads_are_children_of_the_network(place, resnet18):
    network = {key: value for key, value in resnet18.items() if not key.startswith("fc.")}
    heads = {
        "projection_head.0.weight": torch.zeros(4, 4),
        "projection_head.1.running_var": torch.zeros(4),
        "prototypes.weight": torch.zeros(4, 4),
    }
    found = find_network(prefixed(place, network | heads))
    assert is_network(found, network)
    assert (found.prefix, found.beside) == (place, {})
    assert count_dropped(found.state) == {"num_batches_tracked": 20, "projection_head": 2, "prototypes": 1}
    assert found.state.keys() == (network | heads).keys()
    assert is_network(find_network(prefixed(place, network | heads), prefix=place), network)


@pytest.mark.parametrize(
    "key", ["projector.0.weight", "projection_head.0.bias", "prototypes1.weight", "predictor.0.weight", "queue2_ptr"]
)
@pytest.mark.parametrize("wrapper", ["", "module.", "model.", "module.model."])
def test_find_network__heads_beside_the_network(key, wrapper, resnet18):
    found = find_network({"state_dict": prefixed(wrapper, prefixed("backbone.", resnet18) | {key: torch.zeros(2)})})
    assert is_network(found, resnet18)
    assert list(found.beside.values()) == [1]
    assert key.startswith(next(iter(found.beside)))


def test_find_network__two_networks_without_a_rule(resnet18, other):
    content = prefixed("teacher.", resnet18) | prefixed("student.", other)
    with pytest.raises(ValueError, match=r"no rule to choose by; found 'teacher\.', 'student\.'; name one"):
        find_network(content)
    assert is_network(find_network(content, prefix="student."), other)


def test_find_network__unknown_prefix(resnet18):
    with pytest.raises(ValueError, match=r"no torchvision ResNet under the prefix 'encoder\.'; found 'module\.'"):
        find_network(prefixed("module.", resnet18), prefix="encoder.")


def test_find_network__a_key_beside_the_network(resnet18):
    content = {"state_dict": prefixed("backbone.", resnet18) | {"decoder.0.weight": torch.zeros(2, 2)}}
    with pytest.raises(ValueError, match=r"no rule for the key 'decoder\.0.*say --prefix state_dict\.backbone\."):
        find_network(content)
    assert find_network(content, prefix="state_dict.backbone.").beside == {"outside --prefix": 1}


def test_find_network__detectron2_backbone_with_the_junk_of_its_own_script(resnet18):
    state = convert_state_dict(resnet18)
    junk = {
        "stem.fc.weight": torch.zeros(10, 512),
        "stem.fc.bias": torch.zeros(10),
        "stem.conv1.norm.num_batches_tracked": torch.tensor(1),
    }
    assert set(find_network({"model": state | junk}, DETECTRON2).state) == set(state | junk)


def test_find_network__detectron2_c4_detector(resnet18):
    state = {
        ("roi_heads." if key.startswith("res5.") else "backbone.") + key: value
        for key, value in convert_state_dict(resnet18).items()
    }
    rest = {
        "proposal_generator.rpn_head.conv.weight": torch.zeros(1),
        "roi_heads.box_predictor.cls_score.bias": torch.zeros(21),
        "roi_heads.res5.norm.weight": torch.zeros(512),
        "pixel_mean": torch.zeros(3, 1, 1),
    }
    found = find_network({"model": state | rest}, DETECTRON2)
    assert set(found.state) == set(convert_state_dict(resnet18))
    assert found.beside == {"detector": 4}


def test_find_network__detectron2_fpn_detector(resnet18):
    state = prefixed("backbone.bottom_up.", convert_state_dict(resnet18))
    rest = {"backbone.fpn_lateral2.weight": torch.zeros(1), "roi_heads.box_head.fc1.bias": torch.zeros(1)}
    found = find_network({"model": state | rest}, DETECTRON2)
    assert found.prefix == "model.backbone.bottom_up."
    assert found.beside == {"detector": 2}


def test_find_network__wrong_direction(resnet18):
    with pytest.raises(ValueError, match=r"has Detectron2's names already; --reverse turns it back"):
        find_network(convert_state_dict(resnet18))
    with pytest.raises(ValueError, match=r"has torchvision's names already; convert it without --reverse"):
        find_network(resnet18, DETECTRON2)


@pytest.mark.parametrize(
    "content",
    [
        {"conv1.weight": torch.zeros(64, 3, 3, 3), "layer2.0.shortcut.0.weight": torch.zeros(128, 64, 1, 1)},
        {"module.conv1.weight": torch.zeros(16, 3, 3, 3), "module.block1.layer.0.bn1.weight": torch.zeros(16)},
    ],
    ids=["the authors' CIFAR ResNet", "the authors' WideResNet-28-10"],
)
def test_find_network__refuses_cifar_networks(content):
    with pytest.raises(ValueError, match=r"conv1\.weight has shape \(\d+, 3, 3, 3\): a CIFAR stem"):
        find_network(content)


def test_find_network__the_stem_of_clip_is_no_cifar_stem():
    content = {
        "visual.conv1.weight": torch.zeros(32, 3, 3, 3),
        "visual.conv2.weight": torch.zeros(32, 32, 3, 3),
        "visual.layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1),
    }
    with pytest.raises(ValueError, match=r"'visual\.': no rule for the key 'conv2\.weight': a stem of three"):
        find_network(content)


def test_find_network__dicts_in_a_circle_end_in_a_line():
    content = {"a": torch.zeros(2)}
    content["again"] = content
    with pytest.raises(ValueError, match="dicts more than 32 deep"):
        find_network(content)


def test_find_network__dicts_that_hold_each_other_many_times_over_end_in_a_line():
    content = {"a": torch.zeros(2)}
    for _ in range(30):
        content = {"left": content, "right": content}
    with pytest.raises(ValueError, match="more than 10000 dicts"):
        find_network(content)


@pytest.mark.parametrize(
    "content, message",
    [
        (
            {"blocks.0.attn.weight": torch.zeros(1)},
            r"none of 1 keys \(blocks\.0\.attn\.weight, \.\.\.\) ends in layer1\.0",
        ),
        ({}, "none of 0 keys ends in"),
        ([1, 2], "none of 0 keys ends in"),
        ({"model": "resnet50"}, "none of 0 keys ends in"),
    ],
)
def test_find_network__no_resnet(content, message):
    with pytest.raises(ValueError, match=message):
        find_network(content)


def test_find_network__a_value_that_is_no_tensor(resnet18):
    with pytest.raises(ValueError, match=r"'bn1\.bias' holds a list, not a tensor"):
        find_network(resnet18 | {"bn1.bias": [0.0] * 64})


@pytest.mark.parametrize(
    "value, expected",
    [
        (torch.tensor(5.75), 5.75),
        (torch.tensor([5.75]), 5.75),
        (np.float64(5.75), 5.75),
        (np.array(5.75), 5.75),
        (torch.tensor([1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]),
        (np.array([1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]),
    ],
)
def test_find_network__metadata_in_tensors_become_numbers(value, expected, resnet18):
    assert find_network({"model": resnet18, "top1": value}).metadata == {"top1": expected}


@pytest.mark.parametrize("value", [torch.zeros(2, 20), torch.zeros(17), torch.zeros(1, device="meta")])
def test_find_network__metadata_that_is_no_number(value, resnet18):
    with pytest.raises(ValueError, match=r"top1 in the file is a torch\.\w+ of shape \(.*\); expected a plain value"):
        find_network({"model": resnet18, "top1": value})


@pytest.mark.parametrize("value", [
    torch.rand(8, 4, 1, 1).to(memory_format=torch.channels_last),  # says of itself that it is contiguous
    torch.rand(8, 4, 3, 3).to(memory_format=torch.channels_last),
    torch.rand(8, 4, 1, 1, dtype=torch.float64).to(memory_format=torch.channels_last),
    torch.rand(4, 8).T,
    torch.rand(1, 4).expand(8, 4),
    torch.rand(8),
    np.random.default_rng(0).random((4, 8)).T,
], ids=["1x1", "3x3", "1x1, float64", "transposed", "expanded", "bias", "NumPy"])  # fmt: skip
def test_as_float32__strides_are_those_of_a_new_tensor(value):
    (found,) = as_float32({"conv.weight": value}, []).values()
    assert found.stride() == torch.empty(found.shape).stride()
    assert torch.equal(found, torch.as_tensor(value).float())
