"""A checkpoint of tools/pretrain.py as a classifier: its network and the pictures it was evaluated on, from its config.

For looking at finished networks without the config file that made them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.config import get_cfg
from pretrain.data.sources import Cifar, ClassFolders, Source
from pretrain.learner import network_of
from pretrain.run.checkpoint import load_checkpoint
from pretrain.run.text import parse_yaml
from pretrain.run_state import load_weights

ENTRIES = ("model", "config", "arch", "method", "classes")


@dataclass(frozen=True)
class Pretrained:
    """What a checkpoint holds; ``cfg`` is the config of its run and ``classes`` the class names in order."""

    path: Path
    state: dict[str, Any]
    cfg: CfgNode
    classes: list[str]

    def network(self, device: torch.device, classes: list[str]) -> nn.Module:
        """Return the network in evaluation mode, with the weights that ``--eval-only`` evaluates (not their average).

        Raises:
            ValueError: ``classes``, those of the data, are not the checkpoint's; or its weights do not fit its config.
        """
        layout = torch.channels_last if self.cfg.CHANNELS_LAST else torch.contiguous_format
        model = network_of(self.cfg, len(classes)).to(device, memory_format=layout)
        load_weights(model, self.state, self.path, self.cfg.MODEL.ARCH, classes)
        return model.eval()

    def validation_source(self, root: Path | str) -> Source:
        """Return the validation pictures in ``root``: its ``val/`` for class folders, else CIFAR's test set.

        Raises:
            FileNotFoundError: as ClassFolders and Cifar raise it.
        """
        if self.cfg.DATA.DATASET == "image_folder":
            return ClassFolders(Path(root) / "val", self.cfg.DATA.DECODER)
        return Cifar(self.cfg.DATA.DATASET, Path(root), train=False, download=False)


def open_pretrained(path: Path | str) -> Pretrained:
    """Return what the checkpoint at ``path`` holds, its config checked and completed with defaults.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or none of tools/pretrain.py.
    """
    state = load_checkpoint(path)
    missing = [entry for entry in ENTRIES if not isinstance(state, dict) or entry not in state]
    if missing:
        raise ValueError(f"{path} is not a checkpoint of tools/pretrain.py: it lacks {', '.join(missing)}")
    cfg = get_cfg()
    try:
        cfg.merge_from_other_cfg(CfgNode(parse_yaml(state["config"], "config")))
    except (AttributeError, AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its config cannot be used ({error})") from error
    cfg.freeze()
    return Pretrained(Path(path), state, cfg, list(state["classes"]))
