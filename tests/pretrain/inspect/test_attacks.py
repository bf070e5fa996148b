"""FGSM and PGD: a step by hand, and what every attack must keep."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pretrain.data.batches import UNREADABLE
from pretrain.evaluation import evaluate
from pretrain.inspect.attacks import Attack, AttackedBatches, fgsm, pgd
from pretrain.run.processes import Processes
from tests.pretended_cuda import pretended_cuda


def as_they_are(images):
    return images.float()


def linear(rows):
    """Return a network whose logits are the given linear functions of the picture's values."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return nn.Sequential(nn.Flatten(), layer)


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def normalised(images):
    return (images.float() - 120) / 60


def a_batch(count=7, side=6):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 4, (count,), generator=generator)


# One pixel, two classes. With the label c the gradient of the loss is p(other) x (weights of the other - weights of c):
# a positive multiple of (0, 0.03, -0.01) - (0.01, 0, 0.02) = (-0.01, 0.03, -0.03) for label 0, its negative for 1.
HAND = [[0.01, 0.0, 0.02], [0.0, 0.03, -0.01]]


@pytest.mark.parametrize("label, epsilon, expected", [
    (0, 1, [99, 251, 1]),
    (0, 4, [96, 254, 0]),  # 2 - 4 is below 0
    (0, 8, [92, 255, 0]),  # 250 + 8 is above 255
    (1, 4, [104, 246, 6]),
    (0, 0.5, [99.5, 250.5, 1.5]),  # not rounded
    (0, 0, [100, 250, 2]),
    (UNREADABLE, 4, [100, 250, 2]),
])  # fmt: skip
def test_fgsm__a_step_by_hand(label, epsilon, expected):
    images = torch.tensor([100, 250, 2], dtype=torch.uint8).reshape(1, 3, 1, 1)
    attacked = fgsm(linear(HAND), images, torch.tensor([label]), as_they_are, epsilon)
    assert attacked.flatten().tolist() == expected
    assert attacked.dtype == torch.float32
    assert images.flatten().tolist() == [100, 250, 2]


def test_fgsm__the_gradient_goes_through_the_normalisation():
    # A negative scale turns every sign round.
    images = torch.tensor([100, 250, 2], dtype=torch.uint8).reshape(1, 3, 1, 1)
    attacked = fgsm(linear(HAND), images, torch.tensor([0]), lambda images: (images.float() - 128) / -50, 1)
    assert attacked.flatten().tolist() == [101, 249, 3]


def test_pgd__one_step_of_epsilon_from_the_picture_is_fgsm():
    images, labels = a_batch()
    model = convolutional()
    one_step = pgd(model, images, labels, normalised, 8, steps=1, step_size=8)
    assert torch.equal(one_step, fgsm(model, images, labels, normalised, 8))
    assert not torch.equal(one_step, images.float())


