"""Top-1 accuracy of a pretrained network under attack (Table 4 of the paper), with the protocol behind each number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pretrain.evaluation import evaluate
from pretrain.inspect.accuracy import Validation
from pretrain.inspect.attacks import Attack, AttackedBatches


def check_attacks(attacks: Sequence[Attack]) -> None:
    """Refuse attacks whose protocol one report cannot state.

    Raises:
        ValueError: there is none, or they differ in their number of steps.
    """
    if len({attack.steps for attack in attacks}) != 1:
        raise ValueError("expected at least one attack, and all with the same number of steps")


def measure_robustness(
    validation: Validation,
    attacks: Sequence[Attack],
    *,
    seed: int = 0,
    on_result: Callable[[str, float, float], None] = lambda name, epsilon, top1: None,
) -> dict[str, Any]:
    """Evaluate a network on its validation pictures as they are, then after each of ``attacks``.

    Args:
        attacks: at least one; all take the same number of steps.
        seed: of PGD's random starts.
        on_result: called with each number as soon as it is known: name of the attack ("none" first), epsilon in levels
            of 255, top-1 accuracy in percent.

    Returns:
        ``{"clean_top1", "attacks": [{"attack", "epsilon", "top1", "top1_error", "step_size"}], "num_images",
        "protocol"}``, ready for JSON: percent, levels of 255, and the number of pictures that count (those that could
        be read).

    Raises:
        ValueError: as ``check_attacks``; or too many pictures cannot be read.
    """
    check_attacks(attacks)
    batches, model, prepare = validation.batches, validation.model, validation.prepare
    clean = evaluate(model, batches, prepare, validation.processes)
    on_result("none", 0, 100 - clean["top1_error"])
    results = []
    for attack in attacks:
        attacked = AttackedBatches(batches, model, prepare, attack, seed=seed)
        top1_error = evaluate(model, attacked, prepare, validation.processes)["top1_error"]
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
    protocol = {
        "norm": "max",
        "epsilon_unit": "levels of 255",
        "clipping": "0..255; not rounded to whole levels",
        "loss": "cross-entropy with the true label",
        "pgd_steps": attacks[0].steps,
        "pgd_start": "uniform in the ball",
        "seed": seed,
        **validation.protocol(),
    }
    return {
        "clean_top1": 100 - clean["top1_error"],
        "attacks": results,
        "num_images": clean["num_images"],
        "protocol": protocol,
    }
