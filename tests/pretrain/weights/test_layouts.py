"""The layouts of files that people have: each is written here as its program writes it, and read again.

The rows are those of the survey of releases: where the network lies, what is beside it, and which one is meant.
"""

import pickle
import sys
import types
from typing import NamedTuple

import pytest
import torch
from torch import nn

from pretrain.weights.files import read_weights
from pretrain.weights.layouts import CHILDREN
from pretrain.weights.namings import convert_state_dict
from pretrain.weights.networks import find_network


class Expected(NamedTuple):
    """What is found in a file: where, how many keys by the rules that drop them beside it, and part of a note."""

    prefix: str
    beside: dict
    note: str = ""


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def zeros(*keys):
    return {key: torch.zeros(3) for key in keys}


@pytest.fixture(scope="module")
def net(resnet18):
    """The trained network, without a classifier."""
    return {key: value for key, value in resnet18.items() if not key.startswith("fc.")}


@pytest.fixture(scope="module")
def average(random_resnet):
    """Its moving average, or whatever second network a file holds."""
    return {key: value for key, value in random_resnet(18, seed=1).items() if not key.startswith("fc.")}


TRAINER = {"epoch": 100, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}}
MLP = ("fc.0.weight", "fc.1.running_mean", "fc.3.weight")


def numbered(net):
    numbers = {name: number for number, name in CHILDREN.items()}
    return {f"{numbers[key.partition('.')[0]]}.{key.partition('.')[2]}": value for key, value in net.items()}


def swav(net, average):
    heads = zeros("projection_head.0.weight", "projection_head.1.running_var", "prototypes.weight")
    return {"epoch": 800, "state_dict": under("module.", net | heads)}, Expected("state_dict.module.", {}, "SwAV")


def deepcluster(net, average):
    heads = zeros("projection_head.0.weight", "prototypes.prototypes0.weight")
    return under("module.", net | heads), Expected("module.", {}, "SwAV (DeepCluster-v2")


def dino_backbone(net, average):
    return net, Expected("", {})


def dino_full(net, average):
    heads = zeros("module.head.mlp.0.weight", "module.head.last_layer.weight_g")
    branches = [under("module.backbone.", state) | heads for state in (average, net)]
    content = {**TRAINER, "student": branches[0], "teacher": branches[1], "dino_loss": zeros("center")}
    return content, Expected("teacher.module.backbone.", {"head": 2}, "DINO evaluates the teacher")


def vicreg(net, average):
    beside = zeros("module.projector.0.weight", "module.projector.1.running_mean")
    return {**TRAINER, "model": under("module.backbone.", net) | beside}, Expected(
        "model.module.backbone.", {"projector": 2}
    )


def vicregl(net, average):
    beside = zeros("module.maps_projector.0.weight", "module.projector.0.weight")
    return {**TRAINER, "model": under("module.backbone.", net) | beside}, Expected(
        "model.module.backbone.", {"maps_projector": 1, "projector": 1}
    )


def barlow_twins(net, average):
    beside = zeros("module.bn.running_mean", "module.bn.running_var", "module.bn.num_batches_tracked")
    model = under("module.backbone.", net) | zeros("module.projector.0.weight") | beside
    return {**TRAINER, "model": model}, Expected("model.module.backbone.", {"embedding_norm": 3, "projector": 1})


def simsiam(net, average):
    model = under("module.encoder.", net | zeros(*MLP)) | zeros("module.predictor.0.weight")
    return {**TRAINER, "arch": "resnet18", "state_dict": model}, Expected(
        "state_dict.module.encoder.", {"predictor": 1}
    )


def moco_v3(net, average):
    model = under("module.base_encoder.", net | zeros(*MLP)) | under("module.momentum_encoder.", average | zeros(*MLP))
    model |= zeros("module.predictor.0.weight")
    beside = {"module.momentum_encoder.*": len(average) + 3, "predictor": 1}
    return {"state_dict": model}, Expected("state_dict.module.base_encoder.", beside, "MoCo v3 trains base_encoder")


