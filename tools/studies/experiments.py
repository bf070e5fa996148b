"""The rows of a study's table: where each network comes from, and what the paper reports of it."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from detection.convert.card import CONFIG_KEYS
from pretrain.names import INTERPOLATIONS
from pretrain.run.settings import Rule, is_number, one_of, refuse_faults
from pretrain.weights.description import CHANNEL_ORDERS, THREE_NUMBERS
from pretrain.weights.files import refuse_address
from tools.studies.values import NAMED_METRICS, has_metric

ROOT = Path(__file__).resolve().parents[2]  # of the repository; the configs that a study names lie below it

MAX_LABEL_BYTES = 200  # of 255 that a folder's name may have
RANDOM = "random"  # the WEIGHTS of a row that starts from nothing
EPOCHS = ("last", "best")
_FLAG = Rule(lambda value: type(value) is bool, "True or False")
_PIXELS = Rule(lambda value: type(value) is int and value >= 1, "a whole number of pixels, at least 1")
# What a file of WEIGHTS does not say: key -> what is right. The tools have an option of each name.
READING_KEYS: dict[str, Rule] = {
    "PREFIX": Rule(lambda value: isinstance(value, str), "text"),
    "EMA": _FLAG,
    "PIXEL_MEAN": THREE_NUMBERS,
    "PIXEL_STD": THREE_NUMBERS,
    "CHANNEL_ORDER": Rule(lambda value: value in CHANNEL_ORDERS, "RGB or BGR"),
    "STRIDE_IN_1X1": _FLAG,
    "IMAGE_SIZE": _PIXELS,
    "EVAL_RESIZE": _PIXELS,
    "INTERPOLATION": one_of(*INTERPOLATIONS),
}
OF_ANY = ("PREFIX", "EMA", "PIXEL_MEAN", "PIXEL_STD")
OF_CLASSIFIERS = (*OF_ANY, "IMAGE_SIZE", "EVAL_RESIZE", "INTERPOLATION")
# KIND -> those of READING_KEYS that something of it reads; a contact sheet shows one picture to all networks
READ_BY_KIND: dict[str, tuple[str, ...]] = {
    "transfer": (*OF_ANY, "CHANNEL_ORDER", "STRIDE_IN_1X1"),
    "classification": OF_CLASSIFIERS,
    "robustness": OF_CLASSIFIERS,
    "cam": (),
}
# Keys of fine-tuning that a row may set for itself: how its backbone reads pictures, and nothing of the protocol.
DETECTION_KEYS = tuple(CONFIG_KEYS.values())
OF_CONFIG, OF_WEIGHTS = ("CONFIG", "OPTS"), ("WEIGHTS", "EPOCH", "DETECTION_OPTS", *READING_KEYS)
EXPERIMENT_KEYS = ("METHOD", "MODEL", "DATA", *OF_CONFIG, *OF_WEIGHTS, "PAPER", "PAPER_STD", "PAPER_ONLY")
# Keys that the study sets for every run, and where it takes them from. OPTS must not set them: it would be in vain.
SET_BY_STUDY = {
    "SEED": "set SEEDS", "OUTPUT_DIR": "set OUTPUT_DIR of the study", "DATA.ROOT": "set PRETRAIN.DATA_ROOT",
    "VOC.ROOT": "set DETECTION.VOC_ROOT", "MODEL.WEIGHTS": "add a row to EXPERIMENTS",
}  # fmt: skip


class Experiment(NamedTuple):
    """A row of a study's table: how its networks are pretrained or found, and what the paper reports for it."""

    method: str  # the row's label; more than MIXING.METHOD where a study compares variants of one method
    model: str
    data: str
    config: Path | None  # of pretraining; None for weights that are there already
    opts: tuple[str, ...]  # KEY VALUE pairs
    weights: str  # a file's absolute path or RANDOM; empty where the row is pretrained
    reading: dict[str, Any]  # of READING_KEYS
    epoch: str  # of EPOCHS
    detection_opts: tuple[str, ...]  # KEY VALUE pairs
    paper: dict[str, float]  # metric -> published number
    paper_std: dict[str, float]  # metric -> standard deviation of that number
    paper_only: dict[str, float]  # name of a column that only the paper has -> its number

    @property
    def name(self) -> str:
        """The labels as a path, such as ``ResNet-50/ImageNet/cutmix``."""
        return "/".join(label for label in (self.model, self.data, self.method) if label)


