"""Exactly the highest scores over many layers, without gathering or sorting them all.

The k-th highest value is found by narrowing an interval that holds it: a sample of the scores in the interval gives
a narrower one, a counting pass says whether the value is inside, and once few scores are left they are ranked
outright. The result does not depend on the sample, only the number of passes does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from disbud.errors import DisbudError
from disbud.selection import flags

_CHUNK = 1 << 20  # scores looked at in one go: temporaries stay in cache and small next to the scores
_RANKED = 1 << 18  # so many scores are ranked outright
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
    low, high = _bounds(flat)
    if count == 0 or count == total:
        return {name: torch.full_like(part, count > 0, dtype=torch.bool) for name, part in scores.items()}
    threshold, ties = _kth_highest(list(flat.values()), count, low, high)
    masks = {}
    for name, part in flat.items():
        mask = flags.above(part, threshold)
        if ties:
            ties -= _keep_first(mask, part, threshold, ties)
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


def _bounds(flat: Mapping[str, Tensor]) -> tuple[float, float]:
    """The lowest and highest score; NaN and infinity are errors that name the layer."""
    low, high = math.inf, -math.inf
    for name, part in flat.items():
        if not part.numel():
            continue
        least, most = (float(bound) for bound in torch.aminmax(part))
        if not (math.isfinite(least) and math.isfinite(most)):
            kind = "NaN" if math.isnan(least) or math.isnan(most) else "infinite"
            raise DisbudError(
                f"the scores of {name} hold {kind} values, so they cannot be ranked; likely causes are "
                "weights or inputs that are not finite, a loss that overflows, or half precision (score in float32)"
            )
        low, high = min(low, least), max(high, most)
    return low, high


def _kth_highest(parts: list[Tensor], count: int, low: float, high: float) -> tuple[float, int]:
    """The value of rank `count` from the top, and how many entries equal to it are among the `count` highest."""
    total = sum(part.numel() for part in parts)
    above = below = 0  # how many entries lie outside [low, high], which holds the value
    poor_cut = False
    while low < high and (inside := total - above - below) > _RANKED:
        sample = _sample(parts, low, high, inside)
        rank = (1 - (count - above) / inside) * len(sample)
        # An interval around the expected rank cuts deepest, a single pivot always cuts, also among equal scores.
        slack = 0.0 if poor_cut else 3 * math.sqrt(len(sample))
        a = float(sample[max(0, math.floor(rank - slack))])
        b = float(sample[min(len(sample) - 1, math.floor(rank + slack))])
        above_b = sum(flags.count(flags.above(chunk, b)) for chunk in _chunks(parts))
        below_a = sum(flags.count(flags.below(chunk, a)) for chunk in _chunks(parts))
        if count <= above_b:
            low, below = _next(b, math.inf, parts[0].dtype), total - above_b
        elif count > total - below_a:
            high, above = _next(a, -math.inf, parts[0].dtype), total - below_a
        else:
            low, high, above, below = a, b, above_b, below_a
        poor_cut = total - above - below > inside / 2
    if low >= high:
        return low, count - above
    pool = _gathered(parts, low, high)
    threshold = flags.ranked(pool, len(pool) - (count - above))
    return threshold, count - above - flags.count(flags.above(pool, threshold))


def _chunks(parts: list[Tensor]) -> Iterator[Tensor]:
    for part in parts:
        yield from part.split(_CHUNK)


def _gathered(parts: list[Tensor], low: float, high: float) -> Tensor:
    return torch.cat([_between(chunk, low, high) for chunk in _chunks(parts)])


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
    equal = flags.places(flags.equal(part, value))[:most]
    mask[equal] = True
    return len(equal)
