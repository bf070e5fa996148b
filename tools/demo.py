#!/usr/bin/env python3
"""The whole pipeline on data that it makes: pretrain, convert, fine-tune, report.

Real handwriting on photographs, no download, minutes on two CPU cores. The detector is fine-tuned from the pretrained
backbone and from random weights, with everything else equal. What is complete is not done again: a second call, also
after Ctrl-C, goes on where the first one ended.

Example:
  python tools/demo.py --output demo_output --open
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import make_parser, run_tool, setup_logging

ROOT = Path(__file__).resolve().parents[1]
TRAIN_NET = Path(__file__).resolve().with_name("train_net.py")
PICTURE_SIDE, SCENE_SIDE = 48, 128  # pixels
TRAIN_PER_CLASS, VAL_PER_CLASS = 400, 60
TRAINVAL_SCENES, TEST_SCENES = 150, 150


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--output", default="demo_output", metavar="DIR", help="data, runs and reports go here")
    parser.add_argument("--seed", type=int, default=0, help="of the data, the weights and every draw")
    parser.add_argument(
        "--engine",
        choices=("auto", "detectron2", "torchvision"),
        default="torchvision",
        help="fine-tunes the detectors",
    )
    parser.add_argument("--open", action="store_true", help="open the report's page in the browser at the end")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; expected at least 0")
    started = time.monotonic()
    output = Path(args.output) / f"seed{args.seed}"
    setup_logging(output)

    from detection.convert.backbone_file import convert_file
    from detection.datasets import digits
    from pretrain.config import load_pretrain_config
    from pretrain.run.cli import format_seconds
    from pretrain.trainer import train

    pictures, devkit, backbone = output / "digits", output / "VOCdevkit", output / "backbone.pth"
    digits.write_image_folder(
        pictures, seed=args.seed, train_per_class=TRAIN_PER_CLASS, val_per_class=VAL_PER_CLASS, side=PICTURE_SIDE
    )
    digits.write_devkit(devkit, seed=args.seed, trainval=TRAINVAL_SCENES, test=TEST_SCENES, side=SCENE_SIDE)

    cfg = load_pretrain_config(
        ROOT / "pretrain/configs/demo_r18_saliencymix.yaml",
        ["DATA.ROOT", str(pictures), "OUTPUT_DIR", str(output / "pretrain"), "SEED", str(args.seed)],
    )
    errors = train(cfg, resume=True)
    if not backbone.exists():
        conversion = convert_file(output / "pretrain" / "model_final.pth", backbone)
        print(conversion.tally())

    reports = fine_tune_both(backbone, output, devkit, args)
    print(f"\nResNet-18 pretrained on handwritten digits: top-1 error {errors['top1_error']:.1f} %")
    print(comparison(reports))
    page = reports["pretrained with SaliencyMix"][1].resolve()
    print(f"\n{format_seconds(time.monotonic() - started)} in all; next, with checkpoints that you have:")
    print("python tools/transfer.py NAME=FILE NAME=FILE random --output output/transfer VOC.ROOT /data/VOCdevkit")
    if args.open and not webbrowser.open(page.as_uri()):
        print(f"no browser could be opened; the page is {page}")


def fine_tune_both(
    backbone: Path, output: Path, devkit: Path, args: argparse.Namespace
) -> dict[str, tuple[dict[str, Any], Path]]:
    """Fine-tune from ``backbone`` here and from random weights in a process beside; return each one's report and page.

    What has its report already is left as it is. Each takes half of the threads: a detector this small gains next to
    nothing from the second one.
    """
    import torch

    from detection.config import load_detection_config
    from detection.fine_tune import fine_tune, inference_folder

    config_file = str(ROOT / "detection/configs/demo_r18_fpn.yaml")
    opts, configs, pages = {}, {}, {}
    for name, weights in (("pretrained with SaliencyMix", str(backbone)), ("random weights", "")):
        run = output / f"{name.split()[0]}_{args.engine}"
        opts[name] = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(run), "VOC.ROOT", str(devkit)]
        opts[name] += ["SEED", str(args.seed), "MODEL.DEVICE", "cuda"]
        configs[name] = load_detection_config(config_file, opts[name], resume=True)
        pages[name] = inference_folder(configs[name], configs[name].DATASETS.TEST[0]) / "report.html"
    here, beside = pages

    threads = torch.get_num_threads()
    share = max(1, threads // 2)
    command = [sys.executable, str(TRAIN_NET), "--config-file", config_file, "--engine", args.engine, "--resume"]
    around = nullcontext()
    if not pages[beside].exists():
        print(f"from {beside} a detector is fine-tuned beside; its log: {configs[beside].OUTPUT_DIR}/log.txt")
        around = process_beside([*command, *opts[beside]], threads=share)
    torch.set_num_threads(share)
    try:
        with around:
            if not pages[here].exists():
                fine_tune(configs[here], engine=args.engine, resume=True, config_file=config_file)
    finally:
        torch.set_num_threads(threads)
    return {name: (json.loads(page.with_suffix(".json").read_text("utf-8")), page) for name, page in pages.items()}


@contextmanager
def process_beside(command: list[str], *, threads: int) -> Iterator[None]:
    """Run ``command`` on so many ``threads`` during the context, at whose end it is waited for.

    What it says goes nowhere (a tool has its log), but for its last line where it fails: a ``ValueError``. What ends
    the context early ends the process.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said)
        try:
            yield
        except BaseException:
            process.terminate()
            raise
        finally:
            status = process.wait()
        if status:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
            raise ValueError(next((line for line in reversed(lines) if line.strip()), f"exit status {status}"))


def comparison(reports: dict[str, tuple[dict, Path]]) -> str:
    """Return the table: a row per backbone with its mAP on the held-out scenes and the page of its report."""
    rows = [("backbone", "mAP 11-point", "mAP area", "AP .50:.95", "report")]
    for name, (report, page) in reports.items():
        numbers = (report["voc07"]["AP50"], report["voc10"]["AP50"], report["voc10"]["AP"])
        rows.append((name, *(f"{number:.1f}" for number in numbers), str(page)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    first, second = (report["voc07"]["AP50"] for report, _ in reports.values())
    return "\n".join([*lines, f"difference: {first - second:+.1f} mAP points (11-point, IoU .5, held-out scenes)"])


if __name__ == "__main__":
    run_tool(main)
