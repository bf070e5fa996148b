"""A checkpoint as a classifier: its network, and the pictures that it is to be evaluated on.

For looking at finished networks without the config file that made them. A checkpoint of tools/pretrain.py says
everything itself; of any other ResNet checkpoint that `pretrain.weights` reads, what neither the file nor the user says
is taken to be torchvision's reference evaluation, and a note says so.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.config import RULES, get_cfg
from pretrain.data.sources import Cifar, ClassFolders, Source
from pretrain.learner import network_of
from pretrain.names import ARCHITECTURES
from pretrain.run.files import sha256
from pretrain.run.settings import find_faults, refuse_faults
from pretrain.run.text import parse_yaml
from pretrain.run_state import load_weights
from pretrain.weights.description import (
    Preprocessing,
    accuracies,
    check_arch,
    inherited,
    num_classes,
    preprocessing,
    record,
    same,
    usual_reading,
)
from pretrain.weights.files import read_weights
from pretrain.weights.namings import check_backbone, convert_state_dict, dropped_by
from pretrain.weights.networks import Network, as_float32, find_network
from pretrain.weights.releases import Release, find_release
from pretrain.weights.resnet import Architecture
from pretrain.weights.torchvision_resnet import build_resnet

ENTRIES = ("model", "config", "arch", "method", "classes")
IMAGENET_CLASSES = 1000
# what a user says -> the key of DATA that it sets
VIEW_KEYS = {
    "image_size": "IMAGE_SIZE",
    "eval_resize": "EVAL_RESIZE",
    "interpolation": "EVAL_INTERPOLATION",
    "pixel_mean": "PIXEL_MEAN",
    "pixel_std": "PIXEL_STD",
}


@dataclass(frozen=True)
class Reading:
    """What a user says about a checkpoint and its evaluation; None = not said.

    Attributes:
        prefix, ema: which network, where the file holds several; see `find_network`.
        pixel_mean, pixel_std: red, green, blue, of 0..255 pixels.
        image_size, eval_resize: pixels; of the square that the network sees, and of the shorter side before the centre
            crop.
        interpolation: of that resizing, one of ``INTERPOLATIONS``.
    """

    prefix: str | None = None
    ema: bool = False
    pixel_mean: Sequence[float] | None = None
    pixel_std: Sequence[float] | None = None
    image_size: int | None = None
    eval_resize: int | None = None
    interpolation: str | None = None


AS_IT_SAYS = Reading()


def reading_of(args: Namespace) -> Reading:
    """Return what the arguments of ``add_evaluation_arguments`` say."""
    return Reading(**{field.name: getattr(args, field.name) for field in fields(Reading)})


@dataclass(frozen=True)
class Pretrained:
    """What a checkpoint holds.

    Attributes:
        path, sha256: of the file.
        prefix: where the network lay in the file, as `find_network` says it.
        state: what ``load_weights`` takes: the entries of a checkpoint of ours. Its ``classes`` are None where the file
            does not name them.
        cfg: the config of its run; of a foreign file its evaluation, and the network if MODEL.ARCH has a name for it;
            all else at its default.
        stated: top-1 and top-5 accuracy that the file, or the publisher of a known one, states; percent or None.
        notes: sentences for the user: which rules decided what, and what was taken for granted.
        unnamed: the network of a foreign file that MODEL.ARCH has no name for.
    """

    path: Path
    sha256: str
    prefix: str
    state: Mapping[str, Any]
    cfg: CfgNode
    stated: tuple[float | None, float | None]
    notes: tuple[str, ...]
    unnamed: Architecture | None = None

    @property
    def arch(self) -> str:
        """The name of its architecture: one of ``ARCHITECTURES``, or what ``Architecture.name`` calls it."""
        return self.cfg.MODEL.ARCH if self.unnamed is None else self.unnamed.name

    @property
    def classes(self) -> list[str] | None:
        """The class names in order; of a file that names none those of ImageNet if it has a thousand, else None."""
        if self.state["classes"] is not None:
            return list(self.state["classes"])
        if num_classes(self.state["model"]) != IMAGENET_CLASSES:
            return None
        from torchvision.models import ResNet50_Weights

        return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])

    def shown_classes(self, classes: list[str]) -> list[str]:
        """Return names for the ``classes`` of data: ImageNet's where the file names none and they are as many."""
        known = self.classes
        return known if self.state["classes"] is None and known and len(known) == len(classes) else classes

    def network(self, device: torch.device, classes: list[str]) -> nn.Module:
        """Return the network in evaluation mode, for data whose classes are ``classes``.

        The classes of a file that does not name them are taken to be in that order, as class folders are.

        Raises:
            ValueError: ``classes`` are not the checkpoint's; its weights do not fit its config, or are not finite.
        """
        state = self.state
        if state["classes"] is None:
            count = num_classes(state["model"])
            if count != len(classes):
                raise ValueError(f"{self.path} knows {count} classes, the data has {len(classes)}")
            state = {**state, "classes": classes}
        layout = torch.channels_last if self.cfg.CHANNELS_LAST else torch.contiguous_format
        model = self._build(len(classes)).to(device, memory_format=layout)
        self._load(model, state, classes)
        return model.eval()

    def backbone(self, device: torch.device) -> nn.Module:
        """Return the network without its classifier, in evaluation mode: it gives pooled features, ``(B, C)``.

        Raises:
            ValueError: its weights do not fit its config, or are not finite.
        """
        model = self._build(num_classes=1)
        model.fc = nn.Identity()
        weights = {key: value for key, value in self.state["model"].items() if not key.startswith("fc.")}
        self._load(model, {**self.state, "model": weights}, self.state["classes"] or [])
        layout = torch.channels_last if self.cfg.CHANNELS_LAST else torch.contiguous_format
        return model.to(device, memory_format=layout).eval()

    def _build(self, num_classes: int) -> nn.Module:
        if self.unnamed is not None:
            return build_resnet(self.unnamed, num_classes=num_classes)
        return network_of(self.cfg, num_classes)

    def _load(self, model: nn.Module, state: Mapping[str, Any], classes: list[str]) -> None:
        load_weights(model, state, self.path, self.arch, classes)
        for name, value in model.state_dict().items():
            # answers that are NaN have an order as well, which looks like a prediction
            if count := int((~torch.isfinite(value)).sum()):
                raise ValueError(f"{self.path}: {name} holds {count} values that are not finite numbers")

    def validation_source(self, root: Path | str) -> Source:
        """Return the validation pictures in ``root``: its ``val/`` for class folders, else CIFAR's test set.

        Raises:
            FileNotFoundError: as ClassFolders and Cifar raise it.
        """
        if self.cfg.DATA.DATASET == "image_folder":
            return ClassFolders(Path(root) / "val", self.cfg.DATA.DECODER)
        return Cifar(self.cfg.DATA.DATASET, Path(root), train=False, download=False)

    def record(self) -> dict[str, Any]:
        """Return what a report says of the network and of how it was shown pictures, ready for JSON."""
        return {
            "checkpoint": str(self.path),
            "checkpoint_sha256": self.sha256,
            "arch": self.arch,
            "method": record(self.state["method"]),
            "preprocessing": {
                name: list(value) if isinstance(value := self.cfg.DATA[key], tuple) else value
                for name, key in {**VIEW_KEYS, "decoder": "DECODER"}.items()
            },
            "notes": list(self.notes),
        }