def densecl_released(net, average):
    return {"state_dict": net, "author": "densecl"}, Expected("state_dict.", {})


def densecl_training(net, average):
    """The network twice, as the first child of encoder_q and as backbone; a neck is the second child."""
    model = under("encoder_q.0.", net) | zeros("encoder_q.1.mlp.0.weight")
    model |= under("encoder_k.0.", average) | zeros("encoder_k.1.mlp.0.weight")
    model |= under("backbone.", {key: value.clone() for key, value in net.items()})
    model |= zeros("queue", "queue_ptr", "queue2", "queue2_ptr")
    beside = {"backbone.*": len(net), "encoder_k.0.*": len(net), "neck": 2, "queue": 4}
    return {"meta": {}, "state_dict": model}, Expected("state_dict.encoder_q.0.", beside, "which hold the same tensors")


def pixpro(net, average):
    heads = ("projector.linear1.weight", "projector_k.linear1.weight", "projector_instance_k.bn1.weight")
    model = under("encoder.", net) | under("encoder_k.", average) | zeros(*heads, "value_transform.weight")
    beside = {"module.encoder_k.*": len(average), "projector": 3, "value_transform": 1}
    content = {**TRAINER, "model": under("module.", model), "amp": {}}
    return content, Expected("model.module.encoder.", beside, "PixPro trains encoder")


def resim_fpn(net, average):
    pyramid = zeros("fpn_lateral5.weight", "fpn_lateral5.bias", "fpn_output4.0.weight")
    model = under("module.encoder_q.", net | pyramid) | under("module.encoder_k.", average | pyramid)
    model |= zeros("module.queue", "module.queue_ptr")
    return {"state_dict": model}, Expected(
        "state_dict.module.encoder_q.", {"module.encoder_k.*": len(average) + 3, "queue": 2}
    )


def detco(net, average):
    return {"state_dict": net}, Expected("state_dict.", {})


def spark(net, average):
    return {"state": net}, Expected("state.", {})


def lightly_dino(net, average):
    model = under("backbone.", net) | under("student_backbone.", average)
    model |= zeros("projection_head.layers.0.weight", "student_projection_head.layers.0.weight", "criterion.center")
    model |= zeros("online_classifier.linear.weight")
    beside = {"classifier": 1, "criterion": 1, "projection_head": 2, "student_backbone.*": len(average)}
    content = {**TRAINER, "pytorch-lightning_version": "2.0", "state_dict": model, "hyper_parameters": {}}
    return content, Expected("state_dict.backbone.", beside, "lightly's benchmarks evaluate backbone")


def lightly_byol(net, average):
    model = under("backbone.", net) | under("teacher_backbone.", average)
    model |= zeros("prediction_head.layers.0.weight", "teacher_projection_head.layers.0.weight")
    beside = {"prediction_head": 1, "projection_head": 1, "teacher_backbone.*": len(average)}
    return {"state_dict": model}, Expected("state_dict.backbone.", beside, "lightly's benchmarks evaluate backbone")


def lightly_moco(net, average):
    model = under("backbone.", net) | under("query_backbone.", average) | zeros("criterion.memory_bank.bank")
    beside = {"criterion": 1, "query_backbone.*": len(average)}
    return {"state_dict": model}, Expected("state_dict.backbone.", beside, "lightly's benchmarks evaluate backbone")


def lightning(net, average):
    model = under("model.backbone.", net) | zeros("model.projection_head.0.weight", "criterion.center")
    return {"state_dict": model}, Expected("state_dict.model.backbone.", {"criterion": 1, "projection_head": 1})


def sequential(net, average):
    """nn.Sequential(*list(resnet.children())[:-1]), as lightly's tutorials build a backbone."""
    model = under("backbone.", numbered(net)) | zeros("projection_head.layers.0.weight")
    return {"state_dict": model}, Expected("state_dict.backbone.", {"projection_head": 1}, "numbers for names")


