"""How the weights of each layer are distributed, and how far two distributions lie apart.

Whether the zeros of the removed weights count is never a default: at density .05 it changes every figure. With zeros
"out" only the kept weights count, whatever their values; with zeros "in" each removed weight counts as a zero, whatever
value the model still holds there. Scores, or any tensors by name, can stand in the place of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError, TicketError, unknown_name
from disbud.graph import prunable
from disbud.isolation import bare
from disbud.measures.distances import jensen_shannon, kolmogorov_smirnov, wasserstein
from disbud.measures.samples import Sample, shared_edges
from disbud.measures.table import Table, Value
from disbud.parameters import canonical, parameters
from disbud.ticket import Ticket

Values = nn.Module | Mapping[str, Tensor]
State = tuple[Values, Ticket | None]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def weights(
    model: Values, ticket: Ticket | None, *, zeros: str, quantiles: Sequence[float] = QUANTILES
) -> Table:
    """Per layer: kept count, density, mean, standard deviation, absolute mean, skew, kurtosis, least abs, quantiles.

    `model` is a module, or tensors by parameter name: a state_dict, or scores. `zeros="out"` counts the kept weights
    only, `zeros="in"` the removed ones too, as zeros. Moments are those of the values as they stand (no correction
    for small samples); kurtosis is 0 for a Gaussian. With no ticket, every prunable weight counts as kept (of tensors
    by name: every one given). Quantiles are interpolated linearly, and called q5 for .05.

    >>> import disbud, torch
    >>> from disbud.measures import weights
    >>> model = torch.nn.Linear(4, 1)
    >>> model.weight.data = torch.tensor([[1.0, -2.0, 3.0, 9.0]])
    >>> ticket = disbud.Ticket.from_masks({"weight": torch.tensor([[1, 1, 1, 0]])})
    >>> weights(model, ticket, zeros="out")["abs_mean"], weights(model, ticket, zeros="in")["abs_mean"]
    ((2.0,), (1.5,))
    """
    _check_zeros(zeros)
    outside = [q for q in quantiles if not 0 <= q <= 1]
    if outside:
        raise DisbudError(f"quantiles lie between 0 and 1; {outside[0]!r} does not")
    names = [f"q{100 * q:g}" for q in quantiles]
    layers = _layers((model, ticket))
    kept, total = sum(layer.kept for layer in layers), sum(layer.total for layer in layers)
    rows = (
        {
            "layer": layer.name,
            "kept": layer.kept,
            "total": layer.total,
            "density": layer.density,
            **layer.counted(zeros).moments(),
            **dict(zip(names, layer.counted(zeros).quantiles(quantiles), strict=True)),
        }
        for layer in layers
    )
    return Table.of(
        rows, {"zeros": zeros, "kept": kept, "total": total, "density": kept / total if total else None}
    )


def histograms(states: Mapping[str, State], *, zeros: str, bins: int = 50) -> Table:
    """The histograms of several states, layer by layer, on bins they share: one row a bin, one column a state.

    Each state is a pair of a model (or tensors by name) and a ticket (or None). A bin holds its lower edge, the last
    one its upper edge too.

    >>> import torch
    >>> from disbud.measures import histograms
    >>> before, after = {"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([1.0, 2.0])}
    >>> table = histograms({"before": (before, None), "after": (after, None)}, zeros="out", bins=2)
    >>> table["low"], table["high"], table["before"], table["after"]
    ((0.0, 1.0), (1.0, 2.0), (1, 1), (0, 2))
    """
    _check_zeros(zeros)
    if not states:
        raise DisbudError(
            'give at least one state, as in histograms({"before": (model, ticket)}, zeros="out")'
        )
    taken = {"layer", "low", "high"} & states.keys()
    if taken:
        raise DisbudError(f"a state cannot be called {min(taken)!r}: the table has that column already")
    rows: list[dict[str, Value]] = []
    for same in _matched(list(states.values())):
        samples = [layer.counted(zeros) for layer in same]
        edges = shared_edges(samples, bins)
        counted = [sample.counts(edges).tolist() for sample in samples]
        for low, high, *each in zip(edges.tolist(), edges.tolist()[1:], *counted, strict=False):
            rows.append(
                {
                    "layer": same[0].name,
                    "low": low,
                    "high": high,
                    **dict(zip(states, each, strict=True)),
                }
            )
    return Table.of(rows, {"zeros": zeros, "bins": bins})


def compare_weights(a: State, b: State, *, zeros: str, bins: int = 100) -> Table:
    """How far the weights of two states lie apart, layer by layer; each is a pair of a model and a ticket (or None).

    `wasserstein` is the Wasserstein-1 distance, also in units of a's standard deviation; `kolmogorov_smirnov` the
    largest difference of the distribution functions; `jensen_shannon` the divergence in bits of histograms on `bins`
    shared bins; `sd_ratio` is sd_b / sd_a. The summary gives means over the layers where the distance is defined.

    With zeros in, where both keep as many weights of a layer, Wasserstein-1 and Kolmogorov-Smirnov are their values
    with zeros out times the density, whichever weights are kept: F = (1 - density) [x >= 0] + density F_kept.
    `wasserstein_over_density` divides by it; where the counts differ it is None.

    >>> import torch
    >>> from disbud.measures import compare_weights
    >>> a, b = {"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([0.0, 2.0])}
    >>> table = compare_weights((a, None), (b, None), zeros="out")
    >>> table["wasserstein"], table["sd_ratio"]
    ((0.5,), (2.0,))
    """
    _check_zeros(zeros)
    rows = [_compared(x, y, zeros, bins) for x, y in _matched([a, b])]
    summary: dict[str, Value] = {"zeros": zeros, "bins": bins}
    for name in ("wasserstein", "wasserstein_over_sd", "kolmogorov_smirnov", "jensen_shannon", "sd_ratio"):
        summary[name] = _mean([row[name] for row in rows])
    return Table.of(rows, summary)


class _Layer(NamedTuple):
    """The kept weights of one layer, and how many it has in all."""

    name: str
    sample: Sample
    total: int

    @property
    def kept(self) -> int:
        return self.sample.size

    @property
    def density(self) -> float | None:
        return self.kept / self.total if self.total else None

    def counted(self, zeros: str) -> Sample:
        return self.sample if zeros == "out" else Sample(self.sample.values, self.total - self.kept)


def _compared(a: _Layer, b: _Layer, zeros: str, bins: int) -> dict[str, Value]:
    x, y = a.counted(zeros), b.counted(zeros)
    defined = x.size > 0 and y.size > 0
    sd_a, sd_b = x.moments()["sd"], y.moments()["sd"]
    w1 = wasserstein(x, y) if defined else None
    row: dict[str, Value] = {
        "layer": a.name,
        "total": a.total,
        "kept_a": a.kept,
        "kept_b": b.kept,
        "sd_a": sd_a,
        "sd_b": sd_b,
        "sd_ratio": _ratio(sd_b, sd_a),
        "wasserstein": w1,
        "wasserstein_over_sd": _ratio(w1, sd_a),
        "kolmogorov_smirnov": kolmogorov_smirnov(x, y) if defined else None,
        "jensen_shannon": jensen_shannon(x, y, bins=bins) if defined else None,
    }
    if zeros == "in":
        row["wasserstein_over_density"] = _ratio(w1, a.density) if a.kept == b.kept else None
    return row


def _layers(state: State) -> list[_Layer]:
    """The layers of a state, each with its kept values."""
    if not isinstance(state, tuple) or len(state) != 2:
        raise DisbudError(
            f"a state is a pair (model, ticket), or (model, None) for all weights, not a {type(state).__name__}"
        )
    model, ticket = state
    if ticket is not None and not isinstance(ticket, Ticket):
        raise DisbudError(f"the second of a state is a ticket or None, not a {type(ticket).__name__}")
    tensors = _tensors(model)
    if ticket is None:
        masks: dict[str, Tensor | None] = dict.fromkeys(
            [layer.name for layer in prunable(model)] if isinstance(model, nn.Module) else tensors
        )
    else:
        masks = dict(ticket.masks)
        _check_fit(tensors, ticket)
    return [_layer(name, tensors[name], mask) for name, mask in masks.items()]


def _tensors(model: Values) -> dict[str, Tensor]:
    if isinstance(model, nn.Module):
        return dict(parameters(bare(model)))
    if not isinstance(model, Mapping):
        raise DisbudError(f"weights are those of a module, or tensors by name, not a {type(model).__name__}")
    return {canonical(name): tensor for name, tensor in model.items()}


def _check_fit(tensors: Mapping[str, Tensor], ticket: Ticket) -> None:
    for name, mask in ticket.masks.items():
        if name not in tensors:
            raise TicketError(f"the ticket does not fit: there is no tensor {name!r} among {_few(tensors)}")
        if tensors[name].shape != mask.shape:
            raise TicketError(
                f"the ticket does not fit: {name} has shape {tuple(tensors[name].shape)}, "
                f"and {tuple(mask.shape)} in the ticket"
            )


def _layer(name: str, tensor: Tensor, mask: Tensor | None) -> _Layer:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise DisbudError(f"{name} should be a tensor of floating-point numbers, not {got}")
    if tensor.is_meta:
        raise DisbudError(f"{name} is on the meta device and holds no values; materialise the model first")
    values = tensor.detach().cpu()
    kept = values.reshape(-1) if mask is None else values[mask]
    if not torch.isfinite(kept).all():
        raise DisbudError(f"{name} holds NaN or infinite values, so it has no distribution to measure")
    return _Layer(name, Sample.of(kept), tensor.numel())


def _matched(states: Sequence[State]) -> list[list[_Layer]]:
    """The same layer of every state, in the order of the first."""
    first, *others = [{layer.name: layer for layer in _layers(state)} for state in states]
    for other in others:
        for name in first.keys() | other.keys():
            if name not in first or name not in other or first[name].total != other[name].total:
                raise DisbudError(f"the states to compare are of different models: they differ in {name}")
    return [[layer, *(other[name] for other in others)] for name, layer in first.items()]


def _check_zeros(zeros: str) -> None:
    if zeros not in ("in", "out"):
        raise unknown_name("way to count zeros", str(zeros), ("in", "out"))


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _mean(values: Iterable[Value]) -> float | None:
    defined = [value for value in values if isinstance(value, float)]
    return sum(defined) / len(defined) if defined else None


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return f"{', '.join(names[:4]) or 'none'}{', ...' if len(names) > 4 else ''}"
