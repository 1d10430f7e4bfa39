"""Study pages without a browser: their numbers against the records', claims and their evidence, what is left out."""

from __future__ import annotations

import dataclasses
import html
import math
import random
import re

import numpy
import pytest
import torch
from scipy import stats

import study_findings as made
from disbud import report
from disbud.claims import Verdict
from disbud.report import Page
from disbud.study import Seeds, Trial
from disbud.study.findings import Findings
from disbud.study.record import Record
from pages import words_of
from study_pages import charts_of, headings, trial_rows, unpacked

_MOST_BYTES = 3_000_000


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A cache of the tests' own, so that they leave nothing in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISBUD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def large() -> Findings:
    return made.large()


@pytest.fixture(scope="module")
def large_page(large: Findings) -> Page:
    return report.study(large)


@pytest.fixture(scope="module")
def real() -> Findings:
    return made.real()


def accuracies(
    findings: Findings, method: str, sparsity: float | None, altered: str | None = None
) -> list[float]:
    return [
        r.accuracy
        for r in findings.records
        if (r.trial.method, r.trial.sparsity, r.trial.intervention) == (method, sparsity, altered)
        and r.accuracy is not None
    ]


# The numbers on the page are the records'


def test_means_and_intervals_over_seeds_are_those_of_students_t(large: Findings, large_page: Page) -> None:
    chart, _ = charts_of(large_page, "Accuracy and cross-entropy by sparsity")
    rows = unpacked(chart["columns"])
    lines = [row for row in rows if row["kind"] == "line"]
    assert len(lines) == len(made.METHODS) * len(made.SPARSITIES)
    for method in made.METHODS:
        for row, sparsity in zip([r for r in lines if r["name"] == method], made.SPARSITIES, strict=True):
            values = accuracies(large, method, sparsity)
            low, high = stats.t.interval(
                0.95, len(values) - 1, loc=numpy.mean(values), scale=stats.sem(values)
            )
            assert (row["y"], row["low"], row["high"]) == pytest.approx(
                (numpy.mean(values), low, high), rel=1e-4
            )
            assert row["seeds"] == len(values)
            assert row["x"] == pytest.approx(1 / (1 - sparsity), rel=0.1)
    (dense,) = [row for row in rows if row["kind"] == "dense"]
    assert dense["y"] == pytest.approx(numpy.mean(accuracies(large, "dense", None)), rel=1e-4)


def test_series_do_not_hide_each_other(large_page: Page) -> None:
    chart, _ = charts_of(large_page, "Accuracy and cross-entropy by sparsity")
    places = [row["x"] for row in unpacked(chart["columns"]) if row["kind"] == "line"]
    assert len(set(places)) == len(places)


def test_differences_are_paired_by_seed(large: Findings, large_page: Page) -> None:
    charts = charts_of(large_page, "Difference of accuracy")
    assert len(charts) == 3
    by_trial = {r.trial: r.accuracy for r in large.records}
    for chart, altered in zip(charts, ("shuffle", "reinit", "permute-values"), strict=True):
        rows = unpacked(chart["columns"])
        assert len(rows) == 25
        for row in rows:
            sparsity = 1 - 10 ** -round(
                -math.log10(1 - float(str(row["sparsity"]).split("\u00a0")[0]) / 100), 6
            )
            pairs = [
                (accuracy, by_trial[dataclasses.replace(trial, intervention=None)])
                for trial, accuracy in by_trial.items()
                if trial.intervention == altered and trial.method == row["name"]
                and trial.sparsity == pytest.approx(sparsity)
            ]  # fmt: skip
            known = [a - b for a, b in pairs if a is not None and b is not None]
            assert row["y"] == pytest.approx(numpy.mean(known), rel=1e-3, abs=1e-6)
            assert row["seeds"] == len(known)
    assert any(
        row["seeds"] == 4 for chart in charts for row in unpacked(chart["columns"])
    )  # where one failed


def test_a_difference_without_its_partner_is_not_shown() -> None:
    records = [made.record(t) for t in made.trials(("snip",), (0.9,), (None, "shuffle"), range(3))]
    lonely = [r for r in records if r.trial.intervention is None or r.trial.seeds == Seeds.all(0)]
    (chart,) = charts_of(report.study(made.findings(lonely)), "Difference of accuracy")
    (row,) = unpacked(chart["columns"])
    assert (row["seeds"], row["low"]) == (1, None)
    only = [r for r in records if r.trial.intervention]
    assert "What each intervention changes" not in headings(report.study(made.findings(only)))


