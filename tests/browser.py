"""A headless Chromium that looks at report pages: console, requests, marks in each chart, width, pictures."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_DRIVER = shutil.which("chromedriver")
_PATIENCE = 60  # seconds for all charts of a page; on a machine that does much else at once they take long

# Every chart, with the number of its marks that take up room. Axes, grids and rules are no marks of the data, and what
# is drawn with no opacity is there only for the pointer.
_CHARTS = """
return [...document.querySelectorAll('.chart')].map(place => {
  const drawn = place.querySelectorAll('.role-mark:not(.mark-rule) > path, .role-mark:not(.mark-rule) > g path');
  const marks = [...drawn].filter(mark => {
    const box = mark.getBoundingClientRect();
    const seen = getComputedStyle(mark).opacity !== '0' && mark.getAttribute('opacity') !== '0';
    return seen && box.width + box.height > 0.5;
  });
  return [place.id, marks.length];
});
"""
_CUT = """
const edge = document.documentElement.clientWidth;
return [...document.querySelectorAll('.chart svg text')].filter(text => {
  if (!text.textContent) return false;
  const box = text.getBoundingClientRect();
  return box.left < 0 || box.right > edge;
}).map(text => text.textContent);
"""
_OVERLAPPING = """
return [...document.querySelectorAll('figure.wide .chart')].flatMap(place => {
  const labels = [...place.querySelectorAll('.role-axis-label text')].filter(t =>
    t.textContent && getComputedStyle(t).opacity !== '0' && t.getAttribute('opacity') !== '0');
  const boxes = labels.map(t => [t.textContent, t.getBoundingClientRect()]);
  return boxes.flatMap(([name, a], i) => boxes.slice(i + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2).map(([other]) => name + ' | ' + other));
});
"""


@dataclass(frozen=True)
class Seen:
    """What a visit to a page showed: the console's complaints, requests, marks by chart, widths, labels in trouble."""

    complaints: list[str]
    requests: list[str]
    marks: dict[str, int]
    widths: tuple[int, int]
    cut: list[str]
    overlapping: list[str]

    @property
    def empty(self) -> list[str]:
        """The charts in which no mark is drawn."""
        return [chart for chart, count in self.marks.items() if not count]


class Browser:
    """One Chromium for all tests of a process."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def visit(self, path: Path, *, width: int = 1280, scheme: str = "light") -> Seen:
        """Open a page in a window of that width and wait until its charts are drawn."""
        self._command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        self._command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        self._logs()
        self.driver.get(path.as_uri())
        self.wait()
        complaints, requests = self._logs()
        root = "document.documentElement"
        return Seen(
            complaints,
            [url for url in requests if url != path.as_uri()],
            dict(self.driver.execute_script(_CHARTS)),
            tuple(self.driver.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth]")),
            self.driver.execute_script(_CUT),
            self.driver.execute_script(_OVERLAPPING),
        )

    def ask(self, script: str) -> object:
        """What a piece of JavaScript returns in the page that is open."""
        return self.driver.execute_script(script)

    def picture(self, path: Path) -> None:
        """A picture of the whole page that is open."""
        size = self._command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self._command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def printed(self, path: Path) -> None:
        """The page that is open, as it is printed."""
        printed = self._command("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)
        path.write_bytes(base64.b64decode(printed["data"]))

    def wait(self) -> None:
        """Until the charts of the page that is open are drawn."""
        drawn = "return !document.getElementById('charts') || document.documentElement.dataset.charts !== undefined"
        end = time.monotonic() + _PATIENCE
        while not self.driver.execute_script(drawn):
            if time.monotonic() > end:
                raise TimeoutError(f"the charts were not drawn within {_PATIENCE} s")
            time.sleep(0.05)

    def _logs(self) -> tuple[list[str], list[str]]:
        """The console's warnings and errors, and the addresses asked for, since the last time."""
        complaints = [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("WARNING", "SEVERE")
        ]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"].endswith("requestWillBeSent")
        ]
        return complaints, [url for url in sent if not url.startswith("data:")]

    def _command(self, command: str, **arguments: object) -> dict[str, object]:
        return self.driver.execute_cdp_cmd(command, arguments)


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless Chromium that resolves no name of any host."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _CHROMIUM or ""
    for argument in (
        "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run", "--disable-background-networking",
    ):  # fmt: skip
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=_DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def browser_or_skip() -> Iterator[Browser]:
    """The browser for a fixture; without a Chromium tests are skipped, but never where all must be checked."""
    if _CHROMIUM is None or _DRIVER is None:
        missing = "chromium" if _CHROMIUM is None else "chromedriver"
        reason = f"{missing} is not installed (on Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with open_browser() as browser:
        yield browser
