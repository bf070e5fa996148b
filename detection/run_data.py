"""The datasets of a run: read once, checked, and handed down to everything that needs them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from fvcore.common.config import CfgNode

from detection.config import MAX_CLASSES_TOLD, class_count_faults, class_names, knows_classes
from detection.datasets.check import DatasetCheck, check_before_training, check_dataset, refuse_fatal
from detection.datasets.holding_out import hold_out
from detection.datasets.pictures import look_at_pictures
from detection.datasets.types import DetectionDataset, class_name_faults
from pretrain.run.processes import num_workers
from pretrain.run.settings import refuse_faults

logger = logging.getLogger(__name__)


class RunData(NamedTuple):
    """DATASETS.TRAIN and DATASETS.TEST in their order; all have the same classes. Either may be empty.

    With DATASETS.HELD_OUT they share no picture.
    """

    train: tuple[DetectionDataset, ...]
    test: tuple[DetectionDataset, ...]


def read_run_data(cfg: CfgNode, *, train: bool = True, open_pictures: bool = True) -> tuple[CfgNode, RunData]:
    """Read the data of the run ``cfg``, with ``train`` off only what it is tested on, and check all of it.

    Unless ``open_pictures`` is off, every picture is opened too, in DATALOADER.NUM_WORKERS loading processes, but for
    those that a run has opened before and that have not changed since (see ``look_at_pictures``).

    Returns ``cfg`` too, as a copy whose VOC.CLASSES holds what the training data (without any: the test data) name,
    where the config leaves them to the data: their list where all have the same, else all in alphabetical order.

    Raises:
        FileNotFoundError, ValueError: the first defect that would stop the run later, and how many more there are; or
            MODEL.ROI_HEADS.NUM_CLASSES is not the number of classes that were found.
        OSError: a loading process was killed.
    """
    splits = cfg.DATASETS.HELD_OUT > 0 and not set(cfg.DATASETS.TRAIN).isdisjoint(cfg.DATASETS.TEST)
    names = dict.fromkeys((*(cfg.DATASETS.TRAIN if train or splits else ()), *cfg.DATASETS.TEST))
    checks: dict[str, DatasetCheck] = {}
    if not knows_classes(cfg):
        named_by = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
        cfg, checks = _find_classes(cfg, named_by)
    for name in names:
        if name not in checks:
            checks[name] = _check_annotations(name, cfg, class_names(cfg))
    check_before_training([checks[name] for name in names])
    datasets = {name: checks[name].dataset for name in names}
    trained, tested = datasets, datasets
    if cfg.DATASETS.HELD_OUT > 0 and (train or splits):
        training = [datasets[name] for name in cfg.DATASETS.TRAIN]
        rest, held = hold_out(training, cfg.DATASETS.HELD_OUT, cfg.DATASETS.HELD_OUT_SEED)
        trained = {one.name: one for one in rest}
        tested = datasets | {one.name: one for one in held}
        num_held, num_rest = (sum(len(one.pictures) for one in part) for part in (held, rest))
        logger.info("%d pictures of the training data are held out, %d left", num_held, num_rest)
    for name in cfg.DATASETS.TEST:
        _refuse_without_objects(tested[name])
    if open_pictures:
        check_before_training([_check_pictures(dataset, cfg) for dataset in datasets.values()])
    return cfg, RunData(
        tuple(trained[name] for name in (cfg.DATASETS.TRAIN if train else ())),
        tuple(tested[name] for name in cfg.DATASETS.TEST),
    )


def _refuse_without_objects(dataset: DetectionDataset) -> None:
    """Refuse a test set that no number can be made of: said before training, not after it."""
    objects = [item for picture in dataset.pictures for item in picture.objects]
    if all(item.difficult for item in objects):
        why = f"all {len(objects)} objects are difficult or crowds" if objects else "there is no object"
        raise ValueError(
            f"{dataset.name}, of DATASETS.TEST, has nothing to find in {len(dataset.pictures)} pictures: {why}"
        )


def _check_pictures(dataset: DetectionDataset, cfg: CfgNode) -> DatasetCheck:
    return DatasetCheck(dataset, tuple(look_at_pictures(dataset, num_workers=num_workers(cfg.DATALOADER.NUM_WORKERS))))


def _check_annotations(name: str, cfg: CfgNode, classes: Sequence[str] | None) -> DatasetCheck:
    return check_dataset(
        name,
        root=cfg.VOC.ROOT,
        classes=classes,
        read_pictures=False,
        pictures_anywhere=cfg.VOC.PICTURES_ANYWHERE,
        alone=False,
    )


def _find_classes(cfg: CfgNode, names: Sequence[str]) -> tuple[CfgNode, dict[str, DatasetCheck]]:
    """Return ``cfg`` with the classes that the datasets ``names`` name, and these datasets with that list."""
    checks = {name: _check_annotations(name, cfg, None) for name in names}
    refuse_fatal(checks.values())  # classes that are not known for a defect are not the news
    lists = [check.dataset.classes for check in checks.values()]
    same = len(set(lists)) == 1
    classes = lists[0] if same else tuple(sorted({name for one in lists for name in one}))
    cfg = cfg.clone()
    cfg.VOC.CLASSES = classes
    more = f", ... ({len(classes)} in all)" if len(classes) > MAX_CLASSES_TOLD else ""
    logger.info("classes found in %s: %s%s", ", ".join(names), ", ".join(classes[:MAX_CLASSES_TOLD]), more)
    refuse_faults([*class_name_faults(classes), *class_count_faults(cfg, found_in=", ".join(names))])
    return cfg, {
        name: replace(check, dataset=replace(check.dataset, classes=classes)) for name, check in checks.items()
    }
