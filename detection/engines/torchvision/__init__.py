"""The engine that needs nothing but PyPI: the detector assembled from torchvision's parts, and its training loop."""

from detection.engines.torchvision.inference import detect, detect_sample, find_objects, load_model, model_state
from detection.engines.torchvision.trainer import check_config, train

__all__ = ["check_config", "detect", "detect_sample", "find_objects", "load_model", "model_state", "train"]
