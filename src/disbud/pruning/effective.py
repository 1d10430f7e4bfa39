"""Pruning to an effective sparsity: more is kept until as many weights are on a path as were asked for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import nn

from disbud.errors import DisbudError
from disbud.graph import Layer, reach
from disbud.isolation import Example
from disbud.methods.catalogue import Method
from disbud.pruning.plan import Plan
from disbud.pruning.rounds import most_kept
from disbud.pruning.scored import Made
from disbud.selection import kept_count
from disbud.selection.groups import Granularity
from disbud.selection.names import check_name
from disbud.ticket import Ticket

COUNTS = ("kept", "effective")
_MOST = 16  # prunings
_NEAR, _FAR = (
    0.001,
    0.05,
)  # of the weights asked for, the distance at which the search ends, and one that is said


def check_count(count: str, entry: Method, batches: Iterable[object] | None, granularity: str) -> None:
    """Raise where effective weights cannot be counted out."""
    check_name("way to count called", count, COUNTS)
    if count == "kept":
        return
    if Granularity.of(granularity).kind == "n:m":
        raise DisbudError(
            f"granularity={granularity!r} has one sparsity, so no more can be kept until enough weights are on a path: "
            "leave out count='effective', or the granularity"
        )
    if entry.trains:
        raise DisbudError(
            f"{entry.name} trains at every level, so it takes no count='effective'; leave that out"
        )
    if isinstance(batches, Iterator):
        raise DisbudError(
            "count='effective' prunes several times: give batches that can be gone over again, as a list"
        )


def at_effective(
    make: Callable[[float], Made],
    plan: Plan,
    model: nn.Module,
    layers: Sequence[Layer],
    sparsity: float | None,
    example: Example | None,
) -> Made:
    """What `make` gives at the sparsity that leaves as many effective weights as `sparsity` asks for.

    The number kept is found by false position between what leaves too few and what leaves enough; the nearest is taken.
    """
    if sparsity is None or example is None:
        missing = "a sparsity" if sparsity is None else "an example, as in example=torch.zeros(1, 3, 32, 32)"
        raise DisbudError(f"count='effective' follows paths to a number of weights on them: give {missing}")

    def tried(kept: int) -> tuple[int, Made]:
        made = make(1 - kept / total)
        effective = reach(model, Ticket(made.masks), example=example).effective
        return sum(int(effective[name].sum()) for name in made.masks), made

    total = sum(layer.size for layer in layers)
    wanted = kept_count(sparsity, total)
    most = most_kept(plan, layers, above=wanted)
    low, high = (0, 0), (most, most)  # kept, and effective of them: too few, and enough
    kept, distance = wanted, math.inf
    for _ in range(_MOST):
        effective, made = tried(kept)
        if abs(effective - wanted) < distance:
            best, distance = made, abs(effective - wanted)
        if distance <= max(1, _NEAR * wanted):
            break
        low, high = ((kept, effective), high) if effective < wanted else (low, (kept, effective))
        if high[0] - low[0] <= 1:
            break
        kept = _between(low, high, wanted)
    if distance > max(1, _FAR * wanted):
        warnings.warn(
            f"{wanted:,} weights on a path were asked for, and the nearest found is {distance:,.0f} off: what this "
            "method keeps leaps there",
            stacklevel=3,
        )
    return best._replace(settings={**best.settings, "count": "effective"})


def _between(low: tuple[int, int], high: tuple[int, int], wanted: int) -> int:
    """Where a line through both ends meets what is wanted, a twentieth away from either end at least."""
    share = (wanted - low[1]) / max(1, high[1] - low[1])
    if (
        high[0] == high[1]
    ):  # nothing has been found that is enough: the ratio so far holds better than the line to all
        share = (low[0] * wanted / max(1, low[1]) - low[0]) / (high[0] - low[0]) if low[1] else 0.1
    kept = low[0] + round(min(0.95, max(0.05, share)) * (high[0] - low[0]))
    return min(high[0] - 1, max(low[0] + 1, kept))
