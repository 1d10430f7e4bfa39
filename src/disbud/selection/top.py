"""Exactly the highest scores over many layers, without gathering or sorting them all.

The k-th highest value is found by narrowing an interval that holds it: a sample of the scores in the interval gives
a narrower one, and one sweep says whether the value is inside and collects what is, to be ranked outright if it is
little. The result does not depend on the sample, only the number of sweeps does; mostly there is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from disbud.errors import DisbudError
from disbud.selection import flags

_CHUNK = 1 << 17  # scores looked at in one go: they and all temporaries stay in cache, and small next to the scores
_RANKED = 1 << 20  # so many scores are ranked outright
_SAMPLE = 1 << 14


def keep_highest(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks that keep exactly the `count` highest scores over all tensors; of equal ones the first by position.

    >>> import torch
    >>> keep_highest({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([1.0, 2.0])}, 3)
    {'a': tensor([True, True]), 'b': tensor([False,  True])}
    """
    flat = _flattened(scores)
    total = sum(part.numel() for part in flat.values())
    if not 0 <= count <= total:
        raise DisbudError(f"cannot keep {count} of {total} scores")
    if count in (0, total):
        _sweep(flat, 0.0, 0.0)  # scores that cannot be ranked are an error whatever is asked of them
        return {name: torch.full_like(part, count > 0, dtype=torch.bool) for name, part in scores.items()}
    threshold, ties = _kth_highest(flat, count)
    masks = {}
    for name, part in flat.items():
        mask = torch.empty_like(part, dtype=torch.bool)
        for chunk, chosen in zip(part.split(_CHUNK), mask.split(_CHUNK), strict=True):
            chosen.copy_(flags.above(chunk, threshold))
            if ties:
                ties -= _keep_first(chosen, chunk, threshold, ties)
        masks[name] = mask.view(scores[name].shape)
    return masks


