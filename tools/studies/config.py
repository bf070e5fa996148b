"""Every setting of a study: which experiments, over which seeds, on what data, and how the work is spread out."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from detection.engines import ENGINES
from pretrain.names import ATTACKS, PAIR_METHODS
from pretrain.run.settings import (
    Rule,
    at_least,
    find_faults,
    is_number,
    load_config,
    one_of,
    refuse_faults,
)
from tools.studies.values import CLASSIFICATION, COCO, TIMING, TRANSFER, has_metric

ROOT = Path(__file__).resolve().parents[2]  # of the repository; the configs that a study names lie below it

CHECKPOINTS = {"final": "model_final.pth", "best": "model_best.pth"}  # PRETRAIN.CHECKPOINT -> file of a pretraining
KINDS = ("transfer", "classification", "robustness", "timing", "cam")
MAX_LABEL_BYTES = 200  # of 255 that a folder's name may have
EXPERIMENT_KEYS = ("METHOD", "MODEL", "DATA", "CONFIG", "OPTS", "PAPER", "PAPER_STD", "PAPER_ONLY")
# Keys that the study sets for every run, and where it takes them from. OPTS must not set them: it would be in vain.
SET_BY_STUDY = {
    "SEED": "set SEEDS", "OUTPUT_DIR": "set OUTPUT_DIR of the study", "DATA.ROOT": "set PRETRAIN.DATA_ROOT",
    "VOC.ROOT": "set DETECTION.VOC_ROOT", "MODEL.WEIGHTS": "add a row to EXPERIMENTS",
}  # fmt: skip


class Experiment(NamedTuple):
    """A row of a study's table: how its networks are pretrained, and what the paper reports for it."""

    method: str  # the row's label; more than MIXING.METHOD where a study compares variants of one method
    model: str
    data: str
    config: Path
    opts: tuple[str, ...]  # KEY VALUE pairs
    paper: dict[str, float]  # metric -> published number
    paper_std: dict[str, float]  # metric -> standard deviation of that number
    paper_only: dict[str, float]  # name of a column that only the paper has -> its number

    @property
    def name(self) -> str:
        """The labels as a path, such as ``ResNet-50/ImageNet/cutmix``."""
        return "/".join(label for label in (self.model, self.data, self.method) if label)


