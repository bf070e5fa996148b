"""Annotated pictures in the VOC and COCO formats: reading and checking them, and made digits."""

from detection.datasets.load import load_dataset, read_class_list
from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset
from detection.datasets.voc import VOC_CLASSES

__all__ = ["VOC_CLASSES", "AnnotatedObject", "AnnotatedPicture", "DetectionDataset", "load_dataset", "read_class_list"]
