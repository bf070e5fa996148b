"""Pictures that are held out: how many, of which classes, and never in both parts."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from detection.datasets.holding_out import hold_out
from detection.datasets.types import AnnotatedObject, AnnotatedPicture, DetectionDataset

CLASSES = ("cat", "dog", "mouse")


def picture(number, names):
    objects = tuple(AnnotatedObject(name, (1, 1, 5, 5), False) for name in names)
    return AnnotatedPicture(f"{number:03}", Path(f"/data/{number:03}.jpg"), Path("a.xml"), 10, 10, objects)


def dataset(pictures, name="one"):
    return DetectionDataset(name, Path("/data"), name, CLASSES, tuple(pictures))


@pytest.fixture
def pictures():
    """60 of cats and dogs, 20 of them with a mouse too, 10 with nothing."""
    names = [["cat", "dog"]] * 40 + [["cat", "mouse"]] * 20 + [[]] * 10
    return [picture(number, one) for number, one in enumerate(names)]


def ids(part):
    return [one.image_id for dataset in part for one in dataset.pictures]


def test_hold_out__of_every_class_the_share_and_nothing_in_both(pictures):
    rest, held = hold_out([dataset(pictures)], 0.3, seed=0)
    assert sorted(ids(rest) + ids(held)) == [one.image_id for one in pictures]
    assert len(ids(held)) == 21
    kinds = Counter(len(one.objects) and one.objects[1].name for one in held[0].pictures)
    assert kinds == {"dog": 12, "mouse": 6, 0: 3}
    assert ids(rest) == sorted(ids(rest))  # in the order of the data set


def test_hold_out__the_same_for_the_same_seed_whatever_the_order(pictures):
    _, held = hold_out([dataset(pictures)], 0.5, seed=1)
    assert sorted(ids(hold_out([dataset(pictures[::-1])], 0.5, seed=1)[1])) == ids(held)
    assert ids(hold_out([dataset(pictures)], 0.5, seed=2)[1]) != ids(held)


def test_hold_out__a_picture_of_two_data_sets_is_in_one_part_of_both(pictures):
    some = dataset(pictures[::3], "two")
    (_, rest), (_, held) = hold_out([dataset(pictures), some], 0.4, seed=0)
    of_one = set(ids(hold_out([dataset(pictures), some], 0.4, seed=0)[1][:1]))
    assert {one.image_id for one in held.pictures} == of_one & set(ids([some]))
    assert len(rest.pictures) + len(held.pictures) == len(some.pictures)


def test_hold_out__leaves_everything_else_as_it_is(pictures):
    given = replace(dataset(pictures), categories=((1, "cat"),))
    (rest,), (held,) = hold_out([given], 0.5, seed=0)
    assert replace(rest, pictures=()) == replace(held, pictures=()) == replace(given, pictures=())
