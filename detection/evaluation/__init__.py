"""Detections and ground truth -> numbers, intervals, comparisons."""

from detection.evaluation.coco import evaluate_coco
from detection.evaluation.detection_files import read_detections, write_detections
from detection.evaluation.detections import PictureDetections
from detection.evaluation.results import load_results
from detection.evaluation.voc import evaluate_voc

__all__ = [
    "PictureDetections",
    "evaluate_coco",
    "evaluate_voc",
    "load_results",
    "read_detections",
    "write_detections",
]
