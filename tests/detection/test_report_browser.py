"""The pages in a real browser: nothing asked of the network, a quiet console, every picture shown, tables that sort."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from detection.comparison import Run, compare_runs
from detection.comparison_pages import write_comparison
from detection.evaluation import PictureDetections
from detection.report import write_report
from detection.voc import load_voc

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium to open the page in")

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)  # fmt: skip
SECONDS = 60
WIDTHS = (400, 1400)


class Browser:
    """Chromium, driven over its debugging pipe: a JSON message, then a zero byte, in each direction."""

    def __init__(self, profile: Path):
        from_us, self._to = os.pipe()
        self._from, to_us = os.pipe()

        def connect() -> None:  # Chromium reads commands from descriptor 3 and writes answers to 4
            ends = os.dup(from_us), os.dup(to_us)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [BROWSER, *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"], preexec_fn=connect, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(from_us)
        os.close(to_us)
        self._buffer, self._last_id = b"", 0
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank", session=None)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True, session=None)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, *, session: str | None = "", **parameters) -> dict:
        """Send a command, collect events until its answer, return the answer."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next_message()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression: str):
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, page: Path, width: int, *, dark: bool = False, media: str = "screen") -> None:
        """Open ``page`` in a window ``width`` pixels wide and wait until all of it is there."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme, media=media)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next_message()

    def close(self) -> None:
        os.close(self._to)  # the end of its pipe ends the browser
        os.close(self._from)
        try:
            self._process.wait(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _next_message(self) -> dict:
        import select

        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], SECONDS)
            assert ready, f"no answer from the browser in {SECONDS} s"
            read = os.read(self._from, 1 << 16)
            assert read, "the browser has ended"
            self._buffer += read
        message, self._buffer = self._buffer.split(b"\0", 1)
        decoded = json.loads(message)
        if "method" in decoded:
            self.events.append(decoded)
        return decoded


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def dataset(voc_root):
    return load_voc("voc_2007_test", root=voc_root, classes=("dog", "person", "car"))


@pytest.fixture
def detections():
    boxes = np.float32([[9, 9, 40, 40], [0, 0, 9, 9]])
    return {"000005": PictureDetections(boxes, np.float32([0.5, 0.7]), np.array([0, 2]))}


@pytest.fixture
def report(dataset, detections, tmp_path):
    lines = (json.dumps({"iteration": i, "total_loss": 2 / (i + 1), "lr": 0.1}) for i in range(30))
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    write_report(dataset, detections, tmp_path, {"note": "x" * 500}, run_folder=tmp_path, num_resamples=50)
    return tmp_path / "report.html"


@pytest.fixture
def comparison(dataset, detections, tmp_path):
    runs = [Run("baseline", "a", {}, {}), Run("cutmix", "b", {}, detections), Run("cutmix", "c", {}, detections)]
    write_comparison(compare_runs(dataset, runs, num_resamples=50), tmp_path)
    return tmp_path / "comparison.html"


def check_quiet(browser, page):
    """Nothing in the console, and no request but for the page itself and the data inside it."""
    names = [event["method"] for event in browser.events]
    assert "Runtime.exceptionThrown" not in names
    assert "Runtime.consoleAPICalled" not in names
    assert "Log.entryAdded" not in names, [e for e in browser.events if e["method"] == "Log.entryAdded"]
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url[:40] for url in asked if not url.startswith("data:")] == [page.as_uri()[:40]]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_page__quiet_and_no_wider_than_the_window(browser, request, kind, width):
    page = request.getfixturevalue(kind)
    browser.open(page, width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.querySelectorAll('section')].every(section => section.offsetHeight > 40)")
    check_quiet(browser, page)


def test_page__every_picture_is_shown_with_its_boxes(browser, report):
    browser.open(report, 1400)
    shown = browser.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 100)")
    assert shown == [True, True]  # the worst, and the best of what is left
    assert browser.evaluate("document.querySelectorAll('.frame rect').length") == 3  # a dog, a missed car, a person
    assert browser.evaluate("document.querySelectorAll('#training svg').length") == 2


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
    check_quiet(browser, report)


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
