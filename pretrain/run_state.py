"""What a checkpoint of a run holds, how a run goes on from it, and which files stay in the folder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.config import EFFECTS, get_cfg
from pretrain.data.sampling import mix_seed
from pretrain.learner import Learner
from pretrain.run.processes import Processes, random_state, set_random_state
from pretrain.run.run_folder import package_versions
from pretrain.run.settings import check_same_run

BEST = "model_best.pth"

logger = logging.getLogger(__name__)


def run_state(
    cfg: CfgNode,
    learner: Learner,
    classes: list[str],
    processes: Processes,
    *,
    iteration: int,
    epoch_iters: int,
    evaluated: dict[str, Any],
) -> dict[str, Any]:
    """Return all that resuming, evaluating and converting need; every process must call it.

    The learning rate and the sampler's position are functions of ``iteration``, the number of iterations done, and of
    the config. ``evaluated`` is ``{"metrics", "ema_metrics", "iteration", "best_top1_error"}`` of the last evaluation.
    """
    current = evaluated["metrics"] if evaluated["iteration"] == iteration else None
    state = {
        "model": learner.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "iteration": iteration,
        "epoch": iteration // epoch_iters,
        "epoch_iteration": iteration % epoch_iters,
        "rng": processes.gather(random_state(learner.device)),  # one for each process
        "config": cfg.dump(),
        "arch": cfg.MODEL.ARCH,
        "method": cfg.MIXING.METHOD,
        "num_classes": len(classes),
        "classes": classes,
        "pixel_mean": list(cfg.DATA.PIXEL_MEAN),
        "pixel_std": list(cfg.DATA.PIXEL_STD),
        "evaluated": evaluated,
        "top1": 100 - current["top1_error"] if current else None,  # of exactly these weights
        "top5": 100 - current["top5_error"] if current else None,
        "versions": package_versions(("detection-transfer-toolkit", "torch", "torchvision")),
    }
    if learner.averaged is not None:
        state["ema"] = learner.averaged.state_dict()
    return state


def restore(
    state: dict[str, Any], path: Path, cfg: CfgNode, learner: Learner, classes: list[str], processes: Processes
) -> int:
    """Load a checkpoint into ``learner`` and the random generators; return the number of iterations done.

    Raises:
        ValueError: it is none of ours, or of a run with another meaning.
    """
    missing = {"model", "optimizer", "scaler", "iteration", "rng", "config", "evaluated"} - state.keys()
    if missing:
        raise ValueError(f"{path} is not a pretraining checkpoint: it lacks {', '.join(sorted(missing))}")
    check_same_run(state["config"], cfg, get_cfg(), EFFECTS)
    load_weights(learner.network, state, path, cfg.MODEL.ARCH, classes)
    if learner.averaged is not None:
        load_weights(learner.averaged, state, path, cfg.MODEL.ARCH, classes, entry="ema")
    learner.optimizer.load_state_dict(_as_here(state["optimizer"], learner.optimizer))
    learner.scaler.load_state_dict(state["scaler"])
    if len(state["rng"]) == processes.size:
        set_random_state(state["rng"][processes.rank], learner.device)
    else:
        torch.manual_seed(mix_seed(cfg.SEED, state["iteration"], processes.rank))
        logger.warning(
            "%d processes wrote %s and %d go on: samples and learning rate continue as they were, "
            "what is drawn for mixing and dropout starts from new seeds",
            len(state["rng"]),
            path,
            processes.size,
        )
    return state["iteration"]


def _as_here(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state as it would be if this device had written it: which kernels step is its affair."""
    groups = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    return {**saved, "param_groups": [{**theirs, "fused": ours["fused"]} for theirs, ours in groups]}


def load_weights(
    model: nn.Module, state: Any, path: Path, arch: str, classes: list[str], *, entry: str = "model"
) -> None:
    """Load a checkpoint's weights into ``model``, or say in one line what does not fit."""
    if not isinstance(state, dict) or entry not in state:
        raise ValueError(f"{path} is not a pretraining checkpoint: it has no entry {entry!r}")
    if state.get("arch") != arch:
        raise ValueError(f"{path} holds a {state.get('arch')}, but MODEL.ARCH is {arch}")
    known = state.get("classes") or []
    if known != classes:
        differ = _difference(known, classes)
        raise ValueError(f"{path} knows {len(known)} classes, the data has {len(classes)}: {differ}")
    try:
        model.load_state_dict(state[entry])
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {arch}: {error}") from error


def _difference(known: list[str], classes: list[str]) -> str:
    """Say where two lists of class names differ, briefly, however long they are."""
    parts = []
    for where, names in (
        ("only in the checkpoint", [name for name in known if name not in classes]),
        ("only in the data", [name for name in classes if name not in known]),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            parts.append(f"{where} {', '.join(names[:5])}{more}")
    return "; ".join(parts) or "the same names in another order"


def check_space(folder: Path, learner: Learner) -> None:
    """Refuse to start a run whose first checkpoint would not fit on the disk.

    Raises:
        OSError: says how much is needed and how much is free.
    """
    weights = sum(value.numel() * value.element_size() for value in learner.network.state_dict().values())
    needed = weights * (2 if learner.averaged is None else 3)  # weights, momentum, averaged weights
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder}: a checkpoint takes {needed / 2**20:.0f} MiB, but only {free / 2**20:.0f} MiB are free; "
            "make room or choose another OUTPUT_DIR"
        )


def drop_old(folder: Path, kept: int) -> None:
    """Delete all but the ``kept`` newest ``model_<iterations>.pth``; the best and the final one are never touched."""
    for path in sorted(folder.glob("model_[0-9]*.pth"))[:-kept]:
        path.unlink()
