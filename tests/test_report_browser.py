"""Ticket pages in a real browser: they draw every chart, complain of nothing, load nothing, and fit a phone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import disbud
from browser import Browser, Seen, browser_or_skip
from disbud import report
from disbud.models import build
from disbud.report import Page

IMAGE = torch.zeros(1, 3, 32, 32)
_MOST_BYTES = 2_000_000


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A cache of the tests' own, so that they leave nothing in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISBUD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from browser_or_skip()


def conv_net() -> Page:
    model = build("conv-4", seed=1)
    ticket = disbud.prune(model, "magnitude", sparsity=0.98)
    return report.ticket(ticket, model=model, example=IMAGE, intervention="shuffle", against="erk")


def without_model() -> Page:
    return report.ticket(disbud.prune(build("lenet-5", seed=1), "random-erk", sparsity=0.9))


def fully_connected() -> Page:
    model = build("lenet-300-100", seed=1, input_shape=(1, 8, 8))
    ticket = disbud.prune(model, "magnitude", sparsity=0.95)
    return report.ticket(
        ticket, model=model, example=torch.zeros(1, 1, 8, 8), intervention="permute-values", zeros="in"
    )


def with_empty_layers() -> Page:
    model = build("lenet-5", seed=1)
    masks = disbud.prune(model, "random", sparsity=0.9).to_masks()
    for name in list(masks)[1:3]:
        masks[name][:] = False
    ticket = disbud.Ticket.from_masks(masks, model=model)
    return report.ticket(ticket, model=model, example=IMAGE, intervention="shuffle-global")


def very_deep() -> Page:
    model = build("resnet50", seed=1)
    ticket = disbud.prune(model, "random-erk", sparsity=0.95)
    assert len(ticket.masks) > 50
    return report.ticket(ticket, model=model, example=IMAGE, intervention="shuffle")


def long_names() -> Page:
    parts = {f"encoder.layers_of_the_model.{i}.self_attention.output_projection": 9 for i in range(5)}
    parts["w" * 130] = 7
    masks = {f"{name}.weight": torch.eye(width) > 0 for name, width in parts.items()}
    return report.ticket(disbud.Ticket(masks))


PAGES = {
    page.__name__.replace("_", "-"): page
    for page in (conv_net, without_model, fully_connected, with_empty_layers, very_deep, long_names)
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages written so far; each is made once, when a test first asks for it."""
    return {"": tmp_path_factory.mktemp("pages")}


def page_file(name: str, written: dict[str, Path]) -> Path:
    if name not in written:
        written[name] = written[""] / f"{name}.html"
        PAGES[name]().save(written[name])
    return written[name]


def troubles(seen: Seen) -> dict[str, object]:
    """Everything a page must not have, by what it is; empty for a page in order."""
    found = dataclasses.asdict(seen) | {"empty": seen.empty}
    wide, window = found.pop("widths")
    del found["marks"]
    return {what: value for what, value in found.items() if value} | (
        {"overflow": wide} if wide > window else {}
    )


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_quiet_offline_and_as_wide_as_its_window(
    browser: Browser, written: dict[str, Path], name: str, width: int
) -> None:
    path = page_file(name, written)
    assert path.stat().st_size < _MOST_BYTES
    seen = browser.visit(path, width=width, scheme="light" if width > 400 else "dark")
    assert troubles(seen) == {}
    assert len(seen.marks) >= 3


@pytest.mark.parametrize("name", ["very-deep", "long-names"])
def test_every_layer_is_named_in_full_beside_its_marks(
    browser: Browser, written: dict[str, Path], name: str
) -> None:
    browser.visit(page_file(name, written), width=390)
    labels = browser.ask(
        "return [...document.querySelectorAll('#chart-1 .role-axis-label text')].map(t => t.textContent)"
    )
    table = browser.ask(
        "return [...document.querySelectorAll('tbody th')].map(t => t.textContent.replace(/[.]weight$/, ''))"
    )
    assert isinstance(table, list)
    assert isinstance(labels, list)
    assert set(table) <= set(labels)
    assert len(table) > 5


# The checks above see what they are there to see: a sound page is damaged, and each time it is noticed.


