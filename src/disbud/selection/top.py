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

_CHUNK = 1 << 18  # scores looked at in one go: they and all temporaries stay in cache
_RANKED = 1 << 18  # so many scores are ranked outright
_SAMPLE = 1 << 16


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
    masks = {name: torch.empty_like(part, dtype=torch.bool) for name, part in flat.items()}
    if 0 < count < total:
        _choose(flat, masks, count)
    else:
        _sweep(flat, masks, 0.0, 0.0)  # scores that cannot be ranked are an error whatever is asked of them
        for mask in masks.values():
            mask.fill_(count > 0)
    return {name: mask.view(scores[name].shape) for name, mask in masks.items()}


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
    masks = {
        name: torch.zeros_like(among, memory_format=torch.contiguous_format).masked_scatter_(
            among, chosen[name]
        )
        for name, among in nonzero.items()
    }
    _keep_first(_flattened(scores), {name: mask.view(-1) for name, mask in masks.items()}, 0.0, missing)
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


def _choose(flat: Mapping[str, Tensor], masks: Mapping[str, Tensor], count: int) -> None:
    """Set the masks where the `count` highest scores are."""
    parts = list(flat.values())
    inside = total = sum(part.numel() for part in parts)
    low, high = -math.inf, math.inf  # the interval that holds the value of rank `count`,
    above = below = 0  # and how many entries lie outside on either side
    poor_cut = False
    while True:
        a, b = low, high
        if inside > _RANKED:
            sample = _sample(parts, low, high, inside)
            rank = (1 - (count - above) / inside) * len(sample)
            # An interval around the expected rank cuts deepest, a single pivot always cuts, also among equal scores.
            slack = 0.0 if poor_cut else 3 * math.sqrt(len(sample))
            a, b = (
                float(sample[min(len(sample) - 1, max(0, math.floor(rank + d)))]) for d in (-slack, slack)
            )
        swept = _sweep(flat, masks, a, b)
        if count <= swept.above:
            low, below = _next(b, math.inf, parts[0].dtype), total - swept.above
        elif count > total - swept.below:
            high, above = _next(a, -math.inf, parts[0].dtype), total - swept.below
        elif a == b:
            return _keep_first(flat, masks, a, count - swept.above)
        elif swept.inside is not None:
            return _rank(swept.inside, count - swept.above)
        else:
            low, high, above, below = a, b, swept.above, swept.below
        low, high = max(low, swept.least), min(high, swept.most)
        poor_cut = total - above - below > inside / 2
        inside = total - above - below


class _Inside(NamedTuple):
    """Entries inside an interval: which part of a mask they are in, where there, and their values."""

    mask: Tensor
    places: Tensor
    values: Tensor


class _Swept(NamedTuple):
    """How many entries lie above and below an interval, those inside it if they are few, and the extremes."""

    above: int
    below: int
    inside: list[_Inside] | None
    least: float
    most: float


def _sweep(flat: Mapping[str, Tensor], masks: Mapping[str, Tensor], low: float, high: float) -> _Swept:
    """One look at all scores, which sets the masks where they lie above; NaN and infinity are errors."""
    above = below = found = 0
    least, most = math.inf, -math.inf
    inside: list[_Inside] = []
    for name, part in flat.items():
        for chunk, mask in zip(part.split(_CHUNK), masks[name].split(_CHUNK), strict=True):
            if not chunk.numel():
                continue
            extremes = [float(extreme) for extreme in torch.aminmax(chunk)]
            if not all(map(math.isfinite, extremes)):
                raise _not_finite(name, extremes)
            least, most = min(least, extremes[0]), max(most, extremes[1])
            over, under = flags.above(chunk, high), flags.below(chunk, low)
            mask.copy_(over)
            outside = flags.count(over), flags.count(under)
            above, below = above + outside[0], below + outside[1]
            found += chunk.numel() - sum(outside)
            if found <= 4 * _RANKED:
                places = flags.places(~(over | under))
                inside.append(_Inside(mask, places, chunk.index_select(0, places)))
    return _Swept(above, below, inside if found <= 4 * _RANKED else None, least, most)


def _rank(inside: list[_Inside], count: int) -> None:
    """Set the masks at the `count` highest of these entries."""
    pool = torch.cat([part.values for part in inside])
    threshold = flags.ranked(pool, len(pool) - count)
    chosen = flags.above(pool, threshold)
    ties = count - flags.count(chosen)
    chosen[flags.places(flags.equal(pool, threshold))[:ties]] = True
    for part, own in zip(inside, chosen.split([len(part.values) for part in inside]), strict=True):
        part.mask[flags.pick(part.places, own)] = True


def _keep_first(flat: Mapping[str, Tensor], masks: Mapping[str, Tensor], value: float, most: int) -> None:
    """Set the masks at the first `most` entries equal to the value."""
    for name, part in flat.items():
        for chunk, mask in zip(part.split(_CHUNK), masks[name].split(_CHUNK), strict=True):
            equal = flags.places(flags.equal(chunk, value))[:most]
            mask[equal] = True
            most -= len(equal)
            if not most:
                return


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
    here, there = (torch.tensor(x, dtype=dtype, device="cpu") for x in (value, towards))
    return float(torch.nextafter(here, there))
