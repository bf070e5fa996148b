#!/usr/bin/env python3
"""Measure the top-1 accuracy of a pretrained network under attack (Table 4 of the paper); write JSON, print a table.

Network, classes and preprocessing come from the checkpoint. Epsilons are in levels of 255, max-norm; the paper does not
state its own.

Example:
  python tools/attack.py output/r50_saliencymix/model_final.pth --data-root /data/imagenet --output attack.json
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.cli import make_parser, run_tool, setup_logging

SUBSET_SEED = 0  # not --seed: every network and every seed meets the same pictures


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file of tools/pretrain.py")
    parser.add_argument("--data-root", required=True, metavar="DIR", help="holds val/ with a folder of pictures per "
                        "class; or CIFAR's folder, where the checkpoint was trained on it")
    parser.add_argument("--output", required=True, metavar="FILE.json")
    parser.add_argument("--attacks", nargs="+", default=["fgsm", "pgd"], metavar="NAME", help="fgsm, pgd")
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0, 2.0, 4.0, 8.0], metavar="LEVELS")
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    parser.add_argument("--step-size", type=float, default=0.0, metavar="LEVELS",
                        help="of PGD; 0: 2.5 x epsilon / steps")
    parser.add_argument("--num-images", type=int, default=0, metavar="N", help="attack N validation pictures, spread "
                        "over the classes and the same ones for every network and --seed; 0: all")
    parser.add_argument("--batch-size", type=int, default=0, metavar="N", help="0: that of the checkpoint's evaluation")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="of PGD's random starts")
    args = parser.parse_args(argv)
    setup_logging()
    output = Path(args.output)
    if not output.parent.is_dir():
        raise ValueError(f"{output.parent}: no such folder for --output")
    for name in ("num_images", "batch_size", "seed"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected at least 0")

    from pretrain.attacks import Attack

    attacks = [
        Attack(name, epsilon, args.steps, args.step_size) for name in args.attacks for epsilon in args.epsilons
    ]

    import torch
    import torchvision

    from detection.weights_file import sha256
    from pretrain.attacks import AttackedBatches
    from pretrain.augmentation import eval_transform
    from pretrain.checkpoint import atomic_write
    from pretrain.data import Batches, Pictures, Unreadable
    from pretrain.evaluation import evaluate
    from pretrain.learner import Preparation
    from pretrain.pretrained import labels_of, open_pretrained, spread_over_classes
    from pretrain.processes import Processes, select_device

    device = select_device(args.device)
    pretrained = open_pretrained(args.checkpoint)
    cfg = pretrained.cfg
    source = pretrained.validation_source(args.data_root)
    model = pretrained.network(device, source.classes)
    if args.num_images > len(source):
        raise ValueError(f"--num-images is {args.num_images}, but there are only {len(source)} validation pictures")

    order = spread_over_classes(labels_of(source), seed=SUBSET_SEED)[: args.num_images or None]
    chosen = [(index, 0) for index in sorted(order)]
    batch_size = args.batch_size or max(1, cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATION)
    unreadable = Unreadable(cfg.DATA.MAX_UNREADABLE)
    batches = Batches(
        Pictures(source, eval_transform(cfg), replace=False, limit=cfg.DATA.MAX_UNREADABLE),
        [chosen[first : first + batch_size] for first in range(0, len(chosen), batch_size)],
        unreadable, num_workers=cfg.DATA.NUM_WORKERS, pin_memory=device.type == "cuda",
    )  # fmt: skip
    prepare, processes = Preparation(cfg, device), Processes(device)

    clean = evaluate(model, batches, prepare, processes)
    print(f"{'attack':8}{'epsilon':>8}{'top-1 accuracy':>16}", flush=True)
    print(f"{'none':8}{0:>8g}{100 - clean['top1_error']:>14.2f} %", flush=True)
    results = []
    for attack in attacks:
        attacked = AttackedBatches(batches, model, prepare, attack, seed=args.seed)
        top1_error = evaluate(model, attacked, prepare, processes)["top1_error"]
        results.append({
            "attack": attack.name, "epsilon": attack.epsilon, "top1": 100 - top1_error, "top1_error": top1_error,
            "step_size": attack.used_step_size if attack.name == "pgd" else attack.epsilon,
        })  # fmt: skip
        print(f"{attack.name:8}{attack.epsilon:>8g}{100 - top1_error:>14.2f} %", flush=True)
    report = {
        "clean_top1": 100 - clean["top1_error"],
        "attacks": results,
        "num_images": clean["num_images"],
        "protocol": {
            "norm": "max",
            "epsilon_unit": "levels of 255",
            "clipping": "0..255; not rounded to whole levels",
            "loss": "cross-entropy with the true label",
            "precision": "float32",
            "pgd_steps": args.steps,
            "pgd_start": "uniform in the ball",
            "seed": args.seed,
            "pictures": "all" if len(chosen) == len(source) else
                        f"{len(chosen)} of {len(source)}, spread over the classes in an order from seed {SUBSET_SEED}",
            "unreadable": sorted(unreadable.reasons),
            "data_root": str(args.data_root),
            "batch_size": batch_size,
            "device": device.type,
            "checkpoint": str(args.checkpoint),
            "checkpoint_sha256": sha256(args.checkpoint),
            "arch": cfg.MODEL.ARCH,
            "method": pretrained.state["method"],
            "versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "torchvision": torchvision.__version__},
        },
    }  # fmt: skip
    with atomic_write(output, "w") as file:
        json.dump(report, file, indent=2)
    print(f"{output}: {clean['num_images']} pictures")


if __name__ == "__main__":
    run_tool(main)
