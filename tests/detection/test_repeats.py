"""Means and standard deviations over seeds."""

import json

import pytest
import yaml

from detection.config import get_cfg
from detection.repeats import headline, run_repeats

SIZES = {"APs": None, "APm": 30.0, "APl": 50.0}  # no small object


def report(ap50):
    part = {"AP": 10.0, "AP50": ap50, "AP75": 5.0}
    return {"voc_2007_test": {"format": "voc", "voc07": part, "voc10": part, "coco": {**part, **SIZES}}}


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    cfg.SEED, cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = 4, str(tmp_path / "runs"), "backbone.pth"
    return cfg


def test_run_repeats__one_folder_and_seed_each(cfg, tmp_path):
    seen = []

    def run(one):
        seen.append((one.SEED, one.OUTPUT_DIR))
        return report({4: 70.0, 5: 72.0, 6: 74.0}[one.SEED])

    summary = run_repeats(cfg, 3, run)
    folder = tmp_path / "runs"
    assert seen == [(seed, str(folder / f"seed_{seed}")) for seed in (4, 5, 6)]
    assert summary["seeds"] == [4, 5, 6]
    number = summary["datasets"]["voc_2007_test"]["voc07"]["AP50"]
    assert number == {
        "mean": 72.0,
        "std": 2.0,  # (4 + 0 + 4) / (3 - 1) = 2^2
        "n": 3,
        "interval": [pytest.approx(72 + sign * 4.3027 * 2 / 3**0.5, abs=1e-3) for sign in (-1, 1)],
        "values": [70.0, 72.0, 74.0],
    }
    assert json.loads((folder / "repeats.json").read_text()) == summary
    assert yaml.safe_load((folder / "config.yaml").read_text())["SEED"] == 4  # a resumed call finds it there
    assert headline(summary) == [
        "voc_2007_test: mAP 72.00 +- 2.00 (VOC2007, 11 points, IoU .5), 72.00 +- 2.00 (area, IoU .5), 10.00 +- 0.00 "
        "(area, IoU .50:.95), over seeds 4, 5, 6",
        "one backbone: the spread is that of fine-tuning, and says nothing of another pretraining by the same method",
    ]
    assert cfg.SEED == 4


def test_run_repeats__a_single_run_has_no_spread(cfg):
    summary = run_repeats(cfg, 1, lambda _: report(70.0))
    assert summary["datasets"]["voc_2007_test"]["voc07"]["AP50"]["std"] is None
    (line,) = headline(summary)
    assert "mAP 70.00 (VOC2007" in line


def test_run_repeats__of_coco_data_leads_with_coco(cfg):
    part = {"AP": 40.0, "AP50": 60.0, "AP75": 45.0}
    voc = {"voc07": dict.fromkeys(part, 1.0), "voc10": dict.fromkeys(part, 2.0)}

    def run(one):
        ap = {4: 39.0, 5: 41.0}[one.SEED]
        return {"d": {"format": "coco", **voc, "coco": {**part, "AP": ap, **SIZES}}, **report(70.0)}

    summary = run_repeats(cfg, 2, run)
    assert summary["formats"] == {"d": "coco", "voc_2007_test": "voc"}
    first, second, _ = headline(summary)  # each test set has its own numbers
    assert first == (
        "d: COCO AP 40.00 +- 1.41 (IoU .50:.95), AP50 60.00 +- 0.00, AP75 45.00 +- 0.00, APs undefined, "
        "APm 30.00 +- 0.00, APl 50.00 +- 0.00, over seeds 4, 5"
    )
    assert second.startswith("voc_2007_test: mAP 70.00")
    assert summary["datasets"]["d"]["coco"]["APs"] == {
        "n": 2, "mean": None, "std": None, "interval": None, "values": [None, None],
    }  # fmt: skip


def test_run_repeats__from_random_weights_says_what_varied(cfg):
    cfg.MODEL.WEIGHTS = ""
    summary = run_repeats(cfg, 2, lambda _: report(70.0))
    assert headline(summary)[1] == summary["varied"]
    assert summary["varied"].startswith("no backbone (MODEL.WEIGHTS is empty): the spread is that of random")


def test_run_repeats__a_process_that_does_not_report_writes_nothing(cfg, tmp_path):
    summary = run_repeats(cfg, 2, lambda _: {}, writes=False)
    assert (summary["seeds"], summary["datasets"]) == ([4, 5], {})
    assert not (tmp_path / "runs").exists()


def test_run_repeats__count(cfg):
    with pytest.raises(ValueError, match=r"--repeat is 0; expected at least 1"):
        run_repeats(cfg, 0, lambda _: {})


def test_run_repeats__a_second_call_beside_it_is_refused(cfg):
    def run(_one):
        with pytest.raises(ValueError, match="in use by the run of process"):
            run_repeats(cfg, 1, lambda _: report(70.0))
        return report(70.0)

    run_repeats(cfg, 1, run)
