#!/usr/bin/env python3
"""Score detection files with the VOC metrics and write a report (report.json, report.md, report.html).

Example:
  python tools/voc_map.py --devkit VOCdevkit --split voc_2007_test --detections output/inference --output output/report
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository: tools/pretrain.py would hide pretrain

from pretrain.cli import make_parser, run_tool, setup_logging


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser(__doc__)
    parser.add_argument("--devkit", required=True, metavar="DIR", help="the folder that holds VOC2007 (or, for a split "
                        "of another name than voc_<year>_<set>, the folder with Annotations and ImageSets itself)")
    parser.add_argument("--split", required=True, help="for example voc_2007_test")
    parser.add_argument("--detections", required=True, metavar="DIR", help="comp4_det_<set>_<class>.txt, one per class")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--classes", metavar="A,B,C|FILE", help="class list, or a file with one class a line; "
                        "the 20 VOC classes for voc_<year>_* splits if left out")
    parser.add_argument("--rules", choices=("standard", "devkit", "detectron2"), default="standard",
                        help="devkit: an IoU equal to the threshold matches; detectron2: its rounding and order")
    args = parser.parse_args(argv)
    setup_logging()

    from detection.detections_io import read_detections
    from detection.report import headline, write_report
    from detection.voc import load_voc

    classes = _read_classes(args.classes) if args.classes else None
    dataset = load_voc(args.split, root=args.devkit, classes=classes, check_pictures=False)
    detections = read_detections(dataset, args.detections)
    protocol = {"detections": str(args.detections)}
    report = write_report(dataset, detections, args.output, protocol, rules=args.rules)
    print(headline(report))
    print(Path(args.output) / "report.html")


def _read_classes(text: str) -> list[str]:
    """Return the class names in ``text``, a comma-separated list or the path of a file with one name a line."""
    path = Path(text)
    names = path.read_text("utf-8").splitlines() if path.is_file() else text.split(",")
    return [name.strip() for name in names if name.strip()]


if __name__ == "__main__":
    run_tool(main)
