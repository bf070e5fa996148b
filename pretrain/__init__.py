"""Images -> classification checkpoint: saliency, mixing augmentations and the training loop."""

from typing import Any

__all__ = ["Cutout", "ManifoldMixup", "SaliencyMix", "make_mixing"]


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import; `--help` of a tool must not wait for it.
    if name in __all__:
        from pretrain import mixing

        return getattr(mixing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
