"""The proof of a conversion: the source network and the converted backbone compute the same features.

The source runs as torchvision's own ResNet on torchvision's own normalisation. The backbone runs as written here from
Detectron2's definition, which reads Detectron2's tensor names and the card directly: it knows nothing of the rules that
renamed the tensors. Four comparisons of res2..res5, all of the same 8-bit pictures:

1. ``same_tensor``: one normalised float32 tensor into both. The operations are the same, so the difference must be 0.
2. ``own_preprocessing``: from the 8-bit picture, each in its own way (0..1 or 0..255, channel order, mean, std) in
   float64, so that only rounding is left.
3. ``content``: as 2, but every tensor is replaced by random values drawn with its own bytes as seed. A channel that is
   dead in the trained network hides a wrong tensor behind it; here none is, and one changed bit changes a whole tensor.
4. ``detectron2``, where it is installed: its own backbone, loaded by its own checkpointer, on the tensor of 1.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.convert.card import CONFIG_KEYS, architecture_of
from pretrain.weights.namings import check_backbone
from pretrain.weights.resnet import BLOCKS, Architecture

if TYPE_CHECKING:
    from torch import Tensor

STAGE_NAMES = ("res2", "res3", "res4", "res5")
SAME_TENSOR_TOLERANCE = 0.0
# Relative to a stage's largest value. float64 rounds at 1e-16; what is left after 150 layers was below 1e-13.
FLOAT64_TOLERANCE = 1e-9
# (key of the figures, as a user reads it, tolerance)
COMPARISONS = (
    ("same_tensor", "the same tensor, float32", SAME_TENSOR_TOLERANCE),
    ("own_preprocessing", "each with its own preprocessing, float64", FLOAT64_TOLERANCE),
    ("content", "with random values in place of each tensor, float64", FLOAT64_TOLERANCE),
    ("detectron2", "Detectron2's own backbone, float32", SAME_TENSOR_TOLERANCE),
)
# Odd sizes: every stride meets a border, and a stride in another convolution sees other pixels.
PICTURES, HEIGHT, WIDTH = 2, 67, 93


class SourceNetwork:
    """The features of the source network, computed when first needed and kept.

    Args:
        state: a whole float32 ResNet in torchvision's names; the classifier is not needed.
        architecture: what kind of ResNet.
        pixel_mean, pixel_std: the preprocessing that it was trained with: red, green, blue, of 0..255 pixels.
        channel_order, stride_in_1x1: as the source has them; torchvision's own networks read RGB and stride in 3x3.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        architecture: Architecture,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        channel_order: str = "RGB",
        stride_in_1x1: bool = False,
    ):
        self.state, self.architecture = state, architecture
        self.channel_order, self.stride_in_1x1 = channel_order, stride_in_1x1
        self._mean, self._std = [value / 255 for value in pixel_mean], [value / 255 for value in pixel_std]
        self._features: dict[str, dict[str, Tensor]] = {}
        self._content: dict[bytes, Tensor] = {}

    def normalised(self, *, double: bool) -> Tensor:
        """Return the pictures as torchvision normalises them, channels in the order in which the source reads."""
        import torch
        from torchvision.transforms.v2 import functional

        scaled = pictures().to(torch.float64 if double else torch.float32) / 255
        normalised = functional.normalize(scaled, mean=self._mean, std=self._std)
        return normalised.flip(1) if self.channel_order == "BGR" else normalised

    def features(self, comparison: str) -> dict[str, Tensor]:
        """Return res2..res5 for one of the comparisons in the module's list.

        Raises:
            ValueError: a stage is not finite or zero everywhere, so that nothing can be compared.
        """
        if comparison not in self._features:
            double = comparison != "same_tensor"
            state = self.state if comparison != "content" else self.content(self.state)
            features = _torchvision_features(
                state, self.architecture, self.normalised(double=double), stride_in_1x1=self.stride_in_1x1
            )
            for stage, values in features.items():
                largest = float(values.abs().max())
                if not 0 < largest < math.inf:
                    what = "zero everywhere" if largest == 0 else "not finite"
                    raise ValueError(f"the source network's {stage} is {what}: a dead or broken network")
            self._features[comparison] = features
        return self._features[comparison]

    def content(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``state`` with each tensor replaced by random values that its own bytes decide."""
        return {name: self._content_tensor(value) for name, value in state.items()}

    def _content_tensor(self, tensor: Tensor) -> Tensor:
        import torch

        tensor = tensor.contiguous()
        digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy())
        if (key := digest.digest()) not in self._content:
            generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
            values = torch.rand(tensor.shape, generator=generator)
            if tensor.dim() == 4:  # halves the signal, so that no depth makes it overflow: variance 1/4 over the fan-in
                fan_in = tensor[0].numel()
                values = (values * 2 - 1) * (0.75 / fan_in) ** 0.5
            else:  # weight, bias, mean or variance: any of them works between 1/2 and 3/2
                values = values + 0.5
            self._content[key] = values
        return self._content[key]


def verify(source: SourceNetwork, converted: Mapping[str, Tensor], card: Mapping[str, Any]) -> dict[str, Any]:
    """Prove that ``converted``, treated as ``card`` says, computes what ``source`` computes.

    Args:
        converted: a backbone in Detectron2's unprefixed names.

    Returns:
        comparison -> stage -> largest difference relative to the stage's largest value; ``{"pictures": ...}`` beside.

    Raises:
        ValueError: a comparison fails, a value is no weight (`check_values`), or the card describes no such network.
    """
    _check_card(card, check_backbone(converted), source)
    check_values(converted)
    return {
        "pictures": f"{PICTURES} of {WIDTH}x{HEIGHT}",
        "same_tensor": _compare(
            source.features("same_tensor"),
            detectron2_features(converted, card, source.normalised(double=False)),
            SAME_TENSOR_TOLERANCE,
            "on the same tensor",
        ),
        "own_preprocessing": _compare(
            source.features("own_preprocessing"),
            detectron2_features(converted, card, _detectron2_input(card)),
            FLOAT64_TOLERANCE,
            "each with its own preprocessing",
        ),
        "content": _compare(
            source.features("content"),
            detectron2_features(source.content(converted), card, _detectron2_input(card)),
            FLOAT64_TOLERANCE,
            "with random values in place of each tensor",
        ),
    }


def verify_with_detectron2(
    source: SourceNetwork, backbone_file: Path, converted: Mapping[str, Tensor], card: Mapping[str, Any]
) -> dict[str, Any]:
    """Prove the same for ``backbone_file`` (.pth or .pkl) with Detectron2's own backbone and checkpointer.

    Returns:
        ``{"loaded": tensors loaded, "of": tensors that it has, stage: relative difference...}``.

    Raises:
        ImportError: Detectron2 is not installed.
        ValueError: a tensor was not loaded, or a stage differs.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Detectron2 still calls torch.jit.script
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.config import get_cfg
        from detectron2.layers import ShapeSpec
        from detectron2.modeling.backbone import build_resnet_backbone

    cfg = get_cfg()
    for name, key in CONFIG_KEYS.items():
        if key.startswith("MODEL.RESNETS."):
            cfg.merge_from_list([key, card[name]])
    cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGE_NAMES)
    backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    own = backbone.state_dict()
    for value in own.values():
        value.fill_(math.nan)  # what is not loaded stays visible
    DetectionCheckpointer(backbone).load(str(backbone_file))
    wrong = [name for name, value in own.items() if name not in converted or not torch.equal(value, converted[name])]
    if wrong or len(own) != len(converted):
        raise ValueError(
            f"Detectron2 loaded {len(own) - len(wrong)} of {len(own)} tensors from {backbone_file.name}; "
            f"not {', '.join(wrong[:3])}"
        )
    with torch.no_grad():
        features = backbone(source.normalised(double=False))
    figures = _compare(source.features("same_tensor"), features, SAME_TENSOR_TOLERANCE, "in Detectron2 itself")
    return {"loaded": len(own), "of": len(own), **figures}