def folder_name(name: str) -> str:
    """Return ``name``, of an experiment or a stage, as the path of its folder."""
    return re.sub(r"[^\w./+-]", "_", name)


def refuse_shared_names(names: Sequence[str]) -> None:
    """Refuse rows that the study could not tell apart: in its list, in its folder or on its page."""
    remedy = "give every row its own METHOD, MODEL or DATA"
    by_folder: dict[str, str] = {}
    by_label: dict[str, str] = {}
    for name in names:
        if name in by_folder.values():
            raise ValueError(f"EXPERIMENTS: {name} stands there twice; {remedy}")
        label = name.replace("/", " ")
        if label in by_label:
            raise ValueError(f"EXPERIMENTS: {by_label[label]} and {name} have one name, {label}, on the page; {remedy}")
        # Some file systems do not tell apart large and small letters, nor the ways to write an accent.
        folder = unicodedata.normalize("NFC", folder_name(unicodedata.normalize("NFC", name)).casefold())
        if folder in by_folder:
            raise ValueError(
                f"EXPERIMENTS: {by_folder[folder]} and {name} would share the folder {folder_name(name)}, or do on "
                f"some file systems; {remedy}"
            )
        by_folder[folder] = by_label[label] = name


def experiments(cfg: CfgNode) -> list[Experiment]:
    """Return EXPERIMENTS in order.

    Raises:
        ValueError: an entry with a missing, unknown or wrong key; its number, from 1, and the key are named.
    """
    if not cfg.EXPERIMENTS:
        raise ValueError("EXPERIMENTS is empty; list at least one, with METHOD and CONFIG")
    return [_experiment(number, entry, cfg.KIND) for number, entry in enumerate(cfg.EXPERIMENTS, start=1)]


def _experiment(number: int, entry: Any, kind: str) -> Experiment:
    where = f"EXPERIMENTS, entry {number}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected a mapping with METHOD and CONFIG, but got {entry!r}")
    unknown = [key for key in entry if key not in EXPERIMENT_KEYS]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]}; expected {', '.join(EXPERIMENT_KEYS)}")
    if not entry.get("METHOD"):
        raise ValueError(f"{where} has no METHOD")
    if bool(entry.get("CONFIG")) == bool(entry.get("WEIGHTS")):
        has = "both CONFIG and WEIGHTS" if entry.get("CONFIG") else "no CONFIG"
        raise ValueError(f"{where} has {has}; expected a CONFIG of pretraining, or WEIGHTS that are there already")
    stray = [key for key in (OF_WEIGHTS if entry.get("CONFIG") else OF_CONFIG) if key in entry]
    if stray:
        of = "WEIGHTS" if entry.get("CONFIG") else "a CONFIG"
        raise ValueError(f"{where}: {stray[0]} is for a row with {of}, which this one has not")
    opts = _opts(where, entry, "OPTS")
    refuse_faults([f"{where}: {fault}" for fault in faults_of_opts("OPTS", opts)])
    paper, paper_std = _paper(where, entry)
    labels = [_label(where, entry, key) for key in ("METHOD", "MODEL", "DATA")]
    return Experiment(
        *labels,
        config=repository_file(entry["CONFIG"]) if entry.get("CONFIG") else None,
        opts=tuple(map(str, opts)),
        weights=_weights(where, entry, kind),
        reading=_reading(where, entry, kind),
        epoch=_epoch(where, entry, kind),
        detection_opts=_detection_opts(where, entry, kind),
        paper=paper,
        paper_std=paper_std,
        paper_only=_numbers(where, entry, "PAPER_ONLY", "names of columns"),
    )


def _label(where: str, entry: dict[str, Any], key: str) -> str:
    label = str(entry.get(key, ""))
    if label != label.strip():
        raise ValueError(f"{where}: {label!r} names a folder and must not begin or end with white space")
    if "/" in label or label.startswith("."):
        raise ValueError(f"{where}: {label!r} names a folder and must not hold a slash or begin with a dot")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in label):
        raise ValueError(f"{where}: {label!r} names a folder and must not hold a control character")
    if len(label.encode()) > MAX_LABEL_BYTES:
        raise ValueError(f"{where}: {label[:40]!r}... names a folder and has more than {MAX_LABEL_BYTES} bytes")
    return label


