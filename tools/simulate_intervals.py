#!/usr/bin/env python3
"""Show how often the intervals of reports, comparisons and studies hold what they are about, as a table in Markdown.

The table of detection/evaluation/README.md is what this prints with the default numbers, in less than an hour on one
core.

Example:
  python tools/simulate_intervals.py --splits 50 --studies 100 --num-images 400
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--splits", type=int, default=1000, metavar="N", help="tried of each kind; 0 leaves them out")
    parser.add_argument("--num-images", type=int, default=5000, metavar="N", help="only splits of no more than these")
    parser.add_argument("--resamples", type=int, default=400, metavar="N", help="halves of the pictures of a split")
    parser.add_argument("--studies", type=int, default=500, metavar="N", help="tried of 2, 3 and 5 seeds; 0: none")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything that is drawn")
    args = parser.parse_args(argv)
    if min(args.splits, args.studies, args.seed) < 0 or args.resamples < 2:
        parser.error("--splits, --studies and --seed must be at least 0, --resamples at least 2")
    setup_logging()

    from tools.simulations.intervals import (
        SETTINGS,
        STUDIES,
        as_markdown,
        over_pictures,
        over_seeds,
        over_seeds_and_pictures,
    )

    options = {"num_resamples": args.resamples, "seed": args.seed}
    rows = []
    for setting in SETTINGS:
        if args.splits and setting.pictures <= args.num_images:
            rows += over_pictures(setting, num_splits=args.splits, **options)
    for num_seeds in (2, 3, 5) if args.studies else ():
        rows += over_seeds(num_seeds, num_studies=args.studies, seed=args.seed)
    for study in STUDIES:
        if args.studies and study.pictures <= args.num_images:
            rows += over_seeds_and_pictures(study, num_studies=args.studies, **options)
    print(as_markdown(rows))


if __name__ == "__main__":
    run_tool(main)
