"""The picture of sanity checks: intervals without an end, names that look like formulas, the same bytes each time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from disbud.report import sanity_picture
from disbud.report.sanity_picture import draw_checks

ROW = {"check": "random labels", "difference": 0.0, "low": -0.01, "high": 0.01, "outcome": "undecided"}


def check(name: str = "snip", **more: object) -> dict[str, object]:
    return {
        "trial": {"method": {"name": name}, "sparsity": 0.9},
        "margin": 0.005,
        "checks": [{**ROW, **more}],
    }


@pytest.mark.parametrize(
    ("low", "high"), [(-math.inf, math.inf), (None, None), (-0.3, math.inf), (None, 0.01)]
)
def test_an_interval_without_an_end_reaches_the_edge(low: float | None, high: float | None) -> None:
    """As where all differences are equal; the command's JSON has null for what is infinite."""
    figure = sanity_picture._figure([check(low=low, high=high), check()], ())
    axes = figure.axes[0]
    edges = axes.get_xlim()
    assert all(map(math.isfinite, edges))
    assert edges[0] <= -2
    assert edges[1] >= 2
    (bar,) = [line for line in axes.lines if list(line.get_ydata()) == [0, 0] and line.get_marker() == "None"]
    wanted = [low is None or math.isinf(low), high is None or math.isinf(high)]
    assert [x in edges for x in bar.get_xdata()] == wanted
    assert sum(line.get_marker() in ("<", ">") for line in axes.lines) == sum(wanted)


def test_every_finite_interval_shows_whole() -> None:
    figure = sanity_picture._figure([check(low=-0.4, high=0.01), check(low=-math.inf, high=math.inf)], ())
    low, high = figure.axes[0].get_xlim()
    assert low < -40 < 2 <= high


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_names_are_no_formulas_and_the_bytes_are_the_same_each_time(kind: str, tmp_path: Path) -> None:
    checks = [check(r"own:cost=$\frac{1$"), check("$x", check="$random labels")]
    files = [tmp_path / f"{i}.{kind}" for i in range(2)]
    for file in files:
        draw_checks(checks, file, titles=("$\\nothing$", "two $"))
    assert files[0].read_bytes() == files[1].read_bytes()
    draw_checks(checks, files[0])
    if kind == "svg":
        assert r"own:cost=$\frac{1$, 90 %" in files[0].read_text()
