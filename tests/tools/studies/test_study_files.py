"""The shipped studies: each loads, means configs that exist, states the paper's numbers and has a small twin."""

import re
from collections import Counter
from pathlib import Path

import pytest

from detection.config import load_detection_config
from detection.evaluation.comparison import PAPER_PROTOCOL, PAPER_TABLE
from pretrain.config import load_pretrain_config
from pretrain.names import SALIENCIES
from tools.studies.config import load_study
from tools.studies.experiments import experiments
from tools.studies.planning.plan import make_plan
from tools.studies.values import metrics_of

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "tools" / "studies" / "configs").glob("*.yaml"))
FULL = [path for path in FILES if not path.stem.endswith("_small")]
SMALL = [path for path in FILES if path.stem.endswith("_small")]
ELSEWHERE = {"basnet"}  # needs weights that nobody can make
OURS = {"figure5_networks", "coco_transfer", "patch_and_label"}  # ask something else than the paper's figure or table
# What a row of SaliencyMix does otherwise than the paper's: the saliency and the scope of its box.
VARIANTS = {"saliencymix_batch": ("fine_grained", "batch"), "saliencymix_official": ("official", "batch")}


def name(path):
    return path.stem


def named_by_patch_and_label(mixing):
    """Return such as ``uniform_area``."""
    return f"{mixing.PATCH or 'salient'}_{mixing.LABEL}" if mixing.METHOD == "saliencymix" else mixing.METHOD


def methods(path):
    return {one.method for one in experiments(load_study(path))}


def numbers(path, metric):
    return {(one.model, one.data, one.method): one.paper.get(metric) for one in experiments(load_study(path))}


def test_studies__the_tables_and_figures_of_the_paper_and_their_twins():
    tables = {"table1", "table2", "table3", "table4", "table5", "figure3", "figure4", "figure5"} | OURS
    assert {path.stem for path in FULL} == tables
    assert {path.stem for path in SMALL} == {f"{table}_small" for table in tables}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_studies__plan_and_configs_are_valid(path, monkeypatch):
    monkeypatch.chdir(ROOT.parent)  # the configs are found from anywhere
    cfg = load_study(path)
    assert make_plan(cfg, path).stages
    for one in experiments(cfg):
        pretraining = load_pretrain_config(one.config, [*map(str, cfg.PRETRAIN.OPTS), *one.opts])
        # A row is named after what sets it apart: the method, or the saliency or style of SaliencyMix.
        mixing = pretraining.MIXING
        if one.method in VARIANTS:
            assert ("saliencymix", *VARIANTS[one.method]) == (mixing.METHOD, mixing.SALIENCY, mixing.SCOPE)
            assert not one.paper
        else:
            names = (mixing.METHOD, mixing.SALIENCY, mixing.STYLE, mixing.LABEL, named_by_patch_and_label(mixing))
            assert one.method in names
            assert mixing.SCOPE == "image"
    if cfg.KIND == "transfer":
        load_detection_config(ROOT / cfg.DETECTION.CONFIG, [*map(str, cfg.DETECTION.OPTS), "SEED", "0"])
    else:
        assert not cfg.DETECTION.CONFIG


@pytest.mark.parametrize("path", FILES, ids=name)
def test_studies__the_head_comment_has_its_own_command_and_a_full_ones_cost(path):
    head = re.match(r"(?:#.*\n)+", path.read_text("utf-8")).group()
    commands = re.findall(r"python tools/study\.py --config-file (\S+)", head)
    assert commands == [f"tools/studies/configs/{path.name}"]
    assert path in SMALL or re.search(r"Cost: .*[Nn]ot yet measured", head.replace("\n# ", " "))


@pytest.mark.parametrize("path", FULL, ids=name)
def test_studies__a_full_one_takes_real_data_and_its_twin_makes_its_own(path):
    full, small = load_study(path), load_study(path.with_stem(f"{path.stem}_small"))
    assert full.DIGITS.TRAIN_PER_CLASS == 0
    assert small.DIGITS.TRAIN_PER_CLASS > 0
    assert full.KIND == small.KIND
    assert methods(path) - ELSEWHERE == methods(path.with_stem(f"{path.stem}_small"))
    assert small.THREADS == 1  # so that its bits do not depend on how many stages run at a time
    assert full.CAM == small.CAM
    assert ("" if path.stem in OURS else re.sub(r"(\d)", r" \1", path.stem).capitalize()) == full.PAPER.TABLE
    assert not small.PAPER.TABLE
    assert not any(one.paper or one.paper_only for one in experiments(small))  # the paper has no numbers on digits


