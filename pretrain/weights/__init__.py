"""Any ResNet checkpoint, read safely and found by its tensors, in torchvision's names or Detectron2's."""

from pretrain.weights.files import read_weights
from pretrain.weights.networks import Network, find_network

__all__ = ["Network", "find_network", "read_weights"]
