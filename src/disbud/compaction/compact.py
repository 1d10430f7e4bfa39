"""From a model and a ticket to the model without its dead channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from disbud.compaction.account import account_of
from disbud.compaction.compacted import Compacted
from disbud.compaction.coupling import Flags, Numbers
from disbud.compaction.deciding import Decision, decide
from disbud.compaction.following import Followed, check_can_be_copied, check_separate, follow, working_copy
from disbud.compaction.inputs import inputs_for
from disbud.compaction.kept import Kept
from disbud.compaction.shrinking import every_name, full_state, shrunk, small_ticket
from disbud.compaction.verifying import Disagrees, verify
from disbud.compaction.watching import Layer
from disbud.errors import DisbudError
from disbud.graph import is_chain, prunable
from disbud.isolation import Example, bare
from disbud.ticket import Ticket


def compact(model: nn.Module, ticket: Ticket, *, example: Example | None = None) -> Compacted:
    """The model as the ticket leaves it, its dead channels physically removed; the model itself is left as it is.

    A channel goes if it leads to no output by way of kept weights, or if no input reaches it and what it says through
    its bias or normalisation is zero and stays zero. The small model is made of the same classes of modules with
    smaller tensors, and computes the same: outputs, running statistics, and the derivatives of the weights kept, in
    evaluation and in training. That is checked in float64 before it is returned. What cannot be removed exactly stays,
    and `account` says why. It holds at the size of the example, which has labels too where the model asks for them in
    training; it may be left out where the first layer of a chain is linear.

    >>> import disbud, torch
    >>> from disbud.compaction import compact
    >>> conv = lambda n_in, n_out: torch.nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    >>> model = torch.nn.Sequential(conv(3, 16), torch.nn.ReLU(), conv(16, 8))
    >>> ticket = disbud.prune(model, "synflow", sparsity=0.9, example=torch.zeros(1, 3, 8, 8))
    >>> found = compact(model, ticket, example=torch.zeros(1, 3, 8, 8))
    >>> x = torch.randn(2, 3, 8, 8)
    >>> ticket.apply_(model)
    >>> torch.allclose(found.model(x), model(x), atol=1e-6)
    True
    >>> found.model[0].out_channels < 16
    True
    """
    if not isinstance(model, nn.Module):
        raise DisbudError(f"a model is a torch.nn.Module, not a {type(model).__name__}")
    model = bare(model)
    check_can_be_copied(model)
    ticket.check(model)
    prunable(model)  # raises where shapes are not known, or nothing is there to prune
    check_separate(model)
    given = _example_for(model) if example is None else example
    work = working_copy(model, ticket)
    inputs, rows = inputs_for(work, model, given)
    problem: DisbudError | None = None
    for strict in (False, True):
        followed = follow(work, inputs, rows=rows, strict=strict)
        decision = decide(work, ticket, followed, inputs)
        kept = _kept(followed, decision)
        try:
            verify(work, shrunk(work, kept), ticket, kept, inputs)
        except Disagrees as error:
            problem = problem or error
            continue
        return _compacted(model, ticket, followed, decision, kept)
    raise DisbudError(
        f"this model cannot be compacted exactly ({problem}); its forward may compute with the number of channels, "
        "or read its weights otherwise than through torch's functions; compact those parts of it that are plain"
    )


def _example_for(model: nn.Module) -> Tensor:
    first = prunable(model)[0]
    if first.kind == "linear" and is_chain(model):
        parameter = dict(model.named_parameters())[first.name]
        return torch.zeros(1, first.n_in, dtype=parameter.dtype)
    raise DisbudError(
        "compaction sends an input through the model: give example=..., such as torch.zeros(1, 3, 32, 32), or a tuple "
        "or dict of inputs; its numbers matter only where the model is not defined on random ones"
    )


def _kept(followed: Followed, decision: Decision) -> dict[str, Kept]:
    """For every parameter and buffer, which of its entries belong to channels that stay."""
    of, stays = followed.channels.of, decision.stays
    found = {}
    for name, owned in followed.owned.items():
        layer = followed.layers.get(name)
        if layer is not None and layer.groups > 1:
            axes = _by_group(layer, owned.tensor.dim(), of, stays)
        else:
            axes = [_places(owned.axes.get(axis), of, stays) for axis in range(owned.tensor.dim())]
        found[name] = Kept(tuple(owned.tensor.shape), tuple(axes))
    return found


def _places(numbers: Numbers | None, of: Numbers, stays: Flags) -> Tensor | None:
    if numbers is None or stays[of[numbers]].all():
        return None
    return torch.from_numpy(stays[of[numbers]].nonzero()[0])


def _by_group(layer: Layer, dims: int, of: Numbers, stays: Flags) -> list[Tensor | None]:
    """The places of a grouped weight: along its first axis, and within each group that is left along its second."""
    sides = [stays[of[side]].reshape(layer.groups, -1) for side in (layer.outputs, layer.inputs)]
    if all(side.all() for side in sides):
        return [None] * dims
    first, second = reversed(sides) if layer.transposed else sides
    left = first.any(1)
    within = [row.nonzero()[0] for row in second[left]]
    axes: list[Tensor | None] = [
        torch.from_numpy(first.ravel().nonzero()[0]),
        torch.tensor([list(w) for w in within]),
    ]
    return axes + [None] * (dims - 2)


def _compacted(
    model: nn.Module, ticket: Ticket, followed: Followed, decision: Decision, kept: Mapping[str, Kept]
) -> Compacted:
    small = shrunk(model, kept)
    its = small_ticket(ticket, kept, small)
    its.apply_(small)
    account = account_of(ticket, followed, decision, kept)
    return Compacted(small, its, every_name(model, kept), account, full_state(model, ticket), ticket)
