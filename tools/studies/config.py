"""Every setting of a study: which experiments, over which seeds, on what data, and how the work is spread out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from detection.datasets.digits import MIN_SCENE_SIDE, MIN_SIDE
from detection.engines import ENGINES
from pretrain.names import ATTACKS, PAIR_METHODS
from pretrain.run.settings import (
    SHARE_BELOW_1,
    Rule,
    at_least,
    find_faults,
    is_number,
    load_config,
    one_of,
    refuse_faults,
)
from tools.studies.experiments import experiments, faults_of_opts, refuse_shared_names

CHECKPOINTS = {"final": "model_final.pth", "best": "model_best.pth"}  # PRETRAIN.CHECKPOINT -> file of a pretraining
KINDS = ("transfer", "classification", "robustness", "timing", "cam")


def get_cfg() -> CfgNode:
    """Return every setting of a study with its default."""
    cfg = CfgNode()
    cfg.TITLE = ""  # heading of the page
    cfg.KIND = "transfer"  # one of KINDS: what is done with the pretrained networks, and which numbers are reported
    cfg.OUTPUT_DIR = "output/studies"  # studies in one folder share stages, and each has its page there
    cfg.SEEDS = (0, 1, 2)
    cfg.BASELINE = "baseline"  # METHOD of the row that the others of its model and data are compared with
    cfg.NOTES = []  # sentences for the page
    cfg.PROBES = ""  # kind transfer: a probes.json of tools/probe.py, for the page; from the working folder
    cfg.THREADS = 0  # CPU threads of a stage, on which the last bits of its results depend; 0: PyTorch's own choice
    cfg.GPUS = 1  # processes of a training stage, each with a GPU where there are any
    cfg.NODES = 1  # machines of a pretraining, each with GPUS processes; several: --launcher slurm only
    # A list of mappings with EXPERIMENT_KEYS: METHOD, MODEL and DATA label the row; CONFIG is a file of pretraining,
    # from the repository's root; OPTS its KEY VALUE pairs; PAPER maps metrics to published numbers, PAPER_STD to their
    # standard deviations, PAPER_ONLY names of further columns of the paper's table to their numbers.
    # Instead of CONFIG a row may have WEIGHTS: a file of weights that are there already, from the working folder, or
    # "random" (kind transfer: a detector trained from nothing, the calibrator). What such a file does not say stands
    # beside it, READING_KEYS: PREFIX, EMA, PIXEL_MEAN and so on, as the options of the tools are called. EPOCH (kind
    # classification) says of which epoch they are, "last" or "best"; DETECTION_OPTS (kind transfer) are the KEY VALUE
    # pairs by which the detector reads pictures as these weights want them (DETECTION_KEYS).
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

    # Kind transfer only: rates among which each row's own is chosen, on pictures of training that are held out. Every
    # row is trained at the rate of the protocol, and again at its own
    cfg.SWEEP = CfgNode()
    cfg.SWEEP.RATES = ()
    cfg.SWEEP.HELD_OUT = 0.0  # share of the training pictures; 0: VOC's val where its files are there, else a half
    cfg.SWEEP.SEED = 0  # of the one training at each rate, and of what is drawn

    cfg.DIGITS = CfgNode()  # data that is made, for a look without a download (see detection/digits.py)
    cfg.DIGITS.TRAIN_PER_CLASS = 0  # 0: real data, unless all rows have WEIGHTS and SCENES is set
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

    cfg.SLURM = CfgNode()  # --launcher slurm only; a job per stage
    cfg.SLURM.PARTITION = ""
    cfg.SLURM.GPUS = "auto"  # asked for where a stage uses any and the cluster has any; "0": never
    cfg.SLURM.MAX_JOBS = 0  # in the queue at a time; 0: all stages that are ready
    # What the job of a stage asks for that trains, or measures training
    cfg.SLURM.MINUTES = 1440  # limit of a job; one that reaches it is requeued and resumes
    cfg.SLURM.CPUS = 8  # a process
    cfg.SLURM.MEM_GB = 64  # a machine
    cfg.SLURM.TEST = CfgNode({"CPUS": 4, "MEM_GB": 16, "MINUTES": 240})  # likewise: evaluations, attacks, maps
    cfg.SLURM.PREPARE = CfgNode({"CPUS": 1, "MEM_GB": 4, "MINUTES": 60})  # data that are made, conversion, comparison
    cfg.SLURM.PARAMETERS = []  # NAME VALUE pairs for sbatch, such as [account, vision, constraint, h100]
    return cfg


def _seeds(values: Sequence[Any]) -> bool:
    return bool(values) and all(type(seed) is int and seed >= 0 for seed in values) and len(set(values)) == len(values)


def _epsilons(values: Sequence[Any]) -> bool:
    return bool(values) and all(is_number(value) and 0 < value <= 255 for value in values) and _different(values)


def _rates(values: Sequence[Any]) -> bool:
    return not values or (
        len(values) > 1 and all(is_number(value) and value > 0 for value in values) and _different(values)
    )


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
    "NODES": AT_LEAST_1,
    "PRETRAIN.OPTS": PAIRS,
    "PRETRAIN.CHECKPOINT": one_of(*CHECKPOINTS),
    "DETECTION.OPTS": PAIRS,
    "DETECTION.ENGINE": one_of(*ENGINES),
    "SWEEP.RATES": Rule(_rates, "two or more different numbers above 0, such as (.01, .02, .04); (): no sweep"),
    "SWEEP.HELD_OUT": SHARE_BELOW_1,
    "SWEEP.SEED": at_least(0),
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
    "SLURM.GPUS": one_of("auto", "0"),
    "SLURM.MAX_JOBS": at_least(0),
    **{
        f"SLURM.{section}{key}": AT_LEAST_1
        for section in ("", "TEST.", "PREPARE.")
        for key in ("CPUS", "MEM_GB", "MINUTES")
    },
    "SLURM.PARAMETERS": PAIRS,
    **{f"DIGITS.{name}": at_least(0) for name in get_cfg().DIGITS},
    "DIGITS.SIDE": at_least(MIN_SIDE),
    "DIGITS.SCENE_SIDE": at_least(MIN_SCENE_SIDE),
    **{f"COST.{name}": at_least(0) for name, value in get_cfg().COST.items() if value != ""},
}


def load_study(config_file: Path | str, opts: Sequence[str] = ()) -> CfgNode:
    """Return the checked, frozen config of a study; OUTPUT_DIR is absolute.

    The configs that it names are not read here; ``tools.studies.planning.plan`` does that.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the key, its value and what would be right.
    """
    return check_study(load_config(get_cfg(), config_file, opts))


def check_study(cfg: CfgNode, opts: Sequence[str] = ()) -> CfgNode:
    """Return ``cfg`` with the ``KEY VALUE`` pairs ``opts``, checked and frozen as ``load_study`` does."""
    cfg = load_config(cfg, None, opts)
    refuse_faults([*find_faults(cfg, RULES), *_contradictions(cfg)])
    refuse_shared_names([experiment.name for experiment in experiments(cfg)])
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR).resolve())
    cfg.PROBES = cfg.PROBES and str(Path(cfg.PROBES).expanduser().resolve())
    cfg.freeze()
    return cfg


def is_made(cfg: CfgNode) -> bool:
    """Return whether the study makes its data: pictures of classes, or scenes alone where it needs no others."""
    return cfg.DIGITS.TRAIN_PER_CLASS > 0 or (cfg.DIGITS.SCENES > 0 and not reads_pictures(cfg))


def reads_pictures(cfg: CfgNode) -> bool:
    """Return whether anything in the study is trained or evaluated on pictures of classes."""
    given = cfg.KIND == "transfer" or (cfg.KIND == "cam" and cfg.CAM.PICTURES)  # or shown such as are given by name
    return not given or any(row.config for row in experiments(cfg))


def _contradictions(cfg: CfgNode) -> list[str]:
    made = is_made(cfg)
    rows = experiments(cfg)
    faults = [
        *faults_of_opts("PRETRAIN.OPTS", cfg.PRETRAIN.OPTS),
        *faults_of_opts("DETECTION.OPTS", cfg.DETECTION.OPTS),
    ]
    maker = "DIGITS.TRAIN_PER_CLASS" if cfg.DIGITS.TRAIN_PER_CLASS else "DIGITS.SCENES"
    faults += [
        f"{key} and {maker} are both set; real data or made data, not both"
        for key, root in (
            ("PRETRAIN.DATA_ROOT", cfg.PRETRAIN.DATA_ROOT),
            ("DETECTION.VOC_ROOT", cfg.DETECTION.VOC_ROOT),
        )
        if made and root
    ]
    if made and reads_pictures(cfg) and cfg.DIGITS.VAL_PER_CLASS < 1:
        faults.append("DIGITS.VAL_PER_CLASS is 0; expected at least 1, since the networks are evaluated on them")
    if cfg.BASELINE != get_cfg().BASELINE and cfg.BASELINE not in [row.method for row in rows]:
        known = ", ".join(dict.fromkeys(row.method for row in rows))
        faults.append(f"BASELINE is {cfg.BASELINE}, which is no METHOD of EXPERIMENTS; expected one of {known}")
    if cfg.PROBES and cfg.KIND != "transfer":
        faults.append(f"PROBES is {cfg.PROBES}, but KIND {cfg.KIND} has no detectors beside them; leave it empty")
    elif cfg.PROBES and not Path(cfg.PROBES).expanduser().is_file():
        faults.append(f"PROBES is {cfg.PROBES}, which is no file; tools/probe.py writes one")
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
    if cfg.SWEEP.RATES and cfg.KIND != "transfer":
        faults.append(f"SWEEP.RATES are set, but KIND {cfg.KIND} has no fine-tuning; leave them at ()")
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
