"""New starting weights under the same mask: as the model was first made, or by a named initialiser."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError, unknown_name
from disbud.interventions.initialisers import INITIALISERS
from disbud.interventions.layout import PLAIN, of_model
from disbud.interventions.outcome import rewritten
from disbud.interventions.states import weights_of, with_weights
from disbud.isolation import bare
from disbud.parameters import parameters
from disbud.seeds import derive, generator, global_streams
from disbud.ticket import Ticket

_STREAM = ("intervention", "reinit")


def reinit(
    state: Mapping[str, Tensor],
    ticket: Ticket,
    seed: int,
    *,
    model: nn.Module | None = None,
    init: object = None,
    factory: Callable[[int], nn.Module] | None = None,
) -> tuple[dict[str, Tensor], Ticket]:
    """Draw the weights the ticket masks anew, on and off the mask; biases, normalisation and buffers stay.

    How, in the order in which it should be chosen:

    - `factory(seed)` builds the model again with other weights, as in
      `factory=lambda seed: disbud.models.build("resnet20", seed=seed)`;
    - `init(model)` initialises, in place, a copy of `model`; the global random streams it may draw from are seeded;
    - `init="kaiming-normal"`, or another name, draws each layer from its shape (kernels of grouped or transposed
      convolutions are read as such where `model` is given);
    - `model` alone: `reset_parameters` of a copy's layers, which is torch's law and perhaps not that of the weights
      replaced. Layers whose standard deviation changes by more than a tenth are warned of.
    """
    _check_request(model, init, factory)
    old = weights_of(state, ticket)
    if isinstance(init, str):
        new, how = _named(ticket, seed, init, model), init
    elif factory is not None:
        with global_streams(seed, *_STREAM):
            made = factory(derive(seed, *_STREAM) % 2**31)
        new, how = _taken(made, ticket, "the model that factory returns"), _name_of(factory)
    else:
        assert model is not None
        new = _taken(_initialised(model, ticket, init, seed), ticket, "the model")
        how = _name_of(init) if init is not None else "reset_parameters"
    new = {name: weight.to(old[name]) for name, weight in new.items()}
    _check_new(old, new, how)
    if how == "reset_parameters":
        _warn_of_other_law(old, new, ticket)
    return with_weights(state, new), rewritten(ticket, "reinit", seed=seed, init=how)


def _check_request(model: nn.Module | None, init: object, factory: object) -> None:
    if isinstance(init, str) and init not in INITIALISERS:
        raise unknown_name("initialiser", init, INITIALISERS)
    if init is not None and not isinstance(init, str) and not callable(init):
        raise DisbudError(f"reinit: init is a name or a function of a model, not a {type(init).__name__}")
    if factory is not None and (init is not None or not callable(factory) or isinstance(factory, nn.Module)):
        raise DisbudError(
            "reinit: factory is a function from a seed to a new model (the model itself is given as model=), and needs "
            "no init beside it"
        )
    if model is not None and not isinstance(model, nn.Module):
        raise DisbudError(f"reinit: model is a torch.nn.Module, not a {type(model).__name__}")
    if factory is None and model is None and not isinstance(init, str):
        names = ", ".join(INITIALISERS)
        raise DisbudError(
            "reinit needs to know how weights are drawn: give factory=..., a function from a seed to a new model; "
            f"model=..., with init=..., a function that initialises it, or by itself; or init= one of {names}"
        )


def _named(ticket: Ticket, seed: int, init: str, model: nn.Module | None) -> dict[str, Tensor]:
    flat = next((name for name, mask in ticket.masks.items() if mask.dim() < 2), None)
    if flat is not None:
        raise DisbudError(
            f"reinit: {flat} has fewer than two axes, so init={init!r} finds no fans in it; "
            "give factory=..., or a function as init"
        )
    if model is not None:
        ticket.check(model)
    found = {} if model is None else of_model(bare(model))
    return {
        name: INITIALISERS[init](mask, found.get(name, PLAIN), generator(seed, *_STREAM, init, name))
        if mask.numel()
        else torch.empty(mask.shape, dtype=torch.float32, device="cpu")
        for name, mask in ticket.masks.items()
    }


def _initialised(model: nn.Module, ticket: Ticket, init: object, seed: int) -> nn.Module:
    """A copy of the model with weights drawn by `init`, or by its own layers' reset_parameters."""
    ticket.check(model)
    inner = copy.deepcopy(bare(model))
    if all(not parameter.is_meta for parameter in inner.parameters()):
        inner = inner.cpu()  # the CPU's streams give the same weights whatever device the model is on
    with global_streams(seed, *_STREAM), torch.no_grad():
        if callable(init):
            init(inner)
        else:
            _reset(inner, ticket)
    return inner


