"""What runs each layer of an accelerated model, why, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from disbud.acceleration.calls import RunRule
from disbud.acceleration.folding import RunFolded
from disbud.acceleration.layers import TORCH, Layer, RunLayer
from disbud.acceleration.norms import RunNorm
from disbud.acceleration.program import Step, observing
from disbud.acceleration.rectified import RunRectifiedSum
from disbud.acceleration.signals import Branch, Signal
from disbud.errors import DisbudError
from disbud.isolation import Example, forward, isolated
from disbud.kernels import Blocked
from disbud.ticket import Ticket

ROUNDS = 3


@dataclass(frozen=True)
class LayerRow:
    """One layer: which kernel runs it, why, how many weights it keeps of how many, and seconds where measured.

    >>> from disbud.acceleration import LayerRow
    >>> LayerRow("0.weight", "sparse", "the plan says so", 16, 32).density
    0.5
    """

    layer: str
    kernel: str
    why: str
    kept: int
    total: int
    forward: float | None = None
    backward: float | None = None

    @property
    def density(self) -> float:
        """The fraction of the weights that is kept."""
        return self.kept / self.total


@dataclass(frozen=True)
class Explanation:
    """The layers of an accelerated model; what is not followed, and why; and, where measured, seconds of the rest.

    >>> from disbud.acceleration import Explanation, LayerRow
    >>> print(Explanation((LayerRow("0.weight", "sparse", "the plan says so", 16, 32),), {}, None))
    layer     kernel  kept    density  why
    0.weight  sparse    16     50.00%  the plan says so
    """

    rows: tuple[LayerRow, ...]
    refused: Mapping[str, str]
    rest: Mapping[str, tuple[float, float]] | None

    def __str__(self) -> str:
        width = max(5, *(len(row.layer) for row in self.rows), *(len(name) for name in self.rest or {}))
        timed = self.rest is not None
        times = "  forward ms  backward ms" if timed else ""
        lines = [f"{'layer':<{width}}  kernel  {'kept':<6}  density{times}  why"]
        for row in self.rows:
            took = _took(row.forward, row.backward) if timed else ""
            lines.append(
                f"{row.layer:<{width}}  {row.kernel:<6}  {row.kept:>4,}  {row.density:>9.2%}{took}  {row.why}"
            )
        for name, (ahead, back) in (self.rest or {}).items():
            lines.append(f"{name:<{width}}  {'':<6}  {'':>4}  {'':>9}{_took(ahead, back)}")
        lines += [f"not followed: {path or 'the model'}: {why}" for path, why in self.refused.items()]
        return "\n".join(lines)


def _took(ahead: float | None, back: float | None) -> str:
    cells = ["" if seconds is None else f"{seconds * 1e3:.2f}" for seconds in (ahead, back)]
    return f"  {cells[0]:>10}  {cells[1]:>11}"


def explain(
    model: nn.Module,
    ticket: Ticket,
    layers: Mapping[str, Layer],
    refused: Mapping[str, str],
    *,
    on: Example | None,
) -> Explanation:
    """The rows of every layer that kernels could run, and of every other parameter that is pruned."""
    clock = None if on is None else _timed(model, on)
    rows = []
    for name, layer in layers.items():
        took = (None, None) if clock is None else clock.get(f"layer {name}", (None, None))
        rows.append(
            LayerRow(name, layer.kernel, layer.why, layer.pattern.kept, layer.pattern.mask.numel(), *took)
        )
    for row in ticket.layers:
        if row.name not in layers:
            why = "it is no weight of a layer that kernels run, or is shared with something else"
            rows.append(LayerRow(row.name, TORCH, why, row.kept, row.total))
    rest = None if clock is None else {k: v for k, v in clock.items() if not k.startswith("layer ")}
    return Explanation(tuple(rows), refused, rest)


def _timed(model: nn.Module, on: Example) -> dict[str, tuple[float, float]]:
    """Seconds forward and back of every layer, and of what is between them by kind: the least of some rounds."""
    best: dict[str, tuple[float, float]] = {}
    for _ in range(ROUNDS):
        clock = _Clock()
        with isolated(model, seed=0, batch_norm="train"), observing(clock):
            try:
                forward(model, on)
            except ValueError as error:
                raise DisbudError(
                    f"a training step is timed, and this batch does not make one ({error}); give more than one input"
                ) from error
        for name, (ahead, back) in clock.spent.items():
            known = best.get(name, (float("inf"), float("inf")))
            best[name] = (min(known[0], ahead), min(known[1], back))
    return best


class _Clock:
    """Makes each step's call by itself, forward and back, and adds up what it took.

    Its output stands for its gradient: that is zero where gradients must be, and costs the same.
    """

    def __init__(self) -> None:
        self.spent: dict[str, tuple[float, float]] = {}

    def __call__(self, step: Step, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        given = tree_map(_leaf, (args, kwargs))
        wanted = _wanted(step, given)
        if step.changes_input:  # which no leaf allows
            given = tree_map(_clone, given)
        begun = time.perf_counter()
        made = step.call(step.wish, *given[0], **given[1])
        ahead = time.perf_counter() - begun
        made = made.made if isinstance(made, Branch) else made
        data = [tensor for tensor in map(_data, tree_leaves(made)) if tensor is not None]
        outputs = [tensor for tensor in data if tensor.grad_fn is not None]
        back = 0.0
        if outputs and wanted:
            begun = time.perf_counter()
            # Not added to the gradients that the parameters have.
            torch.autograd.grad(outputs, wanted, [output.detach() for output in outputs], allow_unused=True)
            back = time.perf_counter() - begun
        name = _kind(step)
        before = self.spent.get(name, (0.0, 0.0))
        self.spent[name] = (before[0] + ahead, before[1] + back)
        return tree_map(_detached, made)


def _wanted(step: Step, given: object) -> list[Tensor]:
    """What a step's gradients are taken by: its inputs, and the parameters of its own module."""
    inputs = [
        tensor for tensor in map(_data, tree_leaves(given)) if tensor is not None and tensor.requires_grad
    ]
    call = step.call
    module = call.layer.module if isinstance(call, RunLayer) else getattr(call, "module", None)
    if not isinstance(module, nn.Module) and isinstance(getattr(call, "call", None), nn.Module):
        module = call.call  # type: ignore[attr-defined]
    owned = list(module.parameters()) if isinstance(module, nn.Module) else []
    return [*inputs, *(parameter for parameter in owned if parameter.requires_grad)]


def _kind(step: Step) -> str:
    call = step.call
    if isinstance(call, RunFolded):
        call = call.run
    if isinstance(call, RunLayer):
        return f"layer {call.layer.name}"
    if isinstance(call, RunNorm):
        return "normalisation, with what is fused to it"
    return "elementwise, sums, pooling" if isinstance(call, RunRule | RunRectifiedSum) else "torch"


def _data(value: object) -> Tensor | None:
    data = value.blocked.data if isinstance(value, Signal) else value
    return data if isinstance(data, Tensor) and data.is_floating_point() else None


def _detached(value: object) -> object:
    if isinstance(value, Signal):
        return Signal(Blocked(value.blocked.data.detach(), value.blocked.layout), value.shape)
    return value.detach() if isinstance(value, Tensor) else value


def _leaf(value: object) -> object:
    """The value cut off from what made it, and with a gradient of its own where it is computed."""
    if isinstance(value, nn.Parameter):
        return value
    cut = _detached(value)
    data = _data(cut)
    if data is not None:
        data.requires_grad_()
    return cut


def _clone(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else value
