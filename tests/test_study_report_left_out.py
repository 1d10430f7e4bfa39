"""What no chart of a study shows: trials that only fix margins, and those that keep no weight; the table has them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import study_findings as made
from disbud import report
from disbud.errors import DisbudError
from disbud.report import study_figures
from disbud.report.study_numbers import Overview
from disbud.study import Seeds
from disbud.study.frame import FIRST_CALIBRATION
from disbud.study.record import Record
from pages import words_of
from study_pages import charts_of, headings, tile_of, trial_rows, unpacked

SEEDS = 5


def with_margins() -> list[Record]:
    """Two methods over five seeds, and dense and random networks on the seeds that margins are found on."""
    chosen = made.trials(("random-uniform", "snip"), (0.9, 0.98), (None, "shuffle"), range(SEEDS))
    records = [made.record(t, layers=made.LAYERS[:2]) for t in chosen]
    extra = made.trials(
        ("random-uniform",), (0.9, 0.98), (None,), range(FIRST_CALIBRATION, FIRST_CALIBRATION + 2)
    )
    return records + [
        dataclasses.replace(made.record(t, layers=made.LAYERS[:2]), accuracy=0.2, seconds=1e6) for t in extra
    ]


def test_seeds_that_fix_margins_are_in_no_tile_and_in_no_mean() -> None:
    page = report.study(made.findings(with_margins(), decided=()))
    assert tile_of(page, "seeds")[0] == str(SEEDS)
    for words in ("Accuracy and cross-entropy", "Difference of accuracy", "Accuracy against multiply-adds"):
        for chart in charts_of(page, words):
            rows = unpacked(chart["columns"])
            assert {row["seeds"] for row in rows if row["kind"] != "dense" or "seeds" in row} <= {SEEDS, None}
            assert all(row["y"] > 0.3 for row in rows if words.endswith("adds"))
    (plane,) = charts_of(page, "Nodes and paths")
    assert len(unpacked(plane["choices"]["0"])) == 2 * 2 * 2 * SEEDS
    for chart in charts_of(page, "Training curves"):
        assert {row["seeds"] for row in unpacked(chart["choices"]["0/0"])} == {SEEDS}
    assert "20,0" not in words_of(page).split("What it costs")[2].split("Every trial")[0]  # of 20,000 seconds


def test_the_table_of_trials_keeps_what_no_chart_shows_and_says_so() -> None:
    records = with_margins()
    gone = without_weights(("snip",), 1)[:1]
    page = report.study(made.findings(records + gone, decided=()))
    assert len(trial_rows(page)) == len(records) + 1
    words = words_of(page)
    assert "Trials of seeds 1001 and 1002 only fix margins: they are in no chart and in no mean." in words
    assert "Trials at 100 % sparsity keep no weight: they are in no chart." in words
    plain = words_of(report.study(made.findings(records[:5], decided=())))
    assert "fix margins" not in plain
    assert "keep no weight" not in plain


def without_weights(methods: Sequence[str], count: int) -> list[Record]:
    """Trials at sparsity 1: the axis of 1 / density has no place for them."""
    chosen = made.trials(methods, (0.9,), (None, "shuffle"), range(count), dense=False)
    records = [made.record(t, layers=made.LAYERS[:2]) for t in chosen]
    return [dataclasses.replace(r, trial=dataclasses.replace(r.trial, sparsity=1.0)) for r in records]


def test_a_study_in_which_nothing_is_kept_has_a_page_and_nothing_to_draw(tmp_path: Path) -> None:
    findings = made.findings(without_weights(("snip", "grasp"), 2), decided=())
    page = report.study(findings)
    assert headings(page) == ["Every trial", "How it was run"]
    assert len(trial_rows(page)) == 8
    with pytest.raises(DisbudError, match="nothing to draw"):
        report.figures(findings, tmp_path / "none.pdf")


def test_trials_that_keep_nothing_stand_beside_others_in_no_chart(tmp_path: Path) -> None:
    others = [made.record(t) for t in made.trials(("snip",), (0.9, 0.98), (None, "shuffle"), range(2))]
    with_all = made.findings([*others, *without_weights(("snip",), 2)], decided=())
    page, alone = report.study(with_all), report.study(made.findings(others, decided=()))
    for words in (
        "Accuracy and cross-entropy",
        "Difference of accuracy",
        "Nodes and paths",
        "Density by layer",
    ):
        found = [[chart.get("columns", chart.get("choices"))] for chart in charts_of(page, words)]
        assert found == [[chart.get("columns", chart.get("choices"))] for chart in charts_of(alone, words)]
    report.figures(with_all, tmp_path / "some.pdf")
    assert (tmp_path / "some.pdf").exists()


def test_a_figure_for_paper_leaves_out_the_seeds_of_margins() -> None:
    known = Overview(with_margins())
    assert all(len(records) == SEEDS for records in known.plain_points.values())
    assert [len(records) for records in known.dense.values()] == [SEEDS]
    accuracy, *_ = study_figures._figures(made.findings(with_margins(), decided=()))
    lowest = min(float(y) for line in accuracy.axes[0].lines for y in line.get_ydata())
    assert lowest > 50  # those of margins have 20 %


def test_a_seed_of_ones_own_beyond_the_first_of_margins_counts() -> None:
    records = [
        dataclasses.replace(r, trial=dataclasses.replace(r.trial, seeds=Seeds.all(5000)))
        for r in with_margins()[:5]
    ]
    page = report.study(made.findings(records, decided=()))
    assert tile_of(page, "seeds")[0] == "1"
    assert re.search("fix margins", page.html) is None


# Links to tickets


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)", "java\nscript:alert(1)", "java\tscript:alert(1)", "\x01javascript:alert(1)",
        " \r\njavascript:alert(1)", "JAVA\x00SCRIPT:alert(1)", "\u00a0https://example.org", "\x1f//example.org",
        "/\n/x", "\x85data:text/html,x",
    ],
)  # fmt: skip
def test_a_link_that_leads_elsewhere_is_refused_however_it_is_spaced(link: str) -> None:
    with pytest.raises(DisbudError, match="no relative link"):
        report.study(made.one_trial(), tickets={"a": link})


@pytest.mark.parametrize(
    "link", ["tickets/ab12.html", "./one two.html", "a/b:c.html", "../pages/\u00e9.html"]
)
def test_a_link_beside_the_page_is_taken(link: str) -> None:
    report.study(made.one_trial(), tickets={"a": link})