def describe(figures: Mapping[str, Any] | None) -> str:
    """Return the figures of `verify` as lines for a terminal."""
    if figures is None:
        return "not verified: the two networks were not run (--no-verify)"
    lines = [f"verified on {figures['pictures']} pictures: largest difference, relative to the stage's largest value"]
    for comparison, title, tolerance in COMPARISONS:
        if comparison in figures:
            stages = ", ".join(f"{stage} {figures[comparison][stage]:.3g}" for stage in STAGE_NAMES)
            lines.append(f"  {title}: {stages} (allowed: {tolerance:g})")
    if "detectron2" in figures:
        lines.append("  Detectron2's checkpointer loaded {loaded} of {of} tensors".format(**figures["detectron2"]))
    return "\n".join(lines)


def check_values(state: Mapping[str, Tensor]) -> list[str]:
    """Check the numbers of a backbone in Detectron2's names; returns notes on what is odd but possible.

    Raises:
        ValueError: a value that is not finite, a negative variance, or a norm layer whose variances are all 0.
    """
    import torch

    num_dead = 0
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} holds {int((~torch.isfinite(value)).sum())} values that are not finite numbers")
        if name.endswith("running_var"):
            if (value < 0).any():
                raise ValueError(f"{name} holds a negative variance, {float(value.min()):g}")
            if not value.any():
                raise ValueError(f"{name} is 0 everywhere; no trained network has such variances")
            num_dead += int((value == 0).sum())
    # Weight decay can silence a channel until its measured variance is exactly 0: odd, but a network as any other.
    return [f"{num_dead} channels are dead (variance 0)"] if num_dead else []


