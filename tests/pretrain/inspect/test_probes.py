"""k-NN and the linear probe, on features that are made: by hand, and against scikit-learn."""

import numpy as np
import pytest
import torch

from pretrain.inspect import probes
from pretrain.inspect.features import Features
from pretrain.inspect.probes import Probing, SoftmaxRegression, choose_strength, hold_out, knn_classes, probe

CPU = torch.device("cpu")


def made(count, *, num_classes=5, size=24, spread=1.0, seed=0):
    """Features of classes that overlap, not negative as those behind a ReLU, of unlike magnitudes; one is constant."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.rand(num_classes, size, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % num_classes
    values = (middles[labels] + spread * torch.randn(count, size, generator=generator)).clamp(min=0)
    values *= torch.logspace(-2, 2, size)
    values[:, 3] = 7.0
    return values, labels


def test_knn__votes_by_hand():
    """Cosines 1, .8 and .6 to classes 0, 1 and 1: at T = 1 two far ones outvote a near one, at T = .1 they do not."""
    train = torch.tensor([[2.0, 0.0], [4.0, 3.0], [0.3, 0.4], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 1, 2])
    one = torch.tensor([[5.0, 0.0]])

    def vote(k, temperature):
        return knn_classes(train, labels, one, num_classes=3, k=k, temperature=temperature).item()

    assert vote(3, 1.0) == 1  # e^.8 + e^.6 = 4.05 > e^1 = 2.72
    assert vote(3, 0.1) == 0  # e^8 + e^6 = 3384 < e^10 = 22026
    assert vote(1, 1.0) == 0
    train[[0, 1]] = train[[1, 0]]  # the nearest is of class 1
    assert vote(3, 1e-4) == 1  # e^10000 and e^8000 are no numbers of 64 bits: equal votes would be the first class's


@pytest.mark.parametrize("similarities", [1 << 27, 300], ids=["at once", "row by row"])
def test_knn__is_scikit_learns(monkeypatch, similarities):
    neighbors = pytest.importorskip("sklearn.neighbors")
    monkeypatch.setattr(probes, "SIMILARITIES", similarities)
    (train, labels), (others, _) = made(300), made(200, seed=1)
    found = knn_classes(train, labels, others, num_classes=5, k=20, temperature=0.07)
    reference = neighbors.KNeighborsClassifier(
        n_neighbors=20, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07)
    )
    expected = reference.fit(train.numpy(), labels.numpy()).predict(others.numpy())
    assert found.tolist() == expected.tolist()
    assert len(set(expected)) == 5


def test_knn__needs_as_many_as_vote():
    values, labels = made(19)
    with pytest.raises(ValueError, match="--k is 20, but only 19 training pictures are there"):
        knn_classes(values, labels, values, num_classes=5, k=20, temperature=0.07)


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("count", [300, 20], ids=["more pictures than features", "fewer"])
def test_linear__is_scikit_learns(strength, count):
    linear_model = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    values, labels = made(count)
    others, _ = made(200, seed=1)
    scaler = preprocessing.StandardScaler().fit(values.double().numpy())
    reference = linear_model.LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
    reference.fit(scaler.transform(values.double().numpy()), labels.numpy())
    expected = reference.predict_log_proba(scaler.transform(others.double().numpy()))

    regression = SoftmaxRegression(values, labels, 5)
    weights = regression.fit(strength)
    found = regression.logits(others, weights).log_softmax(dim=1)
    np.testing.assert_allclose(found.numpy(), expected, atol=5e-3)
    second, first = np.sort(expected, axis=1)[:, -2:].T
    sure = first - second > 1e-5  # nearer ones are a matter of rounding
    assert sure.sum() > 190
    assert (regression.predict(others, weights).numpy() == expected.argmax(axis=1))[sure].all()


def test_linear__does_not_depend_on_where_it_starts_nor_on_the_magnitude_of_features():
    values, labels = made(300)
    once = SoftmaxRegression(values, labels, 5)
    weights = once.fit(0.1)
    expected = once.logits(values, weights)
    assert torch.allclose(once.logits(values, once.fit(0.1, 3 * weights)), expected, atol=1e-2)
    scaled = SoftmaxRegression(1000 * values, labels, 5)
    assert torch.allclose(scaled.logits(1000 * values, scaled.fit(0.1)), expected, atol=1e-2)


def test_hold_out__a_fifth_of_each_class_and_one_of_two():
    labels = [0] * 10 + [1] * 2 + [2] + [3] * 20
    learned, held_out = hold_out(labels, seed=0)
    assert sorted(learned + held_out) == list(range(33))
    assert [[labels[index] for index in held_out].count(name) for name in range(4)] == [2, 1, 0, 4]
    assert hold_out(labels, seed=0) == (learned, held_out)
    assert hold_out(labels, seed=1) != (learned, held_out)


def test_hold_out__needs_a_class_of_two():
    with pytest.raises(ValueError, match="no class has two training pictures"):
        hold_out([0, 1, 2], seed=0)


def test_choose_strength__is_the_best_on_pictures_that_it_did_not_learn_from():
    values, labels = made(300, spread=2.0)
    learned, held_out = hold_out(labels.tolist(), seed=3)
    chosen, tried = choose_strength(values, labels, 5, seed=3)
    regression = SoftmaxRegression(values[learned], labels[learned], 5)
    for strength, top1 in tried.items():
        hits = regression.predict(values[held_out], regression.fit(strength)) == labels[held_out]
        assert top1 == pytest.approx(100 * hits.double().mean().item(), abs=2)  # begun elsewhere: one of 60 may differ
    assert tried[chosen] == max(tried.values())
    assert chosen == min(strength for strength, top1 in tried.items() if top1 == tried[chosen])
    assert list(tried) == list(probes.STRENGTHS[: len(tried)])


@pytest.mark.parametrize("accuracies, tried, best", [
    ([50, 60, 60, 60, 90], 4, 1),  # two no better than the second end it
    ([50, 60, 55, 70, 10, 10], 6, 3),
    ([50, 40, 40, 90], 3, 0),
])  # fmt: skip
def test_choose_strength__gives_up_after_two_that_are_no_better(monkeypatch, accuracies, tried, best):
    values, labels = made(30)
    waiting = iter(map(float, accuracies))
    monkeypatch.setattr(probes, "_accuracy", lambda *_: next(waiting))
    chosen, found = choose_strength(values, labels, 5, seed=0)
    assert len(found) == tried
    assert chosen == probes.STRENGTHS[best]


def test_probe__learns_from_training_pictures_and_counts_validation_pictures():
    train = Features(*made(300, spread=0.3), ["a.jpg"])
    val = Features(*made(100, spread=0.3, seed=1), [])
    numbers = probe(train, val, 5, Probing(k=5), CPU)
    assert numbers["linear_top1"] > 95
    assert (numbers["num_images"], numbers["num_train_images"], numbers["unreadable"]) == (100, 300, ["a.jpg"])
    wrong = val._replace(labels=(val.labels + 1) % 5)
    turned = probe(train, wrong, 5, Probing(k=5), CPU)
    assert turned["linear_top1"] < 5
    assert turned["linear"] == numbers["linear"]  # C is chosen without the validation pictures
    assert numbers["linear"]["C"] in probes.STRENGTHS


@pytest.mark.parametrize("says, message", [
    ({"k": 0}, "--k is 0; expected at least 1"),
    ({"temperature": 0.0}, r"--temperature is 0\.0; expected a number above 0"),
    ({"temperature": float("nan")}, "--temperature is nan; expected a number above 0"),
    ({"seed": -1}, "--seed is -1; expected at least 0"),
])  # fmt: skip
def test_probing__refuses(says, message):
    with pytest.raises(ValueError, match=message):
        Probing(**says)


def test_probe__refuses_pictures_none_of_which_can_be_read():
    features = Features(*made(30), [])
    none = Features(torch.zeros(0, 24), torch.zeros(0, dtype=torch.int64), ["a.jpg"])
    with pytest.raises(ValueError, match="no validation picture can be read"):
        probe(features, none, 5, Probing(), CPU)
