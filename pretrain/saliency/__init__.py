"""Saliency maps of 8-bit RGB batches: pure functions on any device, uint8 (B, 3, H, W) -> float32 (B, H, W).

``make_saliency`` gives any of them by name, and computes it at a reduced size where asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pretrain.names import SALIENCIES
from pretrain.saliency.background import background_subtraction
from pretrain.saliency.centre_surround import fine_grained
from pretrain.saliency.colour_distance import frequency_tuned
from pretrain.saliency.official import official
from pretrain.saliency.reduced import at_resolution
from pretrain.saliency.spectral import spectral_residual

__all__ = [
    "background_subtraction",
    "fine_grained",
    "frequency_tuned",
    "make_saliency",
    "official",
    "spectral_residual",
]

# fine_grained is the detector of the authors' code, background_subtraction follows the one that the paper names.
FUNCTIONS = {
    "fine_grained": fine_grained,
    "spectral_residual": spectral_residual,
    "frequency_tuned": frequency_tuned,
    "background_subtraction": background_subtraction,
    "official": official,
}
OPTIONS = {"official": ("mean", "std"), "basnet": ("checkpoint",)}


def make_saliency(
    saliency: str | Callable[[Tensor], Tensor], *, resolution: int | None = None, **options: Any
) -> Callable[[Tensor], Tensor]:
    """Return a function ``uint8 (B, 3, H, W)`` -> floating-point ``(B, H, W)``.

    ``saliency`` is a name in ``pretrain.names.SALIENCIES`` or a function of your own. ``options`` are keyword arguments
    of the named function: ``mean`` and ``std`` for ``official``, ``checkpoint``, a path, for ``basnet``. ``resolution``
    computes the map of pictures reduced to at most that many pixels a side (``at_resolution``); the surrounds of
    ``fine_grained`` shrink with the picture.
    """
    if resolution is not None and resolution < 2:
        raise ValueError(f"resolution must be at least 2 pixels, but got {resolution} instead.")
    if callable(saliency):
        if options:
            raise ValueError(f"a saliency function of your own takes no options, but got {sorted(options)}")
        return SaliencyFunction(saliency, {}, resolution)
    if saliency not in SALIENCIES:
        raise ValueError(f"unknown saliency {saliency!r}; known: {', '.join(SALIENCIES)}, or a function of your own")
    known = OPTIONS.get(saliency, ())
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"saliency {saliency!r} has no option {unknown[0]!r}; known: {', '.join(known) or 'none'}")
    if saliency == "official" and resolution is not None:
        raise ValueError("saliency 'official' reads the bytes of the full picture; it has no reduced resolution")
    if saliency != "basnet":
        return SaliencyFunction(FUNCTIONS[saliency], options, resolution)

    from pretrain.saliency.basnet import basnet_saliency, load_basnet  # a large network that few runs need

    if "checkpoint" not in options:
        raise ValueError("saliency 'basnet' needs the option checkpoint: the path of the published basnet.pth")
    return SaliencyFunction(basnet_saliency, {"network": load_basnet(options["checkpoint"])}, resolution)


@dataclass(frozen=True)
class SaliencyFunction:
    """A saliency function with its options and resolution; refuses what is no map of the pictures."""

    function: Callable[..., Tensor]
    options: dict[str, Any]
    resolution: int | None

    def __call__(self, images: Tensor) -> Tensor:
        if self.resolution is None:
            return self._map(images, 1.0)
        return at_resolution(self._map, images, self.resolution)

    def _map(self, images: Tensor, length_scale: float) -> Tensor:
        scaled = {"length_scale": length_scale} if self.function is fine_grained else {}
        maps = self.function(images, **self.options, **scaled)
        expected = (len(images), *images.shape[-2:])
        if not isinstance(maps, Tensor) or not maps.is_floating_point() or maps.shape != expected:
            found = f"{maps.dtype} of shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps)
            raise ValueError(f"A saliency function must return a floating-point {expected} tensor, but got {found}.")
        return maps
