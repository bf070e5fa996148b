#!/usr/bin/env python3
"""Score detections with the VOC metrics and COCO's, as a report (JSON, Markdown, HTML), or compare several methods.

COCO AP comes first for data in COCO's format (a --split such as coco_2017_val, or a .json file), mAP for all others.
Detections are challenge files (comp4_det_<set>_<class>.txt), a COCO result JSON, the folder of a run or Detectron2's
inference/.

Examples:
  python tools/voc_map.py --data-root VOCdevkit --dataset voc_2007_test --detections output --output output/report
  python tools/voc_map.py --data-root VOCdevkit --dataset voc_2007_test --output comparison \\
    --compare baseline=runs/base_1 baseline=runs/base_2 saliencymix=runs/saliency_1 saliencymix=runs/saliency_2
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.run.cli import make_parser, run_tool, setup_logging

if TYPE_CHECKING:
    from detection.datasets.types import DetectionDataset


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--data-root",
        required=True,
        metavar="DIR",
        help="the folder that holds VOC2007 (or, for a split "
        "of another name than voc_<year>_<set>, the folder with Annotations and ImageSets itself)",
    )
    parser.add_argument("--dataset", required=True, help="as in DATASETS.TEST, for example voc_2007_test")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--detections", metavar="PATH", help="what to report on")
    what.add_argument(
        "--compare",
        nargs="+",
        metavar="[METHOD=]PATH",
        help="each run's detections; METHOD is by "
        "default what the run's report says, else the name of the run's folder without its seed",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the report goes")
    parser.add_argument(
        "--classes",
        metavar="A,B,C|FILE",
        help="class list, or a file with one class a line; by "
        "default those of the run's report, else the 20 VOC classes, or those that the annotations name",
    )
    parser.add_argument(
        "--baseline",
        metavar="METHOD",
        help="what --compare measures against (default: baseline, else the first method)",
    )
    parser.add_argument(
        "--across",
        action="append",
        default=[],
        metavar="KEY",
        help="a config key in which runs of one table of --compare may differ, such as SOLVER.BASE_LR; all others that "
        "affect the number keep runs apart; may be repeated",
    )
    parser.add_argument(
        "--rules",
        choices=("standard", "devkit", "detectron2"),
        default="standard",
        help="standard (default): an IoU must exceed the threshold, as in Detectron2; devkit: an equal "
        "one matches too and equal scores go by line, as in the official code; detectron2: its rounding and "
        "order as well",
    )
    parser.add_argument(
        "--first-category",
        type=int,
        choices=(0, 1),
        help="number of the first class in a COCO result JSON whose "
        "classes are counted; by default the numbers are those of the split's COCO file, from 1 for a VOC split",
    )
    parser.add_argument(
        "--pictures-anywhere",
        action="store_true",
        help="let the split's COCO file name pictures outside of --data-root; the report shows some of those it names",
    )
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="halves of the pictures behind the intervals"
    )
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = build_parser().parse_args(argv)
    if args.resamples < 2:
        raise ValueError(f"--resamples must be at least 2, but is {args.resamples}")
    _check_methods(args)
    setup_logging()

    from detection.datasets.load import load_dataset, read_class_list

    classes = read_class_list(args.classes) if args.classes else _recorded_classes(args)
    dataset = load_dataset(
        args.dataset,
        root=args.data_root,
        classes=classes,
        check_pictures=False,
        pictures_anywhere=args.pictures_anywhere,
    )
    if args.compare:
        _compare(args, dataset)
    else:
        _report(args, dataset)


def _recorded_classes(args: argparse.Namespace) -> list[str] | None:
    """Return the classes of the first run whose report names them: a test set need not have every class."""
    from detection.datasets.coco import report_name
    from detection.evaluation.comparison import run_folders
    from detection.evaluation.results import read_recorded

    paths = [path for spec in args.compare for path in run_folders(spec)[1]] if args.compare else [args.detections]
    found = (read_recorded(report_name(args.dataset), path).get("classes") for path in paths)
    return next(filter(None, found), None)


def _check_methods(args: argparse.Namespace) -> None:
    """Refuse what is wrong with the flags of --compare, as far as the command line alone shows it."""
    if not args.compare:
        if args.baseline is not None or args.across:
            raise ValueError("--baseline and --across are about --compare, but --detections is given")
        return

    from detection.evaluation.comparison import check_baseline, split_spec

    methods = [split_spec(spec)[0] for spec in args.compare]
    if all(methods):
        check_baseline(args.baseline, methods)


def _report(args: argparse.Namespace, dataset: DetectionDataset) -> None:
    from detection.evaluation.results import find_run_folder, load_results, read_protocol, read_recorded
    from detection.report.write import headline, write_report

    detections = load_results(dataset, args.detections, first_category=args.first_category)
    protocol = read_protocol(dataset, args.detections)  # what the run itself recorded stays in the report
    protocol |= {"detections": args.detections, "report_command": shlex.join(sys.argv)}
    report = write_report(
        dataset,
        detections,
        args.output,
        protocol,
        rules=args.rules,
        run_folder=find_run_folder(args.detections),
        training_objects=read_recorded(dataset.name, args.detections).get("training_objects"),
        num_resamples=args.resamples,
    )
    print(headline(report))
    print(Path(args.output) / "report.html")


def _compare(args: argparse.Namespace, dataset: DetectionDataset) -> None:
    from detection.config import EFFECTS
    from detection.defaults import get_cfg
    from detection.evaluation.comparison import compare_runs, load_runs
    from detection.report.comparison import summary_table, write_comparison
    from pretrain.config import EFFECTS as PRETRAIN_EFFECTS

    runs = [run for spec in args.compare for run in load_runs(dataset, spec, first_category=args.first_category)]
    comparison = compare_runs(
        dataset,
        runs,
        baseline=args.baseline,
        across=args.across,
        defaults=EFFECTS.first_values(get_cfg()),
        recipe_place=PRETRAIN_EFFECTS.free_on_resume,
        rules=args.rules,
        num_resamples=args.resamples,
    )
    write_comparison(comparison, args.output, dataset=dataset, runs=runs)
    for group in comparison["groups"]:
        print("\n".join(summary_table(comparison, group)), end="\n\n")
    print(Path(args.output) / "comparison.html")


if __name__ == "__main__":
    run_tool(main)
