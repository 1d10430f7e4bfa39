"""Many claims together: Holm over all of them, and seeds added only where one is undecided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from disbud.claims.holm import ALPHA, holm
from disbud.claims.rules import Verdict
from disbud.claims.sequential import Looks
from disbud.claims.verdicts import Decided


@dataclass(frozen=True)
class Corrected:
    """One claim of many: its verdict after Holm, its adjusted p-values, and the result before.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2), (0.02, 0.021, 0.018))
    >>> result = claims.judge(claims.Beats("a", "b"), pairs, margin=claims.Margin(0.01))
    >>> print(claims.corrected({"one": result})["one"])
    supported, p 0.002 after Holm over all claims
    """

    verdict: Verdict
    p_supported: float
    p_contradicted: float
    before: Decided

    @property
    def further(self) -> int | None:
        """The seeds more that the claim by itself would need."""
        return self.before.further

    def __str__(self) -> str:
        if self.verdict is self.before.verdict and self.verdict not in (
            Verdict.SUPPORTED,
            Verdict.CONTRADICTED,
        ):
            return str(self.verdict)
        p = self.p_contradicted if self.before.verdict is Verdict.CONTRADICTED else self.p_supported
        was = "" if self.verdict is self.before.verdict else f" (by itself {self.before.verdict})"
        return f"{self.verdict}{was}, p {p:.3g} after Holm over all claims"


def corrected(results: Mapping[str, Decided]) -> dict[str, Corrected]:
    """Holm over many claims: with 5 % chance at most is any of them supported wrongly, and the same for contradicted.

    A claim keeps its verdict only where its adjusted p-value is at most .05; else it is undecided.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2), (0.02, 0.021, 0.011))
    >>> result = claims.judge(claims.Beats("a", "b"), pairs, margin=claims.Margin(0.01))
    >>> both = claims.corrected({"a over b": result, "once more": result})
    >>> print(both["a over b"])
    undecided (by itself supported), p 0.0641 after Holm over all claims
    """
    in_favour = holm([r.p_supported for r in results.values()])
    against = holm([r.p_contradicted for r in results.values()])
    found = {}
    for (name, result), p_for, p_against in zip(results.items(), in_favour, against, strict=True):
        p = {Verdict.SUPPORTED: p_for, Verdict.CONTRADICTED: p_against}.get(result.verdict, 0.0)
        found[name] = Corrected(result.verdict if p <= ALPHA else Verdict.UNDECIDED, p_for, p_against, result)
    return found


def until_decided(
    names: Sequence[str], result_with: Callable[[str, int], Decided], *, looks: Looks | None = None
) -> dict[str, Corrected]:
    """Look after look, add seeds to those claims only that are undecided after Holm, to the last look at most.

    `result_with(name, n)` runs what is missing up to n seeds, and judges them with the same looks. A claim decided by
    itself but not after Holm goes on too: its p-value is valid at any stop, and may still grow sharper.

    >>> from disbud import claims
    >>> looks = claims.Looks()
    >>> def result_with(name: str, n: int) -> claims.Judgement:
    ...     gains = [0.02 + 0.001 * (seed % 3) for seed in range(n)]
    ...     pairs = claims.Pairs(tuple(range(n)), tuple(gains))
    ...     return claims.judge(claims.Beats(name, "snip"), pairs, margin=claims.Margin(0.005), looks=looks)
    >>> print(claims.until_decided(["npb"], result_with, looks=looks)["npb"].before)
    npb beats snip: difference +2.1 points, 95 % repeated interval 1.9 to 2.2, margin 0.5: supported (5 seeds)
    """
    results: dict[str, Decided] = {}
    after: dict[str, Corrected] = {}
    for look in (looks or Looks()).seeds:
        undecided = [name for name in names if name not in after or after[name].verdict is Verdict.UNDECIDED]
        if not undecided:
            break
        results |= {name: result_with(name, look) for name in undecided}
        after = corrected(results)
    return after
