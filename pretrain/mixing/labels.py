"""What every mixing method shares: the checks of its arguments and of a batch, and labels as probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import one_hot

from pretrain.saliency.batches import check_pictures


def to_soft_labels(labels: Tensor, num_classes: int | None) -> Tensor:
    """Return ``float32 (B, num_classes)``: one-hot rows for class numbers ``(B,)``; probabilities as they are."""
    check_labels(labels)
    if labels.ndim == 2:
        if num_classes is not None and labels.shape[1] != num_classes:
            raise ValueError(
                f"When passing 2D labels, the number of elements in last dimension must match num_classes: "
                f"{labels.shape[1]} != {num_classes}. You can leave num_classes to None."
            )
        return labels.float()
    if num_classes is None:
        raise ValueError("num_classes must be passed if the labels are index-based (1D)")
    if labels.is_floating_point():
        raise ValueError(f"Expected class numbers of an integer type, but got {labels.dtype} instead.")
    if labels.device.type == "cpu" and len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        # On a GPU the look would stall the stream; there one_hot itself refuses.
        raise ValueError(f"Expected labels in 0..{num_classes - 1}, but got {labels.min()}..{labels.max()} instead.")
    return one_hot(labels.long(), num_classes).float()


def check_labels(labels: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise ValueError(f"The labels must be a tensor, but got {type(labels)} instead.")
    if labels.ndim not in (1, 2):
        raise ValueError(
            f"labels should be index based with shape (batch_size,) or probability based with shape "
            f"(batch_size, num_classes), but got a tensor of shape {tuple(labels.shape)} instead."
        )


def check_batch(images: Tensor, labels: Tensor, *, least: int = 2) -> None:
    check_pictures(images)
    check_labels(labels)
    if len(images) != len(labels):
        raise ValueError(
            f"The batch size of the image or video does not match the batch size of the labels: "
            f"{len(images)} != {len(labels)}."
        )
    if len(images) < least:
        raise ValueError(f"Expected a batch of at least {least} pictures to mix, but got {len(images)} instead.")


def check_alpha(alpha: float) -> None:
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha must be greater than 0, but got {alpha} instead.")


def check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in 0..1, but got {p} instead.")


def check_choice(name: str, value: str, known: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
