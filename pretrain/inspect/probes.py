"""What a network's features tell without training it: the nearest pictures, and a linear classifier.

Neither has a learning rate, which would favour the checkpoints that it suits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

from pretrain.data.sources import open_splits
from pretrain.inspect.features import Features, choose_pictures, features_of, identity, kept, kept_path
from pretrain.inspect.pretrained import Pretrained
from pretrain.run.files import atomic_write
from pretrain.run.text import read_json

STRENGTHS = tuple(10.0**exponent for exponent in range(-6, 4))  # the C that are tried, of the strongest penalty first
PATIENCE = 2  # so many C that are no better than the best before end the search
HELD_OUT = 5  # one in so many training pictures of a class chooses C
TOLERANCE, MAX_ITERATIONS = 1e-4, 1000  # of L-BFGS: largest gradient, as a part of that at zero weights
SIMILARITIES = 1 << 27  # at a time, of pictures to training pictures


@dataclass(frozen=True)
class Probing:
    """How features are probed.

    Attributes:
        k, temperature: of the nearest neighbours; DINO's (Caron et al. 2021, ``eval_knn.py``).
        seed: of the training pictures that are held out to choose C.
    """

    k: int = 20
    temperature: float = 0.07
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"--k is {self.k}; expected at least 1")
        if not self.temperature > 0:
            raise ValueError(f"--temperature is {self.temperature}; expected a number above 0")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed is {self.seed}; expected at least 0 and less than 2**63")


def probe_checkpoint(
    pretrained: Pretrained,
    data_root: Path,
    probing: Probing,
    *,
    cache: Path,
    code: str,
    device: torch.device,
    num_images: int = 0,
    num_train_images: int = 0,
) -> dict[str, Any]:
    """Probe the features that a checkpoint gives the pictures in ``data_root``.

    Args:
        data_root: holds ``train/`` and ``val/`` with a folder of pictures for each class.
        cache: the folder where features and numbers are kept; what is there is not computed again.
        code: the version of the code, which what is kept depends on.
        num_images, num_train_images: so many of ``val/`` and ``train/``, spread over the classes; 0: all.

    Returns:
        ``{"knn_top1", "linear_top1", "linear", "num_images", "num_train_images", "num_classes", "unreadable",
        "protocol"}``, ready for JSON: percent of the validation pictures, and under ``linear`` the chosen ``C`` and
        what was tried (see ``choose_strength``).

    Raises:
        FileNotFoundError, ValueError: data and settings do not fit together, or too many pictures cannot be read.
    """
    train, val = (
        choose_pictures(data_root / name, source, number, option)
        for name, source, number, option in zip(
            ("train", "val"),
            open_splits(data_root, pretrained.cfg.DATA.DECODER),
            (num_train_images, num_images),
            ("--num-train-images", "--num-images"),
            strict=True,
        )
    )
    of_train, of_val = (identity(pretrained, split, device, code) for split in (train, val))
    classes = len(train.source.classes)

    def compute() -> dict[str, Any]:
        features = (
            features_of(pretrained, split, of, cache, device) for split, of in ((train, of_train), (val, of_val))
        )
        return probe(*features, classes, probing, device)

    def write(numbers: dict[str, Any], path: Path) -> None:
        with atomic_write(path, "w") as file:
            json.dump(numbers, file, indent=2)

    of = {**of_train, "val": of_val["pictures"], "probing": asdict(probing)}
    numbers = kept(kept_path(cache, "probes", of, ".json"), read_json, compute, write)
    protocol = {"data_root": str(data_root), "device": device.type, **asdict(probing), **pretrained.record()}
    return {**numbers, "num_classes": classes, "protocol": {**protocol, "versions": of_train["versions"]}}


def probe(train: Features, val: Features, num_classes: int, probing: Probing, device: torch.device) -> dict[str, Any]:
    """Return the numbers of ``probe_checkpoint`` for features that are there.

    Raises:
        ValueError: no picture can be read, or there are too few for k or for choosing C.
    """
    for name, features in (("training", train), ("validation", val)):
        if not len(features.labels):
            raise ValueError(f"no {name} picture can be read")
    values, labels, others, truth = (
        tensor.to(device) for tensor in (train.values, train.labels, val.values, val.labels)
    )
    nearest = knn_classes(values, labels, others, num_classes=num_classes, k=probing.k, temperature=probing.temperature)
    strength, tried = choose_strength(values, labels, num_classes, seed=probing.seed)
    regression = SoftmaxRegression(values, labels, num_classes)
    return {
        "knn_top1": _accuracy(nearest, truth),
        "linear_top1": _accuracy(regression.predict(others, regression.fit(strength)), truth),
        "linear": {
            "C": strength,
            "held_out_top1": {f"{tested:g}": top1 for tested, top1 in tried.items()},
            "at_edge": strength == STRENGTHS[-1],
        },
        "num_images": len(truth),
        "num_train_images": len(labels),
        "unreadable": [*train.unreadable, *val.unreadable],
    }


def _accuracy(classes: Tensor, truth: Tensor) -> float:
    return 100 * (classes == truth).double().mean().item()


def knn_classes(
    train: Tensor, labels: Tensor, others: Tensor, *, num_classes: int, k: int, temperature: float
) -> Tensor:
    """Return the class, ``int64 (M,)``, that the ``k`` most similar of ``train`` vote for; of equal votes the first.

    Features ``(N, C)`` and ``(M, C)`` are compared by the cosine of their angle; a vote weighs ``exp(cosine /
    temperature)`` (Caron et al. 2021).

    Raises:
        ValueError: there are fewer than ``k``.
    """
    if k > len(train):
        raise ValueError(f"--k is {k}, but only {len(train)} training pictures are there to be near")
    known = functional.normalize(train, dim=1).T
    rows = max(1, SIMILARITIES // len(train))
    classes = []
    for some in functional.normalize(others, dim=1).split(rows):
        cosines, nearest = (some @ known).topk(k, dim=1)
        votes = torch.zeros(len(some), num_classes, dtype=torch.float64, device=some.device)
        # as parts of the nearest one's vote, which no temperature makes infinite
        votes.scatter_add_(1, labels[nearest], ((cosines - cosines[:, :1]).double() / temperature).exp())
        classes.append(votes.argmax(dim=1))
    return torch.cat(classes)


def choose_strength(values: Tensor, labels: Tensor, num_classes: int, *, seed: int) -> tuple[float, dict[float, float]]:
    """Return the C of STRENGTHS that classifies held-out pictures best, and C -> their accuracy in percent.

    Of equal ones it is the first, whose penalty is the strongest. After PATIENCE that are no better the rest is not
    tried: these fits take the longest, and overfit.

    Raises:
        ValueError: no class has two pictures.
    """
    kept_in, held_out = hold_out(labels.tolist(), seed=seed)
    regression = SoftmaxRegression(values[kept_in], labels[kept_in], num_classes)
    tried: dict[float, float] = {}
    best, since, weights = None, 0, None
    for strength in STRENGTHS:
        weights = regression.fit(strength, weights)
        tried[strength] = _accuracy(regression.predict(values[held_out], weights), labels[held_out])
        if best is None or tried[strength] > tried[best]:
            best, since = strength, 0
        else:
            since += 1
        if since == PATIENCE:
            break
    return best, tried


def hold_out(labels: Sequence[int], *, seed: int) -> tuple[list[int], list[int]]:
    """Return which of ``labels`` are learned from and which choose C, both rising.

    One in HELD_OUT of every class is held out, drawn from ``seed``; at least one of a class of two, none of one.

    Raises:
        ValueError: no class has two.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    members: dict[int, list[int]] = {}
    for index in order:
        members.setdefault(labels[index], []).append(index)
    held_out = {
        index
        for of_class in members.values()
        if len(of_class) > 1
        for index in of_class[: max(1, round(len(of_class) / HELD_OUT))]
    }
    if not held_out:
        raise ValueError("no class has two training pictures; one to learn from and one to choose C by are needed")
    return [index for index in range(len(labels)) if index not in held_out], sorted(held_out)


