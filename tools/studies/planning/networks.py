"""Where the networks of a study come from: trained by a stage, or there already, and made a backbone of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from pretrain.config import EFFECTS as PRETRAIN_EFFECTS
from pretrain.config import get_cfg as get_pretrain_cfg
from pretrain.config import load_pretrain_config
from pretrain.run.files import sha256
from tools.studies.config import CHECKPOINTS, get_cfg
from tools.studies.experiments import RANDOM, Experiment
from tools.studies.planning.data import StudyData
from tools.studies.planning.stages import Stage, StageBook, tool, words

FINAL = CHECKPOINTS["final"]
ONE_PROCESS = {"processes": 1}  # what a stage ran on where it does not say


class Checkpoint(NamedTuple):
    """The classifier of a row: trained by a stage, or there already."""

    path: Path
    parents: tuple[Stage, ...]
    inputs: dict[str, Any]  # by which a stage knows what it takes
    flags: list[str]  # for the tools that take it


class Networks:
    """The stages that train, find and convert the networks of a study's rows.

    ``file`` is the one that goes on from a pretraining, ``taken`` the input of the stages that take it.
    """

    def __init__(self, cfg: CfgNode, book: StageBook, data: StudyData):
        self.cfg, self.book, self.data = cfg, book, data
        self.file = CHECKPOINTS[cfg.PRETRAIN.CHECKPOINT]
        self.taken = {"CHECKPOINT": cfg.PRETRAIN.CHECKPOINT}
        self.taken_defaults = {"CHECKPOINT": get_cfg().PRETRAIN.CHECKPOINT}
        self._defaults = PRETRAIN_EFFECTS.first_values(get_pretrain_cfg()) | ONE_PROCESS
        self._trainings: dict[str, tuple[int, dict[str, Any]]] = {}
        self._hashes: dict[Path, str] = {}

    def pretrain(self, experiment: Experiment, seed: int) -> Stage:
        """Return the stage that trains a row with a CONFIG; of a shared pretraining the same one for all seeds."""
        shared = self.cfg.PRETRAIN.SEED >= 0
        used = self.cfg.PRETRAIN.SEED if shared else seed
        epochs, settings = self._training(experiment)
        processes = self.cfg.GPUS * self.cfg.NODES
        given = [*map(str, self.cfg.PRETRAIN.OPTS), *experiment.opts]
        return self.book.add(
            f"{experiment.name}/seed{used}/pretrain",
            "pretrain",
            lambda folder: [
                *tool("pretrain", processes=self.cfg.GPUS, nodes=self.cfg.NODES),
                *words({"--config-file": experiment.config}),
                "--resume",
                *given,
                *words({"DATA.ROOT": self.data.pictures(), "OUTPUT_DIR": folder, "SEED": used}),
            ],
            outputs=tuple(dict.fromkeys((FINAL, self.file))),
            inputs={**settings, "SEED": used, "processes": processes, **self.data.real_pictures()},
            defaults=self._defaults,
            parents=self.data.with_pictures(),
            work=epochs * (10 * self.cfg.DIGITS.TRAIN_PER_CLASS or self.cfg.COST.TRAIN_PICTURES),
            processes=processes,
            nodes=self.cfg.NODES,
            experiment=experiment,
            seed=None if shared else seed,
        )

    def convert(self, experiment: Experiment, seed: int) -> Stage | None:
        """Return the stage that makes a row's backbone; None for one that starts from nothing."""
        if experiment.weights == RANDOM:
            return None
        checkpoint = self.checkpoint(experiment, seed)
        pretrained = checkpoint.parents[0] if checkpoint.parents else None
        return self.book.add(
            f"{pretrained.name.rpartition('/')[0] if pretrained else experiment.name}/convert",
            "convert",
            lambda folder: [
                *tool("convert_checkpoint"),
                *checkpoint.flags,
                *(str(path) for path in (checkpoint.path, folder / "backbone.pth")),
            ],
            outputs=("backbone.pth",) if pretrained else ("backbone.pth", "backbone.card.json"),
            inputs=checkpoint.inputs,
            defaults=self.taken_defaults,
            parents=checkpoint.parents,
            experiment=experiment,
            seed=pretrained.seed if pretrained else None,
        )

    def checkpoint(self, experiment: Experiment, seed: int) -> Checkpoint:
        """Return the classifier of a row that does not start from nothing."""
        if experiment.config:
            stage = self.pretrain(experiment, seed)
            return Checkpoint(stage.folder / self.file, (stage,), self.taken, [])
        path = Path(experiment.weights)
        flags: list[str] = []
        for key, value in experiment.reading.items():
            flag = f"--{key.lower().replace('_', '-')}"
            flags += ([flag] if value else []) if isinstance(value, bool) else words({flag: value})
        return Checkpoint(path, (), {"weights": self._hash_of(path), **experiment.reading}, flags)

    def _hash_of(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = sha256(path)
        return self._hashes[path]

    def _training(self, experiment: Experiment) -> tuple[int, dict[str, Any]]:
        """Return the epochs of a row's pretraining and the settings that decide about it, whatever the seed.

        Once a row: to read and check a config takes longer than all else that a stage is planned from.
        """
        if experiment.name not in self._trainings:
            cfg = self.pretrain_config(experiment, 0)
            self._trainings[experiment.name] = cfg.SOLVER.EPOCHS, PRETRAIN_EFFECTS.of_training(cfg)
        return self._trainings[experiment.name]

    def pretrain_config(self, experiment: Experiment, seed: int) -> CfgNode:
        """Return the checked config of a row's pretraining.

        Raises:
            FileNotFoundError: it does not exist.
            ValueError: it, or OPTS, are wrong; the experiment is named.
        """
        opts = [*map(str, self.cfg.PRETRAIN.OPTS), *experiment.opts, "SEED", str(seed)]
        try:
            return load_pretrain_config(experiment.config, opts)
        except ValueError as error:
            raise ValueError(f"experiment {experiment.name}: {error}") from error
