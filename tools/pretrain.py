#!/usr/bin/env python3
"""Pretrain a classification backbone on a folder of pictures per class.

Example:
  python tools/pretrain.py --config-file pretrain/configs/imagenet_r50_saliencymix.yaml \\
      DATA.ROOT /data/imagenet OUTPUT_DIR output/r50_saliencymix

On several GPUs, or several machines with torchrun's own options for them:
  torchrun --nproc-per-node 8 tools/pretrain.py --config-file pretrain/configs/imagenet_r50_saliencymix.yaml \\
      DATA.ROOT /data/imagenet PRECISION bfloat16 CHANNELS_LAST True
"""

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, whose pretrain.py hides the package

from pretrain.run.cli import add_config_arguments, make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of OUTPUT_DIR")
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS (or the newest checkpoint) and stop"
    )
    add_config_arguments(parser, example="pretrain/configs/imagenet_r50_saliencymix.yaml", keys="pretrain.config")
    args = parser.parse_args(argv)

    from pretrain.config import load_pretrain_config

    cfg = load_pretrain_config(args.config_file, args.opts)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started; the others stay silent
    setup_logging(cfg.OUTPUT_DIR if first and not args.eval_only else None, quiet=not first)

    from pretrain.trainer import evaluate_checkpoint, train

    result = evaluate_checkpoint(cfg) if args.eval_only else train(cfg, resume=args.resume)
    if first:
        print(
            f"top-1 error {result['top1_error']:.2f} %, top-5 error {result['top5_error']:.2f} %, "
            f"{result['num_images']} pictures"
        )


if __name__ == "__main__":
    run_tool(main)