class SoftmaxRegression:
    """Multinomial logistic regression of standardised features, without a learning rate: L-BFGS to the minimum.

    It minimises ``C * sum(cross-entropy) + |W|^2 / 2`` without a penalty on the biases, as scikit-learn's
    ``LogisticRegression`` does. Mean and standard deviation are those of the features ``(N, D)`` that it learns from,
    so that C means the same at every magnitude of features.

    L-BFGS runs in the principal axes of the features, each scaled by about the curvature of the loss along it (Böhning
    1992 bounds it by that of the features): a tenth of the steps. The minimum is the same.
    """

    def __init__(self, values: Tensor, labels: Tensor, num_classes: int):
        self._mean, std = values.mean(dim=0), values.std(dim=0, correction=0)
        self._std = torch.where(std > 0, std, 1.0)  # what is the same for all pictures becomes 0
        self._labels, self._num_classes = labels, num_classes
        standard = self._standardise(values)
        variances, self._axes = torch.linalg.eigh(standard.T @ standard / len(standard))
        self._variances = variances.clamp(min=0)
        self._values = standard @ self._axes

    def _standardise(self, values: Tensor) -> Tensor:
        return (values - self._mean) / self._std

    def fit(self, strength: float, start: Tensor | None = None) -> Tensor:
        """Return weights for ``predict``, ``(K, D + 1)``; ``strength`` is C, ``start`` weights to begin with."""
        penalty = 1 / (strength * len(self._values))
        scale = (self._variances / self._num_classes + penalty).rsqrt()
        scale = torch.cat([scale, scale.new_full((1,), self._num_classes**0.5)])  # the last column is the bias
        shape = (self._num_classes, len(scale))

        def of_scaled(point: np.ndarray) -> tuple[float, np.ndarray]:
            weights = torch.from_numpy(point).to(scale).view(shape) * scale
            loss, gradient = self._loss(weights, penalty)
            return loss, (gradient * scale).double().flatten().cpu().numpy()

        zero = np.zeros(shape[0] * shape[1])
        begin = zero if start is None else (start / scale).double().flatten().cpu().numpy()
        options = {
            "gtol": TOLERANCE * np.abs(of_scaled(zero)[1]).max(),
            "ftol": 1e-10,
            "maxiter": MAX_ITERATIONS,
        }
        found = minimize(of_scaled, begin, jac=True, method="L-BFGS-B", options=options)
        return torch.from_numpy(found.x).to(scale).view(shape) * scale

    def _loss(self, weights: Tensor, penalty: float) -> tuple[float, Tensor]:
        """Return the mean cross-entropy plus ``penalty |W|^2 / 2``, and its gradient."""
        kernel, bias = weights[:, :-1], weights[:, -1]
        logs = torch.addmm(bias, self._values, kernel.T).log_softmax(dim=1)
        right = self._labels[:, None]
        loss = -logs.gather(1, right).double().mean() + penalty / 2 * kernel.double().square().sum()
        errors = logs.exp_().scatter_add_(1, right, logs.new_full(right.shape, -1.0)).div_(len(logs))
        gradient = torch.cat([errors.T @ self._values + penalty * kernel, errors.sum(dim=0)[:, None]], dim=1)
        return loss.item(), gradient

    def predict(self, values: Tensor, weights: Tensor) -> Tensor:
        """Return the likeliest class, ``int64 (M,)``, of features ``(M, D)``."""
        return self.logits(values, weights).argmax(dim=1)

    def logits(self, values: Tensor, weights: Tensor) -> Tensor:
        """Return ``(M, K)`` of features ``(M, D)``."""
        return torch.addmm(weights[:, -1], self._standardise(values) @ self._axes, weights[:, :-1].T)
