"""From outcomes to verdicts, check by check, and to a sentence on what the method took from its data."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from disbud.claims import AtLeast, Cells, Judgement, Looks, Margin, Verdict, judge, paired, positive_controls
from disbud.measures import overlap
from disbud.measures.table import Table, Value
from disbud.origin import Json
from disbud.sanity.checks import ALTERED, AS_IT_IS, RANDOM, Check
from disbud.study import Outcome, Trial


@dataclass(frozen=True)
class Row:
    """One comparison with the ticket as it is: accuracies over the seeds, and the judgement on "at least as good".

    `iou` is the overlap with the ticket as it is, `chance` that of random tickets of the same layer densities,
    `density_distance` how far the layers' densities lie apart; None where it is not the method's own ticket.
    """

    check: str
    accuracies: tuple[float, ...]
    judgement: Judgement
    iou: float | None = None
    chance: float | None = None
    density_distance: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Supported: no worse than the ticket as it is. Contradicted: markedly worse."""
        return self.judgement.verdict

    @property
    def outcome(self) -> str:
        """ "pass" where altering hurts, "fail" where it does not; "undecided", "uninformative"."""
        return {Verdict.SUPPORTED: "fail", Verdict.CONTRADICTED: "pass"}.get(self.verdict, str(self.verdict))


@dataclass(frozen=True)
class SanityCheck:
    """What came of a sanity check; `print` shows it. `rows` are the altered tickets, then random ones."""

    trial: Trial
    margin: Margin
    controls: Cells
    accuracies: Mapping[str, tuple[float, ...]]
    rows: tuple[Row, ...]

    @property
    def seeds(self) -> int:
        """How many seeds were run."""
        return len(self.accuracies[AS_IT_IS])

    def __getitem__(self, check: str) -> Row:
        """The row of a check."""
        return next(row for row in self.rows if row.check == check)

    @property
    def words(self) -> str:
        """What the method took from its data, in plain words."""
        words = _words(self.trial.method, self.rows)
        if self.controls.verdict is Verdict.UNDECIDED:
            words.append("whether this setting can show a difference at all is not decided yet either")
        return "; ".join(words) + "."

    def table(self) -> Table:
        """A row a check, with its interval and its overlap."""
        return Table.of((_cells(row, self.accuracies[AS_IT_IS]) for row in self.rows), {"seeds": self.seeds})

    def to_json(self) -> dict[str, Json]:
        """Everything as plain JSON values."""
        return {
            "trial": self.trial.described(),
            "margin": self.margin.value,
            "seeds": self.seeds,
            "accuracies": {name: list(values) for name, values in self.accuracies.items()},
            "checks": [
                {
                    **_cells(row, self.accuracies[AS_IT_IS]),
                    "said": str(row.judgement),
                    "further_seeds": row.judgement.further,
                }
                for row in self.rows
            ],
            "words": self.words,
        }

    def __str__(self) -> str:
        said = [f"{row.check}: {row.judgement}" for row in self.rows]
        return "\n".join([str(self.trial), str(self.margin), str(self.table()), *said, self.words])


def summed_up(
    base: Trial,
    checks: Sequence[Check],
    outcomes: Mapping[str, Mapping[int, Outcome]],
    margin: Margin,
    looks: Looks | None,
    *,
    chance: float,
) -> SanityCheck:
    """Judge every check on the seeds that were run."""
    accuracy = {name: {seed: one.accuracy for seed, one in runs.items()} for name, runs in outcomes.items()}
    gap = paired(
        accuracy["dense"], accuracy["uniform random"], diverged=chance, names=("dense", "uniform random")
    )
    controls = positive_controls({"uniform random": gap}, margin=margin, looks=looks, better="dense")
    rows = []
    for check in checks:
        if check not in (*ALTERED, *RANDOM):
            continue
        pairs = paired(
            accuracy[check.name], accuracy[AS_IT_IS], diverged=chance, names=(check.name, AS_IT_IS)
        )
        judgement = judge(
            AtLeast(check.name, base.method), pairs, margin=margin, looks=looks, controls=controls
        )
        shared = (
            _overlaps(outcomes[AS_IT_IS], outcomes[check.name]) if check in ALTERED else (None, None, None)
        )
        rows.append(Row(check.name, tuple(accuracy[check.name].values()), judgement, *shared))
    return SanityCheck(
        base, margin, controls, {name: tuple(runs.values()) for name, runs in accuracy.items()}, tuple(rows)
    )


def _overlaps(
    one: Mapping[int, Outcome], other: Mapping[int, Outcome]
) -> tuple[float | None, float | None, float | None]:
    found = [
        overlap(a.ticket, b.ticket)
        for a, b in zip(one.values(), other.values(), strict=True)
        if a.ticket is not None and b.ticket is not None
    ]
    columns = ([getattr(table, name) for table in found] for name in ("iou", "chance", "density_distance"))
    iou, chance, distance = (
        statistics.fmean(values) if values and None not in values else None for values in columns
    )
    return iou, chance, distance


def _cells(row: Row, as_it_is: Sequence[float]) -> dict[str, Value]:
    interval = row.judgement.interval
    return {
        "check": row.check,
        "accuracy": statistics.fmean(row.accuracies),
        "as it is": statistics.fmean(as_it_is),
        "difference": row.judgement.estimate,
        "low": interval.low,
        "high": interval.high,
        "outcome": row.outcome,
        "iou": row.iou,
        "chance": row.chance,
        "density_distance": row.density_distance,
    }


def _words(method: str, rows: Sequence[Row]) -> list[str]:
    """One clause for what was not needed, one for what was, one for random tickets, one for what is open."""
    takes = {check.name: check.takes for check in ALTERED}
    by = {
        verdict: [row for row in rows if row.verdict is verdict and row.check in takes] for verdict in Verdict
    }
    words = []
    if by[Verdict.SUPPORTED]:
        words.append(f"{method} does not need {_listed([takes[row.check] for row in by[Verdict.SUPPORTED]])}")
    if by[Verdict.CONTRADICTED]:
        words.append(f"{method} needs {_listed([takes[row.check] for row in by[Verdict.CONTRADICTED]])}")
    random = [row for row in rows if row.check in {check.name for check in RANDOM}]
    for verdict, said in ((Verdict.SUPPORTED, "does as well"), (Verdict.CONTRADICTED, "does worse")):
        names = [f"a {row.check} ticket" for row in random if row.verdict is verdict]
        if names:
            words.append(f"{_listed(names)} {said if len(names) == 1 else said.replace('does', 'do')}")
    undecided = [row for row in rows if row.verdict is Verdict.UNDECIDED]
    if undecided:
        further = [row.judgement.further for row in undecided if row.judgement.further is not None]
        more = f" ({max(further)} more seeds would decide most)" if further else ""
        words.append(f"undecided: {_listed([row.check for row in undecided])}{more}")
    if any(row.verdict is Verdict.UNINFORMATIVE for row in rows):
        words.append(
            "this setting shows nothing: uniformly random tickets train as well as the dense network"
        )
    return words or ["nothing was found"]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
