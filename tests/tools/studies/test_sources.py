"""What is read of a comparison for a study's page."""

from tools.studies.sources import headline_of, over_pictures, per_class


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
