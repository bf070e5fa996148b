"""What a study consists of: its stages, what each is made from, where it lives, and the command that makes it.

A stage is one command of this toolkit, and a folder. The folder's name ends in the stage's fingerprint: a hash of its
settings, of the code that it runs and of its parents' fingerprints. Whatever changes, changes the fingerprints of just
those stages that depend on it, so what need not run again is found where it was left, and nothing is overwritten.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from detection.config import FREE_ON_RESUME as FREE_IN_TRAINING
from detection.config import read_detection_config
from pretrain.config import FREE_ON_RESUME, leaves, load_pretrain_config
from studies.code_version import stage_version
from studies.config import ROOT, Experiment, experiments, repository_file
from studies.records import find_accepted

FREE_IN_EVALUATION = frozenset({
    "OUTPUT_DIR", "MODEL.DEVICE", "MODEL.WEIGHTS", "VOC.ROOT", "DATALOADER.NUM_WORKERS", "CUDNN_BENCHMARK",
    "SOLVER.CHECKPOINT_PERIOD",
})  # fmt: skip
FINAL = "model_final.pth"


@dataclass(frozen=True)
class Stage:
    """One command, everything that decides about its result, and where that goes.

    Attributes:
        name: unique in the study, such as ``ResNet-50/ImageNet/cutmix/seed0/pretrain``.
        inputs: the settings that decide about the result, besides code and parents; JSON values.
        code: version of the code that the result is by, or is to be by; another than ``present_code`` if accepted.
        meaning: the fingerprint without the code.
        outputs: paths in ``folder`` that are there when the stage is done.
        work: what it has to go through, pictures where it goes through pictures; of one kind, time is in proportion.
        processes: that it runs on, each with a GPU where there are any; 0: needs none.
        threads: of the CPU for each process; 0: PyTorch's own choice.
    """

    name: str
    kind: str
    inputs: Mapping[str, Any]
    code: str
    present_code: str
    parents: tuple[Stage, ...]
    fingerprint: str
    meaning: str
    folder: Path
    command: tuple[str, ...]
    outputs: tuple[str, ...]
    work: float
    processes: int
    threads: int
    experiment: Experiment | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Plan:
    """A study's config and its stages; parents come before their children."""

    cfg: CfgNode
    config_file: Path
    stages: tuple[Stage, ...]

    @property
    def study(self) -> str:
        """The study's name: that of its file."""
        return self.config_file.stem

    @property
    def folder(self) -> Path:
        """Where the study's page and log go; stages lie beside it, since other studies may share them."""
        return Path(self.cfg.OUTPUT_DIR, self.study)


def make_plan(cfg: CfgNode, config_file: Path | str, *, accept_code: bool = False) -> Plan:
    """Return the stages of the study ``cfg``, read by ``load_study`` from ``config_file``. Nothing is run or written.

    With ``accept_code`` a stage that was run, or begun, by another version of its code is taken as it is.

    Raises:
        FileNotFoundError: a config that the study names does not exist.
        ValueError: such a config, or its OPTS, are wrong; the experiment is named.
    """
    config_file = Path(config_file)
    planner = _Planner(cfg, config_file.stem, accept_code=accept_code)
    return Plan(cfg, config_file, tuple(planner.stages()))