@pytest.mark.parametrize("path", FULL, ids=name)
def test_studies__the_papers_numbers_stand_in_columns_of_the_study(path):
    cfg = load_study(path)
    columns = {metric.key for metric in metrics_of(cfg)}
    assert {metric for one in experiments(cfg) for metric in one.paper} <= columns


@pytest.mark.parametrize("table, column, expected", [
    ("table2", "parameters, M", {25.6: 8, 44.6: 5}),
    ("table3", "ImageNet top-1 error, %", {23.68: 1, 22.93: 1, 22.58: 1, 21.40: 1, 21.26: 1}),
    ("table5", "hours of 200 epochs", {0.83: 1, 0.84: 1, 0.87: 1, 0.89: 1, 0.91: 1}),
])  # fmt: skip
def test_studies__columns_that_only_the_paper_has(table, column, expected):
    rows = experiments(load_study(ROOT / "tools" / "studies" / "configs" / f"{table}.yaml"))
    stated = [one.paper_only for one in rows if one.paper]
    assert Counter(own[column] for own in stated) == expected
    assert {name for one in rows for name in one.paper_only} == {column}
    assert all(not one.paper_only for one in rows if not one.paper)


def test_table1__every_number_has_its_spread():
    rows = [one for one in experiments(load_study(ROOT / "tools" / "studies" / "configs" / "table1.yaml")) if one.paper]
    assert all(one.paper_std.keys() == one.paper.keys() for one in rows)
    stds = [one.paper_std["best_top1_error"] for one in rows]
    assert (len(stds), min(stds), max(stds), round(sum(stds), 2)) == (48, 0.07, 0.95, 13.4)


def test_table3__imagenet_errors_are_table_2s():
    tables = (ROOT / "tools" / "studies" / "configs" / f"table{number}.yaml" for number in (2, 3))
    second, third = (
        {(one.model, one.method): one for one in experiments(load_study(path)) if one.paper} for path in tables
    )
    for key, one in third.items():
        assert one.paper_only["ImageNet top-1 error, %"] == second[key].paper["best_top1_error"]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_studies__rates_say_where_they_come_from(path):
    cost = load_study(path).COST
    rates = [cost.PRETRAIN_RATE, cost.FINE_TUNE_RATE, cost.EVALUATE_RATE]
    expected = "" if not any(rates) else "measured" if path in SMALL else "not ours"
    assert cost.SOURCE.startswith(expected)
    assert any(rates) or not cost.SOURCE


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_studies__numbers_are_those_of_the_pretraining_configs(table):
    path = ROOT / "tools" / "studies" / "configs" / f"{table}.yaml"
    rows = [one for one in experiments(load_study(path)) if one.method not in VARIANTS]
    for one in rows:
        stated = re.search(r"top-1 error (\d+\.\d\d) %(?:, top-5 error (\d+\.\d\d) %)?", one.config.read_text("utf-8"))
        assert [f"{number:.2f}" for number in one.paper.values()] == [text for text in stated.groups() if text]
        assert one.config.stem.endswith(f"_{one.method}")
    assert len(rows) == {"table1": 48, "table2": 13}[table]


def test_table3__numbers_are_those_of_the_comparison_and_the_rows_of_table_2():
    path = ROOT / "tools" / "studies" / "configs" / "table3.yaml"
    stated = {method: number for (_, _, method), number in numbers(path, "voc07_AP50").items() if number is not None}
    assert stated == PAPER_TABLE
    assert load_study(path).PAPER.PROTOCOL == PAPER_PROTOCOL


