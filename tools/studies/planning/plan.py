"""What a study consists of: its stages, what each is made from, where it lives, and the command that makes it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from detection.config import read_detection_config
from pretrain.config import EFFECTS as PRETRAIN_EFFECTS
from pretrain.config import get_cfg as get_pretrain_cfg
from tools.studies.config import get_cfg
from tools.studies.experiments import RANDOM, Experiment, experiments, repository_file
from tools.studies.planning.data import StudyData, given_pictures, scenes_root
from tools.studies.planning.detectors import Detectors
from tools.studies.planning.networks import Networks
from tools.studies.planning.stages import Stage, StageBook, differing, tool, words

TRAINS_NORMS = "detection/configs/voc_r50_c4_moco.yaml"  # the protocol in which checkpoints are compared


@dataclass(frozen=True)
class Plan:
    """A study's config and its stages; parents come before their children."""

    cfg: CfgNode
    config_file: Path
    stages: tuple[Stage, ...]
    detection: CfgNode | None = None  # of every fine-tuning, in a study that fine-tunes

    @property
    def study(self) -> str:
        """The study's name: that of its file."""
        return self.config_file.stem

    @property
    def scenes(self) -> Path:
        """The VOC.ROOT of every fine-tuning on data that are not made."""
        return Path(scenes_root(self.cfg, self.detection))

    @property
    def folder(self) -> Path:
        """Where the study's page and log go; stages lie beside it, since other studies may share them."""
        return Path(self.cfg.OUTPUT_DIR, self.study)


def make_plan(cfg: CfgNode, config_file: Path | str, *, accept_code: bool = False, accept_data: bool = False) -> Plan:
    """Return the stages of the study ``cfg``, read by ``load_study`` from ``config_file``. Nothing is run or written.

    With ``accept_code`` a stage that was run, or begun, by another version of its code or of PyTorch is taken as it is,
    with ``accept_data`` one of data that have changed since.

    Raises:
        FileNotFoundError: a config that the study names does not exist.
        ValueError: such a config, or its OPTS, are wrong; the experiment is named.
    """
    config_file = Path(config_file)
    planner = _Planner(cfg, config_file.stem, StageBook(cfg, accept_code=accept_code, accept_data=accept_data))
    return Plan(cfg, config_file, tuple(planner.stages()), planner.detection)