def pictures() -> Tensor:
    """Return the same uint8 RGB pictures ``(PICTURES, 3, HEIGHT, WIDTH)`` every time: soft shapes and pixel noise."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(PICTURES, 3, 7, 9, generator=generator)
    soft = functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=True)
    noise = torch.rand(PICTURES, 3, HEIGHT, WIDTH, generator=generator)
    return ((0.75 * soft + 0.25 * noise) * 255).round().to(torch.uint8)


def detectron2_features(state: Mapping[str, Tensor], card: Mapping[str, Any], images: Tensor) -> dict[str, Tensor]:
    """Run a backbone by Detectron2's names and rules; returns ``res2``..``res5``.

    Args:
        state: float32 tensors in Detectron2's unprefixed names; used in the precision of ``images``.
        card: gives ``depth``, ``num_groups``, ``stride_in_1x1`` and ``norm_eps``.
        images: normalised float ``(B, 3, H, W)``.
    """
    import torch
    from torch.nn import functional

    architecture = architecture_of(card)

    def convolution(name: str, inputs: Tensor, *, stride: int = 1, groups: int = 1) -> Tensor:
        weight, *norm = (
            state[f"{name}.{field}"].to(inputs.dtype)
            for field in ("weight", "norm.running_mean", "norm.running_var", "norm.weight", "norm.bias")
        )
        outputs = functional.conv2d(inputs, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        return functional.batch_norm(outputs, *norm, training=False, eps=card["norm_eps"])

    def bottleneck(name: str, inputs: Tensor, stride: int) -> Tensor:
        stride_1x1, stride_3x3 = (stride, 1) if card["stride_in_1x1"] else (1, stride)
        hidden = functional.relu(convolution(f"{name}.conv1", inputs, stride=stride_1x1))
        hidden = convolution(f"{name}.conv2", hidden, stride=stride_3x3, groups=architecture.num_groups)
        hidden = functional.relu(hidden)
        return convolution(f"{name}.conv3", hidden)

    def basic(name: str, inputs: Tensor, stride: int) -> Tensor:
        return convolution(f"{name}.conv2", functional.relu(convolution(f"{name}.conv1", inputs, stride=stride)))

    residual = basic if architecture.basic else bottleneck
    features = {}
    with torch.no_grad():
        hidden = functional.relu(convolution("stem.conv1", images, stride=2))
        hidden = functional.max_pool2d(hidden, kernel_size=3, stride=2, padding=1)
        for stage, num_blocks in zip(STAGE_NAMES, BLOCKS[card["depth"]], strict=True):
            for block in range(num_blocks):
                name = f"{stage}.{block}"
                stride = 2 if block == 0 and stage != "res2" else 1
                has_shortcut = f"{name}.shortcut.weight" in state
                shortcut = convolution(f"{name}.shortcut", hidden, stride=stride) if has_shortcut else hidden
                hidden = functional.relu(residual(name, hidden, stride) + shortcut)
            features[stage] = hidden
    return features


def _detectron2_input(card: Mapping[str, Any]) -> Tensor:
    """Return the pictures as Detectron2 prepares them: channels in the card's order, 0..255, minus mean, over std."""
    import torch

    images = pictures().to(torch.float64)
    if card["channel_order"] == "BGR":
        images = images.flip(1)
    mean, std = (torch.tensor(card[key], dtype=torch.float64).view(3, 1, 1) for key in ("pixel_mean", "pixel_std"))
    return (images - mean) / std


