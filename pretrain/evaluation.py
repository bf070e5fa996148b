"""Top-1 and top-5 error of a classifier, of whatever pictures it is given (attacks give changed ones)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.data.batches import UNREADABLE
from pretrain.run.cli import Progress
from pretrain.run.loading import opened
from pretrain.run.processes import SINGLE_CPU_PROCESS, Processes


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Keep ``model`` in evaluation mode; afterwards, also after an error, each part is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    prepare: Callable[[Tensor], Tensor],
    processes: Processes = SINGLE_CPU_PROCESS,
) -> dict[str, float]:
    """Return ``top1_error`` and ``top5_error`` (percent), ``loss`` (mean cross-entropy) and ``num_images``.

    ``batches`` yields pictures that ``prepare`` moves and normalises, ``(B, 3, H, W)``, with labels ``int64 (B,)``,
    and has a length: this process's share of the pictures. Those labelled ``UNREADABLE`` do not count. With fewer than
    five classes top-5 counts all of them. The model is on the device of ``processes`` and used in evaluation mode (see
    ``evaluation_mode``); its buffers become those of the main process.

    Raises:
        FloatingPointError: the network's answers are not finite: their order would be no prediction.
        ValueError: there is no picture that counts.
    """
    processes.copy_buffers(model)
    sums = torch.zeros(4, dtype=torch.float64, device=processes.device)
    with (
        evaluation_mode(model),
        Progress(len(batches), "evaluate", unit="batch") as progress,
        opened(batches) as samples,
    ):
        for images, labels in samples:
            logits = model(prepare(images)).float()
            sums += _sums(logits, labels.to(logits.device, non_blocking=True))
            progress.update()
    wrong1, wrong5, loss, total = processes.sum(sums).tolist()  # the one look: each waits for the GPU
    if total == 0:
        raise ValueError("no validation picture can be read")
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss on the validation pictures is {loss}: the network's answers are no numbers")
    return {
        "top1_error": 100 * wrong1 / total,
        "top5_error": 100 * wrong5 / total,
        "loss": loss / total,
        "num_images": int(total),
    }


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``float64 (4,)`` of a batch: top-1 errors, top-5 errors, the sum of the losses, pictures that count."""
    counts = labels != UNREADABLE
    hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    losses = functional.cross_entropy(logits, labels, ignore_index=UNREADABLE, reduction="none")  # 0 where ignored
    columns = (counts & ~hits[:, 0], counts & ~hits.any(dim=1), losses, counts)
    return torch.stack([column.double() for column in columns]).sum(dim=1)
