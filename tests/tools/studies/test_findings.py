"""What the page of a transfer study says besides its tables: in words, in HTML and in Markdown."""

import re

import pytest

from tools.studies.pages.findings import Source, class_rows, on_pictures, sources_in_words, verdicts_in_words
from tools.studies.pages.html import render_html
from tools.studies.pages.tables import lay_out
from tools.studies.pages.write import render_markdown

READS = "RGB, mean 123.675 116.28 103.53, std 58.395 57.12 57.375"


def test_sources_in_words__files_pretrainings_and_nothing(transfer_result):
    assert sources_in_words(transfer_result) == [
        Source(
            "baseline",
            "moco_v2.pth.tar, under state_dict.module.encoder_q.",
            "5" * 64,
            "resnet50, top-1 71.10 % as the file says",
            READS,
            "the source has no card",
        ),
        Source("cutout", "not_yet.pth", "", "not converted yet", "", ""),
        Source("cutmix", "pretrained by imagenet_r50_cutmix.yaml", "", "", "", ""),
        Source("saliencymix", "pretrained by imagenet_r50_cutmix.yaml", "5" * 64, "resnet50", READS, ""),
        Source("official", "random weights, drawn from each seed", "", "as the config builds it", "", ""),
    ]


def test_on_pictures__three_intervals_of_the_rows_that_were_compared(transfer_result):
    lines = on_pictures(transfer_result, lay_out(transfer_result))
    assert [tuple(line) for line in lines] == [
        ("cutout", "+1.25", "-1.93 to +4.43", "-1.00 to +3.50", "-", "7", False),
        ("saliencymix", "+2.00", "+1.50 to +2.50", "+0.50 to +3.50", "+0.25 to +3.75", "3", True),
    ]


def of_coco(result):
    """The same with COCO AP as the headline."""
    metric = {"key": "coco_AP", "label": "COCO AP", "unit": "%", "lower_is_better": False}
    result["metrics"] = [metric, *result["metrics"]]
    for row in result["rows"]:
        row["summary"] = {"coco_AP": row["summary"]["voc07_AP50"], "voc07_AP50": None}
    result["transfer"]["headline"] = "coco_AP"
    return result


def test_on_pictures__of_coco_data_is_about_coco_ap(transfer_result, tmp_path):
    before = on_pictures(transfer_result, lay_out(transfer_result))
    result = of_coco(transfer_result)
    assert on_pictures(result, lay_out(result)) == before
    page, text = render_html(result, tmp_path), render_markdown(result)
    assert "The difference to baseline in COCO AP with three" in page
    assert "## Difference to baseline in COCO AP, over seeds and pictures" in text
    for said in (page, text):
        assert "COCO AP by class, means over seeds" in said
        assert "11 points" not in said


def test_class_rows__a_class_without_objects_has_a_dash(transfer_result):
    assert class_rows(transfer_result) == (
        ["baseline", "saliencymix"], [("cat", ["80.00", "82.12"]), ("dog", ["-", "-"])]
    )  # fmt: skip


def test_findings__other_studies_have_none(result):
    assert sources_in_words(result) == on_pictures(result, lay_out(result)) == verdicts_in_words(result) == []
    assert class_rows(result) == ([], [])


@pytest.mark.parametrize("render", [render_html, lambda result, folder: render_markdown(result)], ids=["html", "md"])
def test_pages__say_all_of_it(transfer_result, tmp_path, render):
    page = re.sub(r"<[^>]+>", " ", render(transfer_result, tmp_path))
    text = " ".join(page.replace("&#39;", "'").replace("\\", "").split())
    for expected in (
        "saliencymix wins: 79.00\u00a0% (mAP)" if render is render_html else "saliencymix wins: 79.00 % (mAP)",
        "Not all runs are there yet. It is 2.00 points above baseline",
        "One protocol for all rows, voc_r50_c4_moco.yaml: Batch 16.",
        "+0.25 to +3.75",
        "5" * 64,
        "the source has no card",
        "random weights, drawn from each seed",
        "Published under this protocol",
        "33.8",
        "AP50 by class, 11 points, means over seeds",
        "82.12",
    ):
        assert expected.replace("\u00a0", " ") in text.replace("\u00a0", " "), expected
