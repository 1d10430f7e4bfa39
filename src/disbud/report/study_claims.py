"""The claims of a study on its page: the verdicts in a row at the top, and each claim with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from disbud.claims import Verdict
from disbud.report.forest import forest
from disbud.report.markup import Html, escaped, joined, tag
from disbud.report.page import Section
from disbud.report.study_units import by_axis
from disbud.report.words import counted, sentence, unbroken

if TYPE_CHECKING:
    from disbud.study.findings import Decision

_SIGNS = {
    Verdict.SUPPORTED: "\u2713",
    Verdict.CONTRADICTED: "\u2717",
    Verdict.UNDECIDED: "?",
    Verdict.UNINFORMATIVE: "\u2013",
}
_REACHABLE = 100  # seeds that somebody might still run
_UNTESTED, _UNTESTED_SIGN = "not testable here", "\u2013"
_WANTED = {
    "for all": "Supported only if every cell is; one contradicted cell contradicts it.",
    "there is": "Supported if one cell is; contradicted only if all are.",
}


def verdicts(decisions: Sequence[Decision]) -> Html:
    """The outcome in one sentence, and under it each claim with its verdict and a link to its evidence."""
    if not decisions:
        return Html()
    items = [
        tag(
            "li",
            _badge(d),
            " ",
            tag("span", tag("a", unbroken(d.says), href=f"#claim-{i}"), _cells_of(d)),
            class_=_kind(d),
        )
        for i, d in enumerate(decisions, start=1)
    ]
    return joined([tag("p", _tally(decisions), class_="outcome"), tag("ul", *items, class_="verdicts")])


def _cells_of(decision: Decision) -> Html:
    """How the cells of a claim stand, where there are several: an open claim may be open in one of them only."""
    tally = decision.words.partition(";")[0]
    return joined([" ", tag("small", tally)]) if len(decision.cells) > 1 else Html()


def claims(decisions: Sequence[Decision]) -> Section:
    """Each claim, its verdict, and the cells that it rests on."""
    lead = sentence(
        "Each row is a cell of the evidence: an estimate with its interval, which goes on where it has an arrow. "
        "Differences are paired by seed; their band is the margin within which a difference does not matter, their "
        "line is zero. Full circles support the claim, diamonds contradict it, open circles leave it open. The verdict "
        "on the whole is corrected for the number of claims, so a claim can stay open although a cell is not.",
    )
    return Section("Claims", [lead], [_claim(d, i) for i, d in enumerate(decisions, start=1)])


def _claim(decision: Decision, place: int) -> Html:
    cells = decision.cells
    plots = [forest(rows, axis) for axis, rows in by_axis(cells).items()]
    words = [tag("li", *([tag("b", cell.name), ": "] if cell.name else []), cell.words) for cell in cells]
    notes = [_WANTED.get(decision.wanted, "") if len(cells) > 1 else "", _evidence(decision)]
    return tag(
        "article",
        tag("p", _badge(decision), class_="verdict"),
        tag("h3", decision.says),
        tag("p", decision.words),
        *plots,
        tag("p", " ".join(note for note in notes if note), class_="aside") if any(notes) else "",
        tag("details", tag("summary", "The same in sentences"), tag("ul", *words)) if words else "",
        class_=f"claim {_kind(decision)}",
        id=f"claim-{place}",
    )


def _evidence(decision: Decision) -> str:
    parts = [f"Claim {decision.name}"]
    if decision.source:
        parts.append(decision.source)
    if decision.p is not None:
        parts.append("p < 0.0001" if decision.p < 1e-4 else f"p = {decision.p:.2g}")
    return ", ".join(parts) + "."


def _badge(decision: Decision) -> Html:
    sign = _UNTESTED_SIGN if decision.verdict is None else _SIGNS[decision.verdict]
    said = _UNTESTED if decision.verdict is None else decision.verdict.value
    further = max((c.further for c in decision.cells if c.further is not None), default=None)
    if decision.verdict is Verdict.UNDECIDED and further:
        said += f", about {counted(further, 'seed')} more" if further <= _REACHABLE else ", and far from it"
    return tag("span", tag("i", sign, aria_hidden="true"), " ", said, class_="badge")


def _kind(decision: Decision) -> str:
    return "untested" if decision.verdict is None else decision.verdict.value


def _tally(decisions: Sequence[Decision]) -> Html:
    """So many of so many are supported, and so on, in bold what is most."""
    counts = {verdict: sum(d.verdict is verdict for d in decisions) for verdict in Verdict}
    parts = [f"{count:,} {verdict.value}" for verdict, count in counts.items() if count]
    untested = sum(d.verdict is None for d in decisions)
    parts += [f"{untested:,} {_UNTESTED}"] if untested else []
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return joined([escaped(f"Of {counted(len(decisions), 'claim')}: "), tag("b", listed), "."])
