"""What a study consists of: its stages, what each is made from, where it lives, and the command that makes it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from detection.config import EFFECTS as DETECTION_EFFECTS
from detection.config import get_cfg as get_detection_cfg
from detection.config import read_detection_config
from detection.datasets.coco import report_name
from pretrain.config import EFFECTS as PRETRAIN_EFFECTS
from pretrain.config import get_cfg as get_pretrain_cfg
from pretrain.config import load_pretrain_config
from tools.studies.config import CHECKPOINTS, Experiment, experiments, get_cfg, repository_file
from tools.studies.planning.data import StudyData, given_pictures, scenes_root
from tools.studies.planning.stages import Stage, StageBook, differing, tool, words

FINAL = CHECKPOINTS["final"]
ONE_PROCESS = {"processes": 1}  # what a stage ran on where it does not say


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
        self.checkpoint = CHECKPOINTS[cfg.PRETRAIN.CHECKPOINT]
        self.taken = {"CHECKPOINT": cfg.PRETRAIN.CHECKPOINT}  # an input of the stages that take it
        self.taken_defaults = {"CHECKPOINT": self.defaults.PRETRAIN.CHECKPOINT}
        self.experiments = experiments(cfg)
        self.engine = cfg.DETECTION.ENGINE
        if self.engine == "auto":
            self.engine = "detectron2" if importlib.util.find_spec("detectron2") else "torchvision"
        self.detection = None
        if cfg.KIND == "transfer":
            self.detection_opts = list(map(str, cfg.DETECTION.OPTS))
            config = repository_file(cfg.DETECTION.CONFIG)
            self.detection = read_detection_config(config, self.detection_opts)
            _check_data_named(self.detection)
            largest = ["SEED", str(max(cfg.SEEDS))]  # refused where too large
            read_detection_config(config, [*self.detection_opts, *largest])
            self.detection_defaults = DETECTION_EFFECTS.first_values(get_detection_cfg()) | ONE_PROCESS
        self.data = StudyData(cfg, book, self.detection)

    def stages(self) -> list[Stage]:
        make = {
            "transfer": self._transfer,
            "classification": self._pretrained,
            "robustness": self._robustness,
            "timing": self._timing,
            "cam": self._cam,
        }
        make[self.cfg.KIND]()
        return list(self.book.stages.values())

    # The five kinds ---------------------------------------------------------------------------------------------------

    def _transfer(self) -> None:
        runs = [
            self._evaluate(experiment, seed, self._fine_tune(experiment, seed, self._convert(pretrained)))
            for experiment, seed, pretrained in self._pretrained()
        ]
        if len(runs) > 1:
            self._comparison(runs)

    def _robustness(self) -> None:
        attack = self.cfg.ATTACK
        for experiment, seed, pretrained in self._pretrained():
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
                lambda folder, model=pretrained.folder / self.checkpoint, flags=flags: [
                    *tool("attack"),
                    str(model),
                    *words({**flags, "--output": folder / "attack.json"}),
                ],
                outputs=("attack.json",),
                inputs={**attack, **self.taken, **self.data.real_pictures()},
                defaults={**self.defaults.ATTACK, **self.taken_defaults},
                parents=self.data.with_pictures(pretrained),
                experiment=experiment,
                seed=seed,
            )

    def _timing(self) -> None:
        configs = {experiment.name: self._pretrain_config(experiment, 0) for experiment in self.experiments}
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
                *(["--opts", *opts] if opts else []),
                *words({"--rounds": self.cfg.TIMING.ROUNDS, "--iterations": self.cfg.TIMING.ITERATIONS}),
                *words({"--output": folder / "timing.json"}),
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
        pretrained = {self._label(experiment): self._pretrain(experiment, seed) for experiment in self.experiments}
        pictures = given_pictures(self.cfg)
        flags = {
            "--checkpoints": [f"{name}={stage.folder / self.checkpoint}" for name, stage in pretrained.items()],
            "--methods": self.cfg.CAM.METHODS,
            "--data-root": self.data.pictures(),
            "--num-images": self.cfg.CAM.NUM_IMAGES,
            **({"--pictures": [path for path, _ in pictures]} if pictures else {}),
            "--seed": seed,
        }
        self.book.add(
            f"{self.study}/cam",
            "cam",
            lambda folder: [*tool("show_cam"), *words({**flags, "--output": folder / "cam.png"})],
            outputs=("cam.png", "cam.json"),
            inputs={**self.cfg.CAM, "PICTURES": pictures, "seed": seed, **self.taken, **self.data.real_pictures()},
            defaults={**self.defaults.CAM, **self.taken_defaults},
            parents=self.data.with_pictures(*pretrained.values()),
            seed=seed,
        )

    # Their stages -----------------------------------------------------------------------------------------------------

    def _pretrained(self) -> list[tuple[Experiment, int, Stage]]:
        """Return every experiment with every seed, seed by seed, so that each method gets its first number early."""
        return [
            (experiment, seed, self._pretrain(experiment, seed))
            for seed in self.cfg.SEEDS
            for experiment in self.experiments
        ]

    def _pretrain_config(self, experiment: Experiment, seed: int) -> CfgNode:
        opts = [*map(str, self.cfg.PRETRAIN.OPTS), *experiment.opts, "SEED", str(seed)]
        try:
            return load_pretrain_config(experiment.config, opts)
        except ValueError as error:
            raise ValueError(f"experiment {experiment.name}: {error}") from error

    def _pretrain(self, experiment: Experiment, seed: int) -> Stage:
        shared = self.cfg.PRETRAIN.SEED >= 0
        used = self.cfg.PRETRAIN.SEED if shared else seed
        cfg = self._pretrain_config(experiment, used)
        given = [*map(str, self.cfg.PRETRAIN.OPTS), *experiment.opts]
        return self.book.add(
            f"{experiment.name}/seed{used}/pretrain",
            "pretrain",
            lambda folder: [
                *tool("pretrain", processes=self.cfg.GPUS),
                *words({"--config-file": experiment.config}),
                "--resume",
                *given,
                *words({"DATA.ROOT": self.data.pictures(), "OUTPUT_DIR": folder, "SEED": used}),
            ],
            outputs=tuple(dict.fromkeys((FINAL, self.checkpoint))),
            inputs={**PRETRAIN_EFFECTS.of_training(cfg), "processes": self.cfg.GPUS, **self.data.real_pictures()},
            defaults=PRETRAIN_EFFECTS.first_values(get_pretrain_cfg()) | ONE_PROCESS,
            parents=self.data.with_pictures(),
            work=cfg.SOLVER.EPOCHS * (10 * self.cfg.DIGITS.TRAIN_PER_CLASS or self.cfg.COST.TRAIN_PICTURES),
            processes=self.cfg.GPUS,
            experiment=experiment,
            seed=None if shared else seed,
        )

    def _convert(self, pretrained: Stage) -> Stage:
        return self.book.add(
            f"{pretrained.name.rpartition('/')[0]}/convert",
            "convert",
            lambda folder: [
                *tool("convert_checkpoint"),
                *(str(path) for path in (pretrained.folder / self.checkpoint, folder / "backbone.pth")),
            ],
            outputs=("backbone.pth",),
            inputs=self.taken,
            defaults=self.taken_defaults,
            parents=(pretrained,),
            experiment=pretrained.experiment,
            seed=pretrained.seed,
        )

    def _fine_tune(self, experiment: Experiment, seed: int, backbone: Stage) -> Stage:
        solver, processes = self.detection.SOLVER, self.cfg.GPUS
        own_processes = self.engine == "detectron2" and processes > 1  # Detectron2 starts them itself
        return self.book.add(
            f"{experiment.name}/seed{seed}/fine_tune",
            "fine_tune",
            lambda folder: [
                *tool("train_net", processes=1 if own_processes else processes),
                *words({"--engine": self.engine, **({"--num-gpus": processes} if own_processes else {})}),
                "--resume",
                *self._detection_command(backbone.folder / "backbone.pth", folder, seed),
                *words({"DATASETS.TEST": "()"}),
            ],
            outputs=(FINAL,),
            inputs={
                **DETECTION_EFFECTS.of_training(self.detection),
                "SEED": seed,
                "engine": self.engine,
                "processes": processes,
                **self.data.real_scenes(),
            },
            defaults=self.detection_defaults,
            parents=self.data.with_scenes(backbone),
            work=solver.MAX_ITER * solver.IMS_PER_BATCH,
            processes=processes,
            experiment=experiment,
            seed=seed,
        )

    def _evaluate(self, experiment: Experiment, seed: int, trained: Stage) -> Stage:
        return self.book.add(
            f"{experiment.name}/seed{seed}/evaluate",
            "evaluate",
            lambda folder: [
                *tool("train_net"),
                *words({"--engine": self.engine}),
                "--eval-only",
                *self._detection_command(trained.folder / FINAL, folder, seed),
            ],
            outputs=(f"inference/{report_name(self.detection.DATASETS.TEST[0])}/report.json",),
            inputs={
                **DETECTION_EFFECTS.of_testing(self.detection),
                "engine": self.engine,
                **self.data.real_scenes(),
            },
            defaults=self.detection_defaults,
            parents=self.data.with_scenes(trained),
            work=self.cfg.DIGITS.TEST_SCENES or self.cfg.COST.TEST_PICTURES,
            processes=1,
            experiment=experiment,
            seed=seed,
        )

    def _comparison(self, runs: Sequence[Stage]) -> None:
        split = self.detection.DATASETS.TEST[0]
        methods = [self._label(run.experiment) for run in runs]
        classes = tuple(self.detection.VOC.CLASSES)
        flags = {
            "--devkit": self.data.scenes(),
            "--split": split,
            **({"--classes": _class_list(classes)} if classes else {}),
        }
        compared = [f"{method}={run.folder}" for method, run in zip(methods, runs, strict=True)]
        self.book.add(
            f"{self.study}/comparison",
            "comparison",
            lambda folder: [*tool("voc_map"), *words({**flags, "--output": folder, "--compare": compared})],
            outputs=("comparison.json", "comparison.html"),
            inputs={"methods": methods, "split": split, **self.data.real_scenes()},
            parents=self.data.with_scenes(*runs),
        )

    def _label(self, experiment: Experiment) -> str:
        """Return the method, with model and data where the study has several of them."""
        several = len({(one.model, one.data) for one in self.experiments}) > 1
        return experiment.name.replace("/", " ") if several else experiment.method

    def _detection_command(self, weights: Path, folder: Path, seed: int) -> list[str]:
        place = {"VOC.ROOT": self.data.scenes(), "MODEL.WEIGHTS": weights, "OUTPUT_DIR": folder, "SEED": seed}
        file = repository_file(self.cfg.DETECTION.CONFIG)
        return [*words({"--config-file": file}), *self.detection_opts, *words(place)]


def _check_data_named(detection: CfgNode) -> None:
    """Refuse a config of fine-tuning that names no data: every detector of a study is trained, then tested."""
    for key, verb, expected in (("TRAIN", "train", "data sets"), ("TEST", "test", "a data set")):
        if not detection.DATASETS[key]:
            raise ValueError(
                f"DETECTION: DATASETS.{key} is (); expected {expected} to {verb} the detectors of a study on, such as "
                f"\"('voc_2007_{'trainval' if key == 'TRAIN' else 'test'}',)\""
            )


def _class_list(classes: Sequence[str]) -> str:
    """Return ``classes`` as ``read_class_list`` takes them."""
    return json.dumps(classes) if any("," in name for name in classes) else ",".join(classes)
