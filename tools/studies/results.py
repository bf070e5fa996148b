"""The content of study.json: the table with the paper's numbers beside ours, from the stages that are done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from detection.evaluation.intervals import difference, judge, summarise
from tools.studies.experiments import Experiment, experiments
from tools.studies.pages import write_pages
from tools.studies.pages.probes import probes_of
from tools.studies.planning.detectors import OWN
from tools.studies.planning.plan import Plan, seeds_of
from tools.studies.planning.stages import Stage
from tools.studies.published import published_of
from tools.studies.records import LOG, Result, failure_message
from tools.studies.sources import comparison_of, headline_of, over_pictures, per_class, protocol_of, sources_of
from tools.studies.sweep.result import own_values, rates_of
from tools.studies.values import FINAL_STAGES, Metric, metrics_of, numbers_of, own, with_best_epoch
from tools.studies.verdict import find_verdict

NOT_RECORDED = "not recorded"  # by the version of the toolkit that ran the stage


def write_study(plan: Plan, results: Mapping[str, Result], failed: Mapping[str, str]) -> dict[str, Any]:
    """Write study.json, study.md and study.html of the finished stages; return the content of study.json."""
    result = study_result(plan, results, failed)
    write_pages(result, plan.folder)
    return result


def study_result(plan: Plan, results: Mapping[str, Result], failed: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of study.json, AP and errors in percent; what was not run has no number.

    ``results`` are those of finished stages by name, ``failed`` the reasons of those that failed. ``versions`` says of
    every package which version made the numbers, and of which stages where that differs or was not recorded.

    ``verdicts`` say who wins, one for each model and data set (see ``find_verdict``); ``transfer`` what is to be told
    of the backbones in a study that fine-tunes.

    Every row says whether its weights were ``found``, there already. It has the paper's numbers of its metrics, their
    standard deviations and those that only the paper has,
    ``runs``, one a seed, and for each metric a ``summary`` over them: mean, standard deviation, the 95 % interval of
    the mean by Student's t (both None for one seed), and the ``difference`` to the row of the same model and data
    whose method is BASELINE, as ``intervals.difference`` says it, judged together with the other methods of that
    model and data (``intervals.judge``).
    """
    cfg, metrics = plan.cfg, metrics_of(plan.cfg, plan.detection)
    rows = [_row(plan, experiment, results, failed) for experiment in experiments(cfg)] if metrics else []
    for row in rows:
        reference = _reference(row, rows, cfg.BASELINE)
        row["summary"] = {metric.key: _summary(row, reference, metric) for metric in metrics}
    for family in _families(rows):
        for metric in metrics:
            summaries = filter(None, (row["summary"][metric.key] for row in family))
            judge([one["difference"] for one in summaries if one["difference"] is not None])
    return {
        "title": cfg.TITLE or plan.study,
        "study": plan.study,
        "kind": cfg.KIND,
        "config_file": str(plan.config_file),
        "config_path": str(plan.config_file.resolve()),
        "written": time.strftime("%Y-%m-%d %H:%M:%S"),
        "progress": {"done": len(results), "total": len(plan.stages), "failed": len(failed)},
        "metrics": [metric._asdict() for metric in metrics],
        "notes": [*cfg.NOTES, *_varied(cfg), *_chosen(cfg), *_accepted(plan, results)],
        "protocol": _protocol(plan) | _data(plan, results),
        "versions": _versions(results),
        "baseline": cfg.BASELINE if any(row["method"] == cfg.BASELINE for row in rows) else None,
        "rows": rows,
        "verdicts": _verdicts(rows, metrics, by_own_rate=bool(cfg.SWEEP.RATES)) if rows else [],
        "transfer": _transfer(plan, results, rows),
        "links": _links(plan, results),
        "figures": _figures(plan, results),
        "paper": {"table": cfg.PAPER.TABLE, "protocol": cfg.PAPER.PROTOCOL} if cfg.PAPER.TABLE else None,
        "stages": [_stage(plan, stage, results, failed) for stage in plan.stages],
    }


