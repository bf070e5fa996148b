"""Schedule, weight decay and smoothing of labels beside PyTorch's and torchvision's own."""

import pytest
import torch
import torchvision
from torch import nn
from torch.optim import lr_scheduler

from pretrain.config import load_pretrain_config
from pretrain.learner import Learner, Preparation
from pretrain.mixing.labels import to_soft_labels
from pretrain.models import build_model
from pretrain.run.processes import SINGLE_CPU_PROCESS
from pretrain.solver import build_optimizer, learning_rate

CPU = torch.device("cpu")


def config(*opts):
    return load_pretrain_config(None, ["MODEL.ARCH", "resnet18_cifar", *opts])


@pytest.mark.parametrize("iteration, expected", [
    (0, 0.05), (1, 0.1),  # warm-up over two iterations, the second at full rate
    (5, 0.1), (6, 0.01),  # STEPS (2, 3) with epochs of 3 iterations
    (9, 0.001),
])  # fmt: skip
def test_learning_rate__steps_table(iteration, expected):
    cfg = config("SOLVER.STEPS", "(2, 3)", "SOLVER.WARMUP_ITERS", "2")
    assert learning_rate(cfg, iteration, epoch_iters=3) == pytest.approx(expected)


@pytest.mark.parametrize("iteration, expected", [
    (0, 0.02), (2, 0.02),  # WARMUP_FACTOR 0.1 of 0.2, all of the first epoch
    (3, 0.11), (5, 0.11),  # halfway to the full rate, which the third epoch has
    (6, 0.2), (8, 0.2),
    (9, 0.15), (12, 0.05),  # three epochs from there to the end: (1 + cos 60 degrees) / 2, and of 120 degrees
])  # fmt: skip
def test_learning_rate__cosine_table(iteration, expected):
    opts = ["SOLVER.SCHEDULE", "cosine", "SOLVER.EPOCHS", "5", "SOLVER.BASE_LR", "0.2"]
    cfg = config(*opts, "SOLVER.WARMUP_EPOCHS", "2", "SOLVER.WARMUP_FACTOR", "0.1")
    assert learning_rate(cfg, iteration, epoch_iters=3) == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("schedule", ["cosine", "steps"])
def test_learning_rate__is_pytorchs_sequence_of_schedules(schedule, warmup):
    keys = {
        "SOLVER.SCHEDULE": schedule, "SOLVER.EPOCHS": 20, "SOLVER.STEPS": (8, 12), "SOLVER.GAMMA": 0.3,
        "SOLVER.BASE_LR": 0.5, "SOLVER.WARMUP_EPOCHS": warmup,
    }  # fmt: skip
    cfg = config(*(str(item) for pair in keys.items() for item in pair))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    if schedule == "cosine":
        main = lr_scheduler.CosineAnnealingLR(optimizer, T_max=20 - warmup)
    else:
        main = lr_scheduler.MultiStepLR(optimizer, milestones=[8 - warmup, 12 - warmup], gamma=0.3)
    theirs = main
    if warmup:
        linear = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
        theirs = lr_scheduler.SequentialLR(optimizer, [linear, main], milestones=[warmup])
    for epoch in range(20):
        expected = pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        assert [learning_rate(cfg, 7 * epoch + within, 7) for within in (0, 6)] == [expected] * 2
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("arch", ["resnet50", "wide_resnet28_10"])
def test_build_optimizer__norms_apart_are_torchvisions_split(arch):
    with torch.device("meta"):
        network = build_model(arch, 10)
    norms, others = torchvision.ops._utils.split_normalization_params(network)
    optimizer = build_optimizer(config("SOLVER.WEIGHT_DECAY", "0.3", "SOLVER.WEIGHT_DECAY_NORM", "0"), network, CPU)
    found = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert found.keys() == {0.0, 0.3}
    for parameters, expected in ((found[0.0], norms), (found[0.3], others)):
        assert {id(one) for one in parameters} == {id(one) for one in expected}


