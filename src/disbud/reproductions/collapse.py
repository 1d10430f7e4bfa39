"""Which layer a method empties first, and whether SynFlow empties any (Tanaka et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from disbud.claims import Decided, for_all
from disbud.graph import prunable
from disbud.pruning import prune
from disbud.pruning import scores as scores_of
from disbud.reproductions.reading import drawn
from disbud.study import Trial
from disbud.study.deciding import Setting, held
from disbud.study.specification.forms import FunctionForm

Scores = Mapping[str, Tensor]
_ROUNDS = 100
_ALMOST_NONE = 0.1  # of the networks


def where_layers_empty(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """6.2: the share of networks in which the layer that empties first is the one that is claimed, above a half.

    Ranked over all layers, a layer is empty as soon as its highest score is removed: the first to go is the one whose
    highest score is lowest. Of layers that share the claimed size, any will do.
    """
    claimed: dict[str, Callable[[Sequence[int]], int]] = {
        "snip": math.prod, "magnitude": _inputs, "random": lambda shape: -math.prod(shape),
    }  # fmt: skip
    hits: dict[str, dict[int, float]] = {method: {} for method in claimed}
    for seeds, model, dataset in drawn(variants[0]):
        shapes = {layer.name: layer.shape for layer in prunable(model)}
        for method, size in claimed.items():
            batches = dataset.batches(seed=seeds.mask) if method == "snip" else None
            scores = scores_of(model, method, batches=batches, example=dataset.example(), seed=seeds.mask)
            most = max(map(size, shapes.values()))
            hits[method][seeds.init] = float(size(shapes[_first_to_go(scores)]) == most)
    cells = {
        method: held(found, what=f"the share of networks in which {method} empties it first", least=0.5)
        for method, found in hits.items()
    }
    return for_all(cells)


def synflow_leaves_none_empty(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """6.3: in a hundred rounds to the study's highest sparsity, in at most a tenth of the networks a layer is empty."""
    highest = max(variant.sparsity or 0.0 for variant in variants)
    empty: dict[int, float] = {}
    for seeds, model, dataset in drawn(variants[0]):
        ticket = prune(
            model, "synflow", sparsity=highest, rounds=_ROUNDS, example=dataset.example(), seed=seeds.mask
        )
        empty[seeds.init] = float(bool(ticket.empty_layers))
    return held(
        empty, what=f"the share of networks with an empty layer at {100 * highest:.10g} %", most=_ALMOST_NONE
    )


def _first_to_go(scores: Scores) -> str:
    return min(scores, key=lambda name: float(scores[name].max()))


def _inputs(shape: Sequence[int]) -> int:
    """The fan-in: the larger it is, the smaller a variance-keeping start draws the weights."""
    return math.prod(shape[1:])