def _varied(cfg: CfgNode) -> list[str]:
    """Return the sentence that says what differs between the runs of a row, which their spread is about."""
    if len(cfg.SEEDS) == 1 or cfg.KIND in ("timing", "cam"):
        return []
    if cfg.KIND != "transfer":
        return ["The runs of a row differ in the seed of pretraining."]
    found = [row for row in experiments(cfg) if row.weights]
    one_file = (
        "The runs of a row whose weights were there already differ in the seed of fine-tuning alone, those of random "
        "weights in these weights too: spreads say nothing of another checkpoint of the same kind."
    )
    if len(found) == len(cfg.EXPERIMENTS):
        return [one_file]
    if cfg.PRETRAIN.SEED < 0:
        others = "The runs of a row differ in the seeds of pretraining and of fine-tuning."
        return [others.replace("a row", "a row that is pretrained"), one_file] if found else [others]
    return [
        "The runs of a row differ in the seed of fine-tuning alone: all start from one pretraining, of seed "
        f"{cfg.PRETRAIN.SEED}. Spreads, intervals and differences are about the noise of fine-tuning, and say nothing "
        "of how another pretraining by the same method would do."
    ]


def _chosen(cfg: CfgNode) -> list[str]:
    """Return the sentence that says what was chosen by the pictures that it is measured on."""
    if cfg.KIND != "classification":
        return [
            "What goes on from pretraining is the checkpoint of the best epoch, that of the lowest top-1 error on the "
            "validation pictures, not the last one."
        ] * (cfg.PRETRAIN.CHECKPOINT == "best")
    return [
        "The best epoch is that of the lowest top-1 error, with its top-5 error. It is chosen by the very pictures "
        "that its errors are of, which makes them lower than those on other pictures would be; the last epoch is not "
        "chosen."
    ]


def _accepted(plan: Plan, results: Mapping[str, Result]) -> list[str]:
    """Return a sentence where stages count as done because the user accepts that they were made otherwise."""
    names = [
        stage.name
        for stage in plan.stages
        if stage.name in results
        and (stage.code != stage.present_code or stage.differences(results[stage.name], even_accepted=True))
    ]
    return [
        "Taken as they are, though by another version of the code or of PyTorch than is here, or of data that have "
        f"changed since: {_in_short(names, results)}."
    ] * bool(names)


def _in_short(names: Sequence[str], among: Iterable[str]) -> str:
    """Return the names of stages, those of a kind in two words where all of many ``among`` others are meant."""
    kinds: dict[str, list[str]] = {}
    for name in among:
        kinds.setdefault(name.rpartition("/")[2], []).append(name)
    parts = []
    for kind, every in kinds.items():
        meant = [name for name in every if name in names]
        parts += [f"every {kind} ({len(every)})"] if len(meant) == len(every) > 3 else meant
    return ", ".join(parts)


def _versions(results: Mapping[str, Result]) -> dict[str, str]:
    """Return package -> the version that made the numbers; of several, each with its stages, the most common last."""
    recorded = {name: result.get("versions", {}) for name, result in results.items()}
    versions = {}
    for package in dict.fromkeys(package for one in recorded.values() for package in one):
        stages: dict[str, list[str]] = {}
        for name, one in recorded.items():
            stages.setdefault(one.get(package, NOT_RECORDED), []).append(name)
        *few, (most, _) = sorted(stages.items(), key=lambda item: len(item[1]))
        texts = [f"{version} ({_in_short(names, recorded)})" for version, names in few]
        versions[package] = "; ".join([*texts, f"{most} (all others)" if few else most])
    return versions or ({"packages": NOT_RECORDED} if results else {})


def _row(
    plan: Plan, experiment: Experiment, results: Mapping[str, Result], failed: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "method": experiment.method,
        "model": experiment.model,
        "data": experiment.data,
        "found": bool(experiment.weights),
        "paper": dict(experiment.paper),
        "paper_std": dict(experiment.paper_std),
        "paper_only": dict(experiment.paper_only),
        "runs": [_run(plan, experiment, seed, results, failed) for seed in _seeds(plan, experiment)],
    }


