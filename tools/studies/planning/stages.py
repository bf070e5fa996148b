"""Stages: one command of this toolkit each, known by a fingerprint of everything that decides about its result.

The folder of a stage ends in its fingerprint: a hash of its settings, of the code that it runs and of its parents'
fingerprints. Whatever changes, changes the fingerprints of just those stages that depend on it, so what need not run
again is found where it was left, and nothing is overwritten. Settings at their defaults are left out of the hash: what
was made before a setting existed was made by its default.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from tools.studies.experiments import ROOT, Experiment, folder_name
from tools.studies.planning.code_version import stage_version
from tools.studies.planning.provenance import DataIdentities, differences
from tools.studies.records import REQUEST, RESULT, Begun, Made, Result, find_accepted, find_record, made_from

# One torchrun on each machine of the job, beside the worker, whose step has been given all that is the job's.
SRUN = ("srun", "--overlap", "--cpu-bind=none", "--kill-on-bad-exit", "--quit-on-interrupt", "--ntasks-per-node=1")
# SLURM's warning before the limit reaches every step, and is for the worker alone. The port is the job's own, so that
# two that share a machine do not meet, and is below those that a system gives away by itself.
ON_EACH_NODE = (
    'trap "" USR2; exec "$0" -m torch.distributed.run --nnodes "$SLURM_STEP_NUM_NODES" --node-rank "$SLURM_NODEID" '
    '--master-addr "$SLURM_LAUNCH_NODE_IPADDR" --master-port "$((10000 + SLURM_JOB_ID % 20000))" "$@"'
)


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
        nodes: machines that share these processes.
        threads: of the CPU for each process; 0: PyTorch's own choice.
        data: returns what the data hold that it reads itself, as a hash; empty for data that are made.
        accept_code, accept_data: whether it is taken as it is though PyTorch, or the data, are others now.
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
    nodes: int = 1
    data: Callable[[], str] = str
    accept_code: bool = False
    accept_data: bool = False

    def differences(self, made: Made, *, even_accepted: bool = False) -> list[str]:
        """Return in words by which PyTorch or data the stage of the record ``made`` differs from one made now.

        What the user accepts is left out, unless it is asked for.
        """
        return differences(
            made,
            self.kind,
            self.data() if "data" in made else "",
            accept_code=self.accept_code and not even_accepted,
            accept_data=self.accept_data and not even_accepted,
        )

    def why_anew(self) -> str:
        """Return why it begins anew though it was made, or begun; empty where it goes on."""
        for name, kind in ((RESULT, Result), (REQUEST, Begun)):
            made, _ = find_record(self.folder / name, kind)
            if made is not None and made["fingerprint"] == self.fingerprint:
                return "; ".join(self.differences(made))
        return ""


class StageBook:
    """The stages of a study as they are planned; a name stands for one stage, whoever asks for it."""

    def __init__(self, cfg: CfgNode, *, accept_code: bool, accept_data: bool):
        self.cfg, self.accept_code, self.accept_data = cfg, accept_code, accept_data
        self.data = DataIdentities()
        self.stages: dict[str, Stage] = {}

    def add(
        self,
        name: str,
        kind: str,
        command: Callable[[Path], list[str]],
        *,
        outputs: tuple[str, ...],
        inputs: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        parents: tuple[Stage, ...] = (),
        work: float = 1.0,
        processes: int = 0,
        nodes: int = 1,
        experiment: Experiment | None = None,
        seed: int | None = None,
    ) -> Stage:
        """Return the stage of that name, made of the other arguments where it is not there yet.

        ``command`` gets the stage's folder. ``defaults`` holds the values that ``inputs`` have where they are absent.
        """
        name = folder_name(name)
        if name in self.stages:
            return self.stages[name]
        code = present_code = stage_version(kind, inputs.get("engine", ""))
        decisive = differing(inputs, defaults or {})
        meaning = _hash({"kind": kind, "inputs": decisive, "parents": [parent.meaning for parent in parents]})
        fingerprint = _hash({"meaning": meaning, "code": code, "parents": [parent.fingerprint for parent in parents]})
        folder = Path(self.cfg.OUTPUT_DIR, f"{name}-{fingerprint[:8]}")
        if self.accept_code and not folder.exists():
            sources = made_from({parent.name: (parent.folder, parent.outputs) for parent in parents})

            def is_meant(request: Begun) -> bool:
                if request["meaning"] == meaning:
                    return True
                same_sources = sources is not None and request["made_from"] == sources
                return same_sources and _has_inputs(request, kind, inputs, defaults or {})

            folder, fingerprint, code = find_accepted(folder, is_meant) or (folder, fingerprint, code)
        self.stages[name] = Stage(
            name=name,
            kind=kind,
            inputs=inputs,
            code=code,
            present_code=present_code,
            parents=parents,
            fingerprint=fingerprint,
            meaning=meaning,
            folder=folder,
            command=tuple(command(folder)),
            outputs=outputs,
            work=work,
            processes=processes,
            threads=self.cfg.THREADS,
            experiment=experiment,
            seed=seed,
            nodes=nodes,
            data=partial(self.data.of_stage, kind, inputs),
            accept_code=self.accept_code,
            accept_data=self.accept_data,
        )
        return self.stages[name]


def _has_inputs(request: Begun, kind: str, inputs: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Return whether a request is for a stage of ``kind`` with ``inputs``, whichever settings its version hashed.

    Settings that decide about the result no more, such as those of the test in training, do not count.
    """
    recorded = differing(request["inputs"], defaults)
    decisive = {key: value for key, value in recorded.items() if key in inputs or key not in defaults}
    return request["kind"] == kind and _json(decisive) == _json(differing(inputs, defaults))


def tool(name: str, *, processes: int = 1, nodes: int = 1) -> list[str]:
    """Return the words that start ``tools/<name>.py``, with ``torchrun`` where it takes several processes.

    On several ``nodes`` they are for a SLURM job that has as many, and start as many of ``processes`` on each.
    """
    program = str(ROOT / "tools" / f"{name}.py")
    launched = ["--nproc-per-node", str(processes), program]
    if nodes > 1:
        return [*SRUN, f"--nodes={nodes}", f"--ntasks={nodes}", "sh", "-c", ON_EACH_NODE, sys.executable, *launched]
    torchrun = ["-m", "torch.distributed.run", "--standalone", *launched]
    return [sys.executable, *(torchrun if processes > 1 else [program])]


def words(pairs: Mapping[str, Any]) -> list[str]:
    """Return flags, or config keys, each followed by its value; a list of values is as many words."""
    result = []
    for name, value in pairs.items():
        result += [name, *(map(str, value) if isinstance(value, (list, tuple)) else [str(value)])]
    return result


def differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``values`` that are not what ``defaults`` has; a list equals the tuple of its items."""
    return {key: value for key, value in values.items() if key not in defaults or _json(value) != _json(defaults[key])}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _hash(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()