@pytest.mark.parametrize("norm, bias, expected", [
    ("None", "None", {"0.weight": 0.3, "0.bias": 0.3, "1.weight": 0.3, "1.bias": 0.3, "2.weight": 0.3, "2.bias": 0.3}),
    ("0.1", "None", {"0.weight": 0.3, "0.bias": 0.3, "1.weight": 0.1, "1.bias": 0.1, "2.weight": 0.1, "2.bias": 0.1}),
    ("None", "0.2", {"0.weight": 0.3, "0.bias": 0.2, "1.weight": 0.3, "1.bias": 0.3, "2.weight": 0.3, "2.bias": 0.3}),
    ("0", "0", {"0.weight": 0.3, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "2.weight": 0.0, "2.bias": 0.0}),
])  # fmt: skip
def test_build_optimizer__decay_by_kind_of_parameter(norm, bias, expected):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    opts = ["SOLVER.WEIGHT_DECAY_NORM", norm, "SOLVER.WEIGHT_DECAY_BIAS", bias]
    optimizer = build_optimizer(config("SOLVER.WEIGHT_DECAY", "0.3", *opts), network, CPU)
    decays = {id(one): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
    assert {name: decays[id(one)] for name, one in network.named_parameters()} == expected
    assert len(optimizer.param_groups) == len(set(expected.values()))


@pytest.mark.parametrize("loaded", [False, True])
def test_build_optimizer__on_a_gpu_a_first_step_left_out_leaves_nothing_behind(loaded):
    """float16's scale begins too large. Fused SGD, which runs on a CPU too, would go on from memory as it found it."""
    weights = []
    for device in ("cpu", "cuda"):
        network = nn.Linear(5000, 1, bias=False)
        nn.init.ones_(network.weight)
        optimizer = build_optimizer(config(), network, torch.device(device))
        if loaded:  # of a run on a CPU whose steps were all left out
            optimizer.load_state_dict({**optimizer.state_dict(), "state": {}})
        if device == "cuda":
            junk = torch.full((1, 5000), float("nan"))
            network.weight.grad = torch.full_like(junk, float("inf"))
            del junk
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
            optimizer.step()
            optimizer.found_inf = torch.tensor(0.0)
        for gradient in (2.0, 3.0):
            network.weight.grad = torch.full((1, 5000), gradient)
            optimizer.step()
        weights.append(network.weight.detach())
    assert torch.equal(*weights)


def test_build_optimizer__one_decay_is_one_group_in_the_order_of_the_network():
    """What checkpoints of before hold: parameters are numbered by it."""
    network = build_model("resnet18", 10)
    (group,) = build_optimizer(config(), network, CPU).param_groups
    assert [id(one) for one in group["params"]] == [id(one) for one in network.parameters()]


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_ten_steps__are_those_of_pytorchs_parts(labels, tiny_run, monkeypatch):
    """Cosine, smoothing and groups together, beside a loop of PyTorch's own loss, optimiser and schedules."""
    monkeypatch.setattr("pretrain.learner.build_model", lambda arch, classes, **options: tiny_run.StatelessNet(classes))
    keys = {
        "SOLVER.SCHEDULE": "cosine", "SOLVER.EPOCHS": 10, "SOLVER.WARMUP_EPOCHS": 3, "SOLVER.BASE_LR": 0.5,
        "SOLVER.LABEL_SMOOTHING": 0.1, "SOLVER.WEIGHT_DECAY": 0.05, "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        "SOLVER.NESTEROV": False,
    }  # fmt: skip
    cfg = config(*(str(item) for pair in keys.items() for item in pair))
    torch.manual_seed(0)
    one, theirs = Learner(cfg, 5, SINGLE_CPU_PROCESS), tiny_run.StatelessNet(5)
    theirs.load_state_dict(one.network.state_dict())
    norms, others = torchvision.ops._utils.split_normalization_params(theirs)
    groups = [{"params": norms, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.05}]
    optimizer = torch.optim.SGD(groups, lr=0.5, momentum=0.9)
    warm = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=3)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    schedule = lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[3])
    criterion, prepare = nn.CrossEntropyLoss(label_smoothing=0.1), Preparation(cfg, CPU)
    for iteration in range(10):
        images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
        targets = torch.randint(0, 5, (6,))
        if labels == "soft":
            targets = to_soft_labels(targets, 5).lerp(to_soft_labels(targets.flip(0), 5), 0.3)
            one.mixing = lambda images, labels: (images, labels)
        loss = one.step([(images, targets)], lr=learning_rate(cfg, iteration, 1), progress=0.0)
        optimizer.zero_grad()
        expected = criterion(theirs(prepare(images)), targets)
        expected.backward()
        optimizer.step()
        schedule.step()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(one.network.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("opts", [[], ["MIXING.METHOD", "cutmix"], ["MIXING.METHOD", "manifold_mixup"]], ids=" ".join)
def test_label_smoothing__of_every_method_is_a_share_of_all_classes_alike(opts, tiny_run, monkeypatch):
    """By its formula: the rest of the loss is that of the mixed labels, the share that of uniform ones."""
    monkeypatch.setattr("pretrain.learner.build_model", lambda arch, classes, **options: tiny_run.StatelessNet(classes))
    images, labels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8), torch.arange(6) % 5
    losses, logits = [], []
    for share in ("0.0", "0.2"):
        torch.manual_seed(0)
        one = Learner(config(*opts, "SOLVER.LABEL_SMOOTHING", share), 5, SINGLE_CPU_PROCESS)
        one.network.register_forward_hook(lambda _module, _inputs, output: logits.append(output.detach()))
        torch.manual_seed(1)
        losses.append(one.step([(images, labels)], lr=0.1, progress=0.0).item())
    uniform = -torch.log_softmax(logits[1], dim=1).mean().item()
    assert abs(uniform - losses[0]) > 1e-3
    assert losses[1] == pytest.approx(0.8 * losses[0] + 0.2 * uniform, rel=1e-5)
