"""Top-1 and top-5 error of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.cli import Progress
from pretrain.data import UNREADABLE
from pretrain.processes import ALONE, Processes


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    prepare: Callable[[Tensor], Tensor],
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Return ``top1_error`` and ``top5_error`` (percent), ``loss`` (mean cross-entropy) and ``num_images``.

    ``batches`` yields ``uint8 (B, 3, H, W)`` and ``int64 (B,)`` on the CPU and has a length: this process's share of
    the pictures. Those labelled ``UNREADABLE`` do not count. ``prepare`` moves and normalises pictures. With fewer than
    five classes top-5 counts all of them. The model's training flag is restored; its buffers become those of the main
    process.

    Raises:
        ValueError: there is no picture that counts.
    """
    processes.copy_buffers(model)
    was_training = model.training
    model.eval()
    wrong1 = wrong5 = total = 0
    loss = 0.0
    try:
        with Progress(len(batches), "evaluate", unit="batch") as progress:
            for images, labels in batches:
                logits = model(prepare(images)).float()
                counts = labels != UNREADABLE
                labels, logits = labels[counts].to(logits.device), logits[counts.to(logits.device)]
                top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices
                hits = top5 == labels[:, None]
                wrong1 += int((~hits[:, 0]).sum())
                wrong5 += int((~hits.any(dim=1)).sum())
                loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
                total += len(labels)
                progress.update()
    finally:
        model.train(was_training)
    sums = processes.sum(torch.tensor([wrong1, wrong5, loss, total], dtype=torch.float64))
    wrong1, wrong5, loss, total = sums.tolist()
    if total == 0:
        raise ValueError("no validation picture can be read")
    return {
        "top1_error": 100 * wrong1 / total,
        "top5_error": 100 * wrong5 / total,
        "loss": loss / total,
        "num_images": int(total),
    }
