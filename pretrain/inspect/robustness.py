"""Top-1 accuracy of a pretrained network under attack (Table 4 of the paper), with the protocol behind each number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pretrain.data.augmentation import eval_transform
from pretrain.data.batches import Batches, Pictures, Unreadable
from pretrain.data.sampling import spread_over_classes
from pretrain.data.sources import labels_of
from pretrain.evaluation import evaluate
from pretrain.inspect.attacks import Attack, AttackedBatches
from pretrain.inspect.pretrained import Pretrained, open_pretrained
from pretrain.learner import Preparation
from pretrain.run.files import sha256
from pretrain.run.processes import Processes
from pretrain.run.run_folder import package_versions

SUBSET_SEED = 0  # not the seed of the attacks: every network and every seed meets the same pictures


def measure_robustness(
    checkpoint: Path | str,
    data_root: Path | str,
    attacks: Sequence[Attack],
    *,
    num_images: int = 0,
    batch_size: int = 0,
    device: torch.device,
    seed: int = 0,
    on_result: Callable[[str, float, float], None] = lambda name, epsilon, top1: None,
) -> dict[str, Any]:
    """Evaluate a checkpoint of tools/pretrain.py on validation pictures as they are, then after each of ``attacks``.

    Args:
        data_root: holds ``val/`` with a folder of pictures for each class; or CIFAR's folder, where the checkpoint was
            trained on it.
        attacks: at least one; all take the same number of steps.
        num_images: attack so many pictures, spread over the classes and the same for every network and ``seed``;
            0: all.
        batch_size: 0: that of the checkpoint's evaluation.
        seed: of PGD's random starts.
        on_result: called with each number as soon as it is known: name of the attack ("none" first), epsilon in levels
            of 255, top-1 accuracy in percent.

    Returns:
        ``{"clean_top1", "attacks": [{"attack", "epsilon", "top1", "top1_error", "step_size"}], "num_images",
        "protocol"}``, ready for JSON: percent, levels of 255, and the number of pictures that count (those that could
        be read).

    Raises:
        FileNotFoundError: there is no such checkpoint or no such data.
        ValueError: the file is no checkpoint of ours or not one for these classes, there are fewer than ``num_images``
            pictures, too many of them cannot be read, or the attacks differ in steps.
    """
    if len({attack.steps for attack in attacks}) != 1:
        raise ValueError("expected at least one attack, and all with the same number of steps")
    pretrained = open_pretrained(checkpoint)
    cfg = pretrained.cfg
    source = pretrained.validation_source(data_root)
    model = pretrained.network(device, source.classes)
    if num_images > len(source):
        raise ValueError(f"--num-images is {num_images}, but there are only {len(source)} validation pictures")

    order = spread_over_classes(labels_of(source), seed=SUBSET_SEED)[: num_images or None]
    chosen = [(index, 0) for index in sorted(order)]
    batch_size = batch_size or max(1, cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATION)
    unreadable = Unreadable(cfg.DATA.MAX_UNREADABLE)
    batches = Batches(
        Pictures(source, eval_transform(cfg), replace=False, limit=cfg.DATA.MAX_UNREADABLE),
        [chosen[first : first + batch_size] for first in range(0, len(chosen), batch_size)],
        unreadable,
        num_workers=cfg.DATA.NUM_WORKERS,
        pin_memory=device.type == "cuda",
    )
    prepare, processes = Preparation(cfg, device), Processes(device)

    clean = evaluate(model, batches, prepare, processes)
    on_result("none", 0, 100 - clean["top1_error"])
    results = []
    for attack in attacks:
        attacked = AttackedBatches(batches, model, prepare, attack, seed=seed)
        top1_error = evaluate(model, attacked, prepare, processes)["top1_error"]
        results.append(
            {
                "attack": attack.name,
                "epsilon": attack.epsilon,
                "top1": 100 - top1_error,
                "top1_error": top1_error,
                "step_size": attack.used_step_size if attack.name == "pgd" else attack.epsilon,
            }
        )
        on_result(attack.name, attack.epsilon, 100 - top1_error)
    protocol = _protocol(
        pretrained,
        data_root,
        pgd_steps=attacks[0].steps,
        seed=seed,
        pictures="all"
        if len(chosen) == len(source)
        else f"{len(chosen)} of {len(source)}, spread over the classes in an order from seed {SUBSET_SEED}",
        unreadable=sorted(unreadable.reasons),
        batch_size=batch_size,
        device=device,
    )
    return {
        "clean_top1": 100 - clean["top1_error"],
        "attacks": results,
        "num_images": clean["num_images"],
        "protocol": protocol,
    }


def _protocol(
    pretrained: Pretrained,
    data_root: Path | str,
    *,
    pgd_steps: int,
    seed: int,
    pictures: str,
    unreadable: list[str],
    batch_size: int,
    device: torch.device,
) -> dict[str, Any]:
    return {
        "norm": "max",
        "epsilon_unit": "levels of 255",
        "clipping": "0..255; not rounded to whole levels",
        "loss": "cross-entropy with the true label",
        "precision": "float32",
        "pgd_steps": pgd_steps,
        "pgd_start": "uniform in the ball",
        "seed": seed,
        "pictures": pictures,
        "unreadable": unreadable,
        "data_root": str(data_root),
        "batch_size": batch_size,
        "device": device.type,
        "checkpoint": str(pretrained.path),
        "checkpoint_sha256": sha256(pretrained.path),
        "arch": pretrained.cfg.MODEL.ARCH,
        "method": pretrained.state["method"],
        "versions": package_versions(("python", "torch", "torchvision")),
    }