def get_cfg() -> CfgNode:
    """Return every setting of a study with its default."""
    cfg = CfgNode()
    cfg.TITLE = ""  # heading of the page
    cfg.KIND = "transfer"  # one of KINDS: what is done with the pretrained networks, and which numbers are reported
    cfg.OUTPUT_DIR = "output/studies"  # studies in one folder share stages, and each has its page there
    cfg.SEEDS = (0, 1, 2)
    cfg.NOTES = []  # sentences for the page
    cfg.THREADS = 0  # CPU threads of a stage, on which the last bits of its results depend; 0: PyTorch's own choice
    cfg.GPUS = 1  # processes of a training stage, each with a GPU where there are any
    # A list of mappings with EXPERIMENT_KEYS: METHOD, MODEL and DATA label the row; CONFIG is a file of pretraining,
    # from the repository's root; OPTS its KEY VALUE pairs; PAPER maps metrics to published numbers, PAPER_STD to their
    # standard deviations, PAPER_ONLY names of further columns of the paper's table to their numbers.
    cfg.EXPERIMENTS = []
    cfg.PAPER = CfgNode()
    cfg.PAPER.TABLE = ""  # which of the paper's tables or figures this is
    cfg.PAPER.PROTOCOL = ""  # what its numbers are, in a sentence

    cfg.PRETRAIN = CfgNode()
    cfg.PRETRAIN.DATA_ROOT = ""  # DATA.ROOT of every pretraining; empty where DIGITS makes the data
    cfg.PRETRAIN.OPTS = []  # KEY VALUE pairs for every experiment, before its own
    cfg.PRETRAIN.SEED = -1  # kind transfer: of one pretraining for all SEEDS, as the paper presumably had; -1: one each

    # One of CHECKPOINTS, which is converted, attacked or drawn maps of: of the last epoch, or of the lowest top-1 error
    cfg.PRETRAIN.CHECKPOINT = "final"

    cfg.DETECTION = CfgNode()  # kind transfer only
    cfg.DETECTION.CONFIG = ""  # file of fine-tuning, from the repository's root
    cfg.DETECTION.OPTS = []
    cfg.DETECTION.ENGINE = "auto"  # one of ENGINES
    cfg.DETECTION.VOC_ROOT = ""  # VOC.ROOT; empty: $DETECTRON2_DATASETS, or what DIGITS makes

    cfg.DIGITS = CfgNode()  # data that is made, for a look without a download (see detection/digits.py)
    cfg.DIGITS.TRAIN_PER_CLASS = 0  # 0: real data
    cfg.DIGITS.VAL_PER_CLASS = 0
    cfg.DIGITS.SIDE = 32  # pixels
    cfg.DIGITS.SCENES = 0  # of each trainval set; kind transfer only, as are the two below
    cfg.DIGITS.TEST_SCENES = 0
    cfg.DIGITS.SCENE_SIDE = 96
    cfg.DIGITS.SEED = 0  # the data is the same for all SEEDS

    cfg.ATTACK = CfgNode()  # kind robustness only
    cfg.ATTACK.METHODS = ("fgsm", "pgd")
    cfg.ATTACK.EPSILONS = (1.0, 2.0, 4.0, 8.0)  # largest change of a pixel, levels of 255
    cfg.ATTACK.STEPS = 10  # of PGD
    cfg.ATTACK.STEP_SIZE = 0.0  # of PGD, levels of 255; 0: 2.5 epsilon / STEPS
    cfg.ATTACK.NUM_IMAGES = 0  # of the validation pictures; 0: all

    cfg.TIMING = CfgNode()  # kind timing only
    cfg.TIMING.ROUNDS = 10  # in each of which every method takes its turn
    cfg.TIMING.ITERATIONS = 20  # of a turn

    cfg.CAM = CfgNode()  # kind cam only
    # Of PAIR_METHODS: one, by which every experiment's network sees the pairs mixed; or several, a column each, for the
    # network of a single experiment, as the paper has it
    cfg.CAM.METHODS = ("saliencymix",)
    cfg.CAM.NUM_IMAGES = 4  # pairs on the contact sheet, drawn from the validation pictures
    # Files to take instead: source, target, source, target, ...; the folder that a file is in names its class
    cfg.CAM.PICTURES = ()

    cfg.COST = CfgNode()  # for the estimates before anything is measured; what this study has measured comes first
    cfg.COST.TRAIN_PICTURES = 0  # of an epoch of pretraining
    cfg.COST.TEST_PICTURES = 0  # of the detector's test set
    cfg.COST.PRETRAIN_RATE = 0.0  # pictures per second of one process; 0: not known
    cfg.COST.FINE_TUNE_RATE = 0.0
    cfg.COST.EVALUATE_RATE = 0.0
    cfg.COST.SOURCE = ""  # who measured that, on what

    cfg.SLURM = CfgNode()  # --launcher slurm only; a job per stage, on one machine
    cfg.SLURM.PARTITION = ""
    cfg.SLURM.MINUTES = 1440  # limit of a job; one that reaches it is requeued and resumes
    cfg.SLURM.CPUS = 8  # a process
    cfg.SLURM.MEM_GB = 64
    cfg.SLURM.PARAMETERS = []  # NAME VALUE pairs for sbatch, such as [account, vision, constraint, h100]
    return cfg


def _seeds(values: Sequence[Any]) -> bool:
    return bool(values) and all(type(seed) is int and seed >= 0 for seed in values) and len(set(values)) == len(values)


def _epsilons(values: Sequence[Any]) -> bool:
    return bool(values) and all(is_number(value) and 0 < value <= 255 for value in values) and _different(values)


def _some_of(known: Sequence[str]) -> Rule:
    def is_some(values: Sequence[Any]) -> bool:
        return bool(values) and all(value in known for value in values) and _different(values)

    return Rule(is_some, f"one or more of {', '.join(known)}, each once")


def _pairs_of_files(values: Sequence[Any]) -> bool:
    return len(values) % 2 == 0 and all(isinstance(value, str) and value for value in values)


def _different(values: Sequence[Any]) -> bool:
    return len(set(values)) == len(values)


