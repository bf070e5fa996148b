#!/usr/bin/env python3
"""Time saliency and mixing beside OpenCV and other packages, check their memory; print a table, then JSON.

All contenders of a case take turns within one run, so that what else the machine does falls on all of them.

Example:
  python tools/bench_mixing.py --num-images 64 --threads 2

Two packages are no dependencies, and without them their cases are left out, which the report says: mixup (pip install
mixup==0.2.2), and spectral_residual of 3neutronstar/GuidedMixup, which is found where PYTHONPATH names a clone of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--num-images", type=int, default=64, metavar="N", help="in the batch")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of PyTorch and of OpenCV")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="of every case; the median counts")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="pixels a side of the large pictures")
    args = parser.parse_args(argv)
    for name, least in (("num_images", 2), ("threads", 1), ("rounds", 1), ("size", 8)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, but got {getattr(args, name)}")
    setup_logging()

    from tools.benchmarks.mixing import benchmark, table

    report = benchmark(args.num_images, args.size, args.threads, args.rounds)
    print("\n".join(table(report)))
    print(json.dumps(report))


if __name__ == "__main__":
    run_tool(main)
