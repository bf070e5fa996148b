"""The detector assembled from torchvision's parts, numerically equal to Detectron2's."""
