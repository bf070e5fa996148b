"""What is read of a comparison for a study's page."""

import pytest

from detection.defaults import get_cfg
from tools.studies.sources import frozen_sentence, headline_of, over_pictures, per_class


def method(name, interval, both=None):
    difference = None if interval is None else {"mean": 1.0, "interval": interval}
    ap = {"mean": 50.0, "difference": difference, **({"over_both": {"interval": both}} if both else {})}
    return {"method": name, "per_class": {"cat": 50.0, "dog": None}, "voc07": {"AP50": ap}}


COMPARISON = {
    "groups": [
        {
            "baseline": "a",
            "methods": [method("a", None), method("b", [0.5, 1.5], [0.0, 2.0]), method("c", [-1.0, 3.0])],
        },
        {"baseline": "d", "methods": [method("d", None), method("e", [5.0, 6.0])]},  # read pictures in another way
    ]
}


def test_over_pictures__of_those_that_stand_beside_the_baseline():
    assert over_pictures(COMPARISON, "a") == {
        "b": {"pictures": [0.5, 1.5], "both": [0.0, 2.0]},
        "c": {"pictures": [-1.0, 3.0], "both": None},
    }
    assert over_pictures(COMPARISON, "no such row") == over_pictures(None, "a") == {}


def test_over_pictures__of_coco_data_by_coco_ap():
    methods = [method("a", None), method("b", [0.5, 1.5])]
    for one in methods:
        one["coco"] = {"AP": method("", [3.0, 4.0] if one["method"] == "b" else None, [2.0, 5.0])["voc07"]["AP50"]}
    comparison = {"format": "coco", "groups": [{"baseline": "a", "methods": methods}]}
    assert headline_of(comparison) == "coco_AP"
    assert over_pictures(comparison, "a") == {"b": {"pictures": [3.0, 4.0], "both": [2.0, 5.0]}}
    assert headline_of(COMPARISON) == headline_of({**comparison, "format": "voc"}) == "voc07_AP50"
    assert headline_of(None) is None


def test_per_class__of_all_methods():
    assert per_class(COMPARISON) == {
        "cat": dict.fromkeys("abcde", 50.0), "dog": dict.fromkeys("abcde", None)
    }  # fmt: skip
    assert per_class(None) == {}


@pytest.mark.parametrize("backbone, freeze_at, expected", [
    ("build_resnet_fpn_backbone", 0, ""),
    ("build_resnet_fpn_backbone", 4, "Frozen: stem, res2, res3, res4 (MODEL.BACKBONE.FREEZE_AT 4)."),
    ("build_resnet_fpn_backbone", 5, "Frozen: stem, res2, res3, res4, res5 (MODEL.BACKBONE.FREEZE_AT 5)."),
    ("build_resnet_backbone", 2, "Frozen: stem, res2 (MODEL.BACKBONE.FREEZE_AT 2)."),
    ("build_resnet_backbone", 5, "Frozen: stem, res2, res3, res4 (MODEL.BACKBONE.FREEZE_AT 5); res5 is part of C4's RoI"
     " heads and is trained."),
])  # fmt: skip
def test_frozen_sentence__says_what_stays_and_that_res5_of_c4_does_not(backbone, freeze_at, expected):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = backbone, freeze_at
    assert frozen_sentence(cfg) == expected