def keep_lowest(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks that keep exactly the `count` lowest scores; scores of zero are set apart and kept only when all else is.

    A zero score often means "no signal here" (a dead unit, an unused branch), which is not the low end of a ranking.

    >>> import torch
    >>> keep_lowest({"a": torch.tensor([0.0, 3.0, 1.0, 2.0])}, 2)
    {'a': tensor([False, False,  True,  True])}
    """
    nonzero = {name: part != 0 for name, part in scores.items()}
    ranked = {name: -part[nonzero[name]] for name, part in scores.items()}
    available = sum(part.numel() for part in ranked.values())
    total = sum(part.numel() for part in scores.values())
    if not 0 <= count <= total:
        raise DisbudError(f"cannot keep {count} of {total} scores")
    chosen = keep_highest(ranked, min(count, available))
    missing = count - min(count, available)
    masks = {}
    for name, among in nonzero.items():
        mask = torch.zeros_like(among).masked_scatter_(among, chosen[name])
        if missing:
            missing -= _keep_first(mask.view(-1), among.reshape(-1), False, missing)
        masks[name] = mask
    return masks


def _flattened(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    flat = {name: part.detach().reshape(-1) for name, part in scores.items()}
    odd = next((name for name, part in flat.items() if not part.is_floating_point()), None)
    if odd is not None:
        raise DisbudError(f"the scores of {odd} must be floating-point numbers, not {flat[odd].dtype}")
    dtypes = {part.dtype for part in flat.values()}
    if len(dtypes) > 1:
        widest = torch.float64 if torch.float64 in dtypes else torch.float32
        flat = {name: part.to(widest) for name, part in flat.items()}
    return flat


def _kth_highest(flat: Mapping[str, Tensor], count: int) -> tuple[float, int]:
    """The value of rank `count` from the top, and how many entries equal to it are among the `count` highest."""
    parts = list(flat.values())
    inside = total = sum(part.numel() for part in parts)
    low, high = -math.inf, math.inf  # the interval that holds the value,
    above = below = 0  # and how many entries lie outside on either side
    poor_cut = False
    while True:
        a, b = low, high
        if inside > _RANKED // 4:
            sample = _sample(parts, low, high, inside)
            rank = (1 - (count - above) / inside) * len(sample)
            # An interval around the expected rank cuts deepest, a single pivot always cuts, also among equal scores.
            slack = 0.0 if poor_cut else 3 * math.sqrt(len(sample))
            a = float(sample[min(len(sample) - 1, max(0, math.floor(rank - slack)))])
            b = float(sample[min(len(sample) - 1, max(0, math.floor(rank + slack)))])
        swept = _sweep(flat, a, b)
        if count <= swept.above:
            low, below = _next(b, math.inf, parts[0].dtype), total - swept.above
        elif count > total - swept.below:
            high, above = _next(a, -math.inf, parts[0].dtype), total - swept.below
        else:
            low, high, above, below = a, b, swept.above, swept.below
            if swept.inside is not None:
                break
        low, high = max(low, swept.least), min(high, swept.most)
        if low >= high:
            return low, count - above
        poor_cut = total - above - below > inside / 2
        inside = total - above - below
    pool = swept.inside
    threshold = flags.ranked(pool, len(pool) - (count - above))
    return threshold, count - above - flags.count(flags.above(pool, threshold))


class _Swept(NamedTuple):
    """How many entries lie above and below an interval, the entries inside it if they are few, and the extremes."""

    above: int
    below: int
    inside: Tensor | None
    least: float
    most: float


def _sweep(flat: Mapping[str, Tensor], low: float, high: float) -> _Swept:
    """One look at all scores; NaN and infinity are errors that name the layer."""
    above = below = found = 0
    least, most = math.inf, -math.inf
    inside: list[Tensor] = []
    for name, part in flat.items():
        for chunk in part.split(_CHUNK):
            if not chunk.numel():
                continue
            extremes = [float(extreme) for extreme in torch.aminmax(chunk)]
            if not all(map(math.isfinite, extremes)):
                raise _not_finite(name, extremes)
            least, most = min(least, extremes[0]), max(most, extremes[1])
            over, under = flags.above(chunk, high), flags.below(chunk, low)
            outside = flags.count(over), flags.count(under)
            above, below = above + outside[0], below + outside[1]
            found += chunk.numel() - sum(outside)
            if found <= _RANKED:
                inside.append(flags.pick(chunk, ~(over | under)))
    pool = None if found > _RANKED else torch.cat(inside) if inside else torch.empty(0)
    return _Swept(above, below, pool, least, most)


def _not_finite(name: str, extremes: list[float]) -> DisbudError:
    kind = "NaN" if any(map(math.isnan, extremes)) else "infinite"
    return DisbudError(
        f"the scores of {name} hold {kind} values, so they cannot be ranked; likely causes are weights or inputs "
        "that are not finite, a loss that overflows, or half precision (score in float32)"
    )


def _gathered(parts: list[Tensor], low: float, high: float) -> Tensor:
    return torch.cat([_between(chunk, low, high) for part in parts for chunk in part.split(_CHUNK)])


def _between(values: Tensor, low: float, high: float) -> Tensor:
    return flags.pick(values, ~(flags.below(values, low) | flags.above(values, high)))


def _sample(parts: list[Tensor], low: float, high: float, inside: int) -> Tensor:
    """Some entries of [low, high], sorted: evenly spaced ones, or all where few of the spaced ones lie inside."""
    stride = max(1, inside // _SAMPLE) | 1  # odd, so that it does not step in time with the shapes of layers
    spaced = _between(torch.cat([part[::stride] for part in parts]), low, high)
    if len(spaced) * 8 < _SAMPLE:
        spaced = _gathered(parts, low, high)[::stride]
    return flags.ascending(spaced)


def _next(value: float, towards: float, dtype: torch.dtype) -> float:
    return float(torch.nextafter(torch.tensor(value, dtype=dtype), torch.tensor(towards, dtype=dtype)))


def _keep_first(mask: Tensor, part: Tensor, value: float | bool, most: int) -> int:
    """Set the mask at the first `most` entries equal to `value`; says how many there were."""
    found = flags.equal(part, value)
    if not flags.count(found):
        return 0
    equal = flags.places(found)[:most]
    mask[equal] = True
    return len(equal)
