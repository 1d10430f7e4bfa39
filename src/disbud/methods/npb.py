"""Node-path balancing: as many live units, and then as many paths, as the budgets allow (Pham et al. 2023)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from disbud.errors import DisbudError, unknown_name
from disbud.graph import reach
from disbud.graph.kernels import Kernels
from disbud.graph.links import Links, links
from disbud.graph.sweeps import Sweeps, Visit
from disbud.isolation import Example
from disbud.methods.npb_layer import Balance, Flags, LayerChoice
from disbud.methods.npb_widths import live_units
from disbud.methods.scoring import Scoring, Tensors
from disbud.methods.snip import snip
from disbud.seeds import uniform, whole
from disbud.selection.readings import check_inputs_whole
from disbud.ticket import Ticket

MODES = ("nodes-first", "paper")
TAPS = ("random", "magnitude", "snip")


def npb(
    s: Scoring,
    budget: Mapping[str, int] | int,
    *,
    mode: str,
    alpha: float,
    beta: float,
    taps: str,
    sweeps: int,
) -> Tensors:
    """Masks of exactly the budget in each layer.

    A layer's mask maximises alpha * nodes + (1 - alpha) * paths + beta * kernels, each as a fraction of all there can
    be, over the weights m_ij kept between input i and output j (Pham et al. 2023, eq. 5; here exactly). "paper" goes
    through the layers once, with the paths that arrive. "nodes-first" counts nodes before all else; it first chooses
    how many units of each signal are to live, and after the first pass goes back and forth, each layer then seeing the
    paths on both its sides, until nothing changes or `sweeps` are done. Last, weights on no path are moved to where
    they are on one.
    """
    budget = _checked(s, budget, mode=mode, alpha=alpha, beta=beta, taps=taps, sweeps=sweeps)
    names = [layer.name for layer in s.layers]
    network = Sweeps(s.model, names, example=_example(s))
    found = links(s.model, names, example=_example(s))
    choices = _choices(s, budget, found, mode=mode, alpha=alpha, beta=beta, taps=taps)
    state = _first(s, network, choices)
    for _ in range(sweeps if mode == "nodes-first" else 0):
        before = state
        _back_and_forth(network, choices)
        if _same(network.masks(), before.masks):
            break
        state = _repaired(s, network, choices)
        if state.quality <= before.quality:
            state = before
            break
    _warn_if_cut(state, budget)
    return {name: mask.to(s.weights[name].device) for name, mask in state.masks.items()}


@dataclass(frozen=True)
class _State:
    """Masks, and how good they are: effective weights, units on a path, log10 of the paths."""

    masks: Tensors
    quality: tuple[int, int, float]


def _choices(
    s: Scoring, budget: Mapping[str, int], found: Links, *, mode: str, alpha: float, beta: float, taps: str
) -> dict[str, LayerChoice]:
    first = mode == "nodes-first"
    order = _order_of_taps(s, taps)
    layouts = {layer.name: Kernels.of(layer) for layer in s.layers}
    check_inputs_whole(found, layouts)
    live = _live_units(s, budget, found, layouts) if first else {}
    choices = {}
    for layer in s.layers:
        layout = layouts[layer.name]
        groups, rows, columns, _ = layout.sizes
        every = (np.ones(groups * rows, bool), np.ones(groups * columns, bool))
        balance = Balance(math.inf if first else alpha, 1 - alpha, beta if layer.kernel else 0.0)
        choices[layer.name] = LayerChoice(
            layout, budget[layer.name], balance, layout.split(order[layer.name]), *live.get(layer.name, every),
            np.random.default_rng(_seed(s, layer.name)),
        )  # fmt: skip
    return choices


def _live_units(
    s: Scoring, budget: Mapping[str, int], found: Links, layouts: Mapping[str, Kernels]
) -> dict[str, tuple[Flags, Flags]]:
    """Which inputs and outputs of each layer are to live; a layer read by parts or twice is left to see for itself."""
    groups = {name: layout.groups for name, layout in layouts.items()}
    inputs, outputs = live_units(found, budget, groups, np.random.default_rng(_seed(s, "widths")))
    names = [place.layer for place in found.places]
    return {name: (inputs[i], outputs[i]) for i, name in enumerate(names) if names.count(name) == 1}


def _order_of_taps(s: Scoring, taps: str) -> Tensors:
    """Numbers from 0 to 1 for all weights of a layer; the lowest of a kernel are taken first."""
    drawn = {layer.name: uniform(layer.shape, s.generator(f"taps of {layer.name}")) for layer in s.layers}
    if taps == "random":
        return drawn
    scores = snip(s) if taps == "snip" else s.weights
    order = {}
    for name, score in scores.items():
        ranked = score.detach().abs().cpu().to(torch.float64)
        order[name] = 1 - ranked / (2 * ranked.max() if ranked.numel() and ranked.max() > 0 else 1.0)
    return order


def _first(s: Scoring, network: Sweeps, choices: Mapping[str, LayerChoice]) -> _State:
    """Each layer as the first pass gets there, and then with its dead taps moved to live ones."""
    network.run(there=lambda visit: choices[visit.layer].first(visit))
    for name, choice in choices.items():
        if name not in network.met:  # no signal gets there
            none = torch.zeros(choice.kernels.shape, dtype=torch.bool, device="cpu")
            network.put(name, choice.filled(none, none, none))
    before = network.masks()
    network.run(back=lambda visit: choices[visit.layer].settled(visit, network.mask(visit.layer)))
    if not _same(network.masks(), before):  # what was counted on the way there holds no more
        network.run()
    return _repaired(s, network, choices)


def _back_and_forth(network: Sweeps, choices: Mapping[str, LayerChoice]) -> None:
    def decide(visit: Visit) -> Tensor | None:
        return choices[visit.layer].better(visit, network.mask(visit.layer))

    network.run(back=decide)
    network.run(there=decide)


def _repaired(s: Scoring, network: Sweeps, choices: Mapping[str, LayerChoice]) -> _State:
    """Weights on no path moved to where each is on one by itself, while there is such a place.

    The paths were counted by the pass before, and are again where a mask changes.
    """
    for _ in range(10):
        masks = network.masks()
        reached = reach(s.model, Ticket(masks), example=_example(s))
        effective = {name: reached.effective[name] for name in masks}
        for name, mask in masks.items():
            if not torch.equal(effective[name], mask):
                network.put(name, choices[name].filled(effective[name], reached.open[name], mask))
        if _same(network.masks(), masks):
            break
        network.run()
    blocks = [choices[name].kernels.split(mask).any(3) for name, mask in effective.items()]
    nodes = sum(int(block.any(1).sum() + block.any(2).sum()) for block in blocks)
    kept = sum(int(mask.sum()) for mask in effective.values())
    return _State(masks, (kept, nodes, network.log10_paths))


def _same(a: Tensors, b: Tensors) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def _example(s: Scoring) -> Example:
    assert s.example is not None
    return s.example


def _seed(s: Scoring, what: str) -> int:
    return int(whole(2**62, (), s.generator(what)))


def _warn_if_cut(state: _State, budget: Mapping[str, int]) -> None:
    if state.quality[2] > -math.inf:
        return
    empty = [name for name, count in budget.items() if not count]
    why = (
        f"{', '.join(empty[:3])}{', ...' if len(empty) > 3 else ''} may keep no weight"
        if empty
        else "the budgets of its layers are too small for one"
    )
    warnings.warn(
        f"no path leads from the model's input to its output: {why}; ask for a lower sparsity or other densities",
        stacklevel=2,
    )


def _checked(
    s: Scoring,
    budget: Mapping[str, int] | int,
    *,
    mode: str,
    alpha: float,
    beta: float,
    taps: str,
    sweeps: int,
) -> Mapping[str, int]:
    if mode not in MODES:
        raise unknown_name("mode of node-path balancing", str(mode), MODES)
    if taps not in TAPS:
        raise unknown_name("way to choose taps", str(taps), TAPS)
    for name, value, most in (("alpha", alpha, 1.0), ("beta", beta, math.inf)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise DisbudError(f"{name} is a number from 0{' to 1' if most == 1 else ' up'}, not {value!r}")
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 0:
        raise DisbudError(f"sweeps is a whole number, 0 for none, not {sweeps!r}")
    if isinstance(budget, int):
        raise DisbudError(
            "node-path balancing fills the budget of each layer, so it needs densities: leave them at 'erk', or give "
            "another rule, a ticket, or densities by layer name"
        )
    if s.example is None:
        raise DisbudError(
            "node-path balancing counts paths and must know the shape of the input: give example=..., such as "
            "torch.zeros(1, 3, 32, 32), or a tuple or dict of inputs; its numbers do not matter"
        )
    return budget
