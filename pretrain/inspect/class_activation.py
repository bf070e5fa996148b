"""Class activation maps: where in a picture a network sees a class (Zhou et al., "Learning Deep Features for
Discriminative Localization", 2016; Figure 5 of the paper).

Every network of this toolkit ends in a mean over the feature map and a linear layer. There Grad-CAM (Selvaraju et al.,
2017) is the same map divided by the number of cells, so that CAM is all it takes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from pretrain.evaluation import evaluation_mode
from pretrain.models import WideResNet


@torch.no_grad()
def class_activation_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return the map of ``classes[b]`` in picture b: ``float32 (B, h, w)``, a value for every cell of the feature map.

    ``images`` is ``(B, 3, H, W)`` as the network takes it (normalised, on its device), ``classes`` ``int64 (B,)``. A
    value is the part that the cell has in the logit of the class, times the number of cells: the mean of a map plus the
    class's bias is the logit. Nothing is scaled or cut off; negative values speak against the class. The network is
    used in evaluation mode; afterwards every part is in the mode it was in.

    Raises:
        ValueError: the network does not end in a mean and a linear layer that this function knows, or ``classes`` does
            not fit the pictures or the network.
    """
    layer = _layer_before_mean(model)
    if classes.shape != images.shape[:1]:
        raise ValueError(f"expected a class for each of {len(images)} pictures, but got {tuple(classes.shape)}")
    if len(classes):
        least, most = torch.stack(classes.aminmax()).tolist()
        if not 0 <= least <= most < model.fc.out_features:
            raise ValueError(f"expected classes in 0..{model.fc.out_features - 1}, but got {least}..{most}")
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with evaluation_mode(model):
            model(images)
    finally:
        hook.remove()
    # A ResNet's last stage has its ReLU behind it already, and a second one changes nothing.
    features = outputs[0].float().relu()
    weights = model.fc.weight.float()[classes.to(features.device, non_blocking=True)]
    return torch.einsum("bchw,bc->bhw", features, weights)


def _layer_before_mean(model: nn.Module) -> nn.Module:
    """Return the module whose output, after a ReLU, is the feature map that is averaged."""
    if isinstance(model, ResNet):
        return model.layer4
    if isinstance(model, WideResNet):
        return model.bn
    raise ValueError(f"no class activation maps for a {type(model).__name__}; expected a ResNet or WideResNet")