class _Planner:
    def __init__(self, cfg: CfgNode, study: str, *, accept_code: bool):
        self.cfg, self.study, self.accept_code = cfg, study, accept_code
        self.experiments = experiments(cfg)
        self.known: dict[str, Stage] = {}
        self.made = cfg.DIGITS.TRAIN_PER_CLASS > 0
        self.engine = cfg.DETECTION.ENGINE
        if self.engine == "auto":
            self.engine = "detectron2" if importlib.util.find_spec("detectron2") else "torchvision"
        if cfg.KIND == "transfer":
            self.detection_opts = list(map(str, cfg.DETECTION.OPTS))
            self.detection = read_detection_config(repository_file(cfg.DETECTION.CONFIG), self.detection_opts)

    def stages(self) -> list[Stage]:
        make = {
            "transfer": self._transfer,
            "classification": self._classification,
            "robustness": self._robustness,
            "timing": self._timing,
            "cam": self._cam,
        }
        make[self.cfg.KIND]()
        return list(self.known.values())

    # The five kinds ---------------------------------------------------------------------------------------------------

    def _transfer(self) -> None:
        runs = [
            self._evaluate(experiment, seed, self._fine_tune(experiment, seed, self._convert(pretrained)))
            for experiment, seed, pretrained in self._pretrained()
        ]
        if len(runs) > 1:
            self._comparison(runs)

    def _classification(self) -> None:
        self._pretrained()

    def _robustness(self) -> None:
        attack = self.cfg.ATTACK
        inputs = {**attack, **self._real_data()}
        for experiment, seed, pretrained in self._pretrained():
            self._add(
                f"{experiment.name}/seed{seed}/attack", "attack", inputs, self._with_pictures(pretrained),
                ("attack.json",),
                lambda folder, model=pretrained: [
                    *_tool("attack"), str(model.folder / FINAL), "--data-root", self._pictures(),
                    "--attacks", *attack.METHODS, "--epsilons", *(f"{value:g}" for value in attack.EPSILONS),
                    "--steps", str(attack.STEPS), "--step-size", f"{attack.STEP_SIZE:g}",
                    "--num-images", str(attack.NUM_IMAGES), "--output", str(folder / "attack.json"),
                ],
                experiment=experiment, seed=seed,
            )  # fmt: skip

    def _timing(self) -> None:
        configs = {experiment.name: self._pretrain_config(experiment, 0) for experiment in self.experiments}
        inputs = {
            "runs": {name: _inputs(cfg, FREE_ON_RESUME) for name, cfg in configs.items()},
            **self.cfg.TIMING, **self._real_data(),
        }  # fmt: skip

        def command(folder: Path) -> list[str]:
            runs = [["--run", one.name, str(one.config), *one.opts] for one in self.experiments]
            opts = [*map(str, self.cfg.PRETRAIN.OPTS), *(["DATA.ROOT", self._pictures()] if self._pictures() else [])]
            return [
                *_tool("bench_methods"), *(word for run in runs for word in run), *(["--opts", *opts] if opts else []),
                "--rounds", str(self.cfg.TIMING.ROUNDS), "--iterations", str(self.cfg.TIMING.ITERATIONS),
                "--output", str(folder / "timing.json"),
            ]  # fmt: skip

        self._add(f"{self.study}/timing", "timing", inputs, self._with_pictures(), ("timing.json",), command)

    def _cam(self) -> None:
        seed = self.cfg.SEEDS[0]
        pretrained = {self._label(experiment): self._pretrain(experiment, seed) for experiment in self.experiments}
        self._add(
            f"{self.study}/cam", "cam", {**self.cfg.CAM, "seed": seed, **self._real_data()},
            self._with_pictures(*pretrained.values()),
            ("cam.png", "cam.json"),
            lambda folder: [
                *_tool("show_cam"), "--checkpoints",
                *(f"{name}={stage.folder / FINAL}" for name, stage in pretrained.items()),
                "--data-root", self._pictures(), "--num-images", str(self.cfg.CAM.NUM_IMAGES), "--seed", str(seed),
                "--output", str(folder / "cam.png"),
            ],
            seed=seed,
        )  # fmt: skip

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
        return self._add(
            f"{experiment.name}/seed{used}/pretrain", "pretrain",
            {**_inputs(cfg, FREE_ON_RESUME), **self._real_data()}, self._with_pictures(), (FINAL,),
            lambda folder: [
                *_tool("pretrain", processes=self.cfg.GPUS), "--config-file", str(experiment.config), "--resume",
                *map(str, self.cfg.PRETRAIN.OPTS), *experiment.opts,
                "DATA.ROOT", self._pictures(), "OUTPUT_DIR", str(folder), "SEED", str(used),
            ],
            work=cfg.SOLVER.EPOCHS * (10 * self.cfg.DIGITS.TRAIN_PER_CLASS or self.cfg.COST.TRAIN_PICTURES),
            processes=self.cfg.GPUS,
            experiment=experiment, seed=None if shared else seed,
        )  # fmt: skip

    def _convert(self, pretrained: Stage) -> Stage:
        return self._add(
            f"{pretrained.name.rpartition('/')[0]}/convert", "convert", {}, (pretrained,), ("backbone.pth",),
            lambda folder: [
                *_tool("convert_checkpoint"), str(pretrained.folder / FINAL), str(folder / "backbone.pth"),
            ],
            experiment=pretrained.experiment, seed=pretrained.seed,
        )  # fmt: skip

    def _fine_tune(self, experiment: Experiment, seed: int, backbone: Stage) -> Stage:
        solver, processes = self.detection.SOLVER, self.cfg.GPUS
        inputs = {**_inputs(self.detection, FREE_IN_TRAINING), "SEED": seed, "engine": self.engine}
        return self._add(
            f"{experiment.name}/seed{seed}/fine_tune", "fine_tune", {**inputs, **self._real_scenes()},
            self._with_scenes(backbone), (FINAL,),
            lambda folder: [
                *_tool("train_net", processes=processes if self.engine == "torchvision" else 1),
                "--engine", self.engine, "--resume", *self._num_gpus(processes),
                *self._detection_command(backbone.folder / "backbone.pth", folder, seed), "DATASETS.TEST", "()",
            ],
            work=solver.MAX_ITER * solver.IMS_PER_BATCH, processes=processes, experiment=experiment, seed=seed,
        )  # fmt: skip

    def _evaluate(self, experiment: Experiment, seed: int, trained: Stage) -> Stage:
        report = f"inference/{self.detection.DATASETS.TEST[0]}/report.json"
        inputs = {**_inputs(self.detection, FREE_IN_EVALUATION), "engine": self.engine}
        return self._add(
            f"{experiment.name}/seed{seed}/evaluate", "evaluate", {**inputs, **self._real_scenes()},
            self._with_scenes(trained), (report,),
            lambda folder: [
                *_tool("train_net"), "--engine", self.engine, "--eval-only",
                *self._detection_command(trained.folder / FINAL, folder, seed),
            ],
            work=self.cfg.DIGITS.TEST_SCENES or self.cfg.COST.TEST_PICTURES, processes=1,
            experiment=experiment, seed=seed,
        )  # fmt: skip

    def _comparison(self, runs: Sequence[Stage]) -> None:
        split = self.detection.DATASETS.TEST[0]
        methods = [self._label(run.experiment) for run in runs]
        classes = tuple(self.detection.VOC.CLASSES)
        self._add(
            f"{self.study}/comparison", "comparison", {"methods": methods, "split": split, **self._real_scenes()},
            self._with_scenes(*runs), ("comparison.json", "comparison.html"),
            lambda folder: [
                *_tool("voc_map"), "--devkit", self._scenes(), "--split", split,
                *(["--classes", ",".join(classes)] if classes else []), "--output", str(folder), "--compare",
                *(f"{method}={run.folder}" for method, run in zip(methods, runs, strict=True)),
            ],
        )  # fmt: skip

    def _label(self, experiment: Experiment) -> str:
        """Return the method, with model and data where the study has several of them."""
        several = len({(one.model, one.data) for one in self.experiments}) > 1
        return experiment.name.replace("/", " ") if several else experiment.method

    def _detection_command(self, weights: Path, folder: Path, seed: int) -> list[str]:
        return [
            "--config-file", str(repository_file(self.cfg.DETECTION.CONFIG)), *self.detection_opts,
            "VOC.ROOT", self._scenes(), "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(folder),
            "SEED", str(seed),
        ]  # fmt: skip

    def _num_gpus(self, processes: int) -> list[str]:
        return ["--num-gpus", str(processes)] if self.engine == "detectron2" and processes > 1 else []

    # Data -------------------------------------------------------------------------------------------------------------

    def _with_pictures(self, *parents: Stage) -> tuple[Stage, ...]:
        return (self._made_pictures(), *parents) if self.made else parents

    def _with_scenes(self, *parents: Stage) -> tuple[Stage, ...]:
        return (self._made_scenes(), *parents) if self.made else parents

    def _made_pictures(self) -> Stage:
        digits = self.cfg.DIGITS
        counts = {"--train-per-class": digits.TRAIN_PER_CLASS, "--val-per-class": digits.VAL_PER_CLASS}
        return self._make("pictures", {**counts, "--side": digits.SIDE}, ("--scenes", "--test-scenes"))

    def _made_scenes(self) -> Stage:
        digits = self.cfg.DIGITS
        counts = {"--scenes": digits.SCENES, "--test-scenes": digits.TEST_SCENES}
        return self._make("VOCdevkit", {**counts, "--scene-side": digits.SCENE_SIDE},
                          ("--train-per-class", "--val-per-class"))  # fmt: skip

    def _make(self, output: str, flags: Mapping[str, int], nothing_of: Sequence[str]) -> Stage:
        flags = {"--seed": self.cfg.DIGITS.SEED, **flags}
        words = [str(word) for pair in (flags | dict.fromkeys(nothing_of, 0)).items() for word in pair]
        return self._add(
            f"data/{output}", "data", flags, (), (output,),
            lambda folder: [*_tool("make_digits"), "--output", str(folder), *words],
        )  # fmt: skip

    def _pictures(self) -> str:
        if self.made:
            return str(self._made_pictures().folder / "pictures")
        return _absolute(self.cfg.PRETRAIN.DATA_ROOT)

    def _scenes(self) -> str:
        if self.made:
            return str(self._made_scenes().folder / "VOCdevkit")
        return _absolute(self.cfg.DETECTION.VOC_ROOT or os.environ.get("DETECTRON2_DATASETS", "datasets"))

    def _real_data(self) -> dict[str, str]:
        """A real data set is known by its path; made data is a parent."""
        return {} if self.made else {"data": _absolute(self.cfg.PRETRAIN.DATA_ROOT)}

    def _real_scenes(self) -> dict[str, str]:
        return {} if self.made else {"data": self._scenes()}

    # Every stage ------------------------------------------------------------------------------------------------------

    def _add(
        self,
        name: str,
        kind: str,
        inputs: Mapping[str, Any],
        parents: tuple[Stage, ...],
        outputs: tuple[str, ...],
        command: Callable[[Path], list[str]],
        *,
        work: float = 1.0,
        processes: int = 0,
        experiment: Experiment | None = None,
        seed: int | None = None,
    ) -> Stage:
        name = re.sub(r"[^\w./+-]", "_", name)
        if name in self.known:
            return self.known[name]
        code = present_code = stage_version(kind, inputs.get("engine", ""))
        meaning = _hash({"kind": kind, "inputs": inputs, "parents": [parent.meaning for parent in parents]})
        fingerprint = _hash(
            {"meaning": meaning, "code": code, "parents": [parent.fingerprint for parent in parents]}
        )
        folder = Path(self.cfg.OUTPUT_DIR, f"{name}-{fingerprint[:8]}")
        if self.accept_code and not folder.exists():
            folder, fingerprint, code = find_accepted(folder, meaning) or (folder, fingerprint, code)
        stage = Stage(
            name, kind, inputs, code, present_code, parents, fingerprint, meaning, folder, tuple(command(folder)),
            outputs, work, processes, self.cfg.THREADS, experiment, seed,
        )  # fmt: skip
        self.known[name] = stage
        return stage


def _tool(name: str, *, processes: int = 1) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(launch if processes > 1 else []), str(ROOT / "tools" / f"{name}.py")]


def _inputs(cfg: CfgNode, free: frozenset[str]) -> dict[str, Any]:
    """Return the settings of ``cfg`` that decide about a result, by dotted key, without those in ``free``."""
    return {key: value for key, value in leaves(cfg) if key not in free and key != "VERSION"}


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve()) if path else ""


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