def lightly_train(net, average):
    return net | zeros("fc.weight", "fc.bias"), Expected("", {})


def solo_learn(net, average):
    heads = ("classifier.weight", "momentum_classifier.weight", "projector.0.weight", "momentum_projector.0.weight")
    model = under("backbone.", net) | under("momentum_backbone.", average) | zeros(*heads, "predictor.0.bias", "queue")
    beside = {"classifier": 2, "momentum_backbone.*": len(average), "predictor": 1, "projector": 2, "queue": 1}
    return {"state_dict": model}, Expected("state_dict.backbone.", beside, "solo-learn trains backbone")


def mmselfsup_moco(net, average):
    model = under("backbone.", net) | under("encoder_k.module.0.", average)
    model |= zeros("encoder_k.module.1.mlp.0.weight", "encoder_k.steps", "neck.mlp.0.weight", "head.loss.weight")
    model |= zeros("queue", "queue_ptr", "data_preprocessor.mean")
    beside = {"data_preprocessor": 1, "encoder_k.module.0.*": len(net), "head": 1, "neck": 2, "queue": 2, "steps": 1}
    return {"state_dict": model}, Expected("state_dict.backbone.", beside, "mmselfsup trains backbone, and encoder_k")


def mmselfsup_byol(net, average):
    model = under("backbone.", net) | under("target_net.module.0.", average) | zeros("target_net.module.1.fc.weight")
    beside = {"neck": 1, "target_net.module.0.*": len(average)}
    return {"state_dict": model}, Expected("state_dict.backbone.", beside, "mmselfsup trains backbone, and target_net")


def mmpretrain(net, average):
    return {"state_dict": under("backbone.", net) | zeros("head.fc.weight", "head.fc.bias")}, Expected(
        "state_dict.backbone.", {"head": 2}
    )


def vissl(net, average):
    model = {"trunk": under("_feature_blocks.", net), "heads": zeros("0.clf.0.weight", "fc1.weight")}
    place = "classy_state_dict.base_model.model.trunk._feature_blocks."
    return {"phase_idx": 1, "classy_state_dict": {"base_model": {"model": model}}}, Expected(place, {})


def compiled(net, average):
    model = under("module._orig_mod.backbone.", net) | zeros("module._orig_mod.projector.0.weight")
    return {"model": model}, Expected("model.module._orig_mod.backbone.", {"projector": 1})


def pirl(net, average):
    model = under("module.encoder.", net) | zeros("module.head.0.weight", "module.head_jig.0.weight")
    return {"model": model | zeros("module.jigsaw.0.weight")}, Expected(
        "model.module.encoder.", {"head": 2, "jigsaw": 1}
    )


def older_resnet(net, average):
    return {"resnet": under("module.encoder_q.", net)}, Expected("resnet.module.encoder_q.", {})


ROWS = (
    swav, deepcluster, dino_backbone, dino_full, vicreg, vicregl, barlow_twins, simsiam, moco_v3, densecl_released,
    densecl_training, pixpro, resim_fpn, detco, spark, lightly_dino, lightly_byol, lightly_moco, lightning, sequential,
    lightly_train, solo_learn, mmselfsup_moco, mmselfsup_byol, mmpretrain, vissl, compiled, pirl, older_resnet,
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
def test_layouts__the_network_that_is_meant_is_found(row, net, average, tmp_path):
    content, expected = row(net, average)
    torch.save(content, tmp_path / "weights.pth")
    found = find_network(read_weights(tmp_path / "weights.pth"))
    converted, wanted = convert_state_dict(found.state), convert_state_dict(net)
    assert converted.keys() == wanted.keys()
    assert all(torch.equal(converted[key], wanted[key]) for key in wanted)
    assert (found.prefix, found.beside) == (expected.prefix, expected.beside)
    assert any(expected.note in note for note in found.notes) or not expected.note


def test_layouts__two_copies_that_differ_are_the_users_choice(net, average):
    content = under("encoder_q.0.", net) | under("backbone.", {**net, "bn1.bias": net["bn1.bias"] + 1})
    with pytest.raises(ValueError, match=r"no rule to choose by; found 'encoder_q\.0\.', 'backbone\.'"):
        find_network(content)


def test_layouts__children_are_numbered_as_torch_numbers_them(random_resnet):
    import torchvision

    network = torchvision.models.resnet18(num_classes=10)
    network.load_state_dict(random_resnet(18))
    children = nn.Sequential(*network.children()).state_dict()
    found = find_network(children).state
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in found.items())