def test_distributions_have_their_humps_where_the_weights_are(large_page: Page) -> None:
    chart = charts_of(large_page, "Distribution of kept weights")[0]
    columns = chart["choices"]["0/0"] if "0/0" in chart["choices"] else chart["choices"]["0/2/0"]
    assert set(columns) == {"x", *(f"{side}{i}" for side in "ab" for i in range(4))}
    x = numpy.array(columns["x"])
    unaltered, shuffled = numpy.array(columns["b0"]), numpy.array(columns["b1"])
    # As they are made: without intervention each value is 0.2 farther from 0, so that the middle is empty.
    middle = int(numpy.abs(x).argmin())
    assert unaltered[middle] < 20
    assert shuffled[middle] > 90
    assert sum((unaltered[1:-1] > unaltered[:-2]) & (unaltered[1:-1] > unaltered[2:])) == 2
    left, right = x[:middle][unaltered[:middle].argmax()], x[middle:][unaltered[middle:].argmax()]
    assert 0.15 < right == pytest.approx(-left, abs=0.08)
    assert right < 0.5
    trained = numpy.array(columns["a0"])  # made with a deviation 1.4 times as large
    assert trained[numpy.abs(x) > 0.45].sum() > 1.5 * unaltered[numpy.abs(x) > 0.45].sum()


