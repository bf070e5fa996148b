"""A ResNet in torchvision's names -> a Detectron2 backbone with a card, proved equal."""

from detection.convert.backbone_file import Conversion, convert_file, write_backbone
from detection.convert.card import check_card, load_card
from detection.convert.fit import read_model_file
from pretrain.weights.description import Preprocessing
from pretrain.weights.namings import convert_state_dict, revert_state_dict

__all__ = [
    "Conversion",
    "Preprocessing",
    "check_card",
    "convert_file",
    "convert_state_dict",
    "load_card",
    "read_model_file",
    "revert_state_dict",
    "write_backbone",
]
