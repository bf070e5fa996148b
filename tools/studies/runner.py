"""Runs what is missing of a study: every stage whose parents are done, a few at a time, and goes on past a failure."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from detection.engines import select as select_engine
from pretrain.run.cli import format_seconds, one_line
from pretrain.run.run_folder import read_metrics
from tools.studies.config import is_made, reads_pictures
from tools.studies.launching import Launcher
from tools.studies.launching.cluster import SUBMITIT
from tools.studies.planning.cost import Estimates
from tools.studies.planning.plan import Plan
from tools.studies.planning.provenance import torch_version
from tools.studies.planning.stages import Stage
from tools.studies.records import (
    FAILURE,
    LOG,
    REQUEST,
    RESULT,
    RESULT_OF_STUDY,
    Begun,
    Identity,
    Result,
    Study,
    changed_outputs,
    failure_message,
    find_record,
    identity,
    read_result,
    write_record,
)
from tools.studies.worker import group_of_new, is_running, refuse_open_umask, refuse_others

POLL_SECONDS = 0.2
QUIET_SECONDS = 60  # between two lines where no stage has ended
NAMED = 10  # of those that run, in such a line

logger = logging.getLogger(__name__)


def select(plan: Plan, patterns: Sequence[str]) -> list[Stage]:
    """Return the stages that ``patterns`` name, with everything they are made from; without patterns, all.

    A pattern is compared with a stage's name and with each part of it: ``cutmix``, ``seed1``, ``*/cutmix/seed1/*``.

    Raises:
        ValueError: a pattern names nothing.
    """
    if not patterns:
        return list(plan.stages)
    wanted: set[str] = set()
    for pattern in patterns:
        named = [stage for stage in plan.stages if _matches(stage, pattern)]
        if not named:
            parts = sorted({part for stage in plan.stages for part in stage.name.split("/")})
            raise ValueError(f"--only {pattern} names no stage; parts of names are {', '.join(parts)}")
        waiting = list(named)
        while waiting:
            stage = waiting.pop()
            wanted.add(stage.name)
            waiting += stage.parents
    return [stage for stage in plan.stages if stage.name in wanted]


def _matches(stage: Stage, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (stage.name, *stage.name.split("/")))


def find_obstacles(plan: Plan, *, trust_group: bool = False) -> list[str]:
    """Return a sentence for everything that would stop the study, as far as it shows before anything is run.

    That is data whose folders are not there, a config of fine-tuning that its engine does not support, and an
    OUTPUT_DIR in which others, its own group left out with ``trust_group``, could put what the study would run.
    """
    cfg = plan.cfg
    found = [] if is_made(cfg) else _absent_data(plan)
    found += _open_to_others(Path(cfg.OUTPUT_DIR), trust_group)
    if plan.detection is not None:
        engine = next(stage.inputs["engine"] for stage in plan.stages if stage.kind == "fine_tune")
        try:
            select_engine(engine).check_config(plan.detection)
        except (ValueError, ImportError) as error:
            found.append(f"DETECTION: {one_line(error)}")
    return found


def _open_to_others(output_dir: Path, trust_group: bool) -> list[str]:
    trusted = None
    if trust_group:
        trusted = output_dir.stat().st_gid if output_dir.exists() else group_of_new(output_dir)
    found = []
    try:
        refuse_open_umask(output_dir, trusted_group=trusted)
    except ValueError as error:
        found.append(str(error))
    for path in filter(Path.exists, (output_dir, output_dir / SUBMITIT)):
        try:
            refuse_others(path, trusted_group=trusted)
        except ValueError as error:
            found.append(str(error))
    return found


def _absent_data(plan: Plan) -> list[str]:
    root, found = plan.cfg.PRETRAIN.DATA_ROOT, []
    if root and not os.path.isdir(os.path.expanduser(root)):
        found.append(f"PRETRAIN.DATA_ROOT {root} is no folder")
    # Times are measured on noise where there is no data.
    if not root and plan.cfg.KIND != "timing" and reads_pictures(plan.cfg):
        found.append(
            "PRETRAIN.DATA_ROOT is empty; give the pictures to pretrain on, such as PRETRAIN.DATA_ROOT /data/imagenet"
        )
    if plan.detection is not None and not plan.scenes.is_dir():
        found.append(f"DETECTION.VOC_ROOT {plan.scenes} is no folder")
    return found


def refuse_other_study(plan: Plan) -> None:
    """Refuse to replace the page of another study, whose file has the same name.

    Raises:
        ValueError: the page is that of a file that is still there, elsewhere, with another content.
    """
    before, _ = find_record(plan.folder / RESULT_OF_STUDY, Study)
    other = Path(before["config_path"]) if before is not None and "config_path" in before else None
    if other is None or not other.is_file() or other.samefile(plan.config_file):
        return
    if other.read_bytes() != plan.config_file.read_bytes():
        raise ValueError(
            f"{plan.folder / 'study.html'} is that of {other}, not of {plan.config_file}; rename this file or give it "
            "another OUTPUT_DIR"
        )


def finished(stages: Collection[Stage]) -> dict[str, Result]:
    """Return the results of those stages that are done, their parents too, by name."""
    results: dict[str, Result] = {}
    for stage in stages:  # parents come first
        if all(parent.name in results for parent in stage.parents):
            made_from = _made_from(stage, results)
            result = read_result(stage.folder, stage.fingerprint, made_from, outputs=stage.outputs)
            if result is not None and not stage.differences(result):
                results[stage.name] = result
    return results


def _made_from(stage: Stage, results: Mapping[str, Result]) -> dict[str, Identity]:
    return {parent.name: identity(results[parent.name], parent.outputs) for parent in stage.parents}


def run(
    stages: Sequence[Stage],
    launcher: Launcher,
    estimates: Estimates,
    *,
    on_result: Callable[[Mapping[str, Result]], None] = lambda results: None,
) -> dict[str, str]:
    """Run those of ``stages`` that are not done; return the name of each that failed with the reason.

    What depends on a failed stage is not run; everything else is. ``on_result`` gets all their results whenever
    some have ended well.
    ``Ctrl-C`` stops the launcher's processes and is raised again; called once more, the study goes on from there.
    """
    done = finished(stages)
    waiting = [stage for stage in stages if stage.name not in done]
    total, count = len(stages), len(done)
    running: dict[str, tuple[Stage, float]] = {}
    failed: dict[str, str] = {}
    last_line = time.monotonic()
    for stage in waiting:
        if is_running(stage.folder):
            logger.info("%s still runs since an earlier call; it is waited for", stage.name)
    try:
        while waiting or running:
            for stage in _ready(waiting, done, launcher.slots - len(running)):
                waiting.remove(stage)
                prepare(stage, _made_from(stage, done))
                launcher.start(stage)
                running[stage.name] = stage, time.monotonic()
            before = count
            for stage, started in list(running.values()):
                if not launcher.ended(stage):
                    continue
                del running[stage.name]
                last_line = time.monotonic()
                result = read_result(stage.folder, stage.fingerprint, outputs=stage.outputs)
                if result is None:
                    failed[stage.name] = _why(stage, launcher)
                    lost = _descendants(stage, waiting)
                    waiting = [one for one in waiting if one.name not in lost]
                    logger.error("%s failed: %s (%s)", stage.name, failed[stage.name], stage.folder / LOG)
                    continue
                done[stage.name] = result
                count += 1
                estimates.add(stage, result)
                left = _seconds_left([*waiting, *(one for one, _ in running.values())], estimates, launcher.slots)
                logger.info(
                    "[%d/%d] %s done in %s; %s left",
                    count,
                    total,
                    stage.name,
                    format_seconds(time.monotonic() - started),
                    left,
                )
            if count > before:  # a page for a thousand stages takes seconds: one for all that have ended together
                on_result(done)
            if time.monotonic() - last_line >= QUIET_SECONDS:
                last_line = time.monotonic()
                names = [f"{one.name}{_progress(one, launcher)}" for one, _ in islice(running.values(), NAMED)]
                more = f" and {len(running) - NAMED} more" if len(running) > NAMED else ""
                logger.info("[%d/%d] running: %s%s", count, total, ", ".join(names), more)
            time.sleep(POLL_SECONDS)
    finally:
        launcher.stop()
    return failed


def _ready(waiting: Sequence[Stage], done: Collection[str], slots: int) -> list[Stage]:
    """Return up to ``slots`` stages whose parents are done, the ends of chains first: their numbers are awaited."""
    ready = [stage for stage in waiting if all(parent.name in done for parent in stage.parents)]
    ready.sort(key=_depth, reverse=True)
    return ready[: max(0, slots)]


def _depth(stage: Stage) -> int:
    return 1 + max((_depth(parent) for parent in stage.parents), default=0)


def _descendants(stage: Stage, waiting: Sequence[Stage]) -> set[str]:
    lost = {stage.name}
    for other in waiting:  # parents come first
        if any(parent.name in lost for parent in other.parents):
            lost.add(other.name)
    return lost


def prepare(stage: Stage, made_from: Mapping[str, Identity]) -> None:
    """Write what the worker is to do. What was made from something else, or was changed, is set aside, not mended."""
    result, bad_result = find_record(stage.folder / RESULT, Result)
    request, bad_request = find_record(stage.folder / REQUEST, Begun)
    reason = ""
    if request is not None and request["made_from"] != made_from:
        reason = "what it was made from has changed"
    elif bad_request:
        reason = f"what it was made from is not known ({bad_request})"
    elif result is not None and (changed := _changed(stage, result)):
        reason = f"{', '.join(changed)} is missing or has changed since it was made"
    elif not is_running(stage.folder) and (other := stage.why_anew()):
        reason = other
    elif bad_result:
        logger.warning("%s runs again: %s", stage.name, bad_result)
    if reason:
        number = 1
        while (aside := stage.folder.with_name(f"{stage.folder.name}.old{number}")).exists():
            number += 1
        stage.folder.rename(aside)
        logger.warning("%s runs again: %s; what it had made is in %s", stage.name, reason, aside)
    stage.folder.mkdir(parents=True, exist_ok=True)
    (stage.folder / FAILURE).unlink(missing_ok=True)  # of an earlier attempt: this one may end before it begins
    write_record(
        stage.folder / REQUEST,
        {
            "name": stage.name,
            "kind": stage.kind,
            "fingerprint": stage.fingerprint,
            "meaning": stage.meaning,
            "code": stage.code,
            "present_code": stage.present_code,
            "inputs": dict(stage.inputs),
            "made_from": made_from,
            "command": list(stage.command),
            "outputs": list(stage.outputs),
            "threads": stage.threads,
            "processes": stage.processes,
            "versions": {"torch": torch_version()},
            "data": stage.data(),
        },
    )


def _changed(stage: Stage, result: Result) -> list[str]:
    """Return the names of outputs that are not what ``result`` says; one more that is there is only asked for now."""
    unknown = [name for name in stage.outputs if name not in result["outputs"]]
    if len(unknown) < len(stage.outputs):
        unknown = [name for name in unknown if not (stage.folder / name).exists()]
    return [*unknown, *changed_outputs(stage.folder, result["outputs"])]


def _why(stage: Stage, launcher: Launcher) -> str:
    said = "; ".join(filter(None, (failure_message(stage.folder), launcher.describe(stage))))
    return said or "its process ended without a word; it may have been killed"


def _progress(stage: Stage, launcher: Launcher) -> str:
    """Return, in brackets, what the launcher says of a stage and how far its training is by its metrics.json."""
    entries = read_metrics(stage.folder)
    known = [launcher.describe(stage), f"iteration {entries[-1]['iteration']}" if entries else ""]
    return f" ({', '.join(filter(None, known))})" if any(known) else ""


def _seconds_left(stages: Sequence[Stage], estimates: Estimates, slots: int) -> str:
    if not stages:
        return "nothing"
    seconds = [estimates.seconds(stage) for stage in stages]
    known = sum(value for value in seconds if value is not None)
    least = "at least " if None in seconds else "about "
    return f"{least}{format_seconds(known / min(slots, len(stages)))}"