class Distance(nn.Module):
    """Logits (0.1 x the distance of the first value from 102, 0): the loss of label 0 is greatest at 102."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, images):
        distance = self.scale * (images[:, 0, 0, 0] - 102).abs()
        return torch.stack([distance, torch.zeros_like(distance)], dim=1)


@pytest.mark.parametrize("steps, expected", [(1, 103), (2, 100), (3, 103)])
def test_pgd__every_step_follows_the_gradient_where_it_stands(steps, expected):
    images = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    attacked = pgd(Distance(), images, torch.tensor([0]), as_they_are, 8, steps=steps, step_size=3)
    assert attacked.flatten().tolist() == [expected, 100, 100]


@pytest.mark.parametrize("step_size", [0.7, 3.0, 100.0])
def test_pgd__stays_in_the_ball_and_in_the_range(step_size):
    images, labels = a_batch()
    images[:, :, 0], images[:, :, 1] = 0, 255  # at the borders of the range
    attacked = pgd(
        convolutional(),
        images,
        labels,
        normalised,
        3.0,
        steps=5,
        step_size=step_size,
        generator=torch.Generator().manual_seed(0),
    )
    assert (attacked - images).abs().max() <= 3.0
    assert 0 <= attacked.min() <= attacked.max() <= 255
    assert (attacked[:, :, 0] > 0).any()  # inwards it does move


def test_pgd__the_start_is_uniform_in_the_ball():
    images = torch.full((20, 3, 16, 16), 128, dtype=torch.uint8)
    start = (
        pgd(
            convolutional(),
            images,
            torch.zeros(20, dtype=torch.int64),
            normalised,
            4.0,
            steps=1,
            step_size=0.0,
            generator=torch.Generator().manual_seed(0),
        )
        - 128
    )
    counts = torch.histc(start, bins=8, min=-4, max=4)
    assert counts.sum() == start.numel()
    assert counts / start.numel() == pytest.approx([1 / 8] * 8, abs=0.015)  # 15 360 draws: std 0.0027


def test_pgd__the_start_is_what_the_generator_says():
    images, labels = torch.full((1, 3, 1, 2), 128, dtype=torch.uint8), torch.tensor([0])
    shares = torch.rand(images.shape, generator=torch.Generator().manual_seed(5))  # 0: all darker, 1: all brighter
    start = pgd(
        convolutional(),
        images,
        labels,
        normalised,
        4.0,
        steps=1,
        step_size=0.0,
        generator=torch.Generator().manual_seed(5),
    )
    assert start.flatten().tolist() == pytest.approx((124 + 8 * shares).flatten().tolist())


def test_pgd__never_lowers_a_convex_loss():
    # The loss of a linear network is convex: a step, also one that is cut short, along the signs of its gradient
    # cannot lower it.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 4))
    images, labels = a_batch()

    def losses(steps):
        attacked = pgd(model, images, labels, normalised, 5.0, steps=steps, step_size=1.5)
        with torch.no_grad():
            return functional.cross_entropy(model(normalised(attacked)), labels, reduction="none")

    with torch.no_grad():
        before = functional.cross_entropy(model(normalised(images)), labels, reduction="none")
    for steps in range(1, 7):
        after = losses(steps)
        assert (after >= before - 1e-6).all()
        before = after
    assert (losses(1) < losses(3)).all()


def test_attacks__evaluation_mode_is_what_is_attacked():
    images, labels = a_batch()
    model = convolutional()  # with dropout and batch statistics: in training mode two calls would differ
    model.train()
    one, two = (fgsm(model, images, labels, normalised, 4) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(model[1].running_mean, torch.zeros(8))


@pytest.mark.parametrize("fails", [False, True])
def test_attacks__leave_the_network_as_it_was(fails):
    model = convolutional()
    model[0].weight.requires_grad_(False)
    model[1].eval()  # frozen statistics in a network that trains
    images, labels = a_batch()

    def prepare(pictures):
        if fails:
            raise RuntimeError("no")
        assert not any(weight.requires_grad for weight in model.parameters())
        return normalised(pictures)

    for attack in (
        lambda: fgsm(model, images, labels, prepare, 4),
        lambda: pgd(model, images, labels, prepare, 4, steps=2, step_size=1),
    ):
        if fails:
            with pytest.raises(RuntimeError, match="no"):
                attack()
        else:
            assert not attack().requires_grad
        assert [module.training for module in model] == [True, False, True, True, True, True, True]
        assert model.training
        assert [weight.requires_grad for weight in model.parameters()] == [False, True, True, True, True, True]
        assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    "attack", [Attack("fgsm", 6.0), Attack("pgd", 6.0, steps=3, step_size=1.0)], ids=lambda attack: attack.name
)
def test_attacked_batches__do_not_depend_on_the_batch_size(attack):
    images, labels = a_batch(count=7)
    model = linear([[0.01 * ((7 * row + col) % 11 - 5) for col in range(3 * 6 * 6)] for row in range(4)])

    def attacked(size, seed=3):
        batches = list(zip(images.split(size), labels.split(size), strict=True))
        result = AttackedBatches(batches, model, normalised, attack, seed=seed)
        assert len(result) == len(batches)
        once, again = (torch.cat([pictures for pictures, _ in result]) for _ in range(2))
        assert torch.equal(once, again)
        return once

    outside = torch.get_rng_state()
    assert torch.equal(attacked(7), attacked(2))
    assert torch.equal(attacked(7), attacked(1))
    assert torch.equal(attacked(7), attacked(7, seed=4)) == (attack.name == "fgsm")
    assert torch.equal(torch.get_rng_state(), outside)


def test_evaluate__under_attack():
    # z0 - z1 = 0.01 x the first value: class 0 where it is above 100. FGSM takes epsilon away from it.
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.01, 0, 0], [0, 0, 0]]))
        model[1].bias.copy_(torch.tensor([-1.0, 0]))
    images = torch.zeros(4, 3, 1, 1, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor([102, 106, 150, 90])
    batches = [(images, torch.tensor([0, 0, 0, UNREADABLE]))]

    def accuracy(attack):
        result = evaluate(model, AttackedBatches(batches, model, as_they_are, attack, seed=0), as_they_are)
        assert result["num_images"] == 3
        return 100 - result["top1_error"]

    assert accuracy(Attack("fgsm", 0)) == 100
    assert accuracy(Attack("fgsm", 1)) == 100
    assert accuracy(Attack("fgsm", 4)) == pytest.approx(200 / 3)
    assert accuracy(Attack("fgsm", 8)) == pytest.approx(100 / 3)
    assert accuracy(Attack("pgd", 8)) == pytest.approx(100 / 3)  # ten steps of 2 reach the border of the ball
    assert accuracy(Attack("pgd", 8, steps=2, step_size=0.001)) > 60  # two short ones do not


def test_attack__the_step_size_follows_from_the_others():
    assert Attack("pgd", 8, steps=1).used_step_size == 20.0
    assert Attack("pgd", 8, steps=10).used_step_size == 2.0
    assert Attack("pgd", 8, steps=10, step_size=1.0).used_step_size == 1.0


@pytest.mark.parametrize("settings, message", [
    ({"name": "deepfool"}, "unknown attack 'deepfool'; expected one of fgsm, pgd"),
    ({"epsilon": -1.0}, r"epsilon is -1; expected 0\.\.255, in levels of 255"),
    ({"epsilon": float("nan")}, r"epsilon is nan; expected 0\.\.255"),
    ({"epsilon": 256.0}, r"epsilon is 256; expected 0\.\.255"),
    ({"steps": 0}, "steps is 0; expected at least 1"),
    ({"step_size": -0.5}, "the step size is -0.5; expected a finite number of at least 0"),
    ({"step_size": float("nan")}, "the step size is nan"),
    ({"step_size": float("inf")}, "the step size is inf"),
])  # fmt: skip
def test_attack__refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Attack(**{"name": "pgd", "epsilon": 4.0, **settings})


@pytest.mark.parametrize("attack", [Attack("fgsm", 8), Attack("pgd", 8, steps=3)], ids=lambda attack: attack.name)
def test_evaluate__under_attack_waits_for_the_gpu_once(attack):
    with pretended_cuda() as device:
        model, processes = convolutional().to("cuda"), Processes(torch.device("cuda"))
        attacked = AttackedBatches([a_batch()] * 2, model, normalised, attack, seed=0)
        device.forget()
        evaluate(model, attacked, normalised, processes)
        assert [place.partition(":")[0] for place in device.waits.elements()] == ["tolist"]