def _reset(model: nn.Module, ticket: Ticket) -> None:
    name_of = {id(parameter): name for name, parameter in parameters(model).items() if name in ticket.masks}
    for path, module in model.named_modules():
        owned = [name_of[id(p)] for p in module._parameters.values() if id(p) in name_of]
        if not owned:
            continue
        # nn.MultiheadAttention alone has the underscore.
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if not callable(reset):
            raise DisbudError(
                f"reinit: {path or 'the model'}, a {type(module).__name__} that owns {owned[0]}, has no "
                "reset_parameters; give factory=... or init=..."
            )
        reset()


def _taken(model: object, ticket: Ticket, whose: str) -> dict[str, Tensor]:
    """The weights under the ticket's masks, out of a model that was made anew."""
    if not isinstance(model, nn.Module):
        raise DisbudError(f"reinit: factory should return a torch.nn.Module, not a {type(model).__name__}")
    found = parameters(model)
    for name, mask in ticket.masks.items():
        if name not in found or found[name].shape != mask.shape:
            got = f"it is {tuple(found[name].shape)} there" if name in found else "it is not there"
            raise DisbudError(f"reinit: {whose} should have {name} of shape {tuple(mask.shape)}; {got}")
        if found[name].is_meta:
            raise DisbudError(f"reinit: {name} of {whose} is on the meta device and holds no values")
    return {name: found[name].detach().clone() for name in ticket.masks}


def _check_new(old: Mapping[str, Tensor], new: Mapping[str, Tensor], how: str) -> None:
    for name, weight in new.items():
        if not torch.isfinite(weight).all():
            raise DisbudError(f"reinit: {how} gives {name} NaN or infinite weights")
    if all(torch.equal(old[name], weight) for name, weight in new.items()):
        raise DisbudError(
            f"reinit: {how} gives the weights that are there already; a factory must use the seed it is given, as in "
            "factory=lambda seed: disbud.models.build('resnet20', seed=seed)"
        )


def _warn_of_other_law(old: Mapping[str, Tensor], new: Mapping[str, Tensor], ticket: Ticket) -> None:
    """Warn of layers whose standard deviation changes by more than a tenth, and by more than chance explains."""
    differing = []
    for name, mask in ticket.masks.items():
        before, after = old[name].cpu().double(), new[name].cpu().double()
        if not before[~mask].any():  # already pruned: its zeros are no draws
            before, after = before[mask], after[mask]
        if before.numel() < 2:
            continue
        first, second = float(before.std()), float(after.std())
        # The deviation of n normal draws is known to 1 / sqrt(2 n), a ratio of two to 1 / sqrt(n).
        chance = 4 / math.sqrt(before.numel())
        if abs(second - first) > max(0.1, chance) * first:
            differing.append(f"{name} ({first:.3g} before, {second:.3g} now)")
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        warnings.warn(
            "reinit: reset_parameters draws weights of another standard deviation than those replaced, so more than "
            f"the draw has changed: {', '.join(differing[:3])}{more}; "
            "give factory=... or init=... to draw them as they were first drawn",
            stacklevel=4,
        )


def _name_of(function: object) -> str:
    return (
        f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__name__)}"
    )
