"""Manifold Mixup (Verma et al. 2019): pictures are blended inside the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pretrain.mixing.labels import check_alpha, check_labels, check_probability, to_soft_labels


class ManifoldMixup(nn.Module):
    """Blend every picture with a partner at a random depth of the network (Verma et al., "Manifold Mixup", 2019).

    It acts inside the network, so the training step is written around it::

        with mix(model, labels) as soft_labels:
            loss = cross_entropy(model(images), soft_labels)

    ``layers``: names of submodules whose output may be blended, each as likely as the others; ``""`` is the network's
    input (which must be floating point, normalised). The default is the paper's for ResNets: the input and the first
    two stages. One share from Beta(alpha, alpha) and one permutation serve the whole batch, as in the paper.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        alpha: float = 1.0,
        p: float = 1.0,
        layers: Sequence[str] = ("", "layer1", "layer2"),
    ):
        super().__init__()
        check_alpha(alpha)
        check_probability(p)
        if not layers or isinstance(layers, str):
            raise ValueError(f"layers must name at least one submodule, but got {layers!r} instead.")
        self.num_classes, self.alpha, self.p, self.layers = num_classes, float(alpha), float(p), tuple(layers)

    def draw(self, count: int) -> tuple[str | None, Tensor, float]:
        """Draw the layer (``None``: do not mix), the permutation of partners and the share that a picture keeps."""
        layer = self.layers[int(torch.randint(len(self.layers), ()))]
        mix = torch.rand(()).item() < self.p
        concentration = torch.tensor(self.alpha, dtype=torch.float64)
        kept = torch.distributions.Beta(concentration, concentration).sample().item()
        return layer if mix else None, torch.randperm(count), kept

    @contextmanager
    def forward(self, model: nn.Module, labels: Tensor) -> Iterator[Tensor]:
        """Within the context, ``model`` blends the hidden values of a batch with these ``labels``; the value is the
        ``float32 (B, num_classes)`` labels that belong to it. Works on the module inside DistributedDataParallel too.
        """
        check_labels(labels)
        if len(labels) < 2:
            raise ValueError(f"Expected a batch of at least 2 pictures to mix, but got {len(labels)} instead.")
        soft_labels = to_soft_labels(labels, self.num_classes)
        network = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        if hasattr(network, "_orig_mod"):  # torch.compile takes no notice of hooks that come later
            raise ValueError("Manifold Mixup acts on the layers of a network; it cannot be used on a compiled one")
        known = dict(network.named_modules())
        if unknown := [layer for layer in self.layers if layer not in known]:
            stages = ", ".join(name for name, _ in network.named_children())
            raise ValueError(f"the network has no layer {unknown[0]!r}; its stages are {stages}")
        layer, partners, kept = self.draw(len(labels))
        if layer is None:
            yield soft_labels
            return
        partners = partners.to(labels.device, non_blocking=True)

        def blend(values: Tensor) -> Tensor:
            return values * kept + values[partners] * (1 - kept)

        if layer == "":
            handle = network.register_forward_pre_hook(lambda _module, inputs: (blend(inputs[0]), *inputs[1:]))
        else:
            handle = known[layer].register_forward_hook(lambda _module, _inputs, output: blend(output))
        try:
            yield blend(soft_labels)
        finally:
            handle.remove()
