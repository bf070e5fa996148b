"""A study's page in a real browser: nothing asked of the network, a quiet console, no wider than the window."""

import pytest
from PIL import Image

from tools.studies.pages.write import write_pages

LONG = "a_method_whose_name_is_far_too_long_for_a_phone"


@pytest.fixture
def page(transfer_result, tmp_path):
    result = transfer_result
    Image.new("RGB", (1200, 300)).save(tmp_path / "sheet.png")
    result["figures"] = [{"label": "Maps", "src": "sheet.png"}]
    result["rows"][3]["method"] = LONG
    result["rows"][0] |= {"paper_std": {"voc07_AP50": 0.2}, "paper_only": {"error on another data set, %": 23.68}}
    result["stages"][1]["name"], result["stages"][1]["message"] = "x" * 80, "y" * 300
    write_pages(result, tmp_path)
    return tmp_path / "study.html"


@pytest.mark.parametrize("width", [400, 1400])
def test_page__quiet_and_no_wider_than_the_window(browser, page, width):
    browser.open(page, width)
    browser.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.querySelectorAll('section')].every(section => section.offsetHeight > 40)")
    assert browser.evaluate("[...document.images].map(i => i.naturalWidth)") == [1200]
    browser.check_quiet(page)


def test_page__names_stay_in_view_while_a_table_scrolls(browser, page):
    browser.open(page, 400)
    head = "document.querySelector('.results tbody th')"
    left = f"{head}.getBoundingClientRect().left"
    before = browser.evaluate(left)
    box = "document.querySelector('#results .scroll')"
    assert browser.evaluate(f"{box}.scrollLeft = 10, {box}.scrollLeft") == 10
    assert browser.evaluate(left) == before
    assert browser.evaluate(f"{head}.offsetWidth") > 80  # names are not broken letter by letter


def test_page__decimal_points_are_in_line(browser, page):
    browser.open(page, 1400)
    ends = browser.evaluate("""[...document.querySelectorAll('#results tbody tr')].map(row => {
      const text = row.cells[2].firstChild, range = document.createRange();
      range.selectNodeContents(text);
      return /^\\d/.test(text.data) ? range.getBoundingClientRect().right : null;
    }).filter(right => right !== null)""")
    assert len(ends) == 4
    assert max(ends) - min(ends) < 1


@pytest.mark.parametrize("dark, media, paper", [
    (False, "screen", "rgb(255, 255, 255)"), (True, "screen", "rgb(23, 27, 32)"), (True, "print", "rgb(255, 255, 255)"),
])  # fmt: skip
def test_page__light_dark_and_print(browser, page, dark, media, paper):
    browser.open(page, 1400, dark=dark, media=media)
    for element in (".card", ".results tbody th"):
        assert browser.evaluate(f"getComputedStyle(document.querySelector('{element}')).backgroundColor") == paper