def clip(net):
    """CLIP's picture encoder has torchvision's names for its blocks."""
    stem = {"conv1.weight": torch.zeros(32, 3, 3, 3), "conv2.weight": torch.zeros(32, 32, 3, 3)}
    pool = zeros("attnpool.positional_embedding", "attnpool.k_proj.weight")
    return under("visual.", net | stem | pool) | zeros("transformer.resblocks.0.ln_1.weight", "logit_scale")


def resnet_generator(net):
    """lightly's: no poolings among the children, a stem for CIFAR, and shortcut for downsample."""
    numbers = {"conv1": "0", "bn1": "1", "layer1": "2", "layer2": "3", "layer3": "4", "layer4": "5"}
    state = {"backbone.0.weight": torch.zeros(64, 3, 3, 3)}
    for key, value in net.items():
        child, _, rest = key.replace("downsample", "shortcut").partition(".")
        state.setdefault(f"backbone.{numbers[child]}.{rest}", value)
    return {"state_dict": state}


REFUSED = [
    (clip, r"'visual\.': no rule for the key '.*': a stem of three convolutions, as CLIP's"),
    (resnet_generator, r"backbone\.0\.weight has shape \(64, 3, 3, 3\): a CIFAR stem"),
    (lambda net: under("backbone.", numbered({**net, "conv1.weight": torch.zeros(64, 3, 3, 3)})), r"a CIFAR stem"),
    (lambda net: under("backbone.", {**net, "conv1.weight": torch.zeros(64, 3, 3, 3)}), r"a CIFAR stem"),
    (
        lambda net: {"model": under("module.encoder1.", {**net, "conv1.weight": torch.zeros(64, 1, 7, 7)})},
        r"a network for pictures of 1 channel",
    ),
    (
        lambda net: {
            "model": under("backbone.bottom_up.", convert_state_dict(net)) | zeros("roi_heads.box_head.fc1.bias")
        },
        r"has Detectron2's names already",
    ),
]


@pytest.mark.parametrize(
    "write, message", REFUSED,
    ids=["clip", "lightly's generator", "numbered with a CIFAR stem", "solo-learn on CIFAR", "CMC", "SoCo"],
)  # fmt: skip
def test_layouts__what_computes_something_else_is_refused_for_that_reason(write, message, net):
    with pytest.raises(ValueError, match=message):
        find_network(write(net))


@pytest.mark.parametrize("module, name", [("dill._dill", "_create_namedtuple"), ("byol.byol_experiment", "_State")])
def test_layouts__byol_is_not_unpickled_and_what_to_do_is_said(module, name, tmp_path, monkeypatch):
    """As dill writes it, a named tuple is the call of a function of dill's; a plain pickle names the class."""
    opened = []
    made = types.ModuleType(module)
    setattr(made, name, type(name, (), {"__module__": module, "__setstate__": lambda *_: opened.append(1)}))
    for part in (module.partition(".")[0], module):
        monkeypatch.setitem(sys.modules, part, made)
    state = getattr(made, name)()
    state.online_params = {}
    with open(tmp_path / "pretrain_res50x1.pkl", "wb") as file:
        pickle.dump({"experiment_state": state, "step": 1, "rng": None}, file, protocol=4)
    with pytest.raises(ValueError, match=r"res50x1\.pkl holds a .*BYOL.* sees shifted windows\. .*ssl-transfer's"):
        read_weights(tmp_path / "pretrain_res50x1.pkl")
    assert opened == []
