"""What a study found: its trials, its claims with their verdicts, and what it takes to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from disbud.claims import Verdict
from disbud.origin import Json
from disbud.study.record import Record


@dataclass(frozen=True)
class Cell:
    """One piece of a claim's evidence, as one method at one sparsity: an estimate with its interval.

    `unit` "points" means that estimates are fractions, said in points; "plain", "sparsity", "correlation" and
    "correlations" (a difference of two) are shown as they are. Of a crossing a bound is None where it lies beyond what
    was tested. `margin` is that within which a difference does
    not matter; None where the claim needs none. `words` say the same in a sentence.

    >>> from disbud.claims import Verdict
    >>> from disbud.study import Cell
    >>> Cell("snip at 90 %", Verdict.SUPPORTED, "the same", estimate=0.001, low=-0.002, high=0.004).unit
    'points'
    """

    name: str
    verdict: Verdict
    words: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    margin: float | None = None
    unit: str = "points"
    seeds: int = 0
    further: int | None = None


@dataclass(frozen=True)
class Decision:
    """A claim and what became of it: the verdict after correction over all claims of the study, and its evidence.

    `verdict` None: it cannot be tested here, and `words` say why. `wanted` says what of the cells makes the whole:
    "for all", "there is", or "" where there is only one.

    >>> from disbud.study import Decision
    >>> Decision("4.4", "Rescaled networks train deeper", None, "`disbud theory region` draws it").verdict is None
    True
    """

    name: str
    says: str
    verdict: Verdict | None
    words: str
    source: str = ""
    wanted: str = ""
    cells: tuple[Cell, ...] = ()
    p: float | None = None


@dataclass(frozen=True)
class Findings:
    """All that a report of a study shows.

    `specification` is the study file as plain values, `text` the file itself, `command` what runs it again.

    >>> from disbud.study import Findings
    >>> Findings("Mine", "", (), (), {}, "", "disbud study run mine.toml").title
    'Mine'
    """

    title: str
    says: str
    records: tuple[Record, ...]
    decisions: tuple[Decision, ...]
    specification: Mapping[str, Json]
    text: str
    command: str
