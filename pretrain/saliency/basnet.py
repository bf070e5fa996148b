"""BASNet, the saliency network of Qin et al. (CVPR 2019), and saliency maps from its published checkpoint.

The module names are those of the published state dict. The weights are the authors'; nothing here downloads them.
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, resnet34

from pretrain.run.checkpoint import load_checkpoint
from pretrain.saliency.batches import check_pictures, constant, in_chunks
from pretrain.saliency.official import IMAGENET_MEAN, IMAGENET_STD

INPUT_SIDE = 256  # the published network looks at 256 x 256 pixels, whatever the aspect
CHUNK = 8  # pictures that the network sees at once: about 3 GB
PUBLISHED = "https://github.com/xuebinqin/BASNet"

logger = logging.getLogger(__name__)

# Decoder stages from the coarsest: input, middle and output channels.
DECODER = {
    6: (1024, 512, 512),
    5: (1024, 512, 512),
    4: (1024, 512, 256),
    3: (512, 256, 128),
    2: (256, 128, 64),
    1: (128, 64, 64),
}


class BASNet(nn.Module):
    """Predicts a saliency logit for every pixel.

    Input ``float32 (B, 3, H, W)``, RGB normalised by ImageNet's mean and std, sides multiples of 32. Output
    ``(B, 1, H, W)``: the refined logits, of which the sigmoid is the saliency. The side outputs serve the original
    training only; their heads are kept for their weights.
    """

    def __init__(self):
        super().__init__()
        trunk = resnet34(weights=None)
        self.inconv, self.inbn = _conv(3, 64), nn.BatchNorm2d(64)
        self.encoder1, self.encoder2 = trunk.layer1, trunk.layer2
        self.encoder3, self.encoder4 = trunk.layer3, trunk.layer4
        for stage in (5, 6):
            for block in (1, 2, 3):
                self.add_module(f"resb{stage}_{block}", BasicBlock(512, 512))
        for part in ("1", "m", "2"):
            self.add_module(f"convbg_{part}", _conv(512, 512, dilation=2))
            self.add_module(f"bnbg_{part}", nn.BatchNorm2d(512))
        for stage, (inputs, middle, outputs) in DECODER.items():
            dilation = 2 if stage == 6 else 1
            self.add_module(f"conv{stage}d_1", _conv(inputs, middle))
            self.add_module(f"conv{stage}d_m", _conv(middle, middle, dilation))
            self.add_module(f"conv{stage}d_2", _conv(middle, outputs, dilation))
            for part, channels in (("1", middle), ("m", middle), ("2", outputs)):
                self.add_module(f"bn{stage}d_{part}", nn.BatchNorm2d(channels))
            self.add_module(f"outconv{stage}", _conv(outputs, 1))
        self.outconvb = _conv(512, 1)
        self.refunet = RefinementNet()

    def forward(self, pictures: Tensor) -> Tensor:
        _check_sides(pictures)
        skips = [self.encoder1(F.relu(self.inbn(self.inconv(pictures))))]
        for encoder in (self.encoder2, self.encoder3, self.encoder4):
            skips.append(encoder(skips[-1]))
        for stage in (5, 6):
            values = F.max_pool2d(skips[-1], 2)
            for block in (1, 2, 3):
                values = getattr(self, f"resb{stage}_{block}")(values)
            skips.append(values)

        values = self._three(skips[-1], "bg")
        for stage in DECODER:
            if stage < 6:
                values = _doubled(values)
            values = self._three(torch.cat([values, skips[stage - 1]], dim=1), f"{stage}d")
        return self.refunet(self.outconv1(values))

    def _three(self, values: Tensor, name: str) -> Tensor:
        for part in ("1", "m", "2"):
            values = getattr(self, f"conv{name}_{part}")(values)
            values = F.relu(getattr(self, f"bn{name}_{part}")(values))
        return values


class RefinementNet(nn.Module):
    """A small U-Net that adds a correction to ``(B, 1, H, W)`` logits."""

    def __init__(self):
        super().__init__()
        self.conv0 = _conv(1, 64)
        for level in range(1, 6):
            self.add_module(f"conv{level}", _conv(64, 64))
            self.add_module(f"bn{level}", nn.BatchNorm2d(64))
        for level in range(4, 0, -1):
            self.add_module(f"conv_d{level}", _conv(128, 64))
            self.add_module(f"bn_d{level}", nn.BatchNorm2d(64))
        self.conv_d0 = _conv(64, 1)

    def forward(self, logits: Tensor) -> Tensor:
        values, skips = self.conv0(logits), []
        for level in range(1, 6):
            values = F.relu(getattr(self, f"bn{level}")(getattr(self, f"conv{level}")(values)))
            if level < 5:
                skips.append(values)
                values = F.max_pool2d(values, 2)
        for level in range(4, 0, -1):
            values = torch.cat([_doubled(values), skips[level - 1]], dim=1)
            values = F.relu(getattr(self, f"bn_d{level}")(getattr(self, f"conv_d{level}")(values)))
        return logits + self.conv_d0(values)


def load_basnet(checkpoint: Path | str) -> BASNet:
    """Return BASNet in evaluation mode with the weights of ``checkpoint``, a state dict as the authors published it.

    Raises ``ValueError`` naming the file when it is missing, unreadable or the state dict of another network. In the
    authors' code before September 2019 the coarsest decoder stage used ``bn5d_2`` in place of ``bn6d_2``; a checkpoint
    of that time has a ``bn6d_2`` that was never trained, which is replaced by ``bn5d_2``, as the author advises.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the BASNet weights (basnet.pth) are published at {PUBLISHED}")
    try:
        state = load_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"{path}: not a PyTorch state dict ({error})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a state dict of tensors, as the authors published it")

    with torch.device("meta"):  # no time spent on initial values
        network = BASNet()
    expected = network.state_dict()
    for name in expected:
        if name.endswith("num_batches_tracked"):  # absent from older files, and of no use in evaluation
            state.setdefault(name, torch.tensor(0))
    for problem, names in {
        "lacks": expected.keys() - state.keys(),
        "has the unknown": state.keys() - expected.keys(),
        "has another shape of": {n for n in expected.keys() & state.keys() if expected[n].shape != state[n].shape},
    }.items():
        if names:
            raise ValueError(f"{path}: not the weights of BASNet: {problem} {sorted(names)[0]!r} ({len(names)} such)")

    if _is_untrained(state, "bn6d_2"):
        logger.info("%s was trained before BASNet's fix of stage 6: bn6d_2 takes the values of bn5d_2", path)
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"bn6d_2.{name}"] = state[f"bn5d_2.{name}"]
    # strides as newly allocated: those of a file would choose conv2d's kernels
    plain = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    network.load_state_dict(plain, assign=True)
    return network.eval().requires_grad_(False)