def open_pretrained(path: Path | str, reading: Reading = AS_IT_SAYS, *, needs_classifier: bool = True) -> Pretrained:
    """Return what the checkpoint at ``path`` holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, holds no ResNet, or none with a classifier where it ``needs_classifier``, contradicts
            ``reading``, or ``reading`` is no way to see a picture.
    """
    path = Path(path)
    content = read_weights(path)
    ours = isinstance(content, dict) and all(entry in content for entry in ENTRIES)
    try:
        return _own(path, content, reading) if ours else _foreign(path, content, reading, needs_classifier)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _own(path: Path, content: dict[str, Any], reading: Reading) -> Pretrained:
    if reading.prefix is not None:
        raise ValueError("a checkpoint of tools/pretrain.py holds one network; leave --prefix out")
    if reading.ema and "ema" not in content:
        raise ValueError("it has no averaged weights; leave --ema out (SOLVER.EMA_DECAY was 0)")
    cfg = get_cfg()
    try:
        cfg.merge_from_other_cfg(CfgNode(parse_yaml(content["config"], "config")))
    except (AttributeError, AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its config cannot be used ({error})") from error
    for name in ("pixel_mean", "pixel_std"):
        said, recorded = getattr(reading, name), cfg.DATA[VIEW_KEYS[name]]
        if said is not None and not same(tuple(said), recorded):
            raise ValueError(f"--{name.replace('_', '-')} says {tuple(said)}, the file {tuple(recorded)}")
    _set_view(cfg, reading, {})
    weights = content["ema" if reading.ema else "model"]
    state = {"model": weights, "arch": content["arch"], "method": content["method"], "classes": content["classes"]}
    notes = ("averaged weights taken, as --ema says",) if reading.ema else ()
    stated = (None, None) if reading.ema else accuracies(content)
    prefix = "ema." if reading.ema else "model."
    return Pretrained(path, sha256(path), prefix, state, cfg, stated, notes)


def _foreign(path: Path, content: Any, reading: Reading, needs_classifier: bool) -> Pretrained:
    network = find_network(content, prefix=reading.prefix, ema=reading.ema)
    notes = list(network.notes)
    architecture = check_backbone(convert_state_dict(network.state))
    known = inherited(network.metadata)
    check_arch(known, architecture)
    if needs_classifier and not {"fc.weight", "fc.bias"} <= network.state.keys():
        raise ValueError("the network has no classifier of one linear layer (fc.weight, fc.bias): nothing to evaluate")
    fingerprint = sha256(path)
    release = find_release(fingerprint)
    cfg = get_cfg()
    is_named = architecture.name in ARCHITECTURES
    if is_named:
        cfg.MODEL.ARCH = architecture.name
    cfg.DATA.DECODER = "pillow"  # as whoever published accuracies of foreign weights
    said = Preprocessing(reading.pixel_mean, reading.pixel_std)
    view = {} if release is None else {name: getattr(release, name) for name in VIEW_KEYS}
    known = {**{name: view.get(name) for name in ("pixel_mean", "pixel_std")}, **known}
    for name in ("pixel_mean", "pixel_std"):
        view[name] = tuple(preprocessing(known, said, architecture, usual_reading(network))[name])
    _set_view(cfg, reading, view)
    notes += _assumed(cfg, reading, release, known)
    weights = {
        key: value
        for key, value in network.state.items()
        if key in ("fc.weight", "fc.bias") or dropped_by(key) in (None, "num_batches_tracked")
    }
    floating = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    state = {
        "model": {**weights, **as_float32(floating, notes)},
        "arch": architecture.name,
        "method": known.get("method"),
        "classes": None,
    }
    stated = _stated(network, known, release)
    unnamed = None if is_named else architecture
    return Pretrained(path, fingerprint, network.prefix, state, cfg, stated, tuple(notes), unnamed)


def _set_view(cfg: CfgNode, reading: Reading, view: Mapping[str, Any]) -> None:
    """Set how pictures are shown: what the user says, else ``view``, else what stands in ``cfg``; and freeze it."""
    for name, key in VIEW_KEYS.items():
        said = getattr(reading, name)
        value = said if said is not None else view.get(name)
        if value is not None:
            cfg.DATA[key] = tuple(value) if isinstance(value, (list, tuple)) else value
    refuse_faults(find_faults(cfg, RULES))
    if (reading.image_size or reading.eval_resize) and cfg.DATA.IMAGE_SIZE > cfg.DATA.EVAL_RESIZE:
        raise ValueError(
            f"the centre crop of {cfg.DATA.IMAGE_SIZE} pixels (--image-size) is larger than the picture, whose shorter "
            f"side is {cfg.DATA.EVAL_RESIZE} (--eval-resize)"
        )
    cfg.freeze()


def _assumed(cfg: CfgNode, reading: Reading, release: Release | None, known: Mapping[str, Any]) -> list[str]:
    if release is not None:
        return [f"known by its SHA-256: {release.title}; evaluated as published"]
    shown = {
        "image_size": f"a centre crop of {cfg.DATA.IMAGE_SIZE} pixels",
        "eval_resize": f"of the picture resized to {cfg.DATA.EVAL_RESIZE}",
        "interpolation": f"by {cfg.DATA.EVAL_INTERPOLATION} interpolation",
        "pixel_mean": f"mean {' '.join(f'{value:g}' for value in cfg.DATA.PIXEL_MEAN)}",
        "pixel_std": f"std {' '.join(f'{value:g}' for value in cfg.DATA.PIXEL_STD)}",
    }
    taken = [
        f"{text} (--{name.replace('_', '-')})"
        for name, text in shown.items()
        if getattr(reading, name) is None and known.get(name) is None
    ]
    return [f"the file does not say how it was evaluated: taken {', '.join(taken)}"] * bool(taken)


def _stated(network: Network, known: Mapping[str, Any], release: Release | None) -> tuple[float | None, float | None]:
    if network.ema:  # the file's figures are those of the weights that were trained
        return None, None
    return accuracies(known) if release is None else (release.top1, release.top5)
