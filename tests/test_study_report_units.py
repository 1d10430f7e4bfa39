"""Evidence by its unit, on the page and on paper alike: figures, the title of the axis, intervals with an open end."""

from __future__ import annotations

import dataclasses
import html
import math
import re

import pytest

import study_findings as made
from disbud import claims, report
from disbud.claims import Verdict
from disbud.report import study_figures
from disbud.study.findings import Cell, Decision, Findings
from study_pages import forests_of

# As claims.crossover finds it: at .9646, .9617 to .9675, in the docstring there; with more noise the ends are open.
CROSSING = Cell("digits", Verdict.SUPPORTED, "", 0.9646, 0.9617, 0.9675, unit="sparsity", seeds=4)
CORRELATION = Cell("nodes", Verdict.SUPPORTED, "", 0.62, 0.31, 0.93, unit="correlation")


def study_of(*cells: Cell) -> Findings:
    decided = Decision("1.2", "They change places", Verdict.SUPPORTED, "supported", cells=cells)
    return made.findings([], decided=[decided])


def figures_in_words(cell: Cell) -> str:
    ((row, *_), *_) = forests_of(report.study(study_of(cell)))
    (words,) = re.findall(r'<span class="figures">(.*?)</span>', row)
    return html.unescape(words).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.9617, 0.9675, "96.5 % (96.2 % to 96.8 %)"),
        (0.9617, None, "96.5 % (96.2 % to beyond what was tested)"),
        (None, 0.9675, "96.5 % (below what was tested to 96.8 %)"),
        (None, None, "96.5 % (no bounds in what was tested)"),
        (0.964, 0.9649, "96.46 % (96.4 % to 96.49 %)"),
    ],
)
def test_where_curves_cross_is_a_sparsity_and_no_difference(
    low: float | None, high: float | None, words: str
) -> None:
    assert figures_in_words(dataclasses.replace(CROSSING, low=low, high=high)) == words


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (CORRELATION, "+0.6 (0.3 to 0.9)"),
        (dataclasses.replace(CORRELATION, estimate=-0.62, low=-0.7), "\u22120.6 (\u22120.7 to 0.9)"),
        (dataclasses.replace(CORRELATION, unit="points"), "+62 (31 to 93)"),
        (dataclasses.replace(CORRELATION, unit="a unit of one's own"), "+0.6 (0.3 to 0.9)"),
        (dataclasses.replace(CORRELATION, low=None, high=None), "+0.6"),
        (dataclasses.replace(CORRELATION, low=-math.inf, high=math.inf), "+0.6 (no bounds)"),
        (dataclasses.replace(CORRELATION, high=math.inf), "+0.6 (0.3 or more)"),
        (dataclasses.replace(CORRELATION, low=-math.inf), "+0.6 (0.9 or less)"),
        (dataclasses.replace(CORRELATION, estimate=math.nan), "supported"),
    ],
)
def test_other_estimates_have_a_sign_and_their_bounds(cell: Cell, words: str) -> None:
    assert figures_in_words(cell).replace(".0", "") == words


@pytest.mark.parametrize(
    ("unit", "title"),
    [
        ("points", "difference (points)"),
        ("plain", "difference"),
        ("sparsity", "sparsity (%)"),
        ("correlation", "rank correlation"),
        ("correlations", "difference of two rank correlations"),
    ],
)
def test_the_axis_has_the_same_title_on_the_page_and_on_paper(unit: str, title: str) -> None:
    findings = study_of(dataclasses.replace(CORRELATION, unit=unit))
    (rows,) = forests_of(report.study(findings))
    assert f'<span class="what">{title}</span>' in rows[-1]
    (figure,) = study_figures._figures(findings)
    (axes,) = figure.axes
    assert axes.get_xlabel() == title


