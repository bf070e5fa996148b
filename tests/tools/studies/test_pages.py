"""A study's pages from results made by hand: every cell says what it is, also where there is no number."""

import json
import re

import pytest
from PIL import Image

from tools.studies.pages.html import render_html
from tools.studies.pages.write import render_markdown, summary_table, write_pages


def cut(text, start, end):
    """The part of ``text`` from ``start`` to ``end``."""
    begin = text.index(start)
    return text[begin : text.index(end, begin)]


def row_of(html, section, method):
    """The texts of the cells in the row of ``method`` in a section of the page; a bar ends a line inside one."""
    part = re.search(rf'<section id="{section}">.*?</section>', html, re.DOTALL)[0]
    row = re.search(rf"<tr><th class=\"text\">{method}</th>(.*?)</tr>", part, re.DOTALL)[1]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
    return [re.sub(r"<[^>]+>", "", cell.replace('<span class="range', '|<span class="')).strip() for cell in cells]


def one_seed(result, kind="transfer"):
    """``result`` with only its first row, of one seed."""
    first = result["rows"][0]
    first["runs"] = first["runs"][:1]
    summary = {"n": 1, "mean": 76.0, "std": None, "interval": None, "difference": None}
    return result | {"rows": [first | {"summary": {"voc07_AP50": summary}}], "kind": kind}


def two_by_two(result):
    """Errors of two models on two data sets; one combination is not in the study."""

    def row(model, data, method, error, paper):
        summary = {"n": 1, "mean": error, "std": None, "interval": None, "difference": None}
        runs = [{"seed": 0, "state": "done", "values": {"top1_error": error}, "link": None, "seconds": None}]
        return {
            "method": method,
            "model": model,
            "data": data,
            "paper": {"top1_error": paper} if paper else {},
            "paper_std": {},
            "paper_only": {},
            "found": False,
            "runs": runs,
            "summary": {"top1_error": summary},
        }

    rows = [
        row("R18", "C10", "baseline", 10.5, 10.63),
        row("R50", "C10", "baseline", 12.0, 12.14),
        row("R18", "C100", "baseline", 36.5, None),
    ]
    metrics = [{"key": "top1_error", "label": "top-1 error", "unit": "%", "lower_is_better": True}]
    return result | {"rows": rows, "metrics": metrics, "kind": "classification"}


def test_summary_table__every_cell_says_what_it_is(result):
    assert summary_table(result) == [
        "| method      | mAP, %                                 | published |",
        "| ----------- | -------------------------------------: | --------: |",
        "| baseline    | 77.00 +- 1.00 (3)                      | 76.71     |",
        "| cutout      | 77.75 +- 1.06 (2 of 3 seeds, 1 failed) | 77.17     |",
        "| mixup       | 79.00 (1 of 3 seeds: no spread)        | 77.98     |",
        "| cutmix      | not run                                | 78.31     |",
        "| saliencymix | 79.00 +- 1.00 (3)                      | 78.48     |",
        "| official    | failed                                 | -         |",
    ]


@pytest.mark.parametrize("values, text", [
    ({"voc07_AP50": None}, "no value"), ({}, "not recorded"), ({"voc10_AP": 4.0}, "not recorded"),
])  # fmt: skip
def test_summary_table__what_a_run_did_not_record_is_told_from_what_has_no_value(result, values, text):
    row = result["rows"][5]
    row["runs"] = [run | {"state": "done", "values": values} for run in row["runs"]]
    assert summary_table(result)[-1].split("|")[2].strip() == text


def test_summary_table__weights_that_were_there_are_of_one_epoch(result):
    result["rows"][0] |= {"found": True, "summary": {"voc07_AP50": None}}
    for run in result["rows"][0]["runs"]:
        run["values"] = {"best_top1_error": 20.0}
    assert "| not in the file" in summary_table(result)[2]


def test_summary_table__the_papers_spreads_and_columns_of_its_own(result):
    for row, std, own in zip(
        result["rows"], (0.2, 0.15, None), ({"top-1, %": 23.6}, {"top-1, %": 22.93}, {}), strict=False
    ):
        row["paper_std"], row["paper_only"] = {} if std is None else {"voc07_AP50": std}, own
    assert [re.split(r" *\| *", line)[1:-1] for line in summary_table(result)[:5]] == [
        ["method", "top-1, % (published)", "mAP, %", "published"],
        ["-----------", "-------------------:", "-------------------------------------:", "------------:"],
        ["baseline", "23.60", "77.00 +- 1.00 (3)", "76.71 +- 0.20"],  # as many decimals as the longest
        ["cutout", "22.93", "77.75 +- 1.06 (2 of 3 seeds, 1 failed)", "77.17 +- 0.15"],
        ["mixup", "-", "79.00 (1 of 3 seeds: no spread)", "77.98"],
    ]


def test_summary_table__columns_of_the_paper_alone_say_the_data_and_stand_once(result):
    result = two_by_two(result)
    result["rows"][2]["paper_only"] = {"hours": 0.5}
    result["metrics"].append(result["metrics"][0] | {"key": "top5_error", "label": "top-5 error"})
    lines = [re.split(r" *\| *", line)[1:3] for line in summary_table(result) if line.startswith("|")]
    assert [line[1] for line in lines if line[0] in ("method", "R18 baseline", "R50 baseline")] == [
        "hours, C100 (published)", "0.5", "-", "C10", "not recorded", "not recorded",
    ]  # fmt: skip