class _Planner:
    def __init__(self, cfg: CfgNode, study: str, book: StageBook):
        self.cfg, self.study, self.book = cfg, study, book
        self.defaults = get_cfg()
        self.experiments = experiments(cfg)
        self.engine = cfg.DETECTION.ENGINE
        if self.engine == "auto":
            self.engine = "detectron2" if importlib.util.find_spec("detectron2") else "torchvision"
        self.detection = None
        if cfg.KIND == "transfer":
            opts, config = list(map(str, cfg.DETECTION.OPTS)), repository_file(cfg.DETECTION.CONFIG)
            self.detection = read_detection_config(config, opts)
            _check_data_named(self.detection)
            if any(one.weights == RANDOM for one in self.experiments):
                _check_trainable(self.detection)
            largest = ["SEED", str(max(cfg.SEEDS))]  # refused where too large
            read_detection_config(config, [*opts, *largest])
        self.data = StudyData(cfg, book, self.detection)
        self.networks = Networks(cfg, book, self.data)
        if self.detection is not None:
            self.detectors = Detectors(cfg, book, self.data, self.detection, self.engine)

    def stages(self) -> list[Stage]:
        make = {
            "transfer": self._transfer,
            "classification": self._classification,
            "robustness": self._robustness,
            "timing": self._timing,
            "cam": self._cam,
        }
        make[self.cfg.KIND]()
        return list(self.book.stages.values())

    # The five kinds ---------------------------------------------------------------------------------------------------

    def _transfer(self) -> None:
        detectors, runs = self.detectors, []
        for experiment, seed in self._by_seed():
            trained = detectors.fine_tune(experiment, seed, self.networks.convert(experiment, seed))
            runs.append(detectors.evaluate(experiment, seed, trained))
        if self.cfg.SWEEP.RATES:
            for experiment, seed in self._by_seed():
                backbone = self.networks.convert(experiment, seed)
                chosen_with = self.networks.convert(experiment, self.cfg.SEEDS[0])
                trained = detectors.fine_tune_at_own_rate(experiment, seed, backbone, chosen_with)
                detectors.evaluate(experiment, seed, trained)
        if len(runs) > 1:
            self._comparison(runs)

    def _classification(self) -> None:
        for experiment, seed in self._by_seed():
            if experiment.config:
                self.networks.pretrain(experiment, seed)
            else:
                self._accuracy(experiment, seed)

    def _robustness(self) -> None:
        attack = self.cfg.ATTACK
        for experiment, seed in self._by_seed():
            checkpoint = self.networks.checkpoint(experiment, seed)
            flags = {
                "--data-root": self.data.pictures(),
                "--attacks": attack.METHODS,
                "--epsilons": [f"{value:g}" for value in attack.EPSILONS],
                "--steps": attack.STEPS,
                "--step-size": f"{attack.STEP_SIZE:g}",
                "--num-images": attack.NUM_IMAGES,
            }
            self.book.add(
                f"{experiment.name}/seed{seed}/attack",
                "attack",
                lambda folder, checkpoint=checkpoint, flags=flags: [
                    *tool("attack"),
                    str(checkpoint.path),
                    *checkpoint.flags,
                    *words({**flags, "--output": folder / "attack.json"}),
                ],
                outputs=("attack.json",),
                inputs={**attack, **checkpoint.inputs, **self.data.real_pictures()},
                defaults={**self.defaults.ATTACK, **self.networks.taken_defaults},
                parents=self.data.with_pictures(*checkpoint.parents),
                experiment=experiment,
                seed=seed,
            )

    def _timing(self) -> None:
        configs = {experiment.name: self.networks.pretrain_config(experiment, 0) for experiment in self.experiments}
        defaults = PRETRAIN_EFFECTS.first_values(get_pretrain_cfg())
        timed = {name: differing(PRETRAIN_EFFECTS.of_timing(cfg), defaults) for name, cfg in configs.items()}

        def command(folder: Path) -> list[str]:
            runs = [["--run", one.name, str(one.config), *one.opts] for one in self.experiments]
            opts = [
                *map(str, self.cfg.PRETRAIN.OPTS),
                *(["DATA.ROOT", self.data.pictures()] if self.data.pictures() else []),
            ]
            return [
                *tool("bench_methods"),
                *(word for run in runs for word in run),
                *words({"--rounds": self.cfg.TIMING.ROUNDS, "--iterations": self.cfg.TIMING.ITERATIONS}),
                *words({"--output": folder / "timing.json"}),
                *opts,
            ]

        self.book.add(
            f"{self.study}/timing",
            "timing",
            command,
            outputs=("timing.json",),
            inputs={"runs": timed, **self.cfg.TIMING, "threads": self.cfg.THREADS, **self.data.real_pictures()},
            defaults={**self.defaults.TIMING, "threads": self.defaults.THREADS},
            parents=self.data.with_pictures(),
        )

    def _cam(self) -> None:
        seed = self.cfg.SEEDS[0]
        shown = {self._label(one): self.networks.checkpoint(one, seed) for one in self.experiments}
        weights = {name: one.inputs["weights"] for name, one in shown.items() if not one.parents}
        pictures = given_pictures(self.cfg)
        flags = {
            "--checkpoints": [f"{name}={one.path}" for name, one in shown.items()],
            "--methods": self.cfg.CAM.METHODS,
            **({"--data-root": self.data.pictures()} if self.data.pictures() else {}),
            "--num-images": self.cfg.CAM.NUM_IMAGES,
            **({"--input": [path for path, _ in pictures]} if pictures else {}),
            "--seed": seed,
        }
        self.book.add(
            f"{self.study}/cam",
            "cam",
            lambda folder: [*tool("show_cam"), *words({**flags, "--output": folder / "cam.png"})],
            outputs=("cam.png", "cam.json"),
            inputs={
                **self.cfg.CAM,
                "PICTURES": pictures,
                "seed": seed,
                "weights": weights,
                **self.networks.taken,
                **self.data.real_pictures(),
            },
            defaults={**self.defaults.CAM, "weights": {}, **self.networks.taken_defaults},
            parents=self.data.with_pictures(*(stage for one in shown.values() for stage in one.parents)),
            seed=seed,
        )

    # Their stages -----------------------------------------------------------------------------------------------------

    def _by_seed(self) -> list[tuple[Experiment, int]]:
        """Return every experiment with its seeds, seed by seed, so that each method gets its first number early."""
        return [
            (experiment, seed)
            for seed in self.cfg.SEEDS
            for experiment in self.experiments
            if seed in seeds_of(self.cfg, experiment)
        ]

    def _accuracy(self, experiment: Experiment, seed: int) -> Stage:
        checkpoint = self.networks.checkpoint(experiment, seed)
        return self.book.add(
            f"{experiment.name}/accuracy",
            "accuracy",
            lambda folder: [
                *tool("evaluate_checkpoint"),
                str(checkpoint.path),
                *checkpoint.flags,
                *words({"--data-root": self.data.pictures(), "--output": folder / "accuracy.json"}),
            ],
            outputs=("accuracy.json",),
            inputs={**checkpoint.inputs, **self.data.real_pictures()},
            parents=self.data.with_pictures(),
            experiment=experiment,
            seed=seed,
        )

    def _comparison(self, runs: Sequence[Stage]) -> None:
        split = self.detection.DATASETS.TEST[0]
        methods = [self._label(run.experiment) for run in runs]
        classes = tuple(self.detection.VOC.CLASSES)
        flags = {
            "--data-root": self.data.scenes(),
            "--dataset": split,
            **({"--classes": _class_list(classes)} if classes else {}),
            **({"--baseline": self.cfg.BASELINE} if self.cfg.BASELINE in methods else {}),
        }
        compared = [f"{method}={run.folder}" for method, run in zip(methods, runs, strict=True)]
        self.book.add(
            f"{self.study}/comparison",
            "comparison",
            lambda folder: [*tool("voc_map"), *words({**flags, "--output": folder, "--compare": compared})],
            outputs=("comparison.json", "comparison.html"),
            inputs={"methods": methods, "split": split, "baseline": self.cfg.BASELINE, **self.data.real_scenes()},
            defaults={"baseline": self.defaults.BASELINE},
            parents=self.data.with_scenes(*runs),
        )

    def _label(self, experiment: Experiment) -> str:
        """Return the method, with model and data where the study has several of them."""
        several = len({(one.model, one.data) for one in self.experiments}) > 1
        return experiment.name.replace("/", " ") if several else experiment.method