def test_where_curves_cross_is_drawn_close_up_and_without_a_line_at_zero() -> None:
    findings = study_of(CROSSING)
    ((row, axis),) = forests_of(report.study(findings))
    assert 'class="zero"' not in row
    ticks = [float(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", axis)]
    assert len(ticks) > 2
    assert all(96.1 < tick < 96.8 for tick in ticks)
    (figure,) = study_figures._figures(findings)
    low, high = figure.axes[0].get_xlim()
    assert 96.0 < low < 96.17 < 96.75 < high < 96.9
    assert not [line for line in figure.axes[0].lines if list(line.get_xdata()) == [0, 0]]


def test_no_axis_of_sparsities_goes_over_one_hundred_percent() -> None:
    findings = study_of(dataclasses.replace(CROSSING, estimate=0.9999, low=0.98, high=None))
    (figure,) = study_figures._figures(findings)
    assert figure.axes[0].get_xlim()[1] <= 100
    ((_, axis),) = forests_of(report.study(findings))
    assert max(float(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", axis)) <= 100


OPEN = [
    (dataclasses.replace(CROSSING, high=None), (96.17, None)),
    (dataclasses.replace(CROSSING, low=None), (None, 96.75)),
    (dataclasses.replace(CROSSING, low=None, high=None), (None, None)),
    (dataclasses.replace(CORRELATION, low=-math.inf), (None, 0.93)),
    (dataclasses.replace(CORRELATION, low=-math.inf, high=math.inf), (None, None)),
    (CROSSING, (96.17, 96.75)),
]


@pytest.mark.parametrize(("cell", "ends"), OPEN)
def test_an_open_end_reaches_the_edge_on_paper_and_has_an_arrow(
    cell: Cell, ends: tuple[float | None, float | None]
) -> None:
    (figure,) = study_figures._figures(study_of(cell))
    (axes,) = figure.axes
    edges = axes.get_xlim()
    (line,) = [
        line for line in axes.lines if list(line.get_ydata()) == [0, 0] and line.get_marker() == "None"
    ]
    assert list(line.get_xdata()) == pytest.approx([edges[i] if e is None else e for i, e in enumerate(ends)])
    arrows = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() in ("<", ">")]
    assert arrows == pytest.approx([edges[i] for i, end in enumerate(ends) if end is None])


@pytest.mark.parametrize(("cell", "ends"), OPEN)
def test_an_open_end_reaches_the_edge_on_the_page_and_has_an_arrow(
    cell: Cell, ends: tuple[float | None, float | None]
) -> None:
    ((row, _),) = forests_of(report.study(study_of(cell)))
    left, right = re.search(r'class="interval" x1="([\d.]+)%" x2="([\d.]+)%"', row).groups()  # type: ignore[union-attr]
    assert (float(left) == 0) == (ends[0] is None)
    assert (float(right) == 100) == (ends[1] is None)
    assert row.count('class="open"') == ends.count(None)
    (mark,) = re.findall(r'cx="([\d.]+)%"', row)
    assert all(abs(float(mark) - edge) > 10 for edge, end in zip((0, 100), ends, strict=True) if end is None)


def test_an_estimate_without_any_interval_has_no_line() -> None:
    findings = study_of(dataclasses.replace(CORRELATION, low=None, high=None))
    ((row, _),) = forests_of(report.study(findings))
    assert 'class="interval"' not in row
    (figure,) = study_figures._figures(findings)
    assert [line.get_marker() for line in figure.axes[0].lines] == ["None", "o"]  # zero, and the estimate


def test_a_cell_without_an_estimate_stands_among_the_others_of_its_claim() -> None:
    silent = Cell("too few seeds", Verdict.UNDECIDED, "2 seeds; 3 are the least", further=1)
    (rows,) = forests_of(report.study(study_of(CROSSING, silent, dataclasses.replace(CROSSING, high=None))))
    assert [re.findall(r'class="mark"', row) for row in rows] == [['class="mark"'], [], ['class="mark"'], []]
    assert "too few seeds" in rows[1]
    (alone,) = forests_of(report.study(study_of(silent)))
    assert len(alone) == 1  # and no axis


def test_a_crossing_as_it_is_found_says_its_open_end() -> None:
    gaps = [[0.03, 0.02, -0.01], [0.01, 0.002, -0.004], [0.02, 0.015, 0.001], [0.025, 0.002, -0.02]]
    found = claims.crossover([0.9, 0.95, 0.98], gaps)
    assert found.low is not None
    assert found.high is None
    cell = Cell("", found.verdict, str(found), found.points[0], found.low, found.high, unit="sparsity")
    assert figures_in_words(cell).endswith("to beyond what was tested)")
    assert "<b></b>" not in report.study(study_of(cell)).html  # a claim of one cell has no name for it
