"""Probes on the page of a study: which row they are of, and what their order says of the detectors'."""

import json
import math

import pytest
import torch

from detection.convert.backbone_file import convert_file
from pretrain.config import get_cfg
from pretrain.inspect.pretrained import Reading, open_pretrained
from pretrain.run.checkpoint import save_checkpoint
from tests.conftest import random_resnet
from tools.studies.checkpoints import read_words, study_of, write_study_file
from tools.studies.config import load_study
from tools.studies.pages import write_pages
from tools.studies.pages.probes import probe_table, probes_of, rank_correlation

KEY = "voc07_AP50"
OF = {"data_root": "/data/imagenet", "k": 20, "temperature": 0.07}
NOTHING = {"knn_top1": None, "linear_top1": None, "detection": None}


def probed(sha256, prefix="", knn=50.0, linear=60.0):
    return {
        "name": "x",
        "prefix": prefix,
        "knn_top1": knn,
        "linear_top1": linear,
        "protocol": {"checkpoint_sha256": sha256, **OF},
    }


@pytest.fixture
def write(tmp_path):
    """Return a function: checkpoints -> the path of a probes.json with them."""

    def write(*checkpoints):
        path = tmp_path / "probes.json"
        path.write_text(json.dumps({"checkpoints": checkpoints}))
        return str(path)

    return write


def card(sha256, prefix=""):
    return {"card": {"source_sha256": sha256, "source_prefix": prefix}}


def row(method, mean, model=""):
    return {"method": method, "model": model, "data": "", "summary": {KEY: None if mean is None else {"mean": mean}}}


def test_probes_of__the_weights_on_the_card(write):
    path = write(probed("a", "ema.", 1.0, 2.0), probed("a", "model.", 3.0, 4.0), probed("b", "", 5.0, 6.0))
    sources = [card("a", "model."), card("a", "ema."), card("c"), {"card": None}, card("b")]
    rows = [row("one", 70.0), row("two", 60.0), row("three", 50.0), row("random", 40.0), row("four", None)]
    found = probes_of(path, sources, rows, KEY)
    assert [tuple(one[key] for key in ("method", "knn_top1", "linear_top1", "detection")) for one in found["rows"]] == [
        ("one", 3.0, 4.0, 70.0),
        ("two", 1.0, 2.0, 60.0),
        ("three", None, None, 50.0),
        ("random", None, None, 40.0),
        ("four", 5.0, 6.0, None),
    ]
    assert [(one["of"], one["probe"], one["n"], one["rho"]) for one in found["correlations"]] == [
        (None, "knn_top1", 2, None),
        (None, "linear_top1", 2, None),
    ]
    assert found["settings"] == [OF]


def test_probes_of__nothing_without_a_file():
    assert probes_of("", [card("a")], [row("one", 70.0)], KEY) is None


def test_probes_of__models_are_ranked_apart(write):
    path = write(*(probed(f"{number}", "", float(number)) for number in range(16)))
    sources = [card(f"{number}") for number in range(16)]
    rows = [row("m", float(n if n < 8 else -n), model="R18" if n < 8 else "R50") for n in range(16)]
    found = probes_of(path, sources, rows, KEY)["correlations"]
    assert [(one["of"], one["n"], one["rho"]) for one in found if one["probe"] == "knn_top1"] == [
        ("R18", 8, 1),
        ("R50", 8, -1),
    ]


def test_probes_of__refuses_what_is_no_probes(tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"checkpoints": [{"prefix": ""}]}))
    with pytest.raises(ValueError, match=r"other\.json is not probes of tools/probe\.py"):
        probes_of(str(path), [], [], KEY)


def test_rank_correlation__by_hand():
    """Ranks 1..8 with the first two and the last two changed: rho = 1 - 6 * 4 / (8 * 63)."""
    found = rank_correlation(list(zip(range(8), [1.5, 1.0, 3.0, 4.0, 5.0, 6.0, 9.0, 8.0], strict=True)))
    assert found["rho"] == pytest.approx(1 - 24 / 504)
    margin = 1.96 * math.sqrt((1 + found["rho"] ** 2 / 2) / 5)
    z = 0.5 * math.log((1 + found["rho"]) / (1 - found["rho"]))
    expected = [(math.exp(2 * bound) - 1) / (math.exp(2 * bound) + 1) for bound in (z - margin, z + margin)]
    assert found["interval"] == pytest.approx(expected)
    assert found["n"] == 8


@pytest.mark.parametrize("pairs, rho", [
    ([(n, n) for n in range(7)], None),  # too few
    ([(n, 1.0) for n in range(8)], None),  # no order
    ([(n, n**3) for n in range(8)], 1),
    ([(n, -n) for n in range(8)], -1),
])  # fmt: skip
def test_rank_correlation__without_an_interval(pairs, rho):
    assert rank_correlation(pairs) == {"n": len(pairs), "rho": rho, "interval": None}


