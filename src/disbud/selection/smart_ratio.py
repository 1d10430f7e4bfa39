"""Smart ratio: the layer densities of "random tickets", falling with depth (Su et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real

from disbud.errors import DisbudError
from disbud.graph.layers import Layer
from disbud.selection.names import check_name

# The raw weight of layer l of n, before scaling; k = n - l + 1 counts layers from the output.
SHAPES: dict[str, Callable[[int], int]] = {
    "quadratic": lambda k: k * k + k,
    "linear": lambda k: k,
    "cubic": lambda k: k**3,
    "ascending": lambda k: k * k + k,
    "uniform": lambda k: 1,
}


def smart_ratio(
    layers: Sequence[Layer],
    budget: int,
    *,
    shape: str = "quadratic",
    chain: bool | None = None,
    linear_density: float = 0.3,
    official: bool = False,
) -> list[float]:
    """Counts that fall with depth: layer l of n has density c * ((n-l+1)^2 + (n-l+1)), over l^2 in a chain like VGG.

    What exceeds a dense layer moves to the next ones in order. The last linear layer keeps `linear_density` (or half
    the budget, if that is less) and hidden linear layers are ranked like convolutions. `official=True` is the paper's
    rule: every linear layer keeps `linear_density`, which small networks of large linear layers cannot pay for.
    `shape` is the paper's ablation: "linear", "cubic", "uniform", or "ascending", whose excess moves to earlier layers.
    `chain` None is read as no chain here; `prune` looks at the model and resolves it.
    """
    check_name("smart-ratio shape", shape, SHAPES)
    if not isinstance(linear_density, Real) or not 0 <= linear_density <= 1:
        raise DisbudError(f"linear_density is a density from 0 to 1, not {linear_density!r}")
    fixed = _fixed(layers, budget, linear_density, official=official)
    n = len(layers)
    raw = [
        float(SHAPES[shape](n - i)) / ((i + 1) ** 2 if chain and shape != "uniform" else 1) for i in range(n)
    ]
    if shape == "ascending":
        raw.reverse()
    order = [i for i in (reversed(range(n)) if shape == "ascending" else range(n)) if i not in fixed]
    left = budget - sum(fixed.values())
    if left < 0:
        raise DisbudError(
            f"the paper's smart ratio fixes {sum(fixed.values()):,.0f} weights of linear layers at density "
            f"{linear_density}, more than the {budget:,} there are to keep; leave out official=True"
        )
    scale = left / sum(raw[i] * layers[i].size for i in order) if order else 0.0
    counts = dict(fixed)
    excess = 0.0
    for i in order:
        wanted = scale * raw[i] * layers[i].size + excess
        counts[i] = min(wanted, float(layers[i].size))
        excess = wanted - counts[i]
    for i in [*reversed(order), *fixed]:  # the last layers may be full before the excess is spent
        more = min(excess, layers[i].size - counts[i])
        counts[i] += more
        excess -= more
    return [counts[i] for i in range(n)]


def _fixed(layers: Sequence[Layer], budget: int, density: float, *, official: bool) -> dict[int, float]:
    linear = [i for i, layer in enumerate(layers) if layer.kind == "linear"]
    if official:
        return {i: density * layers[i].size for i in linear}
    return {i: min(density * layers[i].size, budget / 2) for i in linear[-1:] if len(layers) > 1}