def _is_untrained(state: dict[str, Tensor], name: str) -> bool:
    fresh = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
    return all((state[f"{name}.{part}"] == value).all() for part, value in fresh.items())


def basnet_saliency(images: Tensor, network: nn.Module) -> Tensor:
    """Return BASNet's saliency of 8-bit RGB pictures, each scaled to 0..1 by its own smallest and largest value.

    ``images`` is ``uint8 (B, 3, H, W)``; the result is ``float32 (B, H, W)`` on the same device, to which ``network``
    is moved. As in the authors' test script the picture is resized to 256 x 256, divided by its own maximum and
    normalised by ImageNet's mean and std. A chunk of ``CHUNK`` pictures needs about 3 GB; a picture takes 254 GFLOP.
    """
    check_pictures(images)
    network.to(images.device)
    return in_chunks(lambda chunk: _basnet_chunk(chunk, network), images, working_pixels=INPUT_SIDE**2, most=CHUNK)


@torch.no_grad()
def _basnet_chunk(images: Tensor, network: nn.Module) -> Tensor:
    pictures = F.interpolate(
        images.float(), (INPUT_SIDE, INPUT_SIDE), mode="bilinear", antialias=True, align_corners=False
    )
    pictures = pictures / pictures.amax((1, 2, 3), keepdim=True).clamp_(min=1)
    mean, std = (constant(values, images.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    maps = network((pictures - mean) / std).sigmoid()
    smallest, largest = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    maps = (maps - smallest) / (largest - smallest).clamp_(min=torch.finfo(maps.dtype).tiny)
    return F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def _check_sides(pictures: Tensor) -> None:
    height, width = pictures.shape[-2:]
    if height % 32 or width % 32:
        raise ValueError(f"BASNet needs sides that are multiples of 32, but got {height} x {width} pixels.")


def _conv(inputs: int, outputs: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)


def _doubled(values: Tensor) -> Tensor:
    return F.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