def damaged(page: Page, tmp_path: Path, old: str, new: str) -> Path:
    assert old in page.html
    # The policy would keep a changed script from running, and what is wanted here is that it runs.
    start = page.html.index('<meta http-equiv="Content-Security-Policy"')
    html = page.html[:start] + page.html[page.html.index(">", start) + 1 :]
    path = tmp_path / "damaged.html"
    path.write_text(html.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("complaints", "</body>", "<script>console.warn('odd')</script></body>"),
        ("requests", "</body>", "<img src='http://example.invalid/a.png'></body>"),
        ("overflow", "</body>", "<div style='width:2000px'>wide</div></body>"),
        ("cut", "max-width: 100%; height: auto;", "transform: translateX(-30px);"),
        ("overlapping", "labelLimit:", "labelAngle:90,labelLimit:"),
    ],
)
def test_what_is_wrong_with_a_page_is_seen(
    browser: Browser, tmp_path: Path, what: str, old: str, new: str
) -> None:
    assert what in troubles(browser.visit(damaged(without_model(), tmp_path, old, new), width=390))


def test_a_chart_without_data_is_seen(browser: Browser, tmp_path: Path) -> None:
    page = without_model()
    start = page.html.index('id="charts">') + len('id="charts">')
    text = page.html[start : page.html.index("</script>", start)]
    content = json.loads(text)
    for key in content["places"][-1]["columns"]:
        content["places"][-1]["columns"][key] = []
    seen = browser.visit(damaged(page, tmp_path, text, json.dumps(content)))
    assert seen.empty == [content["places"][-1]["id"]]


# A hostile ticket


HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=http://example.invalid/a.png onerror=\"document.title='owned'\">",
    "\" onmouseover=\"document.title='owned'",
    "{{7*7}} datum.x <!-- \u2028 \ud800 \x00",
)


def test_names_and_settings_of_a_hostile_ticket_stay_text(browser: Browser, tmp_path: Path) -> None:
    masks = {text: torch.eye(5) > 0 for text in HOSTILE}
    origin = disbud.Origin(
        HOSTILE[0], settings={HOSTILE[1]: list(HOSTILE)}, evidence={HOSTILE[2]: HOSTILE[0]}
    )
    page = report.ticket(
        disbud.Ticket(masks, dataclasses.replace(origin, parents=(origin,))), about_model=HOSTILE[1]
    )
    page.save(tmp_path / "hostile.html")
    seen = browser.visit(tmp_path / "hostile.html")
    assert troubles(seen) == {}
    scripts = browser.ask("return document.querySelectorAll('script').length")
    assert scripts == 3  # the data, Vega, and the page's own
    assert browser.ask("return document.title") == f"{HOSTILE[0]} ticket"
    assert browser.ask("return document.querySelectorAll('img[onerror], [onmouseover]').length") == 0


def test_a_script_that_got_in_would_not_run(browser: Browser, tmp_path: Path) -> None:
    html = without_model().html.replace("</main>", "<script>document.title = 'owned'</script></main>")
    (tmp_path / "injected.html").write_text(html, encoding="utf-8")
    seen = browser.visit(tmp_path / "injected.html")
    assert browser.ask("return document.title") != "owned"
    assert any("Content Security Policy" in complaint for complaint in seen.complaints)


# Light, dark and paper


def test_dark_mode_and_print_have_their_colours(
    browser: Browser, written: dict[str, Path], tmp_path: Path
) -> None:
    def brightness(element: str, what: str) -> float:
        colour = browser.ask(f"return getComputedStyle(document.querySelector('{element}')).{what}")
        assert isinstance(colour, str)
        return sum(float(part) for part in colour.strip("rgba()").split(",")[:3]) / 3

    for scheme in ("light", "dark"):
        browser.visit(page_file("without-model", written), scheme=scheme)
        paper, ink = brightness("body", "backgroundColor"), brightness("#chart-1 text", "fill")
        assert (paper > 200 and ink < 60) if scheme == "light" else (paper < 60 and ink > 200)
    browser.printed(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    style = "<style>p, h1 { color: rgb(255, 0, 0) !important }</style>"
    path.write_text(
        f"<!DOCTYPE html><meta charset=utf-8>{style}{without_model()._repr_html_()}", encoding="utf-8"
    )
    browser.visit(path)
    frame = browser.driver.find_element("tag name", "iframe")
    browser.driver.switch_to.frame(frame)
    try:
        browser.wait()
        assert browser.ask("return document.querySelectorAll('.role-mark path').length > 10")
        assert browser.ask("return getComputedStyle(document.querySelector('h1')).color") != "rgb(255, 0, 0)"
    finally:
        browser.driver.switch_to.default_content()