def _torchvision_features(
    state: Mapping[str, Tensor], architecture: Architecture, images: Tensor, *, stride_in_1x1: bool
) -> dict[str, Tensor]:
    import torch

    from pretrain.weights.torchvision_resnet import build_resnet

    with torch.device("meta"):  # no time lost on random weights
        model = build_resnet(architecture, stride_in_1x1=stride_in_1x1).eval()
    model.fc = torch.nn.Identity()
    kept = {name: value.to(images.dtype) for name, value in state.items() if not name.startswith("fc.")}
    missing, unexpected = model.load_state_dict(kept, strict=False, assign=True)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"torchvision's {architecture.name} lacks {missing[:3]} and does not know {unexpected[:3]}")
    features: dict[str, Tensor] = {}
    for stage, layer in zip(STAGE_NAMES, (model.layer1, model.layer2, model.layer3, model.layer4), strict=True):
        layer.register_forward_hook(lambda _layer, _inputs, output, stage=stage: features.update({stage: output}))
    with torch.no_grad():
        model(images)
    return features


def _check_card(card: Mapping[str, Any], found: Architecture, source: SourceNetwork) -> None:
    said = architecture_of(card)
    if not found == said == source.architecture:
        raise ValueError(
            f"the backbone is a {found.name}, the card says {said.name}, the source is a {source.architecture.name}"
        )
    if card["channel_order"] not in ("RGB", "BGR"):
        raise ValueError(f"channel_order is {card['channel_order']!r}; expected 'RGB' or 'BGR'")
    if found.basic and card["stride_in_1x1"]:
        raise ValueError(
            f"stride_in_1x1 is {card['stride_in_1x1']!r}, but the blocks of a {found.name} have no 1x1 convolution"
        )


def _compare(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: float, how: str
) -> dict[str, float]:
    figures = {}
    for stage, values in expected.items():
        if values.shape != found[stage].shape:
            raise ValueError(
                f"verification failed {how}: {stage} has shape {tuple(found[stage].shape)} instead of "
                f"{tuple(values.shape)}"
            )
        figures[stage] = float((found[stage] - values).abs().max() / values.abs().max())
        if not figures[stage] <= tolerance:  # NaN fails as well
            raise ValueError(
                f"verification failed {how}: {stage} of the converted backbone differs by "
                f"{figures[stage]:.3g} of its largest value; at most {tolerance:g} is allowed"
            )
    return figures
