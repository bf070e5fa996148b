#!/usr/bin/env python3
"""Write a trained detector for other people's code: files that Detectron2 or torchvision uses without this toolkit.

For Detectron2, TARGET and a config beside it; for torchvision (feature pyramids only), TARGET and a Python module that
builds its FasterRCNN. Both are proved to find what this toolkit finds before they are there.

Example:
  python tools/export.py output/voc_saliencymix/model_final.pth output/exported/voc.pth --to torchvision
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="a trained detector of either engine")
    parser.add_argument("target", metavar="TARGET", help="the file of weights to write, .pth")
    parser.add_argument("--to", required=True, choices=("torchvision", "detectron2"), help="whose classes will read it")
    parser.add_argument("--config-file", metavar="FILE", help="for weights that do not carry their config")
    args = parser.parse_args(argv)
    setup_logging()

    from detection.detector import detector_config
    from detection.export import export_detector

    cfg = detector_config(args.model, config_file=args.config_file)
    exported = export_detector(cfg, args.target, args.to)
    if exported.proof is None:
        print("exported, not proved: Detectron2 cannot be imported here")
    else:
        print(f"proved equal: {exported.proof}")
    print(f"written: {' and '.join(map(str, exported.files))}")
    print(f"\nTo use it, without this toolkit:\n\n{exported.lines}")


if __name__ == "__main__":
    run_tool(main)
