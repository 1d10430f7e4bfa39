"""From outcomes to verdicts, check by check, and to a sentence on what the method took from its data."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from disbud.claims import (
    AtLeast,
    Cells,
    Judgement,
    Looks,
    Margin,
    Verdict,
    beats_guessing,
    judge,
    paired,
    positive_controls,
)
from disbud.measures import overlap
from disbud.measures.table import Table, Value
from disbud.origin import Json
from disbud.sanity.checks import ALTERED, AS_IT_IS, RANDOM, Check
from disbud.study import Outcome, Trial
from disbud.ticket import Ticket


@dataclass(frozen=True)
class Shared:
    """What two kinds of tickets share, the mean over seeds: intersection over union, and how far densities lie apart.

    `chance` is the overlap of random tickets of the same layer densities.
    """

    iou: float
    chance: float
    density_distance: float

    @staticmethod
    def between(pairs: Iterable[tuple[Ticket, Ticket]]) -> Shared | None:
        """Of each pair of tickets, one a seed; None where that is undefined, as for empty tickets."""
        found = [overlap(a, b) for a, b in pairs]
        columns = [
            [getattr(table, name) for table in found] for name in ("iou", "chance", "density_distance")
        ]
        if not found or any(None in values for values in columns):
            return None
        return Shared(*(statistics.fmean(values) for values in columns))


@dataclass(frozen=True)
class Row:
    """One comparison with the ticket as it is: accuracies over the seeds, and the judgement on "at least as good".

    `shared` is what its tickets share with those as they are; None where they are not the method's own.
    """

    check: str
    accuracies: tuple[float, ...]
    judgement: Judgement
    shared: Shared | None = None

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
    """What came of a sanity check; `print` shows it. `rows` are the altered tickets, then random ones.

    `redrawn` is what the tickets share with tickets from another batch of the same data: the most that is to be
    expected of tickets from corrupted data. None where pruning looks at no batch, or trains.
    """

    trial: Trial
    margin: Margin
    controls: Cells
    accuracies: Mapping[str, tuple[float, ...]]
    rows: tuple[Row, ...]
    redrawn: Shared | None = None

    chance: float = 0.0

    @property
    def seeds(self) -> int:
        """How many seeds were run."""
        return len(self.accuracies[AS_IT_IS])

    @property
    def trains(self) -> bool:
        """Whether the ticket as it is trains better than guessing, by more than the margin."""
        return beats_guessing(self.accuracies[AS_IT_IS], chance=self.chance, margin=self.margin)

    def __getitem__(self, check: str) -> Row:
        """The row of a check."""
        return next(row for row in self.rows if row.check == check)

    @property
    def words(self) -> str:
        """What the method took from its data, in plain words."""
        words = _words(self.trial.method, self.rows)
        if not self.trains:
            words.append(f"tickets of {self.trial.method} train no better than guessing here, altered or not")
        if self.controls.verdict is Verdict.UNDECIDED:
            words.append("whether this setting can show a difference at all is not decided yet either")
        return "; ".join(words or ["nothing was found"]) + "."

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
            "another_batch": None if self.redrawn is None else asdict(self.redrawn),
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
    redrawn: Mapping[int, Ticket] | None = None,
) -> SanityCheck:
    """Judge every check on the seeds that were run; `redrawn` are tickets from other batches, by seed."""
    accuracy = {name: {seed: one.accuracy for seed, one in runs.items()} for name, runs in outcomes.items()}
    gap = paired(
        accuracy["dense"], accuracy["uniform random"], diverged=chance, names=("dense", "uniform random")
    )
    controls = positive_controls({"uniform random": gap}, margin=margin, looks=looks, better="dense")
    trains = beats_guessing(accuracy[AS_IT_IS].values(), chance=chance, margin=margin)
    own = _tickets(outcomes[AS_IT_IS])
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
        if check in ALTERED and not trains:
            # What does not train cannot be made worse.
            judgement = judgement.uninformative("as it is, it trains no better than guessing")
        shared = _shared(own, _tickets(outcomes[check.name])) if check in ALTERED else None
        rows.append(Row(check.name, tuple(accuracy[check.name].values()), judgement, shared))
    accuracies = {name: tuple(runs.values()) for name, runs in accuracy.items()}
    again = _shared(own, redrawn) if redrawn else None
    return SanityCheck(base, margin, controls, accuracies, tuple(rows), again, chance)


def _tickets(outcomes: Mapping[int, Outcome]) -> dict[int, Ticket]:
    return {seed: outcome.ticket for seed, outcome in outcomes.items() if outcome.ticket is not None}


def _shared(one: Mapping[int, Ticket], other: Mapping[int, Ticket]) -> Shared | None:
    return Shared.between((one[seed], other[seed]) for seed in one if seed in other)


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
        "iou": None if row.shared is None else row.shared.iou,
        "chance": None if row.shared is None else row.shared.chance,
        "density_distance": None if row.shared is None else row.shared.density_distance,
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
        names = [f"{_article(row.check)} {row.check} ticket" for row in random if row.verdict is verdict]
        if names:
            words.append(f"{_listed(names)} {said if len(names) == 1 else said.replace('does', 'do')}")
    undecided = [row for row in rows if row.verdict is Verdict.UNDECIDED]
    if undecided:
        further = [row.judgement.further for row in undecided if row.judgement.further is not None]
        more = f" ({max(further)} more seeds would decide most)" if further else ""
        words.append(f"undecided: {_listed([row.check for row in undecided])}{more}")
    if any(row.verdict is Verdict.UNINFORMATIVE and row.check not in takes for row in rows):
        words.append(
            "this setting shows nothing: uniformly random tickets train as well as the dense network"
        )
    return words


def _article(name: str) -> str:
    return "an" if name.startswith("ERK") else "a"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