@pytest.fixture
def with_probes(transfer_result):
    """Return a function: correlations -> a result with probes of two of its rows."""

    def call(*correlations):
        rows = [{"method": one["method"], "model": "R50", "data": "VOC", **NOTHING} for one in transfer_result["rows"]]
        rows[0] |= {"knn_top1": 55.7, "linear_top1": 67.5, "detection": 77.0}
        transfer_result["transfer"]["probes"] = {
            "file": "probes.json",
            "rows": rows,
            "correlations": [{"of": None, "n": 9, "rho": 0.5, "interval": None, **one} for one in correlations],
            "settings": [OF],
        }
        return transfer_result

    return call


@pytest.mark.parametrize("correlation, expected", [
    ({"probe": "knn_top1", "n": 7, "rho": None}, "of k-NN and mAP is told of 8 rows or more; 7 have both."),
    ({"probe": "knn_top1", "interval": [-0.3, 0.888]}, "mAP: 0.50 over 9 rows (95 % interval -0.30 to 0.89)."),
    ({"probe": "linear_top1", "rho": 1}, "of linear and mAP: 1.00 over 9 rows (no interval at full agreement)."),
    ({"probe": "linear_top1", "rho": None, "of": "R50"}, "mAP: none, since all 9 rows are equal in one of them."),
])  # fmt: skip
def test_probe_table__says_how_sure_the_order_is(with_probes, correlation, expected):
    assert probe_table(with_probes(correlation)).sentences[-1].endswith(expected)


def test_pages__show_probes_and_say_that_they_predict_badly(with_probes, tmp_path):
    write_pages(with_probes({"probe": "knn_top1"}), tmp_path)
    page, text = ((tmp_path / name).read_text("utf-8") for name in ("study.html", "study.md"))
    lines = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines()]
    assert ("baseline", "55.70", "67.50", "77.00") in lines
    assert ("cutout", "-", "-", "-") in lines
    assert '<td class="number">55.70</td><td class="number">67.50</td><td class="number">77.00</td>' in page
    for said in (page, text.replace("\\", "")):
        assert "Among checkpoints of one architecture they predict detection badly" in said
        assert "pictures of /data/imagenet, 20 neighbours, T 0.07" in said


def test_pages__without_probes_say_nothing_of_them(transfer_result, tmp_path):
    assert probe_table(transfer_result) is None
    write_pages(transfer_result, tmp_path)
    assert not any("Probes" in (tmp_path / name).read_text("utf-8") for name in ("study.html", "study.md"))


@pytest.mark.parametrize("ema", [False, True])
def test_card__and_probe_name_the_same_weights(tmp_path, ema):
    """Else a row would stand without its probes."""
    cfg = get_cfg()
    cfg.MODEL.ARCH = "resnet18"
    own = {"model": random_resnet(18), "ema": random_resnet(18, seed=1), "config": cfg.dump(), "arch": "resnet18",
           "method": "baseline", "classes": [f"c{number}" for number in range(10)]}  # fmt: skip
    save_checkpoint(own, tmp_path / "own.pth")
    wrapped = {f"module.{key}": value for key, value in own["model"].items()}
    torch.save({"state_dict": wrapped, "state_dict_ema": own["ema"]}, tmp_path / "foreign.pth")
    for name in ("own", "foreign"):
        pretrained = open_pretrained(tmp_path / f"{name}.pth", Reading(ema=ema), needs_classifier=False)
        card = convert_file(tmp_path / f"{name}.pth", tmp_path / "backbone.pth", ema=ema).card
        assert (pretrained.sha256, pretrained.prefix) == (card["source_sha256"], card["source_prefix"])


def test_transfer__takes_probes_as_a_key_of_the_study(tmp_path, write, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({}, "a.pth")
    write(probed("a"))
    given = read_words(["a=a.pth", "PROBES", "probes.json", "SOLVER.MAX_ITER", "7"])
    options = {"config_file": "detection/configs/demo_r18_fpn.yaml", "engine": "torchvision", "seeds": 1}
    cfg = study_of(given, baseline=None, output=tmp_path, **options)
    assert str(tmp_path / "probes.json") == cfg.PROBES
    write_study_file(cfg, tmp_path / "transfer.yaml", "command")
    assert load_study(tmp_path / "transfer.yaml").PROBES == cfg.PROBES


def test_study__probes_reach_its_result(plan_of, write):
    from tools.studies.results import study_result

    found = study_result(plan_of(PROBES=write(probed("a"))), {}, {})["transfer"]["probes"]
    assert [one["method"] for one in found["rows"]] == ["baseline", "cutmix"]
    assert study_result(plan_of(), {}, {})["transfer"]["probes"] is None


@pytest.mark.parametrize("changes, message", [
    ({"PROBES": "nowhere.json"}, r"PROBES is nowhere\.json, which is no file; tools/probe\.py writes one"),
    ({"PROBES": "F", "KIND": "robustness"}, "PROBES is .*, but KIND robustness has no detectors beside them"),
])  # fmt: skip
def test_study__refuses_probes_that_it_cannot_show(plan_of, write, changes, message):
    path = write(probed("a"))
    with pytest.raises(ValueError, match=message):
        plan_of(**{**changes, "PROBES": changes["PROBES"].replace("F", path)})
