#!/usr/bin/env python3
"""Fine-tune Faster R-CNN on VOC-format data and report its mAP; the flags are Detectron2's.

Examples (several processes: --num-gpus with Detectron2, torchrun in place of python with the torchvision engine):
  python tools/train_net.py --config-file detection/configs/voc_r50_c4_paper.yaml MODEL.WEIGHTS backbone.pth
  python tools/train_net.py --config-file detection/configs/voc_r50_c4_paper.yaml --resume
  python tools/train_net.py --config-file detection/configs/voc_r50_c4_paper.yaml --repeat 3 SEED 1 \\
    MODEL.WEIGHTS backbone.pth
  torchrun --nproc-per-node 8 tools/train_net.py --config-file detection/configs/voc_r50_c4_paper.yaml \\
    --engine torchvision MODEL.WEIGHTS backbone.pth
  python tools/train_net.py --config-file detection/configs/voc_r50_c4_paper.yaml --eval-only \\
    MODEL.WEIGHTS output/model_final.pth
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import add_config_arguments, make_parser, run_tool, setup_logging

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from detection.engines import Launch


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--engine",
        choices=("auto", "detectron2", "torchvision"),
        default="auto",
        help="auto: Detectron2 where it can be imported, else torchvision",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, train nothing")
    parser.add_argument(
        "--skip-picture-check", action="store_true", help="do not open every picture before the first iteration"
    )
    parser.add_argument(
        "--repeat",
        type=int,
        metavar="N",
        help="train N times, with the seeds SEED, SEED + 1, ..., "
        "into OUTPUT_DIR/seed_<seed>, and report means and standard deviations",
    )
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines in the run")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="this machine's number, from 0")
    parser.add_argument("--dist-url", default="auto", metavar="URL", help="where the processes meet, tcp://host:port")
    add_config_arguments(parser, example="detection/configs/voc_r50_c4_paper.yaml", keys="detection.config")
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = build_parser().parse_args(argv)

    from detection.engines import Launch, is_first_process

    if not is_first_process():
        logging.disable(logging.INFO)  # the first one says it; warnings and errors are each process's own
    setup_logging()

    from detection.config import load_detection_config

    if args.repeat is not None and args.eval_only:
        raise ValueError("--repeat trains, --eval-only does not; leave one of them out")
    launch = Launch(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    cfg = load_detection_config(
        args.config_file,
        args.opts,
        resume=args.resume,
        eval_only=args.eval_only,
        check_weights=True,
        machines=args.num_machines,
    )
    setup_logging(cfg.OUTPUT_DIR if is_first_process() else None)

    from detection.evaluation.comparison import REPEATS
    from detection.repeats import headline, run_repeats

    def run(cfg: CfgNode) -> dict[str, dict[str, Any]]:
        return fine_tune_and_print(cfg, args, launch)

    if args.repeat is None:
        run(cfg)
        return
    writes = is_first_process() and launch.machine_rank == 0
    summary = run_repeats(cfg, args.repeat, run, writes=writes)
    if writes:
        print("\n".join(headline(summary)))
        print(Path(cfg.OUTPUT_DIR) / REPEATS)


def fine_tune_and_print(cfg: CfgNode, args: argparse.Namespace, launch: Launch) -> dict[str, dict[str, Any]]:
    """Run ``cfg`` and print the main numbers and the page of each report; return the reports by dataset."""
    from detection.fine_tune import fine_tune, inference_folder
    from detection.report.write import headline

    reports = fine_tune(
        cfg,
        engine=args.engine,
        resume=args.resume,
        eval_only=args.eval_only,
        launch=launch,
        config_file=args.config_file,
        picture_check=not args.skip_picture_check,
    )
    for name, report in reports.items():
        print(headline(report))
        print(inference_folder(cfg, name, eval_only=args.eval_only) / "report.html")
    return reports


if __name__ == "__main__":
    run_tool(main)
