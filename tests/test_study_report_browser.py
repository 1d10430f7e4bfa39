"""Study pages in a real browser: whole, quiet, offline, as wide as the window; what is chosen is what is shown."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

import study_findings as made
from browser import Browser, Seen, browser_or_skip
from disbud import report
from pages import content
from study_pages import unpacked

PAGES = {"large": made.large, "real": made.real, **made.ODD}
_QUICK = (
    0.5  # seconds in which 505 rows are filtered or sorted; a machine that does nothing else takes a tenth
)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A cache of the tests' own, so that they leave nothing in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISBUD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from browser_or_skip()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages written so far; each is made once, when a test first asks for it."""
    return {"": tmp_path_factory.mktemp("pages")}


def page_file(name: str, written: dict[str, Path]) -> Path:
    if name not in written:
        written[name] = written[""] / f"{name}.html"
        findings = PAGES[name]()
        links = {findings.records[1].identity: "tickets/1.html"} if name == "large" else {}
        report.study(findings, tickets=links).save(written[name])
    return written[name]


def troubles(browser: Browser, seen: Seen) -> dict[str, object]:
    """Everything a page must not have, by what it is; charts that are hidden may be empty."""
    found = dataclasses.asdict(seen)
    wide, window = found.pop("widths")
    del found["marks"]
    hidden = set(browser.ask("return [...document.querySelectorAll('figure[hidden] .chart')].map(c => c.id)"))  # type: ignore[call-overload]
    found["empty"] = [chart for chart in seen.empty if chart not in hidden]
    found["overflow"] = wide if wide > window else 0
    return {what: value for what, value in found.items() if value}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_quiet_offline_and_as_wide_as_its_window(
    browser: Browser, written: dict[str, Path], name: str, width: int
) -> None:
    seen = browser.visit(page_file(name, written), width=width, scheme="light" if width > 400 else "dark")
    assert troubles(browser, seen) == {}
    assert len(seen.marks) >= {"all_failed": 0, "one_trial": 2}.get(name, 8)


# What is drawn


def marks(browser: Browser, words: str, kind: str = "symbol") -> list[int]:
    """How many marks of a kind are seen in each chart that is described so."""
    found = browser.ask(f"""
    return [...document.querySelectorAll('.chart[aria-label^="{words}"]')].filter(c => c.offsetParent).map(c =>
      [...c.querySelectorAll('.mark-{kind}.role-mark path, .mark-{kind}.role-mark line')].length);
    """)
    assert isinstance(found, list)
    return found


def settled(browser: Browser) -> None:
    """Until what was chosen is drawn."""
    end = time.monotonic() + 60
    while browser.ask("return document.documentElement.dataset.charts") != "drawn":
        assert time.monotonic() < end
        time.sleep(0.02)


def choose(browser: Browser, words: str, name: str) -> None:
    """Choose a name in the legend over the charts that are described so."""
    browser.ask(f"""
    const section = document.querySelector('.chart[aria-label^="{words}"]').closest('section');
    section.querySelector('.choosing button[data-only="{name}"]').click();
    """)
    settled(browser)


def test_every_number_has_its_mark(browser: Browser, written: dict[str, Path]) -> None:
    browser.visit(page_file("large", written))
    points = len(made.METHODS) * len(made.SPARSITIES)
    assert marks(browser, "Accuracy and cross-entropy") == [points, points]
    assert marks(browser, "Accuracy and cross-entropy", "rule") == [
        points + 1,
        points + 1,
    ]  # and the dense network's
    assert marks(browser, "Difference of accuracy") == [points] * 3
    assert marks(browser, "Nodes and paths") == [4 * 5 * points - 3]  # but for the three that failed
    assert marks(browser, "Density by layer") == [len(made.METHODS) * len(made.LAYERS)]
    assert marks(browser, "Training curves") == [6 * len(made.METHODS)] * 3
    assert marks(browser, "Distribution", "line") == [8] * len(made.LAYERS)
    assert marks(browser, "Accuracy against multiply-adds") == [points, points]