def test_render_html__the_papers_spreads_and_columns_of_its_own(result, tmp_path):
    row = result["rows"][0]
    row["paper_std"], row["paper_only"] = {"voc07_AP50": 0.2}, {"hours": 0.00005}
    html = render_html(result, tmp_path)
    assert row_of(html, "results", "baseline") == ["0.00005", "77.00± 1.00 (3)|74.52 to 79.48", "76.71|± 0.20"]
    assert row_of(html, "results", "cutmix") == ["-", "not run", "78.31"]
    assert row_of(html, "gains", "cutmix") == ["not run", "+1.60"]
    # The unit of ours is not that of the paper's own column, so it stands in the head and not above the table.
    assert "In %, higher is better" not in cut(html, '<section id="results">', "</section>")
    assert "%, higher is better" in cut(html, '<section id="results">', "</thead>")
    assert "In %, higher is better" in cut(html, '<section id="gains">', "</section>")


def test_summary_table__one_seed(result):
    assert summary_table(one_seed(result))[2] == "| baseline | 76.00 (one seed: no spread) | 76.71     |"


def test_summary_table__a_timing_has_no_seeds_to_speak_of(result):
    assert summary_table(one_seed(result, "timing"))[2] == "| baseline | 76.00  | 76.71     |"


def test_summary_table__data_sets_stand_in_columns(result):
    assert summary_table(two_by_two(result)) == [
        "top-1 error, %, lower is better:",
        "",
        "| method       | C10                         | published | C100                        |",
        "| ------------ | --------------------------: | --------: | --------------------------: |",
        "| R18 baseline | 10.50 (one seed: no spread) | 10.63     | 36.50 (one seed: no spread) |",
        "| R50 baseline | 12.00 (one seed: no spread) | 12.14     | not run                     |",
    ]


def test_summary_table__of_pictures_alone_is_empty(result):
    assert summary_table(result | {"rows": [], "metrics": [], "baseline": None}) == []


@pytest.mark.parametrize(
    "unit, value, text",
    [
        ("%", 0.04, "0.04"),
        ("s", 0.0421, "0.04210"),  # four digits of the smallest
        ("s", 12.3456, "12.35"),
        ("s", 12345.6, "12346"),
        ("", 1.0, "1.000"),
        ("s", 0.0, "0.000"),
    ],
)
def test_summary_table__decimals(result, unit, value, text):
    result = one_seed(result, "timing")
    result["rows"][0]["summary"]["voc07_AP50"]["mean"] = value
    result["rows"][0]["paper"] = {}
    result["metrics"][0]["unit"] = unit
    assert summary_table(result)[2].split()[3] == text


def test_render_markdown__intervals_differences_and_runs(result):
    text = render_markdown(result)
    assert text.startswith(
        "# Table 3\n\n1 of 4 stages is done, 1 failed, 1 running. "
        "Written 2026-11-22 17:05:00 from tools/studies/configs/table3_small.yaml.\n\nOne.\n\nTwo.\n\n"
        "## Failed\n\n- [b/pretrain](b/pretrain/log.txt): no space left on the disk\n\n"
    )
    assert "Published: Table 3 of the paper, under its own protocol: 41K iterations. Numbers of different" in text
    assert cut(text, "### mAP (%, higher is better)", "\n\n## Runs").splitlines()[2:] == [
        "| method      | interval       | difference to baseline | interval       | seeds needed | published |",
        "| ----------- | -------------: | ---------------------: | -------------: | -----------: | --------: |",
        "| baseline    | 74.52 to 79.48 | baseline               | -              | -            | -         |",
        "| cutout      | 68.22 to 87.28 | +1.25                  | -1.93 to +4.43 | 7            | +0.46     |",
        "| mixup       | -              | +2.00                  | -              | -            | +1.27     |",
        "| cutmix      | not run        | not run                | -              | -            | +1.60     |",
        "| saliencymix | 76.52 to 81.48 | **+2.00**              | +1.50 to +2.50 | 3            | +1.77     |",
        "| official    | failed         | failed                 | -              | -            | -         |",
    ]
    assert "| cutout      | [77.00](runs/seed%200/report.html) | [78.50](runs/seed%201/report.html) | failed " in text
    assert "- [Comparison](comparison/comparison.html)" in text
    assert "| iterations | 41000 |" in text
    assert "| a/pretrain | done    | 1:02:05 |" in text


@pytest.mark.parametrize(
    "states, text",
    [(["done", "done"], "All 2 stages are done."), (["done"], "Its one stage is done."),
     (["not run", "failed"], "0 of 2 stages are done, 1 failed.")],
)  # fmt: skip
def test_render_markdown__progress(result, states, text):
    stages = [result["stages"][0] | {"state": state, "link": None} for state in states]
    progress = {"done": states.count("done"), "total": len(states), "failed": 0}
    assert text in render_markdown(result | {"stages": stages, "progress": progress})


