"""The page of a study: its claims and their evidence, what was found by method and sparsity, and every trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from disbud.errors import DisbudError
from disbud.report.charts import check_installed
from disbud.report.page import Page, Section, page

if TYPE_CHECKING:
    from disbud.report.markup import Html
    from disbud.report.study_numbers import Overview
    from disbud.study.findings import Findings


def study(findings: Findings, *, tickets: Mapping[str, str] | None = None) -> Page:
    """A page to look at a study; `tickets` gives, by the identity of a trial, the relative link to its ticket's page.

    Only what there is data for is shown: a study without claims, without interventions or with a single trial has a
    page as well. The same findings give the same page.

    >>> from disbud import report
    >>> from disbud.study import Trial
    >>> from disbud.study.findings import Findings
    >>> from disbud.study.record import Record
    >>> trial = Trial("lenet-300-100", "digits", "digits:epochs=2", "snip", 0.9)
    >>> records = (Record(trial, trial.identity, accuracy=0.91, loss=0.3),)
    >>> page = report.study(Findings("A first look", "", records, (), {}, "", "disbud study run first.toml"))
    >>> "A first look" in page.html, len(page.html) < 3_000_000
    (True, True)
    """
    from disbud.report.study_numbers import Overview
    from disbud.report.study_trials import check_links
    from disbud.study.findings import Findings

    if not isinstance(findings, Findings):
        raise DisbudError(f"a study's page is made of Findings, not of a {type(findings).__name__}")
    check_links(tickets or {})
    check_installed()
    known = Overview(findings.records)
    return page(
        findings.title, "disbud · study", _head(findings, known), _sections(findings, known, tickets or {})
    )


def _head(findings: Findings, known: Overview) -> list[Html]:
    from disbud.report.markup import tag
    from disbud.report.study_claims import verdicts
    from disbud.report.study_settings import notices
    from disbud.report.tables import tiles

    failed = f"{len(known.failed):,} failed" if known.failed else "none failed"
    numbers = {
        "trials": (f"{len(known.records):,}", failed),
        "methods": (
            f"{len(known.methods):,}",
            "and the dense network" if known.dense else "no dense network",
        ),
        "sparsities": (f"{len(known.sparsities):,}", _range(known)),
        "seeds": (
            f"{len(known.seeds):,}",
            f"in {len(known.settings):,} setting{'s' if len(known.settings) != 1 else ''}",
        ),
    }
    says = [tag("p", findings.says, class_="says")] if findings.says else []
    return [*says, *notices(known), verdicts(findings.decisions), tiles(numbers)]


def _range(known: Overview) -> str:
    from disbud.report.words import percent

    if not known.sparsities:
        return "nothing was pruned"
    low, high = percent(known.sparsities[0], most=4), percent(known.sparsities[-1], most=4)
    return low if low == high else f"{low} to {high}"


def _sections(findings: Findings, known: Overview, tickets: Mapping[str, str]) -> list[Section]:
    from disbud.report import (
        study_accuracy,
        study_claims,
        study_cost,
        study_curves,
        study_paths,
        study_settings,
        study_trials,
        study_weights,
    )
    from disbud.report.looks import looks

    found = looks(known.methods)
    sections = []
    if findings.decisions:
        sections.append(study_claims.claims(findings.decisions))
    if known.plain:
        sections.append(study_accuracy.accuracy(known, found))
    if known.differences:
        sections.append(study_accuracy.interventions(known, found))
    if study_weights.has_weights(known):
        sections.append(study_weights.weights(known))
    if study_paths.has_paths(known):
        sections.append(study_paths.plane(known, found))
    if study_paths.has_layers(known):
        sections.append(study_paths.densities(known, found))
    if study_curves.has_curves(known):
        sections.append(study_curves.curves(known, found))
    if known.charted:
        sections.append(study_cost.cost(known, found))
    if known.records:
        sections.append(study_trials.trials(known, tickets))
    return [*sections, study_settings.settings(findings, known)]
