"""Images -> classification checkpoint: saliency, mixing augmentations and the training loop."""

from typing import Any


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import; `--help` of a tool must not wait for it.
    if name in ("SaliencyMix", "Cutout", "ManifoldMixup", "make_mixing"):
        from pretrain import mixing

        return getattr(mixing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