def _seeds(plan: Plan, experiment: Experiment) -> Sequence[int]:
    if plan.cfg.KIND == "timing":
        return (0,)  # times are repeated in rounds, not over seeds
    return seeds_of(plan.cfg, experiment)


def _run(
    plan: Plan,
    experiment: Experiment,
    seed: int,
    results: Mapping[str, Result],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    chain = _chain(plan, experiment, seed)
    result = results.get(chain[-1].name)
    if result is None:
        state = "failed" if any(stage.name in failed for stage in chain) else "not run"
        return {"seed": seed, "state": state, "values": None, "link": None, "seconds": None}
    values = numbers_of(plan.cfg.KIND, result["values"], experiment.name)
    if chain[-1].kind == "pretrain":
        values = with_best_epoch(values, chain[-1].folder)
    if chain[-1].kind == "accuracy" and experiment.epoch == "best":
        values = {f"best_{name}": value for name, value in values.items()}
    if plan.cfg.SWEEP.RATES:
        values |= own_values(plan, experiment, seed, results)
    link = _href(plan, chain[-1], result["link"] or LOG)
    whole = [results[stage.name]["seconds"] for stage in chain if results[stage.name]["attempts"] == 1]
    seconds = sum(whole) if len(whole) == len(chain) else None  # of an interrupted stage only the last part is known
    return {"seed": seed, "state": "done", "values": values, "link": link, "seconds": seconds}


def _chain(plan: Plan, experiment: Experiment, seed: int) -> list[Stage]:
    """Return the stages that are this run's alone, the last one with its numbers last."""
    if plan.cfg.KIND == "timing":
        return [plan.stages[-1]]
    final = FINAL_STAGES[plan.cfg.KIND]
    chain = [
        stage
        for stage in plan.stages
        if stage.experiment is not None and stage.experiment.name == experiment.name and stage.seed in (seed, None)
    ]
    return sorted(chain, key=lambda stage: stage.kind in final)


def _reference(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], baseline: str) -> Mapping[str, Any] | None:
    for other in rows:
        if (other["method"], other["model"], other["data"]) == (baseline, row["model"], row["data"]):
            return other if other is not row else None
    return None


def _summary(row: Mapping[str, Any], reference: Mapping[str, Any] | None, metric: Metric) -> dict[str, Any] | None:
    values = _values(row, metric)
    if not values:
        return None
    summary = summarise(list(values.values()))
    summary["difference"] = None if reference is None else difference(values, _values(reference, metric))
    return summary