PAIRS = Rule(lambda value: len(value) % 2 == 0, "KEY VALUE pairs")
AT_LEAST_1 = at_least(1)
RULES: dict[str, Rule] = {
    "KIND": one_of(*KINDS),
    "NOTES": Rule(lambda value: all(isinstance(note, str) for note in value), "a list of sentences"),
    "SEEDS": Rule(_seeds, "different whole numbers of at least 0, such as (0, 1, 2)"),
    "THREADS": at_least(0),
    "GPUS": AT_LEAST_1,
    "PRETRAIN.OPTS": PAIRS,
    "PRETRAIN.CHECKPOINT": one_of(*CHECKPOINTS),
    "DETECTION.OPTS": PAIRS,
    "DETECTION.ENGINE": one_of(*ENGINES),
    "ATTACK.METHODS": _some_of(ATTACKS),
    "ATTACK.EPSILONS": Rule(_epsilons, "different numbers above 0, levels of 255"),
    "ATTACK.STEPS": AT_LEAST_1,
    "ATTACK.STEP_SIZE": at_least(0),
    "ATTACK.NUM_IMAGES": at_least(0),
    "TIMING.ROUNDS": AT_LEAST_1,
    "TIMING.ITERATIONS": AT_LEAST_1,
    "CAM.METHODS": _some_of(PAIR_METHODS),
    "CAM.NUM_IMAGES": AT_LEAST_1,
    "CAM.PICTURES": Rule(_pairs_of_files, "files: source, target, source, target, ..."),
    "SLURM.MINUTES": AT_LEAST_1,
    "SLURM.CPUS": AT_LEAST_1,
    "SLURM.MEM_GB": AT_LEAST_1,
    "SLURM.PARAMETERS": PAIRS,
    **{f"DIGITS.{name}": at_least(0) for name in get_cfg().DIGITS},
    **{f"COST.{name}": at_least(0) for name, value in get_cfg().COST.items() if value != ""},
}


def load_study(config_file: Path | str, opts: Sequence[str] = ()) -> CfgNode:
    """Return the checked, frozen config of a study; OUTPUT_DIR is absolute.

    The configs that it names are not read here; ``tools.studies.planning.plan`` does that.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the key, its value and what would be right.
    """
    cfg = load_config(get_cfg(), config_file, opts)
    refuse_faults([*find_faults(cfg, RULES), *_contradictions(cfg)])
    _refuse_shared_names([experiment.name for experiment in experiments(cfg)])
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR).resolve())
    cfg.freeze()
    return cfg


def folder_name(name: str) -> str:
    """Return ``name``, of an experiment or a stage, as the path of its folder."""
    return re.sub(r"[^\w./+-]", "_", name)


def _refuse_shared_names(names: Sequence[str]) -> None:
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
    return [_experiment(number, entry) for number, entry in enumerate(cfg.EXPERIMENTS, start=1)]


def _experiment(number: int, entry: Any) -> Experiment:
    where = f"EXPERIMENTS, entry {number}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected a mapping with METHOD and CONFIG, but got {entry!r}")
    unknown = [key for key in entry if key not in EXPERIMENT_KEYS]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]}; expected {', '.join(EXPERIMENT_KEYS)}")
    for key in ("METHOD", "CONFIG"):
        if not entry.get(key):
            raise ValueError(f"{where} has no {key}")
    opts = entry.get("OPTS", [])
    if not isinstance(opts, list) or len(opts) % 2:
        raise ValueError(f"{where}: OPTS expects a list of KEY VALUE pairs, but got {opts!r}")
    refuse_faults([f"{where}: {fault}" for fault in _faults_of_opts("OPTS", opts)])
    paper = _numbers(where, entry, "PAPER", "metrics")
    paper_std = _numbers(where, entry, "PAPER_STD", "metrics")
    paper_only = _numbers(where, entry, "PAPER_ONLY", "names of columns")
    for name, std in paper_std.items():
        if name not in paper:
            raise ValueError(f"{where}: PAPER_STD names {name}, of which PAPER has no number")
        if std < 0:
            raise ValueError(f"{where}: PAPER_STD has {std} for {name}; expected at least 0")
    for name in paper:
        if not has_metric(str(name)):
            known = [metric.key for metric in (*TRANSFER, *COCO, *CLASSIFICATION, *TIMING)]
            near = difflib.get_close_matches(str(name), [*known, "clean_top1", "fgsm_8"], n=1, cutoff=0.0)
            raise ValueError(f"{where}: PAPER names {name}, which no table has; did you mean {near[0]}?")
    labels = [str(entry.get(key, "")) for key in ("METHOD", "MODEL", "DATA")]
    for label in labels:
        if "/" in label or label.startswith("."):
            raise ValueError(f"{where}: {label!r} names a folder and must not hold a slash or begin with a dot")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in label):
            raise ValueError(f"{where}: {label!r} names a folder and must not hold a control character")
        if len(label.encode()) > MAX_LABEL_BYTES:
            raise ValueError(f"{where}: {label[:40]!r}... names a folder and has more than {MAX_LABEL_BYTES} bytes")
    return Experiment(*labels, repository_file(entry["CONFIG"]), tuple(map(str, opts)), paper, paper_std, paper_only)