def test_render_html__ours_beside_the_papers(result, tmp_path):
    html = render_html(result, tmp_path)
    assert {method: row_of(html, "results", method) for method in ("baseline", "cutout", "mixup", "cutmix")} == {
        "baseline": ["77.00± 1.00 (3)|74.52 to 79.48", "76.71"],
        "cutout": ["77.75± 1.06|68.22 to 87.28|2 of 3 seeds, 1 failed", "77.17"],
        "mixup": ["79.00|1 of 3 seeds: no spread", "77.98"],
        "cutmix": ["not run", "78.31"],
    }
    assert row_of(html, "results", "official") == ["failed", "-"]
    assert "Published: Table 3 of the paper, under its own protocol" in html
    assert html.count(">published</th>") == 2  # of the numbers, and of the differences


def test_render_html__differences_are_bold_only_where_clear(result, tmp_path):
    html = render_html(result, tmp_path)
    assert row_of(html, "gains", "saliencymix") == ["+2.00|+1.50 to +2.50|3 seeds needed", "+1.77"]
    assert row_of(html, "gains", "cutout") == ["+1.25|-1.93 to +4.43|2 of 3 seeds, 1 failed|7 seeds needed", "+0.46"]
    assert row_of(html, "gains", "mixup") == ["+2.00|1 of 3 seeds: no spread", "+1.27"]
    assert re.findall(r'<td class="number own clear">([^<]*)', html) == ["+2.00"]


def test_render_html__differences_without_a_baseline_say_so(result, tmp_path):
    result["rows"][0]["summary"]["voc07_AP50"] = None
    result["rows"][1]["summary"]["voc07_AP50"]["difference"] = None
    assert row_of(render_html(result, tmp_path), "gains", "cutout")[0] == "no baseline"
    result["rows"][0]["summary"]["voc07_AP50"] = result["rows"][4]["summary"]["voc07_AP50"]
    assert row_of(render_html(result, tmp_path), "gains", "cutout")[0] == "no seed in common"
    assert 'id="gains"' not in render_html(result | {"baseline": None}, tmp_path)


def test_render_html__what_rounds_to_zero_is_positive(result, tmp_path):
    result["rows"][1]["summary"]["voc07_AP50"]["difference"]["mean"] = -0.001
    assert row_of(render_html(result, tmp_path), "gains", "cutout")[0].startswith("+0.00|")


def test_render_html__a_model_in_each_body_and_a_data_set_in_each_column(result, tmp_path):
    html = render_html(two_by_two(result), tmp_path)
    body = cut(html, '<section id="results">', "</section>")
    assert re.findall(r'<tr class="group"><th>(\w+)</th><td colspan="3">', body) == ["R18", "R50"]
    assert re.findall(r">(C10+)<", body) == ["C10", "C100"]
    assert body.count("top-1 error, %, lower is better") == 1
    assert body.count("not run") == 1


def test_render_html__runs_link_to_their_reports(result, tmp_path):
    html = render_html(result, tmp_path)
    assert row_of(html, "record", "cutout") == ["77.00", "78.50", "failed"]
    assert '<a href="runs/seed%200/report.html">77.00</a>' in html
    assert len(re.findall(r"<circle [^>]*><title>seed \d: [\d.]+</title>", html)) == 9


def test_render_html__everything_is_escaped(result, tmp_path):
    evil = '<script>"x"</script>'
    row, stage = result["rows"][1], result["stages"][1]
    row["method"] = row["model"] = row["data"] = evil
    row["runs"][0]["link"] = stage["message"] = stage["name"] = stage["link"] = evil
    result["metrics"][0] |= {"label": evil, "unit": evil}
    result |= {
        "title": evil,
        "study": evil,
        "notes": [evil],
        "protocol": {evil: evil},
        "versions": {evil: evil},
        "links": [{"label": evil, "href": evil}],
        "figures": [{"label": evil, "src": evil}],
        "paper": {"table": evil, "protocol": evil},
        "config_file": evil,
        "written": evil,
    }
    html = render_html(result, tmp_path)
    assert html.count("<script>") == 1  # the page's own
    assert '"x"' not in html
    assert "<script>" not in render_markdown(result)


def test_write_pages__three_files_that_ask_for_nothing(result, tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "cam #1.png")
    result["figures"] = [{"label": "maps", "src": "cam #1.png"}, {"label": "later", "src": "absent.png"}]
    write_pages(result, tmp_path)
    assert json.loads((tmp_path / "study.json").read_text()) == result
    assert "![maps](cam%20%231.png)" in (tmp_path / "study.md").read_text()
    html = (tmp_path / "study.html").read_text()
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r' src="([^"]*)', html))
    assert '<a href="cam%20%231.png"><img src="data:' in html
    assert "later: absent.png is not there yet" in html
    assert not re.search(r"https?:|@import|url\(", html)


def test_write_pages__refuses_a_number_that_is_not_finite(result, tmp_path):
    result["rows"][0]["runs"][0]["values"]["voc07_AP50"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_pages(result, tmp_path / "out")
    assert not (tmp_path / "out").exists()