def seeds_of(cfg: CfgNode, experiment: Experiment) -> Sequence[int]:
    """Return the seeds of a row's runs; weights that are there already differ by none before they are fine-tuned."""
    return cfg.SEEDS if cfg.KIND == "transfer" or experiment.config else cfg.SEEDS[:1]


def _check_data_named(detection: CfgNode) -> None:
    """Refuse a config of fine-tuning that names no data: every detector of a study is trained, then tested."""
    for key, verb, expected in (("TRAIN", "train", "data sets"), ("TEST", "test", "a data set")):
        if not detection.DATASETS[key]:
            raise ValueError(
                f"DETECTION: DATASETS.{key} is (); expected {expected} to {verb} the detectors of a study on, such as "
                f"\"('voc_2007_{'trainval' if key == 'TRAIN' else 'test'}',)\""
            )


def _check_trainable(detection: CfgNode) -> None:
    """Refuse a config that keeps what a network that starts from nothing has to learn."""
    norm, frozen = detection.MODEL.RESNETS.NORM, detection.MODEL.BACKBONE.FREEZE_AT
    if norm == "FrozenBN" or frozen > 0:
        kept = "MODEL.RESNETS.NORM is FrozenBN" if norm == "FrozenBN" else f"MODEL.BACKBONE.FREEZE_AT is {frozen}"
        raise ValueError(
            f"DETECTION: {kept}: what is kept of random weights means nothing, and favours those that were trained; "
            f"take a config that trains all of it for every row, such as {TRAINS_NORMS}"
        )


def _class_list(classes: Sequence[str]) -> str:
    """Return ``classes`` as ``read_class_list`` takes them."""
    return json.dumps(classes) if any("," in name for name in classes) else ",".join(classes)
