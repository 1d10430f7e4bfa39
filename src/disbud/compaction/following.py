"""One model, followed in evaluation and in training: its channels, its layers, and what each parameter goes by."""

from __future__ import annotations

import contextlib
import copy
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from disbud.compaction.coupling import Channels, Coupling
from disbud.compaction.rules import rule_of
from disbud.compaction.shrinking import bare_norms
from disbud.compaction.watching import Layer, Owned, Watch
from disbud.compaction.widening import in_float64, wide
from disbud.errors import DisbudError
from disbud.isolation import Example, forward, isolated
from disbud.parameters import parameters
from disbud.ticket import Ticket


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
    with isolated(work, seed=0), _sizes_noted(work, watch):
        _watched(work, inputs, watch)
        costs = {name: count // rows for name, count in watch.multiply_adds.items()}
        watch.forget()
        work.train()
        try:
            _watched(work, inputs, watch)
        except Exception as error:  # it cannot be trained on inputs such as these
            _check_all_met(work, watch, error)
    owned = {found.name: found for found in watch.owned.values()}
    return Followed(coupling.settled(), watch.layers, owned, costs)


def _watched(work: nn.Module, inputs: Example, watch: Watch) -> None:
    watch.start(inputs)
    with watch:
        output = run(work, inputs)
    watch.hold(output, "is an output of the model")


def _check_all_met(work: nn.Module, watch: Watch, error: Exception) -> None:
    """Raise where training may read what it broke off before: nobody knows then which channels that goes by."""
    unmet = [name for name in parameters(work) if name not in watch.met]
    if unmet:
        raise DisbudError(
            f"training was not followed ({type(error).__name__}: {error}), and what reads {', '.join(unmet[:3])} was "
            "not met without it; give an example that the model can be trained on, such as a tuple of inputs and labels"
        ) from error


@contextlib.contextmanager
def _sizes_noted(work: nn.Module, watch: Watch) -> Iterator[None]:
    """Within the block a normalisation without tensors owns as many entries as it says that it has channels."""
    hooks = []
    for name, norm in bare_norms(work):
        owned = watch.own(name, torch.empty(norm.num_features))

        def note(
            module: _NormBase, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], owned: Owned = owned
        ) -> None:
            along = watch.along(args[0] if args else kwargs["input"], 1)
            if along is not None and len(along) == len(owned.tensor):
                watch.goes_by(owned, 0, along)

        hooks.append(norm.register_forward_pre_hook(note, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def run(work: nn.Module, inputs: Example) -> object:
    """What the model gives, in the mode it is in; that it decides by a value with a derivative is its own affair."""
    with warnings.catch_warnings(), in_float64():
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


def check_separate(model: nn.Module) -> None:
    """Raise where two parameters lie in the same memory: copied, they would go apart."""
    ends: dict[int, list[tuple[int, int, str]]] = {}
    for name, parameter in parameters(model).items():
        if parameter.layout is torch.strided and parameter.numel():
            first = parameter.data_ptr()
            last = sum((n - 1) * step for n, step in zip(parameter.shape, parameter.stride(), strict=True))
            ends.setdefault(parameter.untyped_storage().data_ptr(), []).append(
                (first, first + (last + 1) * parameter.element_size(), name)
            )
    for spans in ends.values():
        spans.sort()
        for (_, end, one), (first, _, other) in itertools.pairwise(spans):
            if first < end:
                raise DisbudError(
                    f"{one} and {other} are two parameters in the same memory (tied through .data), which the small "
                    "model could not keep; have both modules hold one parameter, as in b.weight = a.weight, or give "
                    "each memory of its own by .data.clone()"
                )


def working_copy(model: nn.Module, ticket: Ticket) -> nn.Module:
    """The model in float64 on the processor, its removed weights zero: what the small one is held to."""
    try:
        work = copy.deepcopy(model)
    except RuntimeError as error:
        raise DisbudError(
            f"the model cannot be copied ({error}); a weight that torch.nn.utils computes must be made a plain "
            "parameter first (remove_parametrizations, remove_weight_norm)"
        ) from error
    work._apply(wide)  # Module.to would make real numbers of complex ones
    ticket.apply_(work)
    return work
