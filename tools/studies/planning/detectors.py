"""The stages that fine-tune and evaluate the detectors of a study's rows, at the protocol's rate and at their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from detection.config import EFFECTS as DETECTION_EFFECTS
from detection.config import get_cfg as get_detection_cfg
from detection.config import read_detection_config
from detection.datasets.coco import report_name
from tools.studies.experiments import Experiment, repository_file
from tools.studies.planning.data import StudyData
from tools.studies.planning.networks import FINAL, ONE_PROCESS
from tools.studies.planning.stages import Stage, StageBook, tool, words
from tools.studies.values import metrics_of

RATE, OWN = "SOLVER.BASE_LR", "own"  # what the rate is in the inputs of a stage that gets the row's own
OWN_RATE, CHOICE, HELD_OUT = "own_rate.yaml", "choice.json", "held_out.json"  # outputs of a sweep
TRAINVAL = re.compile(r"(voc_(\d{4})_)trainval")
HALF = 0.5  # of the training pictures, which is what VOC's val is of trainval


class Held(NamedTuple):
    """What rates are chosen on: the sets to train on and to test on, and which ``share`` of the pictures is held out.

    ``keys`` are those by which a part of the same sets is held out; empty where the sets are others.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    share: float
    keys: Mapping[str, Any]


class Detectors:
    """Plans the detectors of a study; ``detection`` is the config of fine-tuning, ``engine`` the one that runs it."""

    def __init__(self, cfg: CfgNode, book: StageBook, data: StudyData, detection: CfgNode, engine: str):
        self.cfg, self.book, self.data, self.detection, self.engine = cfg, book, data, detection, engine
        self.file = repository_file(cfg.DETECTION.CONFIG)
        self.opts = list(map(str, cfg.DETECTION.OPTS))
        self._defaults = DETECTION_EFFECTS.first_values(get_detection_cfg()) | ONE_PROCESS

    def fine_tune(self, experiment: Experiment, seed: int, backbone: Stage | None) -> Stage:
        """Return the stage that trains a row's detector by the protocol; ``backbone`` None starts from nothing."""
        return self._train(
            f"{experiment.name}/seed{seed}/fine_tune",
            {**DETECTION_EFFECTS.of_training(self._config(experiment)), "SEED": seed},
            [*words({"--config-file": self.file}), *self.opts],
            (experiment, seed, backbone),
            experiment=experiment,
        )

    def fine_tune_at_own_rate(
        self, experiment: Experiment, seed: int, backbone: Stage | None, chosen_with: Stage | None
    ) -> Stage:
        """Return the stage that trains a row's detector at the rate that is chosen for the row, else by the protocol.

        The rate is chosen with the backbone ``chosen_with``, one for all seeds.
        """
        choice = self.choose(experiment, chosen_with)
        settings = DETECTION_EFFECTS.of_training(self._config(experiment))
        return self._train(
            f"{experiment.name}/seed{seed}/fine_tune_own",
            {**settings, RATE: OWN, "SEED": seed},
            [*words({"--config-file": choice.folder / OWN_RATE}), *_without(self.opts, RATE)],
            (experiment, seed, backbone),
            parents=(choice,),
        )

    def evaluate(self, experiment: Experiment, seed: int, trained: Stage) -> Stage:
        """Return the stage that tests what the stage ``trained`` left; what was trained at its own rate is no row's."""
        weights = trained.folder / FINAL
        return self.book.add(
            trained.name.replace("/fine_tune", "/evaluate"),
            "evaluate",
            lambda folder: [
                *tool("train_net"),
                *words({"--engine": self.engine}),
                "--eval-only",
                *words({"--config-file": self.file}),
                *self.opts,
                *self._place(experiment, weights, folder, seed),
            ],
            outputs=(f"inference/{report_name(self.detection.DATASETS.TEST[0])}/report.json",),
            inputs={
                **DETECTION_EFFECTS.of_testing(self._config(experiment)),
                "engine": self.engine,
                **self.data.real_scenes(),
            },
            defaults=self._defaults,
            parents=self.data.with_scenes(trained),
            work=self.cfg.DIGITS.TEST_SCENES or self.cfg.COST.TEST_PICTURES,
            processes=1,
            experiment=trained.experiment,
            seed=seed,
        )

    def choose(self, experiment: Experiment, backbone: Stage | None) -> Stage:
        """Return the stage that chooses a row's rate, by what detectors find that were trained for it at each one."""
        rates = self.cfg.SWEEP.RATES
        trials = [self._try(experiment, rate, backbone) for rate in rates]
        tried = [f"{rate:g}={trial.folder / HELD_OUT}" for rate, trial in zip(rates, trials, strict=True)]
        return self.book.add(
            f"{experiment.name}/sweep/choice",
            "choice",
            lambda folder: [*tool("studies/sweep/choice"), str(self.file), str(folder), *tried],
            outputs=(OWN_RATE, CHOICE),
            inputs={"rates": [f"{rate:g}" for rate in rates]},
            parents=tuple(trials),
        )

    def held_out(self) -> Held:
        """Return what rates are chosen on: VOC's val where there is one and nothing else is said, else drawn pictures.

        The pictures of the test are none of them.
        """
        names, share = tuple(self.detection.DATASETS.TRAIN), self.cfg.SWEEP.HELD_OUT
        if not share and not self.data.made and (parts := self._voc_parts(names)):
            return Held(*parts, HALF, {})
        share = share or HALF
        return Held(names, names, share, {"DATASETS.HELD_OUT": share, "DATASETS.HELD_OUT_SEED": self.cfg.SWEEP.SEED})

    def _try(self, experiment: Experiment, rate: float, backbone: Stage | None) -> Stage:
        """Return the stage that trains a row's detector at ``rate`` without the pictures held out, and tests it there.

        It is trained for as many epochs of what is left as the protocol has of all.
        """
        held, seed, solver = self.held_out(), self.cfg.SWEEP.SEED, self.detection.SOLVER
        iterations = max(1, round(solver.MAX_ITER * (1 - held.share)))
        steps = dict.fromkeys(round(step * (1 - held.share)) for step in solver.STEPS)
        changes = {
            RATE: f"{rate:g}",
            "SOLVER.MAX_ITER": iterations,
            "SOLVER.STEPS": str(tuple(step for step in steps if 0 < step < iterations)),
            "DATASETS.TRAIN": str(held.train),
            "DATASETS.TEST": str(held.test),
            **held.keys,
        }
        cfg = self._config(experiment, words(changes))
        return self.book.add(
            f"{experiment.name}/sweep/rate{rate:g}",
            "sweep",
            lambda folder: [
                *self._start("studies/sweep/trial", metrics_of(self.cfg, self.detection)[0].key, str(folder)),
                "--resume",
                *words({"--config-file": self.file}),
                *self.opts,
                *self._place(experiment, _weights(backbone), folder, seed),
                *words(changes),
            ],
            outputs=(HELD_OUT,),
            inputs={
                **DETECTION_EFFECTS.of_testing(cfg),
                **DETECTION_EFFECTS.of_training(cfg),
                "SEED": seed,
                "sets": [*held.train, *held.test],
                **self._inputs(),
            },
            defaults=self._defaults,
            parents=self.data.with_scenes(*filter(None, [backbone])),
            work=iterations * solver.IMS_PER_BATCH,
            processes=self.cfg.GPUS,
        )

    def _train(
        self,
        name: str,
        settings: Mapping[str, Any],
        config: list[str],
        run: tuple[Experiment, int, Stage | None],
        *,
        parents: tuple[Stage, ...] = (),
        experiment: Experiment | None = None,
    ) -> Stage:
        row, seed, backbone = run
        solver = self.detection.SOLVER
        return self.book.add(
            name,
            "fine_tune",
            lambda folder: [
                *self._start("train_net"),
                "--resume",
                *config,
                *self._place(row, _weights(backbone), folder, seed),
                *words({"DATASETS.TEST": "()"}),
            ],
            outputs=(FINAL,),
            inputs={**settings, **self._inputs()},
            defaults=self._defaults,
            parents=self.data.with_scenes(*filter(None, [backbone]), *parents),
            work=solver.MAX_ITER * solver.IMS_PER_BATCH,
            processes=self.cfg.GPUS,
            experiment=experiment,
            seed=seed,
        )

    def _start(self, name: str, *first: str) -> list[str]:
        """Return the words that start training by the tool ``name`` on GPUS processes, after its words ``first``."""
        processes = self.cfg.GPUS
        own_processes = self.engine == "detectron2" and processes > 1  # Detectron2 starts them itself
        return [
            *tool(name, processes=1 if own_processes else processes),
            *first,
            *words({"--engine": self.engine, **({"--num-gpus": processes} if own_processes else {})}),
        ]

    def _inputs(self) -> dict[str, Any]:
        return {"engine": self.engine, "processes": self.cfg.GPUS, **self.data.real_scenes()}

    def _config(self, experiment: Experiment, changes: Sequence[str] = ()) -> CfgNode:
        """Return the config of a row's fine-tuning: the study's, reading pictures as the row's backbone wants it."""
        opts = [*experiment.detection_opts, *changes]
        return read_detection_config(self.file, [*self.opts, *opts]) if opts else self.detection

    def _place(self, experiment: Experiment, weights: Path | str, folder: Path, seed: int) -> list[str]:
        place = {"VOC.ROOT": self.data.scenes(), "MODEL.WEIGHTS": weights, "OUTPUT_DIR": folder, "SEED": seed}
        return [*experiment.detection_opts, *words(place)]

    def _voc_parts(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Return the train and the val sets that the trainval sets ``names`` are made of, if all are there."""
        root = Path(self.data.scenes())
        found = [TRAINVAL.fullmatch(name) for name in names]
        if not all(found):
            return None
        for named, part in product(found, ("train", "val")):
            file = f"VOC{named[2]}/ImageSets/Main/{part}.txt"
            if not ((root / file).is_file() or (root / "VOCdevkit" / file).is_file()):
                return None
        return tuple(f"{named[1]}train" for named in found), tuple(f"{named[1]}val" for named in found)


def _weights(backbone: Stage | None) -> Path | str:
    return backbone.folder / "backbone.pth" if backbone else ""


def _without(opts: Sequence[str], key: str) -> list[str]:
    """Return the KEY VALUE pairs ``opts`` without those of ``key``."""
    pairs = zip(opts[::2], opts[1::2], strict=True)
    return [word for pair in pairs if pair[0] != key for word in pair]