@pytest.mark.parametrize("number", range(1, 6))
def test_tables__saliencymix_stands_beside_cutmix_three_times(number):
    """CutMix's rows have one box a batch, as the authors' SaliencyMix; a box per picture is not all that differs."""
    rows = {}
    for one in experiments(load_study(ROOT / "tools" / "studies" / "configs" / f"table{number}.yaml")):
        rows.setdefault((one.model, one.data), {})[one.method] = one
    for of_one_cell in rows.values():
        assert {"cutmix", "saliencymix", *VARIANTS} <= set(of_one_cell)
        assert {of_one_cell[name].config for name in VARIANTS} == {of_one_cell["saliencymix"].config}


def test_table4__the_papers_column_is_fgsm_at_8_of_255():
    stated = numbers(ROOT / "tools" / "studies" / "configs" / "table4.yaml", "fgsm_8")
    assert {method: number for (_, _, method), number in stated.items() if number is not None} == {
        "baseline": 8.2, "cutout": 11.5, "mixup": 24.4, "cutmix": 31.0, "saliencymix": 32.96
    }  # fmt: skip


def test_table5__ratios_to_the_baseline():
    rows = experiments(load_study(ROOT / "tools" / "studies" / "configs" / "table5.yaml"))
    hours = {one.method: one.paper_only["hours of 200 epochs"] for one in rows if one.paper}
    stated = numbers(ROOT / "tools" / "studies" / "configs" / "table5.yaml", "relative_time")
    assert {method: number for (_, _, method), number in stated.items() if method not in VARIANTS} == pytest.approx(
        {method: time / hours["baseline"] for method, time in hours.items()}, abs=0.005
    )


def test_coco_transfer__is_about_coco_ap_on_real_and_on_made_data():
    for path in (ROOT / "tools" / "studies" / "configs" / f"coco_transfer{twin}.yaml" for twin in ("", "_small")):
        plan = make_plan(load_study(path), path)
        assert metrics_of(plan.cfg, plan.detection)[0].key == "coco_AP"
        assert [one.method for one in experiments(plan.cfg)] == ["baseline", "cutout", "mixup", "cutmix", "saliencymix"]
        assert not any(one.paper for one in experiments(plan.cfg))
        assert (plan.detection.DATASETS.TRAIN, plan.detection.DATASETS.TEST) == (
            ("coco_2017_train",), ("coco_2017_val",)
        )  # fmt: skip
    full = next(path for path in FULL if path.stem == "coco_transfer")
    assert "Their four numbers are not printed" in load_study(full).NOTES[0]


def test_figures__every_detector_and_every_style():
    assert methods(ROOT / "tools" / "studies" / "configs" / "figure3.yaml") == {
        "baseline",
        *SALIENCIES,
        "absolute",
        "relative",
    }
    assert len(methods(ROOT / "tools" / "studies" / "configs" / "figure4.yaml")) == 5


def test_figure5__one_network_trained_without_mixing_sees_the_picture_of_each_method():
    cfg = load_study(ROOT / "tools" / "studies" / "configs" / "figure5.yaml")
    (row,) = experiments(cfg)
    assert load_pretrain_config(row.config, [*map(str, cfg.PRETRAIN.OPTS), *row.opts]).MIXING.METHOD == "baseline"
    assert cfg.CAM.METHODS == ("baseline", "mixup", "cutout", "cutmix", "saliencymix")
    networks = load_study(ROOT / "tools" / "studies" / "configs" / "figure5_networks.yaml")
    assert networks.CAM.METHODS == ("saliencymix",)
    assert {one.method for one in experiments(networks)} == set(cfg.CAM.METHODS)


def test_studies__pretrainings_are_shared_between_studies_of_one_folder(tmp_path):
    def pretrainings(table):
        path = ROOT / "tools" / "studies" / "configs" / f"{table}.yaml"
        cfg = load_study(path, ["OUTPUT_DIR", str(tmp_path), "PRETRAIN.DATA_ROOT", "/data/imagenet"])
        return {stage.folder for stage in make_plan(cfg, path).stages if stage.kind == "pretrain"}

    assert pretrainings("figure5") < pretrainings("figure5_networks") < pretrainings("table4") < pretrainings("table2")
    assert pretrainings("table4") < pretrainings("table3")
    assert pretrainings("coco_transfer") < pretrainings("table3")
