"""Backbones from torchvision's ResNet and feature pyramid, with Detectron2's strides, norms and frozen stages.

Inside, tensors keep torchvision's names; `keys` translates at the edge.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import ResNet
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detection.engines.torchvision.supported import FPN_LEVELS, architecture_of, uses_fpn
from pretrain.weights import torchvision_resnet

# what FREEZE_AT counts, in order
STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation by stored statistics and affine terms that are buffers: nothing in it is ever trained.

    torchvision's class of this name always computes ``x * scale + shift``. Detectron2 does so only where ``x`` needs a
    gradient and calls ``batch_norm`` elsewhere; the two round differently, which reorders a few proposals.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)  # so that a fresh layer is the identity
        self.register_buffer("num_batches_tracked", None)  # a tensor only where a trainable norm was frozen

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> FrozenBatchNorm2d:
        """Return a frozen layer with a copy of what ``norm`` holds."""
        frozen = cls(norm.num_features, norm.eps)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(frozen, name, getattr(norm, name).detach().clone())
        return frozen

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype).reshape(1, -1, 1, 1) + shift.to(x.dtype).reshape(1, -1, 1, 1)


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, each counted the same; on any device, unlike PyTorch's SyncBN.

    As Detectron2's ``NaiveSyncBatchNorm``: the variance is the mean square less the squared mean, and the running
    variance takes it as it is, without Bessel's correction. In one process it is plain BatchNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        processes = _num_processes()
        if processes == 1 or not self.training:
            return super().forward(x)
        x = x.float()
        moments = torch.cat([x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3))])
        mean, mean_square = (differentiable_all_reduce(moments) / processes).split(self.num_features)
        variance = mean_square - mean * mean
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def _num_processes() -> int:
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if initialized else 1


def norm_layer(name: str) -> Callable[[int], nn.Module]:
    """Return what builds one norm layer of ``MODEL.RESNETS.NORM``. In one process all but FrozenBN are the same."""
    return {
        "FrozenBN": FrozenBatchNorm2d,
        "BN": nn.BatchNorm2d,
        "SyncBN": nn.SyncBatchNorm,
        "naiveSyncBN": NaiveSyncBatchNorm,
    }[name]


def build_resnet(cfg: CfgNode) -> ResNet:
    """Return torchvision's ResNet of ``MODEL.RESNETS``, convolutions drawn from He's normal distribution (fan out)."""
    return torchvision_resnet.build_resnet(
        architecture_of(cfg),
        stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1,
        norm_layer=norm_layer(cfg.MODEL.RESNETS.NORM),
    )


class C4Backbone(nn.Module):
    """Stem to res4: ``(N, 3, H, W)`` -> ``{"res4": (N, channels, H / 16, W / 16)}``, sizes rounded up."""

    size_divisibility = 1

    def __init__(self, cfg: CfgNode, resnet: ResNet):
        super().__init__()
        self.body = IntermediateLayerGetter(resnet, {"layer3": "res4"})
        freeze_stages(self.body, cfg.MODEL.BACKBONE.FREEZE_AT)
        self.strides = {"res4": 16}
        self.channels = architecture_of(cfg).stage_channels[2]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.body(images)


class FPNBackbone(nn.Module):
    """A whole ResNet and its feature pyramid: ``(N, 3, H, W)`` -> p2 .. p6, ``H`` and ``W`` multiples of 32.

    Level pK has ``MODEL.FPN.OUT_CHANNELS`` channels and stride ``2 ** K``; p6 is every second row and column of p5.
    """

    size_divisibility = 32

    def __init__(self, cfg: CfgNode, resnet: ResNet):
        super().__init__()
        self.bottom_up = IntermediateLayerGetter(resnet, {f"layer{i}": f"res{i + 1}" for i in range(1, 5)})
        freeze_stages(self.bottom_up, cfg.MODEL.BACKBONE.FREEZE_AT)
        self.channels = cfg.MODEL.FPN.OUT_CHANNELS
        self.fpn = FeaturePyramidNetwork(
            list(architecture_of(cfg).stage_channels), self.channels, extra_blocks=LastLevelMaxPool()
        )
        self.strides = {level: 2 ** int(level[1:]) for level in FPN_LEVELS}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.fpn(self.bottom_up(images))
        return dict(zip(FPN_LEVELS, features.values(), strict=True))


def build_backbone(cfg: CfgNode, resnet: ResNet) -> C4Backbone | FPNBackbone:
    """Return the backbone that ``MODEL.BACKBONE.NAME`` names, made of the stages of ``resnet``."""
    return (FPNBackbone if uses_fpn(cfg) else C4Backbone)(cfg, resnet)


def freeze_stages(body: nn.ModuleDict, freeze_at: int) -> None:
    """Freeze the stem (1), res2 (2) and so on up to ``freeze_at``: no gradients, and statistics that stay."""
    for names in STAGES[: max(freeze_at, 0)]:
        for name in names:
            if name in body:  # res5 of a C4 model belongs to the RoI heads and is always trained, as in Detectron2
                body[name] = _frozen(body[name])


def _frozen(module: nn.Module) -> nn.Module:
    """Return ``module`` without trainable parameters; trainable norm layers in it are replaced by frozen ones."""
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        return FrozenBatchNorm2d.from_batch_norm(module)
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(False)
    for name, child in module.named_children():
        setattr(module, name, _frozen(child))
    return module
