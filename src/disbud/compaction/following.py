"""One model, followed in evaluation and in training: its channels, its layers, and what each parameter goes by."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from disbud.compaction.coupling import Channels, Coupling
from disbud.compaction.rules import rule_of
from disbud.compaction.watching import Layer, Owned, Watch
from disbud.errors import DisbudError
from disbud.isolation import Example, forward, isolated, leaves
from disbud.seeds import generator
from disbud.ticket import Ticket

ROWS = 4  # of an example with one: BatchNorm cannot be trained on a single one


@dataclass(frozen=True)
class Followed:
    """What a run of the model showed; `multiply_adds` are for the example as it was given."""

    channels: Channels
    layers: dict[str, Layer]
    owned: dict[str, Owned]
    multiply_adds: dict[str, int]


def follow(work: nn.Module, inputs: Example, *, rows: int, strict: bool) -> Followed:
    """Run the model and note what each entry is of; layers that only training uses are met too."""
    coupling = Coupling()
    watch = Watch(work, coupling, rule_of=rule_of, strict=strict)
    with isolated(work, seed=0):
        _watched(work, inputs, watch)
        costs = {name: count // rows for name, count in watch.multiply_adds.items()}
        watch.forget()
        work.train()
        with contextlib.suppress(Exception):  # it cannot be trained on inputs such as these
            _watched(work, inputs, watch)
    owned = {found.name: found for found in watch.owned.values()}
    return Followed(coupling.settled(), watch.layers, owned, costs)


def _watched(work: nn.Module, inputs: Example, watch: Watch) -> None:
    watch.start(inputs)
    with watch:
        output = run(work, inputs)
    watch.hold(output, "is an output of the model")


def run(work: nn.Module, inputs: Example) -> object:
    """What the model gives, in the mode it is in; that it decides by a value with a derivative is its own affair."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True to a scalar")
        return forward(work, inputs)


def check_can_be_copied(model: nn.Module) -> None:
    """Raise where a model's layers cannot be followed or hold no values."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise DisbudError(
            "a scripted module (torch.jit) cannot be compacted, since its layers cannot be followed; compact the model "
            "first and script the small one"
        )
    meta = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if meta is not None:
        raise DisbudError(f"{meta} is on the meta device and holds no values; materialise the model first")


def working_copy(model: nn.Module, ticket: Ticket) -> nn.Module:
    """The model in float64 on the processor, its removed weights zero: what the small one is held to."""
    try:
        work = copy.deepcopy(model)
    except RuntimeError as error:
        raise DisbudError(
            f"the model cannot be copied ({error}); a weight that torch.nn.utils computes must be made a plain "
            "parameter first (remove_parametrizations, remove_weight_norm)"
        ) from error
    work = work.to("cpu", torch.float64)
    ticket.apply_(work)
    return work


def widened(work: nn.Module, example: Example) -> tuple[Example, int]:
    """Random inputs of the example's shape, in float64, of four rows where it has one; and how many times its rows.

    The rows stay as they are where the model takes no others, as with a mask of its own.
    """
    tensors = [leaf for leaf in leaves(example) if isinstance(leaf, Tensor)]
    if tensors and all(leaf.dim() > 1 and leaf.shape[0] == 1 for leaf in tensors):
        wide = _drawn(example, rows=ROWS)
        with contextlib.suppress(Exception), torch.no_grad(), isolated(work, seed=0):
            run(work, wide)
            return wide, ROWS
    return _drawn(example, rows=1), 1


def _drawn(example: Example, *, rows: int) -> Example:
    draws = generator(0, "compaction")

    def drawn(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        shape = (rows * leaf.shape[0], *leaf.shape[1:]) if leaf.dim() else leaf.shape
        if not leaf.is_floating_point():
            return leaf.detach().cpu().expand(shape).contiguous()
        return torch.randn(shape, generator=draws, dtype=torch.float64)

    if isinstance(example, Mapping):
        return {name: tree_map(drawn, value) for name, value in example.items()}
    found: Example = tree_map(drawn, example)
    return found
