"""Published weights that a file is known by: torchvision's, which bring their own evaluation along."""

from __future__ import annotations

from typing import NamedTuple

from pretrain.weights.resnet import NAMED


class Release(NamedTuple):
    """How published weights are to be evaluated, and the accuracy that their publisher states, in percent.

    ``pixel_mean`` and ``pixel_std`` are red, green, blue, of 0..255 pixels; sizes are in pixels.
    """

    title: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    eval_resize: int  # of the shorter side
    image_size: int  # of the centre crop
    interpolation: str
    top1: float
    top5: float


def find_release(sha256: str) -> Release | None:
    """Return which release a file with that SHA-256 is; torchvision puts the hash's beginning into the file's name."""
    from torchvision.models import get_model_weights

    for name in NAMED:
        for weights in get_model_weights(name):
            if not sha256.startswith(weights.url.rpartition("-")[2].removesuffix(".pth")):
                continue
            view, accuracy = weights.transforms(), weights.meta["_metrics"]["ImageNet-1K"]
            return Release(
                f"torchvision {weights}",
                *(tuple(round(255 * value, 4) for value in values) for values in (view.mean, view.std)),
                *(sizes[0] for sizes in (view.resize_size, view.crop_size)),
                view.interpolation.value,
                accuracy["acc@1"],
                accuracy["acc@5"],
            )
    return None
