"""A split whose objects and detections are drawn from a known world, without pictures or boxes.

Detections hang together as real ones do: a picture is hard or easy for all its objects and for every detector, an
object too; false positives come in the same places to every detector, and more of them in some pictures than in others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detection.evaluation.matching import GroundTruth, Matches

SHARE_DIFFICULT = 0.1
SHARE_TWICE = 0.15  # of the objects found, those that a second detection finds again
FALSE_POSITIVES = 3.0  # a picture
OWN_NOISE = 0.8  # of a detector's scores, beside what all detectors see alike; in log-odds as all that follow
PICTURE_SPREAD, OBJECT_SPREAD, CLASS_SPREAD = 0.8, 1.2, 0.6


class World(NamedTuple):
    """What splits are drawn from: how common each class is, and how much easier than others."""

    frequencies: np.ndarray  # (num_classes,), sum 1
    ease: np.ndarray  # (num_classes,) log-odds

    @classmethod
    def draw(cls, num_classes: int, rng: np.random.Generator) -> World:
        """Return a world in which some classes are several times as common as others."""
        return cls(rng.dirichlet(np.full(num_classes, 2.0)), rng.normal(0, CLASS_SPREAD, num_classes))


class Split:
    """Pictures and objects of a world, the same for every detector that is tried on them."""

    def __init__(self, world: World, num_pictures: int, rng: np.random.Generator):
        num_classes = len(world.frequencies)
        self.num_pictures = num_pictures
        pictures = np.repeat(np.arange(num_pictures), 1 + rng.binomial(2, 0.25, num_pictures))
        labels = rng.choice(num_classes, len(pictures), p=world.frequencies)
        labels, pictures = np.divmod(np.unique(labels * num_pictures + pictures), num_pictures)
        copies = 1 + rng.poisson(0.6, len(pictures))
        labels, pictures = np.repeat(labels, copies), np.repeat(pictures, copies)
        count = len(labels)
        difficult = rng.random(count) < SHARE_DIFFICULT
        self.world = world
        self.truth = GroundTruth(
            boxes=np.zeros((count, 4)),
            classes=labels,
            pictures=pictures,
            difficult=difficult,
            num_positives=np.bincount(labels[~difficult], minlength=num_classes),
        )
        picture_ease = rng.normal(0, PICTURE_SPREAD, num_pictures)
        self._ease = world.ease[labels] + picture_ease[pictures] + rng.normal(0, OBJECT_SPREAD, count)
        number = rng.poisson(FALSE_POSITIVES * rng.gamma(1.5, 1 / 1.5, num_pictures))
        self._false_pictures = np.repeat(np.arange(num_pictures), number)
        self._false_labels = rng.choice(num_classes, len(self._false_pictures), p=world.frequencies)
        self._false_scores = rng.normal(-1.2, 1.3, len(self._false_pictures)) - 0.5 * picture_ease[self._false_pictures]

    def detect(self, skill: float | np.ndarray, rng: np.random.Generator) -> Matches:
        """Return what a detector of ``skill``, in log-odds of finding an object, finds, matched; one for each picture
        where it is an array."""
        ease = (
            np.broadcast_to(skill, self.num_pictures)[self.truth.pictures]
            + self._ease
            + rng.normal(0, OWN_NOISE, len(self._ease))
        )
        found = np.flatnonzero(rng.random(len(ease)) < 1 / (1 + np.exp(-(ease + 1.5))))
        again = found[rng.random(len(found)) < SHARE_TWICE]
        kept = np.flatnonzero(rng.random(len(self._false_pictures)) < 0.8)
        overlap = np.clip(0.5 + 0.35 * np.tanh(0.5 * ease + 0.8) * rng.beta(4, 2, len(ease)), 0, 1)
        false_scores = self._false_scores[kept] + rng.normal(0, OWN_NOISE, len(kept))
        scores = np.concatenate([ease[found], ease[again] - 2 - rng.exponential(1, len(again)), false_scores])
        objects = np.concatenate([found, again])
        labels = np.concatenate([self.truth.classes[objects], self._false_labels[kept]])
        order = np.lexsort((-scores, labels))
        nowhere = np.full(len(kept), -1)
        return Matches(
            rules="standard",
            truth=self.truth,
            boxes=np.zeros((len(order), 4)),
            scores=scores[order],
            classes=labels[order],
            pictures=np.concatenate([self.truth.pictures[objects], self._false_pictures[kept]])[order],
            best_iou=np.concatenate([overlap[objects], nowhere])[order],
            best_object=np.concatenate([objects, nowhere])[order],
        )