def _numbers(where: str, entry: dict[str, Any], key: str, names: str) -> dict[str, float]:
    numbers = entry.get(key, {})
    if not isinstance(numbers, dict) or not all(map(is_number, numbers.values())):
        raise ValueError(f"{where}: {key} expects a mapping from {names} to numbers, but got {numbers!r}")
    return {str(name): number for name, number in numbers.items()}


def repository_file(path: Path | str) -> Path:
    """Return the absolute path of a config that a study names: from here, else from the repository's root."""
    return path.resolve() if (path := Path(path)).is_file() else ROOT / path


def _faults_of_opts(where: str, opts: Sequence[Any]) -> list[str]:
    keys = [str(key) for key in opts[::2]]
    return [
        f"{where} sets {key}, which the study sets for every run; {SET_BY_STUDY[key]} instead"
        for key in dict.fromkeys(keys)
        if key in SET_BY_STUDY
    ]


def _contradictions(cfg: CfgNode) -> list[str]:
    made = cfg.DIGITS.TRAIN_PER_CLASS > 0
    faults = [
        *_faults_of_opts("PRETRAIN.OPTS", cfg.PRETRAIN.OPTS),
        *_faults_of_opts("DETECTION.OPTS", cfg.DETECTION.OPTS),
    ]
    if made and cfg.PRETRAIN.DATA_ROOT:
        faults.append("PRETRAIN.DATA_ROOT and DIGITS.TRAIN_PER_CLASS are both set; real data or made data, not both")
    if made and cfg.DETECTION.VOC_ROOT:
        faults.append("DETECTION.VOC_ROOT and DIGITS.TRAIN_PER_CLASS are both set; real data or made data, not both")
    if made and cfg.DIGITS.VAL_PER_CLASS < 1:
        faults.append("DIGITS.VAL_PER_CLASS is 0; expected at least 1, since the networks are evaluated on them")
    if cfg.PRETRAIN.SEED >= 0 and cfg.KIND != "transfer":
        faults.append(
            f"PRETRAIN.SEED is {cfg.PRETRAIN.SEED}: one pretraining for several fine-tunings, but KIND {cfg.KIND} has "
            "no fine-tuning; leave it at -1 and set SEEDS"
        )
    if cfg.PRETRAIN.CHECKPOINT != "final" and cfg.KIND in ("classification", "timing"):
        why = "trains nothing" if cfg.KIND == "timing" else "shows the errors of both epochs"
        faults.append(
            f"PRETRAIN.CHECKPOINT is {cfg.PRETRAIN.CHECKPOINT}: what goes on from pretraining, but KIND {cfg.KIND} "
            f"{why}; leave it at final"
        )
    if cfg.KIND == "cam" and len(cfg.CAM.METHODS) > 1 and len(cfg.EXPERIMENTS) > 1:
        faults.append(
            f"CAM.METHODS are {len(cfg.CAM.METHODS)} and EXPERIMENTS {len(cfg.EXPERIMENTS)}; expected one experiment, "
            "whose network looks at the pictures of several methods, or one method, for the networks of several"
        )
    if cfg.KIND == "transfer":
        if not cfg.DETECTION.CONFIG:
            faults.append("DETECTION.CONFIG is empty; name one, such as detection/configs/voc_r50_c4_paper.yaml")
        if made and min(cfg.DIGITS.SCENES, cfg.DIGITS.TEST_SCENES) < 1:
            faults.append("DIGITS.SCENES and DIGITS.TEST_SCENES must be at least 1 to fine-tune on made scenes")
    return faults
