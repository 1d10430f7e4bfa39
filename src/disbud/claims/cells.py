"""Claims over many cells (sparsities, methods, data sets): for all of them, or there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from disbud.claims.holm import ALPHA, holm
from disbud.claims.rules import Verdict
from disbud.claims.verdicts import Decided
from disbud.errors import DisbudError


@dataclass(frozen=True)
class Cells:
    """The verdict on a claim over cells, the p-values it rests on, and each cell's own result; prints one line a cell.

    `undecided` names the cells in which more seeds could change it.

    >>> from disbud import claims
    >>> gains = {"75 %": (0.02, 0.021, 0.019), "90 %": (0.01, 0, 0.02)}
    >>> claim, margin = claims.Beats("npb", "snip"), claims.Margin(0.005)
    >>> result = claims.for_all(
    ...     {cell: claims.judge(claim, claims.Pairs((0, 1, 2), d), margin=margin) for cell, d in gains.items()}
    ... )
    >>> result.verdict, result.undecided
    (<Verdict.UNDECIDED: 'undecided'>, ('90 %',))
    >>> print(str(result).splitlines()[0])
    for all of 2 cells: undecided (supported in 1, undecided in 1)
    """

    quantifier: Literal["for all", "there is"]
    verdict: Verdict
    p_supported: float
    p_contradicted: float
    results: Mapping[str, Decided]
    undecided: tuple[str, ...]

    @property
    def further(self) -> int | None:
        """The most seeds that any undecided cell needs; None where none of them can say."""
        needs = [self.results[name].further for name in self.undecided]
        return max((need for need in needs if need is not None), default=None)

    def __str__(self) -> str:
        tally = {verdict: sum(r.verdict is verdict for r in self.results.values()) for verdict in Verdict}
        counts = ", ".join(f"{verdict} in {count}" for verdict, count in tally.items() if count)
        which = "for all of" if self.quantifier == "for all" else "there is one among"
        lines = [
            f"{which} {len(self.results)} cell{'s' if len(self.results) > 1 else ''}: {self.verdict} ({counts})"
        ]
        return "\n".join(lines + [f"  {name}: {result}" for name, result in self.results.items()])


def for_all(results: Mapping[str, Decided]) -> Cells:
    """Supported only if every cell is; contradicted if any is, after Holm's correction over the cells.

    That every cell is supported needs no correction (an intersection-union test, Berger 1982): any false cell would
    have to err. An uninformative cell forbids "supported", and where nothing else is open the whole is uninformative.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2), (0, 0.001, 0.002))
    >>> near = claims.judge(claims.AtLeast("a", "b"), pairs, margin=claims.Margin(0.01))
    >>> claims.for_all({"90 %": near, "98 %": near}).verdict
    <Verdict.SUPPORTED: 'supported'>
    """
    _check(results)
    against = dict(zip(results, holm([r.p_contradicted for r in results.values()]), strict=True))
    p_supported = max(r.p_supported for r in results.values())
    verdict = _combined(results, Verdict.SUPPORTED, Verdict.CONTRADICTED, against)
    still = _open(verdict, results, Verdict.CONTRADICTED)
    return Cells("for all", verdict, p_supported, min(against.values()), dict(results), still)


def there_is(results: Mapping[str, Decided]) -> Cells:
    """The reverse of `for_all`: supported if any cell is, after Holm; contradicted only if every cell is.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2, 3), (0.02, 0.021, 0.019, 0.02))
    >>> ahead = claims.judge(claims.Beats("a", "b"), pairs, margin=claims.Margin(0.01))
    >>> behind = claims.judge(claims.Beats("b", "a"), pairs.reversed(), margin=claims.Margin(0.01))
    >>> claims.there_is({"90 %": ahead, "98 %": behind}).verdict
    <Verdict.SUPPORTED: 'supported'>
    """
    _check(results)
    in_favour = dict(zip(results, holm([r.p_supported for r in results.values()]), strict=True))
    p_contradicted = max(r.p_contradicted for r in results.values())
    verdict = _combined(results, Verdict.CONTRADICTED, Verdict.SUPPORTED, in_favour)
    still = _open(verdict, results, Verdict.SUPPORTED)
    return Cells("there is", verdict, min(in_favour.values()), p_contradicted, dict(results), still)


def _combined(
    results: Mapping[str, Decided], every: Verdict, anyone: Verdict, p_anyone: Mapping[str, float]
) -> Verdict:
    """`every` where all cells say so; `anyone` where one does, after correction."""
    if any(r.verdict is anyone and p_anyone[name] <= ALPHA for name, r in results.items()):
        return anyone
    found = {r.verdict for r in results.values()}
    if found == {every}:
        return every
    return Verdict.UNINFORMATIVE if found <= {every, Verdict.UNINFORMATIVE} else Verdict.UNDECIDED


def _open(verdict: Verdict, results: Mapping[str, Decided], anyone: Verdict) -> tuple[str, ...]:
    """The cells in which more seeds could decide the whole: the undecided, and those that Holm holds back."""
    if verdict is not Verdict.UNDECIDED:
        return ()
    return tuple(name for name, r in results.items() if r.verdict in (Verdict.UNDECIDED, anyone))


def _check(results: Mapping[str, Decided]) -> None:
    if not results:
        raise DisbudError(
            "a claim over cells needs at least one cell, as for_all({'98 %': judgement}); none was given"
        )