def test_marks_lie_where_their_numbers_say(browser: Browser, written: dict[str, Path]) -> None:
    browser.visit(page_file("large", written))
    places = browser.ask("""return [...document.querySelectorAll('#chart-1 .mark-symbol.role-mark path')].map(
        p => p.getAttribute('transform').match(/[-0-9.]+/g).map(Number))""")
    (chart,) = [c for c in content(report.study(made.large()))["places"] if c["id"] == "chart-1"]
    rows = [row for row in unpacked(chart["columns"]) if row["kind"] == "line"]
    at = numpy.array([[math.log(float(r["x"] or 0)), float(r["y"] or 0)] for r in rows])
    drawn = numpy.array(places)
    # Each axis is a straight line from number to pixel: to the right in log(1 / density), upwards in accuracy.
    for axis, slope in ((0, 1), (1, -1)):
        assert numpy.corrcoef(at[:, axis], drawn[:, axis])[0, 1] == pytest.approx(slope, abs=1e-6)
    assert numpy.ptp(drawn[:, 1]) > 150


def test_the_legend_filters_every_chart_and_gives_all_back(
    browser: Browser, written: dict[str, Path]
) -> None:
    browser.visit(page_file("large", written))
    words = ("Accuracy and cross-entropy", "Difference of accuracy", "Density by layer", "Training curves")
    before = [marks(browser, w) for w in words]
    axis = "return [...document.querySelectorAll('#chart-1 .role-axis-label text')].map(t => t.textContent)"
    labels = browser.ask(axis)
    choose(browser, words[0], "snip")
    assert [marks(browser, w) for w in words] == [[n // 5 for n in counts] for counts in before]
    assert browser.ask(axis) == labels  # what is left stays where it was
    choose(browser, words[2], "grasp")
    assert [marks(browser, w) for w in words] == [[2 * n // 5 for n in counts] for counts in before]
    pressed = "return document.querySelectorAll('.choosing button[aria-pressed=true]').length"
    assert browser.ask(pressed) == 2 * browser.ask(
        "return document.querySelectorAll('[data-only=snip]').length"
    )  # type: ignore[operator]
    for name in ("snip", "grasp"):
        choose(browser, words[0], name)
    assert [marks(browser, w) for w in words] == before
    assert browser._logs()[0] == []


def test_choosers_show_other_numbers_under_the_legend_s_choice(
    browser: Browser, written: dict[str, Path]
) -> None:
    browser.visit(page_file("large", written))

    def pick(words: str, place: int, option: int) -> None:
        browser.ask(f"""
        const whole = document.querySelector('.chart[aria-label^="{words}"]').closest('[id^=chooser]');
        const select = whole.querySelectorAll('select')[{place}];
        select.selectedIndex = {option};
        select.dispatchEvent(new Event('change', {{ bubbles: true }}));
        """)
        settled(browser)

    def outline(words: str) -> object:
        paths = f"""document.querySelectorAll('.chart[aria-label^="{words}"] .role-mark path')"""
        return browser.ask(f"return [...{paths}].map(p => p.getAttribute('d') + p.getAttribute('transform'))")

    per_sparsity = 4 * 5 * len(made.METHODS)
    pick("Nodes and paths", 0, 1)
    assert marks(browser, "Nodes and paths") == [per_sparsity - 1]  # one of those that failed was at 90 %
    choose(browser, "Nodes and paths", "synflow")
    assert marks(browser, "Nodes and paths") == [4 * 5]
    pick("Nodes and paths", 0, 5)
    assert marks(browser, "Nodes and paths") == [4 * 5 - 1]  # another was of synflow at 99.5 %
    before = outline("Distribution")
    assert before  # the states of weights have a legend of their own
    pick("Distribution", 1, 3)
    assert outline("Distribution") != before
    pick("Distribution", 1, 0)
    assert outline("Distribution") == before
    assert browser._logs()[0] == []


def test_a_cell_without_numbers_for_a_choice_is_hidden(browser: Browser, tmp_path: Path) -> None:
    wide = made.trials(("snip",), (0.9, 0.99), (None,), (0,), models=("resnet20",))
    narrow = made.trials(("snip",), (0.9,), (None,), (0,), models=("vgg16-bn",))
    report.study(made.findings([made.record(t, layers=made.LAYERS[:3]) for t in wide + narrow])).save(
        tmp_path / "a.html"
    )
    browser.visit(tmp_path / "a.html")
    assert len(marks(browser, "Density by layer")) == 1  # at 99 %, which only the first was run at
    browser.ask("""
    const whole = document.querySelector('.chart[aria-label^="Training"]').closest('[id^=chooser]');
    whole.querySelectorAll('select')[0].selectedIndex = 1;
    whole.dispatchEvent(new Event('change'));
    """)
    settled(browser)
    assert marks(browser, "Training curves") == []
    words = browser.ask(
        "return [...document.querySelectorAll('.nothing')].filter(p => p.offsetParent).map(p => p.innerText)"
    )
    assert words == ["The study has no such trial."]


# The table


def column(browser: Browser, place: int) -> list[str]:
    """What a column shows, without what is opened."""
    found = browser.ask(f"""return [...document.querySelectorAll('.listing tbody tr:not(.opened)')].map(
        row => row.children[{place} + 1].textContent)""")
    assert isinstance(found, list)
    return found


def fill(browser: Browser, label: str, text: str) -> float:
    """Type into a filter; the seconds until the table is there."""
    return float(
        browser.ask(f"""
    const filter = document.querySelector('.listing [aria-label="{label}"]');
    const began = performance.now();
    filter.value = {text!r};
    filter.dispatchEvent(new Event('input'));
    return (performance.now() - began) / 1000;
    """)
    )  # type: ignore[arg-type]


def status(browser: Browser) -> object:
    return browser.ask("return document.querySelector('.listing [role=status]').textContent")


METHOD, SPARSITY, INTERVENTION, SEED, OUTCOME, ACCURACY = range(6)


def test_the_table_filters_sorts_and_pages_quickly(browser: Browser, written: dict[str, Path]) -> None:
    browser.visit(page_file("large", written))
    assert status(browser) == "trials 1\u201325 of 505"
    assert len(column(browser, METHOD)) == 25
    took = [fill(browser, "Filter all columns", "snip shuffle")]
    assert status(browser) == "trials 1\u201325 of 25, of 505 in all"
    assert set(column(browser, METHOD)) == {"snip"}
    assert set(column(browser, INTERVENTION)) == {"shuffle"}
    took.append(fill(browser, "Filter sparsity", "98 .. 99"))
    assert set(column(browser, SPARSITY)) == {"98\u00a0%", "99\u00a0%"}
    assert len(column(browser, METHOD)) == 10
    browser.ask(
        "[...document.querySelectorAll('.listing button')].find(b => b.textContent === 'Clear filters').click()"
    )
    assert status(browser) == "trials 1\u201325 of 505"
    took.append(fill(browser, "Filter accuracy", "> 91"))
    assert all(float(text.split("\u00a0")[0]) >= 91 for text in column(browser, ACCURACY))
    fill(browser, "Filter accuracy", "")
    took.append(fill(browser, "Filter outcome", "failed"))
    assert column(browser, OUTCOME) == ["failed"] * 3
    fill(browser, "Filter outcome", "")
    for ascending in (True, False):
        took.append(float(browser.ask(f"""
        const began = performance.now();
        document.querySelectorAll('.listing thead th button')[{ACCURACY}].click();
        return (performance.now() - began) / 1000;
        """)))  # type: ignore[arg-type]  # fmt: skip
        shown = [float(text.split("\u00a0")[0]) for text in column(browser, ACCURACY)]
        assert shown == sorted(shown, reverse=not ascending)
        sorted_by = browser.ask("return document.querySelector('.listing [aria-sort]').ariaSort")
        assert sorted_by == ("ascending" if ascending else "descending")
    browser.ask(
        "[...document.querySelectorAll('.listing button')].find(b => b.textContent === 'Next').click()"
    )
    assert status(browser) == "trials 26\u201350 of 505"
    assert max(took) < _QUICK


def test_what_is_missing_sorts_last_and_nothing_found_is_said(
    browser: Browser, written: dict[str, Path]
) -> None:
    browser.visit(page_file("large", written))
    for _ in range(2):
        browser.ask(f"document.querySelectorAll('.listing thead th button')[{ACCURACY}].click()")
        assert "\u2013" not in column(browser, ACCURACY)
    fill(browser, "Filter all columns", "no such trial anywhere")
    assert status(browser) == "no trial of 505 fits"


def test_a_row_opens_and_leads_to_its_ticket(browser: Browser, written: dict[str, Path]) -> None:
    browser.visit(page_file("large", written))
    links = browser.ask(
        "return [...document.querySelectorAll('.listing tbody a')].map(a => a.getAttribute('href'))"
    )
    assert links == ["tickets/1.html"]
    fill(browser, "Filter outcome", "failed")
    browser.ask("document.querySelector('.listing tbody .opener button').click()")
    opened = browser.ask("return document.querySelector('.listing .opened').innerText")
    assert isinstance(opened, str)
    for words in (
        "RuntimeError: out of <memory> & more",
        'File "run.py", line 7',
        "python -c",
        "Resolved recipe",
    ):
        assert words in opened
    browser.ask("document.querySelector('.listing tbody .opener button').click()")
    assert browser.ask("return document.querySelectorAll('.listing .opened').length") == 0


# Hostile findings


def test_hostile_findings_stay_text(browser: Browser, tmp_path: Path) -> None:
    report.study(made.hostile()).save(tmp_path / "hostile.html")
    seen = browser.visit(tmp_path / "hostile.html")
    assert troubles(browser, seen) == {}
    browser.ask("for (const b of document.querySelectorAll('.listing tbody .opener button')) b.click()")
    browser.ask("document.querySelector('.choosing button').click()")
    settled(browser)
    assert browser.ask("return document.title") == made.HOSTILE[0]
    assert (
        browser.ask("return document.querySelectorAll('script').length") == 6
    )  # two of data, four of the page
    assert browser.ask("return document.querySelectorAll('img, [onerror], [onmouseover]').length") == 0
    assert browser._logs() == ([], [])
    report.figures(made.hostile(), tmp_path / "hostile.pdf")  # dollars and braces are no formulas there


# Light, dark and paper


def brightness(browser: Browser, element: str, what: str) -> float:
    colour = browser.ask(f"return getComputedStyle(document.querySelector('{element}')).{what}")
    assert isinstance(colour, str)
    return sum(float(part) for part in colour.strip("rgba()").split(",")[:3]) / 3


def test_dark_mode_has_its_colours(browser: Browser, written: dict[str, Path]) -> None:
    for scheme in ("light", "dark"):
        browser.visit(page_file("one_sparsity", written), scheme=scheme)
        paper = brightness(browser, "body", "backgroundColor")
        inks = [
            brightness(browser, e, "fill")
            for e in ("#chart-1 text", ".forest .supported .mark", ".glyph path")
        ]
        assert paper > 200 if scheme == "light" else paper < 60
        assert all(abs(ink - paper) > 60 for ink in inks)


def test_on_paper_all_is_unfolded_and_white_and_afterwards_folded_again(
    browser: Browser, written: dict[str, Path], tmp_path: Path
) -> None:
    browser.visit(page_file("large", written), scheme="dark")
    state = """return [document.querySelectorAll('details').length, document.querySelectorAll('details[open]').length,
        document.querySelectorAll('.listing tbody tr').length]"""
    folds, unfolded, rows = browser.ask(state)  # type: ignore[misc]
    assert (unfolded, rows) == (0, 25)
    browser.ask("window.seen = []; addEventListener('afterprint', () => window.seen.push('after'))")
    browser.ask(f"addEventListener('beforeprint', () => window.seen.push((() => {{{state}}})()))")
    browser.printed(tmp_path / "page.pdf")
    assert browser.ask("return window.seen") == [[folds, folds, 505], "after"]
    assert browser.ask(state) == [folds, 0, 25]
    assert folds > 4
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser._command("Emulation.setEmulatedMedia", media="print", features=features)
    try:
        assert brightness(browser, "body", "backgroundColor") > 200
        assert brightness(browser, "#chart-1 text", "fill") < 60
        hidden = "return ['nav', '.listing .filters'].map(e => getComputedStyle(document.querySelector(e)).display)"
        assert browser.ask(hidden) == ["none", "none"]
    finally:
        browser._command("Emulation.setEmulatedMedia", media="", features=features)