def test_quantiles_are_averaged_over_seeds() -> None:
    def record(seed: int, at: float) -> Record:
        trial = Trial("lenet-300-100", "digits", "digits", "snip", 0.9, seeds=Seeds.all(seed))
        columns = ["layer", "when", *(f"q{i}" for i in range(1, 65))]
        rows = [["fc", when, *(at + i / 100 for i in range(64))] for when in ("start", "trained")]
        table = {"columns": columns, "rows": rows, "summary": {}}
        return Record(trial, trial.identity, 0.9, 0.3, measures={"weights": table})

    (chart,) = charts_of(report.study(made.findings([record(0, 0.0), record(1, 2.0)])), "Distribution")
    columns = chart["choices"]["0/0/0"]
    share = numpy.array(columns["a0"], dtype=float)
    centre = float((share * columns["x"]).sum() / share.sum())
    assert centre == pytest.approx(1.0 + 0.315, abs=0.02)  # one hump between the two, not two humps at both
    assert share[len(share) // 2] > 90


def test_the_plane_has_every_pruned_trial_at_its_nodes_and_paths(large: Findings, large_page: Page) -> None:
    (chart,) = charts_of(large_page, "Nodes and paths")
    done = [r for r in large.records if not r.failed and r.trial.sparsity is not None]
    rows = unpacked(chart["choices"]["0"])
    expected = sorted((r.measures["paths"]["summary"]["nodes"], r.accuracy) for r in done)
    found = sorted((row["x"], row["accuracy"]) for row in rows)
    assert numpy.array(found) == pytest.approx(numpy.array(expected), abs=1e-5)
    for i, sparsity in enumerate(made.SPARSITIES, start=1):
        assert len(unpacked(chart["choices"][str(i)])) == sum(r.trial.sparsity == sparsity for r in done)


def test_the_density_of_each_layer_is_that_of_its_masks(real: Findings) -> None:
    (chart,) = charts_of(report.study(real), "Density by layer")
    rows = unpacked(chart["choices"]["0"])
    snips = [r for r in real.records if (r.trial.method, r.trial.intervention) == ("snip", None)]
    tables = [
        [dict(zip(r.measures["paths"]["columns"], row, strict=True)) for row in r.measures["paths"]["rows"]]
        for r in snips
    ]
    expected = [
        numpy.mean([row["kept"] / row["weights"] for row in layer]) for layer in zip(*tables, strict=True)
    ]
    found = [row["y"] for row in rows if row["name"] == "snip"]
    assert found == pytest.approx(expected, rel=1e-3)
    assert [row["x"] for row in rows if row["name"] == "snip"] == [1, 2, 3]


def test_training_curves_are_means_over_seeds(large: Findings, large_page: Page) -> None:
    accuracy, loss, training = charts_of(large_page, "Training curves")
    for chart, column in ((accuracy, "test_accuracy"), (loss, "test_loss"), (training, "train_loss")):
        rows = [
            r for r in unpacked(chart["choices"]["0/1"]) if r["name"] == "grasp"
        ]  # the second highest sparsity
        records = [
            r for r in large.records
            if (r.trial.method, r.trial.sparsity, r.trial.intervention) == ("grasp", 0.99, None)
        ]  # fmt: skip
        expected = [numpy.mean([r.curve[e][column] for r in records if r.curve]) for e in range(made.EPOCHS)]
        assert [row["y"] for row in rows] == pytest.approx(expected, rel=1e-3)
        assert sum(row["dot"] for row in rows) == 6


def test_accuracy_against_cost(large: Findings, large_page: Page) -> None:
    masked, live = charts_of(large_page, "Accuracy against multiply-adds")
    for chart, entry in ((masked, "multiply_adds_masked"), (live, "multiply_adds_live")):
        row = next(
            r for r in unpacked(chart["columns"]) if (r["name"], r["sparsity"]) == ("snip", "98\u00a0%")
        )
        records = [
            r for r in large.records
            if (r.trial.method, r.trial.sparsity, r.trial.intervention) == ("snip", 0.98, None) and not r.failed
        ]  # fmt: skip
        assert row["x"] == pytest.approx(
            numpy.mean([r.measures["cost"]["summary"][entry] for r in records]), rel=1e-4
        )
        assert row["y"] == pytest.approx(numpy.mean([r.accuracy for r in records]), rel=1e-4)


def test_a_study_that_was_run_shows_what_it_was(real: Findings) -> None:
    page = report.study(real)
    rows = trial_rows(page)
    assert [row["accuracy"] for row in rows] == pytest.approx([r.accuracy for r in real.records], rel=1e-5)
    assert [row["method"] for row in rows] == [r.trial.method for r in real.records]
    assert len(charts_of(page, "Distribution of kept weights")) == 3
    assert "lenet-300-100:width=0.2 on digits" in words_of(page)


# Claims


def test_every_claim_has_its_verdict_and_its_evidence(large: Findings, large_page: Page) -> None:
    words = words_of(large_page)
    assert (
        "Of 5 claims: 1 supported, 1 contradicted, 1 undecided, 1 uninformative and 1 not testable here."
        in words
    )
    articles = re.findall(r"<article.*?</article>", large_page.html, re.DOTALL)
    said = {
        "supported",
        "contradicted",
        "undecided, about 7\u00a0seeds more",
        "uninformative",
        "not testable here",
    }
    for article, decision in zip(articles, large.decisions, strict=True):
        text = html.unescape(re.sub(r"<[^>]*>", "", article))
        assert decision.says in text
        assert decision.words in text
        assert all(cell.words in text for cell in decision.cells)
        (badge,) = re.findall(r'<span class="badge"><i[^>]*>.</i> (.*?)</span>', article)
        said.remove(badge)
        assert article.count('class="mark"') == len(decision.cells)
        assert (
            badge in words.replace("7 seeds", "7\u00a0seeds").split("Each row is a cell")[0]
        )  # and at the top
    assert not said
    at_the_top = re.findall(r'<li class="\w+"><span class="badge">.*?</li>', large_page.html, re.DOTALL)
    assert {len(decision.cells) > 1 for decision in large.decisions} == {True, False}
    for item, decision in zip(at_the_top, large.decisions, strict=True):
        tally = re.findall("<small>(.*?)</small>", item)
        assert tally == ([decision.words.partition(";")[0]] if len(decision.cells) > 1 else [])


def test_a_forest_plot_is_to_scale() -> None:
    (article,) = re.findall(
        r"<article.*?</article>",
        report.study(made.findings([], decided=made.decisions()[1:2])).html,
        re.DOTALL,
    )
    rows = re.findall(r'<li class="(?:supported|contradicted)">(.*?)</li>', article, re.DOTALL)
    cells = made.decisions()[1].cells
    assert len(rows) == len(cells)

    def numbers(pattern: str, row: str) -> list[float]:
        return [float(n) for n in re.search(pattern, row).groups()]  # type: ignore[union-attr]

    for row, cell in zip(rows, cells, strict=True):
        (zero,) = numbers(r'class="zero" x1="([\d.]+)%"', row)
        left, width = numbers(r'class="margin" x="([\d.]+)%" width="([\d.]+)%"', row)
        low, high = numbers(r'class="interval" x1="([\d.]+)%" x2="([\d.]+)%"', row)
        (at,) = numbers(r'(?:cx|x)="([\d.]+)%"(?: cy| y)="50%"', row.split('class="interval"')[1])
        scale = (high - low) / (cell.high - cell.low)  # type: ignore[operator]
        assert (at - zero) / scale == pytest.approx(cell.estimate, abs=2e-4)
        assert (low - zero) / scale == pytest.approx(cell.low, abs=2e-4)
        assert width / scale == pytest.approx(2 * cell.margin, abs=2e-4)  # type: ignore[operator]
        assert left + width / 2 == pytest.approx(zero, abs=0.02)
        assert ('<circle class="mark"' in row) == (cell.verdict is Verdict.SUPPORTED)


def test_cells_without_bounds_or_estimate_have_words() -> None:
    page = report.study(made.no_intervals())
    words = words_of(page)
    assert "98 %+0.4 (no bounds)" in words
    assert "99 %undecided" in words
    assert "inf" not in words.split("Accuracy against sparsity")[2].split("How it was run")[
        0
    ].lower().replace("infinite", "")


# What is there is shown, and nothing else


def test_sections_are_there_as_far_as_there_is_data(large_page: Page) -> None:
    assert headings(large_page) == [
        "Claims", "Accuracy against sparsity", "What each intervention changes",
        "The kept weights, before and after training", "Effective paths and nodes", "Density of each layer",
        "Training curves", "What it costs", "Every trial", "How it was run",
    ]  # fmt: skip
    few = ["Accuracy against sparsity", "What it costs", "Every trial", "How it was run"]
    assert headings(report.study(made.one_trial())) == few
    assert headings(report.study(made.all_failed())) == ["Every trial", "How it was run"]
    assert headings(report.study(made.findings([], decided=()))) == ["How it was run"]


def test_failures_environments_and_what_was_not_run_are_said_at_the_top(large_page: Page) -> None:
    assert (
        "3 trials of 505 failed and are in no mean: RuntimeError: out of &lt;memory&gt; &amp; more."
        in words_of(large_page)
    )
    words = words_of(report.study(made.long_names()))
    assert "The trials were run in 2 environments, which differ in cpu." in words
    trial = Trial("lenet-300-100", "digits", "digits")
    hosts = [
        dataclasses.replace(
            made.record(trial.with_seed(i)), environment={**made.ENVIRONMENT, "host": f"node{i}"}
        )
        for i in range(2)
    ]
    words = words_of(report.study(made.findings(hosts, decided=())))
    assert "environments" not in words
    assert "node0, node1" in words
    page = report.study(made.findings([Record(trial, trial.identity)], decided=()))
    assert "1 trial of 1 has not been run." in words_of(page)


def test_a_run_that_diverged_counts_as_guessing_and_has_no_loss() -> None:
    page = report.study(made.no_intervals())
    accuracy, loss = charts_of(page, "Accuracy and cross-entropy by sparsity")
    shown = [[(r["name"], r["sparsity"]) for r in unpacked(c["columns"])] for c in (accuracy, loss)]
    assert set(shown[0]) - set(shown[1]) == {("random-erk", "90\u00a0%")}
    assert "1 run diverged." in words_of(page)
    assert trial_rows(page)[0]["outcome"] == "diverged"
    assert "1 trial left no path" in words_of(page)


def test_pages_stay_small(large_page: Page) -> None:
    assert len(large_page.html.encode()) < _MOST_BYTES
    layers = [f"blocks.{i}.conv{j}.weight" for i in range(30) for j in (1, 2)]
    chosen = made.trials(
        made.METHODS, made.SPARSITIES, made.INTERVENTIONS, (0,), models=("resnet20", "vgg16-bn")
    )
    deep = report.study(made.findings([made.record(t, layers=layers) for t in chosen]))
    assert len(deep.html.encode()) < _MOST_BYTES
    assert "combinations of method and sparsity" in words_of(deep)


def test_the_same_findings_give_the_same_page_and_leave_the_random_streams(real: Findings) -> None:
    states = [torch.get_rng_state(), numpy.random.get_state()[1].copy(), random.getstate()]
    first, second = report.study(real), report.study(real)
    assert first.html == second.html
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == numpy.random.get_state()[1]).all()
    assert states[2] == random.getstate()