def _families(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each model and data set: the methods that stand beside one baseline."""
    for model, data in dict.fromkeys((row["model"], row["data"]) for row in rows):
        yield [row for row in rows if (row["model"], row["data"]) == (model, data)]


def _verdicts(rows: Sequence[dict[str, Any]], metrics: Sequence[Metric], *, by_own_rate: bool) -> list[dict[str, Any]]:
    """Return who wins among the rows of each model and data set; ``of`` names these where there are several.

    They are judged by the first metric, of runs at their own rate as soon as there are any: at one rate for all, the
    rate is judged as well.
    """
    families = list(_families(rows))
    verdicts = []
    for family in families:
        verdict = None
        for metric in (own(metrics[0]), metrics[0]) if by_own_rate else metrics[:1]:
            values = {row["method"]: _values(row, metric) for row in family}
            verdict = verdict or find_verdict(values, metric, expected=sum(len(row["runs"]) for row in family))
        name = " ".join(filter(None, (family[0]["model"], family[0]["data"])))
        if verdict is not None:
            verdicts.append({"of": name if len(families) > 1 else None, **verdict})
    return verdicts


def _transfer(plan: Plan, results: Mapping[str, Result], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what a study that fine-tunes tells besides its table; None of other kinds."""
    if plan.cfg.KIND != "transfer":
        return None
    comparison, sources = comparison_of(plan, results), sources_of(plan, results)
    return {
        "protocol": protocol_of(plan),
        "sources": sources,
        "probes": probes_of(plan.cfg.PROBES, sources, rows, metrics_of(plan.cfg, plan.detection)[0].key),
        "headline": headline_of(comparison),
        "over_pictures": over_pictures(comparison, plan.cfg.BASELINE),
        "per_class": per_class(comparison),
        "published": published_of(plan),
        "rates": rates_of(plan, results),
    }


def _values(row: Mapping[str, Any], metric: Metric) -> dict[int, float]:
    found = ((run["seed"], (run["values"] or {}).get(metric.key)) for run in row["runs"])
    return {seed: value for seed, value in found if value is not None}


def _protocol(plan: Plan) -> dict[str, Any]:
    """Return what all rows share; what a row does differently stands in its config."""
    cfg = plan.cfg
    protocol: dict[str, Any] = {"seeds": ", ".join(map(str, cfg.SEEDS))}
    for stage in plan.stages:
        for key, value in stage.inputs.items():
            if stage.kind not in ("data", "comparison") and key != "SEED":
                if value == OWN:
                    continue  # beside what the protocol has in its place
                if isinstance(value, (list, tuple)):
                    value = ", ".join(map(str, value))
                elif isinstance(value, dict):
                    value = None  # the settings of every run of a timing, which stand in its JSON
                _keep_if_shared(protocol, f"{stage.kind}: {key}", value)
    for experiment in experiments(cfg):
        if experiment.config:
            protocol[f"config of {experiment.name}"] = " ".join([experiment.config.name, *experiment.opts])
    return {key: value for key, value in protocol.items() if value is not None}


def _data(plan: Plan, results: Mapping[str, Result]) -> dict[str, str]:
    """Return what real data the numbers are of, by kind of stage: hashes of what they hold."""
    found: dict[str, dict[str, None]] = {}
    for stage in plan.stages:
        if stage.inputs.get("data") and stage.name in results:
            held = results[stage.name].get("data") or NOT_RECORDED
            found.setdefault(f"{stage.kind}: contents of data", {})[held] = None
    return {name: ", ".join(held) for name, held in found.items()}


def _keep_if_shared(protocol: dict[str, Any], key: str, value: Any) -> None:
    if protocol.setdefault(key, value) != value:
        protocol[key] = None


def _links(plan: Plan, results: Mapping[str, Result]) -> list[dict[str, str]]:
    label = "Comparison of the detectors: intervals over pictures, classes"
    label += "" if plan.cfg.PRETRAIN.SEED < 0 or len(plan.cfg.SEEDS) == 1 else "; its runs differ in fine-tuning alone"
    return [
        {"label": label, "href": _href(plan, stage, link)}
        for stage in plan.stages
        if stage.kind == "comparison" and stage.name in results and (link := results[stage.name]["link"])
    ]


def _figures(plan: Plan, results: Mapping[str, Result]) -> list[dict[str, str]]:
    return [
        {"label": "Class activation maps of mixed pictures", "src": _href(plan, stage, stage.outputs[0])}
        for stage in plan.stages
        if stage.kind == "cam" and stage.name in results
    ]


def _stage(plan: Plan, stage: Stage, results: Mapping[str, Result], failed: Mapping[str, str]) -> dict[str, Any]:
    result = results.get(stage.name)
    state = "done" if result is not None else "failed" if stage.name in failed else "not run"
    message = failed.get(stage.name)
    if state == "not run" and (why := failure_message(stage.folder)):
        state, message = "failed", why
    return {
        "name": stage.name,
        "kind": stage.kind,
        "state": state,
        "seconds": result["seconds"] if result is not None and result["attempts"] == 1 else None,
        "processes": None if result is None else result.get("processes"),
        "machine": None if result is None else result.get("machine"),
        "versions": None if result is None else result.get("versions"),
        "data": None if result is None else result.get("data"),
        "link": _href(plan, stage, LOG) if (stage.folder / LOG).is_file() else None,
        "message": message,
    }


def _href(plan: Plan, stage: Stage, path: str) -> str:
    return Path(os.path.relpath(stage.folder / path, plan.folder)).as_posix()
