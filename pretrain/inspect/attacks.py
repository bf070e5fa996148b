"""Pictures changed within a max-norm ball so that a classifier errs: FGSM and PGD (Table 4 of the paper).

Goodfellow et al., "Explaining and Harnessing Adversarial Examples" (2015); Madry et al., "Towards Deep Learning Models
Resistant to Adversarial Attacks" (2018). Everything is in pixel space: ``epsilon`` is in levels of 255, pictures stay
within 0..255 and are not rounded to whole levels, and normalisation is part of the function that is differentiated.

The paper attacks "similar to the CutMix" and takes four of its five numbers from the CutMix paper (Table 11), whose
noise scale is 8/255 (appendix E.1): 8 levels. Neither says whether that is added to pixels or to normalised values,
where it would be 1.8 levels, nor whether pictures are clipped afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.data.batches import UNREADABLE
from pretrain.evaluation import evaluation_mode
from pretrain.names import ATTACKS
from pretrain.run.loading import opened


@dataclass(frozen=True)
class Attack:
    """An attack and its strength, checked.

    Attributes:
        name: one of ``ATTACKS``.
        epsilon: the most that a value of a pixel changes by, levels of 255; 0 leaves the pictures as they are.
        steps: of PGD.
        step_size: of PGD, levels of 255; 0: 2.5 epsilon / steps, so that any point of the ball can be reached from any
            other (Madry et al., appendix).

    Raises:
        ValueError: an unknown name or a number out of its range.
    """

    name: str
    epsilon: float
    steps: int = 10
    step_size: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ATTACKS:
            raise ValueError(f"unknown attack {self.name!r}; expected one of {', '.join(ATTACKS)}")
        if not 0 <= self.epsilon <= 255:
            raise ValueError(f"epsilon is {self.epsilon:g}; expected 0..255, in levels of 255")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")
        if not (self.step_size >= 0 and math.isfinite(self.step_size)):
            raise ValueError(f"the step size is {self.step_size:g}; expected a finite number of at least 0")

    @property
    def used_step_size(self) -> float:
        """The step size in levels of 255, also where it follows from the other two."""
        return self.step_size or 2.5 * self.epsilon / self.steps


class AttackedBatches:
    """What ``evaluate`` takes as ``batches``: those of ``batches`` after ``attack`` on ``model``.

    Yields ``float32 (B, 3, H, W)`` within 0..255 on the device of the network, and the labels as they come. PGD's
    random starts come from ``seed`` in the order of the pictures: they are the same in every iteration and, picture for
    picture, whatever the batch size. The global random generators are left alone.
    """

    def __init__(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        model: nn.Module,
        prepare: Callable[[Tensor], Tensor],
        attack: Attack,
        *,
        seed: int,
    ):
        self._batches, self._model, self._prepare, self._attack, self._seed = batches, model, prepare, attack, seed

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        attack, generator = self._attack, torch.Generator().manual_seed(self._seed)
        with opened(self._batches) as samples:
            for images, labels in samples:
                if attack.name == "fgsm":
                    attacked = fgsm(self._model, images, labels, self._prepare, attack.epsilon)
                else:
                    attacked = pgd(
                        self._model,
                        images,
                        labels,
                        self._prepare,
                        attack.epsilon,
                        steps=attack.steps,
                        step_size=attack.used_step_size,
                        generator=generator,
                    )
                yield attacked, labels


def fgsm(
    model: nn.Module, images: Tensor, labels: Tensor, prepare: Callable[[Tensor], Tensor], epsilon: float
) -> Tensor:
    """Return ``images`` after one step of ``epsilon`` along the sign of the gradient of the loss, within 0..255.

    ``images`` is ``(B, 3, H, W)``, ``uint8`` or float in 0..255, ``labels`` ``int64 (B,)``; the result is ``float32``
    on the device of the network. Pictures labelled ``UNREADABLE`` stay as they are. ``prepare`` moves and normalises
    pictures. The loss is the cross-entropy with the true label, of the network in evaluation mode. The input, the
    network and the gradients of its weights are left as they are.
    """
    pictures, labels = _on_device(model, images).float(), _on_device(model, labels)
    with _frozen(model):
        return (pictures + epsilon * _loss_gradient(model, pictures, labels, prepare).sign()).clamp_(0, 255)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    prepare: Callable[[Tensor], Tensor],
    epsilon: float,
    *,
    steps: int,
    step_size: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return ``images`` after ``steps`` steps along the sign of the gradient, each brought back into ball and 0..255.

    The start is uniform in the ball, drawn from ``generator`` (of the CPU); without one it is the picture itself. All
    else is as in ``fgsm``, except that unreadable pictures keep their random start.
    """
    pictures, labels = _on_device(model, images).float(), _on_device(model, labels)
    low, high = (pictures - epsilon).clamp_(min=0), (pictures + epsilon).clamp_(max=255)
    attacked = pictures
    if generator is not None:
        start = _on_device(model, torch.rand(pictures.shape, generator=generator))
        attacked = torch.clamp(pictures + epsilon * (2 * start - 1), low, high)
    with _frozen(model):
        for _ in range(steps):
            gradient = _loss_gradient(model, attacked, labels, prepare)
            attacked = torch.clamp(attacked + step_size * gradient.sign(), low, high)
    return attacked


def _on_device(model: nn.Module, tensor: Tensor) -> Tensor:
    return tensor.to(next(model.parameters()).device, non_blocking=True)


def _loss_gradient(model: nn.Module, pictures: Tensor, labels: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient of the loss by ``pictures``, zero for those labelled ``UNREADABLE``."""
    # Without fixed algorithms cuDNN may answer differently each time, and TensorFloat-32 would round the gradient.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        pictures = pictures.detach().requires_grad_()
        logits = model(prepare(pictures)).float()
        # The sum, not the mean: no picture's gradient depends on how many others there are.
        loss = functional.cross_entropy(logits, labels, ignore_index=UNREADABLE, reduction="sum")
        return torch.autograd.grad(loss, pictures)[0]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and weights without gradients; afterwards, also after an error, every part is as it was."""
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        with evaluation_mode(model):
            yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
