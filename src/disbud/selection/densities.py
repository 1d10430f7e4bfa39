"""Density rules: how a budget of weights is shared among the layers. Each is a function of shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from disbud.errors import DisbudError
from disbud.graph.layers import Layer
from disbud.selection.budgets import kept_count
from disbud.selection.names import check_name
from disbud.selection.smart_ratio import smart_ratio
from disbud.ticket import Ticket

Rule = Callable[..., list[float]]


Densities = str | Ticket | Mapping[str, float]


def allocate(
    rule: Densities, layers: Sequence[Layer], sparsity: float | None, **settings: object
) -> dict[str, int]:
    """How many weights each layer keeps: a rule by name, the densities of another ticket, or densities by layer name.

    The counts sum to exactly `kept_count(sparsity, all weights)`, none exceeds its layer, and no layer is left empty
    while the budget has a weight for each. Densities given by hand are scaled to the sparsity asked; those of a ticket
    are taken as they are where `sparsity` is None.

    >>> from disbud.graph import Layer
    >>> layers = [Layer("first", (300, 784), "linear"), Layer("last", (10, 300), "linear")]
    >>> allocate("erk", layers, 0.95)
    {'first': 9261, 'last': 2649}
    """
    if not isinstance(rule, str | Ticket | Mapping):
        raise DisbudError(
            f"densities is the name of a rule ({', '.join(RULES)}), a ticket, or a dict of densities by layer name, "
            f"not {rule!r}"
        )
    if sparsity is None:
        return _counts_of(rule, layers)
    empty, layers = [x for x in layers if not x.size], [x for x in layers if x.size]
    budget = kept_count(sparsity, sum(layer.size for layer in layers))
    if isinstance(rule, str):
        check_name("density rule", rule, RULES)
        wanted = RULES[rule](layers, budget, **settings)
    else:
        wanted = _as_given(rule, layers, budget)
    return _rounded(layers, wanted, budget) | {layer.name: 0 for layer in empty}


def uniform(layers: Sequence[Layer], budget: int) -> list[float]:
    """The same density in every layer."""
    total = sum(layer.size for layer in layers)
    return [layer.size * budget / total for layer in layers]


def uniform_plus(layers: Sequence[Layer], budget: int) -> list[float]:
    """The first convolution dense, the last linear layer at least 0.2 dense, the rest uniform (Gale et al. 2019)."""
    first = next((i for i, layer in enumerate(layers) if "conv" in layer.kind), None)
    last = next((i for i in reversed(range(len(layers))) if layers[i].kind == "linear"), None)
    fixed = {} if first is None else {first: float(layers[first].size)}
    rest = _filled(layers, [1.0] * len(layers), budget, fixed)
    if last is not None and rest[last] < 0.2 * layers[last].size:
        fixed[last] = 0.2 * layers[last].size
        rest = _filled(layers, [1.0] * len(layers), budget, fixed)
    return rest


def er(layers: Sequence[Layer], budget: int) -> list[float]:
    """Erdos-Renyi: density proportional to (n_in + n_out) / (n_in * n_out) (Mocanu et al. 2018)."""
    return _filled(layers, [(x.n_in + x.n_out) / (x.n_in * x.n_out) for x in layers], budget)


def erk(layers: Sequence[Layer], budget: int) -> list[float]:
    """Erdos-Renyi with the kernel: (n_in + n_out + k_h + k_w) / (n_in * n_out * k_h * k_w) (Evci et al. 2020)."""
    return _filled(layers, [(x.n_in + x.n_out + sum(x.kernel)) / x.size for x in layers], budget)


def igq(layers: Sequence[Layer], budget: int) -> list[float]:
    """Ideal gas quotas: density 1 / (1 + F * size), F found by bisection (Chen et al. 2022)."""

    def counts(log_f: float) -> list[float]:
        return [x.size / (1 + math.exp(log_f) * x.size) for x in layers]

    if budget in (0, sum(x.size for x in layers)):
        return uniform(layers, budget)
    low, high = -100.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(counts(middle)) > budget else (low, middle)
    return counts((low + high) / 2)


def _counts_of(rule: Densities, layers: Sequence[Layer]) -> dict[str, int]:
    if not isinstance(rule, Ticket):
        raise DisbudError(
            "give a sparsity; only the densities of a ticket say by themselves how much is kept"
        )
    kept = {row.name: row.kept for row in rule.layers if row.name in {layer.name for layer in layers}}
    _as_given(rule, layers, sum(kept.values()))
    return {layer.name: kept[layer.name] for layer in layers}


def _as_given(given: Ticket | Mapping[str, float], layers: Sequence[Layer], budget: int) -> list[float]:
    """Densities of another ticket or given by hand, scaled to the budget where they do not meet it already."""
    if isinstance(given, Ticket):
        for layer in layers:
            if layer.name in given.masks and tuple(given.masks[layer.name].shape) != layer.shape:
                raise DisbudError(f"the ticket whose densities are asked has another shape for {layer.name}")
        given = given.densities()
    missing = [layer.name for layer in layers if layer.name not in given]
    if missing:
        raise DisbudError(f"no density is given for {', '.join(missing[:3])}; every prunable layer needs one")
    for name, density in given.items():
        if not _is_density(density):
            raise DisbudError(
                f"densities are fractions of weights kept, from 0 to 1; that of {name} is {density!r}"
            )
    raw = [float(given[layer.name]) for layer in layers]
    wanted = [density * layer.size for density, layer in zip(raw, layers, strict=True)]
    if abs(sum(wanted) - budget) < 0.5:
        return wanted
    return _filled(layers, raw, budget)


def _is_density(value: object) -> bool:
    try:
        return 0 <= float(value) <= 1  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _filled(
    layers: Sequence[Layer], raw: Sequence[float], budget: int, fixed: Mapping[int, float] | None = None
) -> list[float]:
    """Counts proportional to raw density times size; where one would exceed 1 it is dense and the rest solved again."""
    counts: dict[int, float] = dict(fixed or {})
    free = [i for i in range(len(layers)) if i not in counts and raw[i] > 0]
    while free:
        left = budget - sum(counts.values())
        scale = left / sum(raw[i] * layers[i].size for i in free)
        full = [i for i in free if scale * raw[i] > 1]
        if not full:
            counts.update({i: scale * raw[i] * layers[i].size for i in free})
            break
        counts.update({i: float(layers[i].size) for i in full})
        free = [i for i in free if i not in counts]
    spent = sum(counts.values())
    if min(counts.values(), default=0.0) < 0 or abs(spent - budget) > 0.5:
        held = sum((fixed or {}).values())
        raise DisbudError(
            f"the density rule cannot keep {budget:,} weights: "
            + (
                f"the layers it fixes need {held:,.0f} already"
                if held > budget
                else f"it reaches {spent:,.0f} at most"
            )
        )
    return [counts.get(i, 0.0) for i in range(len(layers))]


def _rounded(layers: Sequence[Layer], wanted: Sequence[float], budget: int) -> dict[str, int]:
    """Whole counts nearest to the wanted ones: floors, then one more for the largest remainders, in order."""
    counts = [min(layer.size, math.floor(count + 1e-9)) for layer, count in zip(layers, wanted, strict=True)]
    by_remainder = sorted(range(len(layers)), key=lambda i: counts[i] - wanted[i])
    while (missing := budget - sum(counts)) > 0:
        room = [i for i in by_remainder if counts[i] < layers[i].size]
        for i in ([i for i in room if wanted[i] > 0] or room)[:missing]:
            counts[i] += 1
    for i, layer in enumerate(layers):
        if counts[i] == 0 and layer.size and wanted[i] > 0 and max(counts) > 1:
            counts[i] = 1
            counts[counts.index(max(counts))] -= 1
    return {layer.name: count for layer, count in zip(layers, counts, strict=True)}


RULES: dict[str, Rule] = {
    "uniform": uniform,
    "uniform-plus": uniform_plus,
    "er": er,
    "erk": erk,
    "igq": igq,
    "smart-ratio": smart_ratio,
}
