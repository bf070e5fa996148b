"""Checkpoints that people have, as the rows of a study: named on a command line, proved before anything is trained."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import yaml
from fvcore.common.config import CfgNode

from detection.convert.backbone_file import convert_file
from detection.convert.card import CONFIG_KEYS, SINCE_THEN, architecture_of
from detection.convert.verify import describe
from pretrain.run.cli import one_line
from pretrain.run.files import atomic_write
from pretrain.run.settings import get_value, leaves, refuse_faults
from pretrain.run.text import Finite, read_record
from pretrain.weights.description import Preprocessing, same
from pretrain.weights.files import refuse_address
from tools.studies.config import check_study, get_cfg
from tools.studies.experiments import RANDOM, Experiment, experiments
from tools.studies.planning.plan import Plan
from tools.studies.planning.stages import Stage
from tools.studies.published import published_cost

STUDY_FILE = "transfer.yaml"  # beside the rows' folders
KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
# What a file does not say and the command line may, of READING_KEYS: key -> what stands behind the name
SAID = {
    "PREFIX": "=PREFIX", "EMA": "", "PIXEL_MEAN": "=R,G,B", "PIXEL_STD": "=R,G,B", "CHANNEL_ORDER": "=BGR",
    "STRIDE_IN_1X1": "",
}  # fmt: skip
OF_PIXELS = ("PIXEL_MEAN", "PIXEL_STD", "CHANNEL_ORDER", "STRIDE_IN_1X1")  # in the order of Preprocessing
OF_NETWORK = ("depth", "res2_out_channels", *SINCE_THEN)  # entries of a card that one table's rows share
# First parts of keys that are the study's
OF_STUDY = ("TITLE", "NOTES", "PROBES", "THREADS", "GPUS", "DIGITS", "COST", "SLURM", "SWEEP")


class Card(TypedDict):
    """What is used of the card of a backbone that is there; the first versions knew plain ResNets only."""

    channel_order: str
    pixel_mean: list[Finite]
    pixel_std: list[Finite]
    stride_in_1x1: bool
    depth: int
    res2_out_channels: int
    num_groups: NotRequired[int]
    width_per_group: NotRequired[int]
    stem_out_channels: NotRequired[int]


class Given(NamedTuple):
    """What stands on the command line: the rows, and KEY VALUE pairs of fine-tuning and of the study."""

    rows: list[dict[str, Any]]
    detection_opts: list[str]
    study_opts: list[str]


def read_words(words: Sequence[str], said: Mapping[str, Sequence[str]] | None = None) -> Given:
    """Return what ``NAME=FILE ... [random] [KEY VALUE ...]`` says.

    Args:
        said: what the files do not say, key of SAID -> words ``NAME=VALUE``, or ``NAME`` alone of what is or is not.

    Raises:
        ConfigError: an address where a file is meant; or everything else that is wrong at once: no rows, a word that is
            none, a name given twice, no such file, a KEY without VALUE.
    """
    faults: list[str] = []
    end = next((place for place, word in enumerate(words) if KEY.fullmatch(word)), len(words))
    rows: dict[str, dict[str, Any]] = {}
    for word in words[:end]:
        name, equals, file = word.partition("=")
        if word == RANDOM:
            name, file = RANDOM, RANDOM
        elif not (name and equals and file):
            refuse_address(word)
            near = re.sub(r"\W+", "_", Path(word).name.partition(".")[0]) or "mine"
            faults.append(f"{word!r} names no checkpoint; expected NAME=FILE or {RANDOM}, such as {near}={word}")
            continue
        elif file == RANDOM:
            faults.append(f"{word!r}: the row that starts from nothing is called {RANDOM}; write {RANDOM}")
            continue
        elif "." in name and KEY.fullmatch(name):
            faults.append(f"{word!r} is no pair; write {name} {file}, with a space in place of the =")
            continue
        else:
            refuse_address(file)
            if not Path(file).expanduser().is_file():
                faults.append(
                    f"{name}: {file} {'is no file' if Path(file).expanduser().exists() else 'does not exist'}"
                )
        if name in rows:
            faults.append(f"the name {name!r} is given twice; every checkpoint needs one of its own")
        rows[name] = {"METHOD": name, "WEIGHTS": file}
    for key, word in ((key, word) for key, words_of in (said or {}).items() for word in words_of):
        option, expected = f"--{key.lower().replace('_', '-')}", SAID[key]
        name, equals, value = word.partition("=")
        if bool(equals) != bool(expected) or name not in rows:
            known = ", ".join(rows) or "none is given"
            faults.append(f"{option} {word}: expected the NAME of a checkpoint ({known}){expected}")
            continue
        try:
            rows[name][key] = _value(key, value)
        except ValueError:
            faults.append(f"{option} {word}: expected {name}{expected}")
    opts = list(words[end:])
    if not rows and not faults:
        late = next((f"; {word!r} stands behind KEY VALUE pairs" for word in opts if word == RANDOM or "=" in word), "")
        faults.append(
            f"no checkpoint is given{late}; expected NAME=FILE, one or more, and {RANDOM} for a row from nothing"
        )
    if len(opts) % 2:
        faults.append(f"expected KEY VALUE pairs, but {opts[-1]!r} has no value")
    refuse_faults(faults)
    pairs = list(zip(opts[::2], opts[1::2], strict=True))
    of_study = [pair for pair in pairs if pair[0].partition(".")[0] in OF_STUDY]
    detection = [pair for pair in pairs if pair not in of_study and pair[0] != "VOC.ROOT"]
    roots = [("DETECTION.VOC_ROOT", value) for key, value in pairs if key == "VOC.ROOT"]
    return Given(
        list(rows.values()),
        [word for pair in detection for word in pair],
        [word for pair in [*of_study, *roots] for word in pair],
    )


def _value(key: str, text: str) -> Any:
    if key in ("PIXEL_MEAN", "PIXEL_STD"):
        return [float(number) for number in text.split(",")]
    return text if SAID[key] else True


def read_rates(text: str) -> tuple[float, ...]:
    """Return the numbers in ``text``, which commas separate; none of an empty one.

    Raises:
        ValueError: a word is no number.
    """
    try:
        return tuple(float(word) for word in text.split(",")) if text else ()
    except ValueError as error:
        raise ValueError(f"--sweep is {text!r}; expected rates, such as .005,.01,.02,.04,.08") from error


def study_of(
    given: Given,
    *,
    config_file: str,
    engine: str,
    seeds: int,
    baseline: str | None,
    output: Path,
    rates: Sequence[float] = (),
) -> CfgNode:
    """Return the checked, frozen config of the study whose rows are ``given``, trained by ``config_file``.

    The first row is the baseline, unless another one is named.

    Raises:
        FileNotFoundError, ValueError: as ``check_study``.
    """
    if seeds < 1:
        raise ValueError(f"--seeds is {seeds}; expected at least 1")
    names = [row["METHOD"] for row in given.rows]
    if STUDY_FILE in map(str.casefold, names):
        raise ValueError(f"a checkpoint is called {STUDY_FILE}, as the study's own file; call it otherwise")
    if baseline is not None and baseline not in names:
        raise ValueError(f"--baseline {baseline}: no checkpoint has that name; expected one of {', '.join(names)}")
    cfg = get_cfg()
    files = [name for name in names if name != RANDOM]
    cfg.TITLE = f"{len(files)} checkpoint{'s' * (len(files) != 1)} as detectors"
    cfg.TITLE += ", beside random weights" if RANDOM in names else ""
    cfg.SEEDS = tuple(range(seeds))
    cfg.BASELINE = baseline or names[0]
    cfg.EXPERIMENTS = [
        row if row["WEIGHTS"] == RANDOM else {**row, "WEIGHTS": str(Path(row["WEIGHTS"]).expanduser().resolve())}
        for row in given.rows
    ]
    here = Path(config_file).expanduser()
    cfg.DETECTION.CONFIG = str(here.resolve()) if here.is_file() else config_file
    cfg.DETECTION.OPTS = given.detection_opts
    cfg.DETECTION.ENGINE = engine
    cfg.SWEEP.RATES = tuple(rates)
    cfg.OUTPUT_DIR = str(output)
    for key, value in published_cost(config_file).items():
        cfg.COST[key] = value
    return check_study(cfg, given.study_opts)


def prove(plan: Plan) -> dict[str, dict[str, Any]]:
    """Convert and prove every checkpoint of a study whose backbone is not there yet; return row -> card.

    Each proof is printed. Nothing is left on the disk.

    Raises:
        ConfigError: a checkpoint cannot be converted, or is of another network than ``plan.detection``; all at once.
    """
    cards: dict[str, dict[str, Any]] = {}
    faults = []
    converted = {stage.experiment.name: stage for stage in plan.stages if stage.kind == "convert" and not stage.parents}
    with tempfile.TemporaryDirectory() as folder:
        for experiment in (row for row in experiments(plan.cfg) if row.weights not in ("", RANDOM)):
            try:
                cards[experiment.name] = _card(experiment, converted[experiment.name], Path(folder))
                faults += _other_network(experiment.name, cards[experiment.name], plan.detection)
            except (ValueError, OSError, ImportError) as error:
                faults.append(f"{experiment.name}: {one_line(error)}")
                print(f"{experiment.name}: refused", flush=True)
    refuse_faults(faults)
    return cards


def _card(experiment: Experiment, stage: Stage, folder: Path) -> dict[str, Any]:
    from tools.studies.runner import finished

    if finished([stage]):
        return SINCE_THEN | dict(read_record(stage.folder / "backbone.card.json", Card, "a card"))
    conversion = convert_file(
        experiment.weights,
        folder / "backbone.pth",
        prefix=experiment.reading.get("PREFIX"),
        ema=experiment.reading.get("EMA", False),
        said=Preprocessing(*map(experiment.reading.get, OF_PIXELS)),
    )
    print(f"{experiment.name}: {experiment.weights}, {conversion.card['arch']}, {conversion.tally()}")
    notes = [f"note: {note}" for note in conversion.notes]
    for line in [*notes, *describe(conversion.card["verification"]).splitlines()]:
        print(f"  {line}", flush=True)
    return conversion.card


def _other_network(name: str, card: dict[str, Any], detection: CfgNode) -> list[str]:
    entries = {CONFIG_KEYS[entry]: card[entry] for entry in OF_NETWORK}
    wanted = {key: value for key, value in entries.items() if get_value(detection, key) != value}
    if not wanted:
        return []
    built = ", ".join(f"{key} {get_value(detection, key)}" for key in wanted)
    pairs = " ".join(f"{key} {value}" for key, value in wanted.items())
    return [
        f"{name} is a {architecture_of(card).name}, but the detectors of this table have {built}; one table, one "
        f"network: give checkpoints of one, and a config of it (or append {pairs})"
    ]


def with_readings(cfg: CfgNode, cards: dict[str, dict[str, Any]], detection: CfgNode) -> CfgNode:
    """Return ``cfg`` whose rows read pictures as their cards say, where the config of fine-tuning says otherwise."""
    rows = []
    for entry, experiment in zip(cfg.EXPERIMENTS, experiments(cfg), strict=True):
        opts: list[Any] = []
        for name, key in CONFIG_KEYS.items():
            value = cards.get(experiment.name, {}).get(name)
            if value is not None and not same(value, get_value(detection, key)):
                opts += [key, value]
        rows.append({**entry, "DETECTION_OPTS": opts} if opts else entry)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.EXPERIMENTS = rows
    return check_study(cfg)


def write_study_file(cfg: CfgNode, path: Path, command: str) -> None:
    """Write ``cfg`` as the YAML that ``tools/study.py`` takes, with what differs from the defaults."""
    defaults = dict(leaves(get_cfg()))
    content: dict[str, Any] = {}
    for key, value in leaves(cfg, get_cfg()):
        if value != defaults[key] or key == "KIND":
            *parents, leaf = key.split(".")
            node = content
            for name in parents:
                node = node.setdefault(name, {})
            node[leaf] = list(value) if isinstance(value, tuple) else value
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w") as file:
        file.write(
            f"# Written by tools/transfer.py, which writes it anew when it is called for this folder:\n"
            f"#   {' '.join(command.split())}\n"
        )
        file.write("# What is there goes on with tools/study.py --config-file and this file, too.\n")
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True, width=120)
