"""The pages in a real browser: nothing asked of the network, a quiet console, every picture shown, tables that sort."""

from __future__ import annotations

import json

import pytest

from detection.evaluation.comparison import Run, compare_runs
from detection.report.comparison import write_comparison
from detection.report.write import write_report
from tests.detection.evaluation.diagnosis import made

WIDTHS = (400, 1400)


@pytest.fixture
def report(dataset, detections, tmp_path):
    lines = (json.dumps({"iteration": i, "total_loss": 2 / (i + 1), "lr": 0.1}) for i in range(30))
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    write_report(dataset, detections, tmp_path, {"note": "x" * 500}, run_folder=tmp_path, num_resamples=50)
    return tmp_path / "report.html"


@pytest.fixture
def comparison(dataset, detections, tmp_path):
    runs = [Run("baseline", "a", {}, {}), Run("cutmix", "b", {}, detections), Run("cutmix", "c", {}, detections)]
    write_comparison(compare_runs(dataset, runs, num_resamples=50), tmp_path, dataset=dataset, runs=runs)
    return tmp_path / "comparison.html"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_page__quiet_and_no_wider_than_the_window(browser, request, kind, width):
    page = request.getfixturevalue(kind)
    browser.open(page, width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.querySelectorAll('section')].every(section => section.offsetHeight > 40)")
    browser.check_quiet(page)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [20, 80, 1203])
def test_page__of_many_classes_is_no_wider_and_shows_each(browser, tmp_path, count, width):
    classes = tuple(f"class with a name {number}" for number in range(count))
    dataset, detections = made.make(0, 400, classes)
    dataset, _ = made.plant(dataset, 0, 20)
    objects = {name: 1 + 7 * number for number, name in enumerate(classes)}
    write_report(dataset, detections, tmp_path, {}, training_objects=objects, num_resamples=2)
    browser.open(tmp_path / "report.html", width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('#classes tbody tr').length") == count
    assert browser.evaluate("document.querySelectorAll('#labels figure').length") > 0
    assert (browser.evaluate("document.querySelectorAll('.matrix').length") == 1) is (count == 20)
    browser.check_quiet(tmp_path / "report.html")


@pytest.mark.parametrize("width", WIDTHS)
def test_comparison__of_many_classes_scrolls_in_a_box_of_its_own(browser, tmp_path, width):
    dataset, detections = made.make(0, 20, tuple(f"class with a name {number}" for number in range(200)))
    runs = [Run(f"{name} of some methods", name, {}, detections) for name in "abcde"]
    write_comparison(compare_runs(dataset, runs, num_resamples=2), tmp_path, dataset=dataset, runs=runs)
    browser.open(tmp_path / "comparison.html", width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('.classes tbody tr').length") == 200
    assert browser.evaluate("document.querySelector('.tall').clientHeight") < 700
    browser.evaluate("document.querySelector('.tall').scrollTo(0, 20000)")
    top = "document.querySelector('{}').getBoundingClientRect().top"
    head = browser.evaluate(top.format(".classes thead th:nth-child(2)"))
    assert head == browser.evaluate(top.format(".tall"))  # it stays
    browser.check_quiet(tmp_path / "comparison.html")


def test_comparison__many_classes_are_printed_in_full(browser, tmp_path):
    dataset = made.make(0, 10, tuple(f"{number}" for number in range(100)))[0]
    runs = [Run(name, name, {}, {}) for name in "ab"]
    write_comparison(compare_runs(dataset, runs, num_resamples=2), tmp_path)
    browser.open(tmp_path / "comparison.html", 1400, media="print")
    heights = "[...document.querySelectorAll('.tall, .classes')].map(one => one.offsetHeight)"
    box, table = browser.evaluate(heights)
    assert box >= table


def test_page__every_picture_is_shown_with_its_boxes(browser, report):
    browser.open(report, 1400)
    shown = browser.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 100)")
    assert shown == [True, True]  # the worst, and the best of what is left
    assert browser.evaluate("document.querySelectorAll('.frame rect').length") == 3  # a dog, a missed car, a person
    assert browser.evaluate("document.querySelectorAll('#training svg').length") == 2


def test_comparison__every_picture_is_in_the_page_once_and_shown_with_its_boxes(browser, comparison):
    browser.open(comparison, 1400)
    images = "[...document.querySelectorAll('defs image')]"
    assert browser.evaluate(f"Promise.all({images}.map(image => image.decode())).then(all => all.length)") == 2
    assert browser.evaluate(f"{images}.map(image => image.id)") == ["picture-1", "picture-2"]
    shown = "[use.href.baseVal, use.getBoundingClientRect().width > 100]"
    assert browser.evaluate(f"[...document.querySelectorAll('use')].map(use => {shown})") == [
        ["#picture-1", True], ["#picture-1", True], ["#picture-2", True],  # of two detectors; of the car that both miss
    ]  # fmt: skip
    kinds = "[...document.querySelectorAll('{} rect')].map(rect => rect.className.baseVal)"
    assert browser.evaluate(kinds.format(".pair > :nth-child(1)")) == ["box-missed", "box-difficult"]
    assert browser.evaluate(kinds.format(".pair > :nth-child(2)")) == ["box-difficult", "box-right"]
    assert browser.evaluate(kinds.format("#missed")) == ["box-labelled", "box-missed"]
    browser.check_quiet(comparison)


def test_comparison__classes_sort_by_their_difference(browser, comparison):
    browser.open(comparison, 1400)
    heads = browser.evaluate("[...document.querySelectorAll('.classes thead th')].map(head => head.textContent)")
    assert heads == ["Class", "Objects", "baseline", "cutmix", "Difference"]
    browser.evaluate("document.querySelectorAll('.classes thead button')[4].click()")
    names = "[...document.querySelectorAll('.classes tbody tr')].map(row => row.cells[0].textContent)"
    assert browser.evaluate(names)[-1] == "dog"


def test_page__tables_sort(browser, report):
    browser.open(report, 1400)
    names = "[...document.querySelectorAll('#classes tbody tr')].map(row => row.cells[0].textContent)"
    press = "document.querySelectorAll('#classes thead button')[{}].click()"
    assert browser.evaluate(names) == ["dog", "person", "car"]
    browser.evaluate(press.format(0))
    assert browser.evaluate(names) == ["car", "dog", "person"]
    browser.evaluate(press.format(2))
    assert browser.evaluate(names) == ["person", "car", "dog"]  # no AP comes before 0
    browser.evaluate(press.format(2))
    assert browser.evaluate(names) == ["dog", "car", "person"]
    assert browser.evaluate("document.querySelectorAll('#classes th[aria-sort]').length") == 1
    browser.check_quiet(report)


@pytest.mark.parametrize(
    "dark, media, paper, ink",
    [
        (False, "screen", "rgb(251, 251, 250)", "rgb(28, 32, 36)"),
        (True, "screen", "rgb(16, 19, 23)", "rgb(232, 234, 237)"),
        (True, "print", "rgb(255, 255, 255)", "rgb(28, 32, 36)"),
    ],
)
def test_page__light_dark_and_print(browser, report, dark, media, paper, ink):
    browser.open(report, 1400, dark=dark, media=media)
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    assert browser.evaluate("getComputedStyle(document.querySelector('h1')).color") == ink