def _weights(where: str, entry: dict[str, Any], kind: str) -> str:
    """Return the absolute path of WEIGHTS, or RANDOM; empty without."""
    weights = str(entry.get("WEIGHTS", ""))
    if not weights:
        return ""
    if kind == "timing":
        raise ValueError(f"{where}: WEIGHTS, but KIND timing measures steps of pretraining; give a CONFIG")
    if weights == RANDOM:
        if kind != "transfer":
            raise ValueError(
                f"{where}: WEIGHTS random are for KIND transfer; there is nothing to see in them otherwise"
            )
        return weights
    refuse_address(weights)
    path = Path(os.path.expanduser(weights)).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{where}: WEIGHTS {path} {'is no file' if path.exists() else 'does not exist'}")
    return str(path)


def _reading(where: str, entry: dict[str, Any], kind: str) -> dict[str, Any]:
    reading = {key: entry[key] for key in READING_KEYS if key in entry}
    for key, value in reading.items():
        if entry["WEIGHTS"] == RANDOM:
            raise ValueError(f"{where}: {key} says what a file does not, but WEIGHTS is {RANDOM}")
        if key not in READ_BY_KIND[kind]:
            raise ValueError(f"{where}: {key} is nothing that KIND {kind} reads")
        if not READING_KEYS[key].holds(value):
            raise ValueError(f"{where}: {key} is {value!r}; expected {READING_KEYS[key].expected}")
    return reading


def _epoch(where: str, entry: dict[str, Any], kind: str) -> str:
    if "EPOCH" not in entry:
        return EPOCHS[0]
    if kind != "classification":
        raise ValueError(f"{where}: EPOCH is for KIND classification, whose table tells the last epoch from the best")
    if entry["EPOCH"] not in EPOCHS:
        raise ValueError(f"{where}: EPOCH is {entry['EPOCH']!r}; expected one of {', '.join(EPOCHS)}")
    return entry["EPOCH"]


def _detection_opts(where: str, entry: dict[str, Any], kind: str) -> tuple[str, ...]:
    opts = _opts(where, entry, "DETECTION_OPTS")
    if opts and kind != "transfer":
        raise ValueError(f"{where}: DETECTION_OPTS, but KIND {kind} has no fine-tuning")
    for key in map(str, opts[::2]):
        if key not in DETECTION_KEYS:
            raise ValueError(
                f"{where}: DETECTION_OPTS sets {key}; a row may set how its backbone reads pictures "
                f"({', '.join(DETECTION_KEYS)}), all else is the protocol, which all rows share: set DETECTION.OPTS"
            )
    return tuple(map(str, opts))


def _opts(where: str, entry: dict[str, Any], key: str) -> list[Any]:
    opts = entry.get(key, [])
    if not isinstance(opts, list) or len(opts) % 2:
        raise ValueError(f"{where}: {key} expects a list of KEY VALUE pairs, but got {opts!r}")
    return opts


def _paper(where: str, entry: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    paper = _numbers(where, entry, "PAPER", "metrics")
    paper_std = _numbers(where, entry, "PAPER_STD", "metrics")
    for name, std in paper_std.items():
        if name not in paper:
            raise ValueError(f"{where}: PAPER_STD names {name}, of which PAPER has no number")
        if std < 0:
            raise ValueError(f"{where}: PAPER_STD has {std} for {name}; expected at least 0")
    for name in paper:
        if not has_metric(str(name)):
            known = [*(metric.key for metric in NAMED_METRICS), "fgsm_8"]
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise ValueError(f"{where}: PAPER names {name}, which no table has; did you mean {near[0]}?")
    return paper, paper_std


def _numbers(where: str, entry: dict[str, Any], key: str, names: str) -> dict[str, float]:
    numbers = entry.get(key, {})
    if not isinstance(numbers, dict) or not all(map(is_number, numbers.values())):
        raise ValueError(f"{where}: {key} expects a mapping from {names} to numbers, but got {numbers!r}")
    return {str(name): number for name, number in numbers.items()}


def repository_file(path: Path | str) -> Path:
    """Return the absolute path of a config that a study names: from here, else from the repository's root."""
    return path.resolve() if (path := Path(path)).is_file() else ROOT / path


def faults_of_opts(where: str, opts: Sequence[Any]) -> list[str]:
    keys = [str(key) for key in opts[::2]]
    return [
        f"{where} sets {key}, which the study sets for every run; {SET_BY_STUDY[key]} instead"
        for key in dict.fromkeys(keys)
        if key in SET_BY_STUDY
    ]
