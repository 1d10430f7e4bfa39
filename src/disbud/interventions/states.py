"""A model's state as a value: tensors found by canonical name, and exchanged without touching the others."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.isolation import bare
from disbud.parameters import canonical
from disbud.ticket import Ticket


def weights_of(state: Mapping[str, Tensor], ticket: Ticket) -> dict[str, Tensor]:
    """The state's tensor for each mask, by canonical name; one that is missing or misshapen is an error."""
    by_name = {
        canonical(name): tensor.detach() for name, tensor in state.items() if isinstance(tensor, Tensor)
    }
    for name, mask in ticket.masks.items():
        if name not in by_name:
            raise DisbudError(
                f"the state has no {name}, which the ticket masks; give the model's whole state_dict()"
            )
        if by_name[name].shape != mask.shape:
            raise DisbudError(
                f"{name} is {tuple(by_name[name].shape)} in the state and {tuple(mask.shape)} in the ticket"
            )
        if by_name[name].is_meta or not by_name[name].is_floating_point():
            what = "on the meta device" if by_name[name].is_meta else f"of {by_name[name].dtype}"
            raise DisbudError(f"{name} is {what} in the state: there are no weights to change")
    return {name: by_name[name] for name in ticket.masks}


def shared_again(state: Mapping[str, Tensor], ticket: Ticket, model: nn.Module | None) -> dict[str, Tensor]:
    """The state with each tensor of the ticket's under all its names, also where a copy of each name was made.

    The model says which names are of one parameter. Without it an entry that has the values of just one of the
    ticket's layers is taken for that layer, but for values that are all the same, as zeros.
    """
    own = {canonical(name): tensor for name, tensor in state.items() if canonical(name) in ticket.masks}
    names = None if model is None else _names(model)

    def layer_of(name: str, tensor: object) -> str | None:
        if name in own or not isinstance(tensor, Tensor):
            return None
        if names is not None:
            return next((layer for layer in own if layer in names.get(name, ())), None)
        alike = [layer for layer, weight in own.items() if _same_values(weight, tensor)]
        return alike[0] if len(alike) == 1 else None

    found = {name: layer_of(canonical(name), tensor) for name, tensor in state.items()}
    return {name: tensor if (layer := found[name]) is None else own[layer] for name, tensor in state.items()}


def _names(model: nn.Module) -> dict[str, list[str]]:
    """All names of the parameter that has this one."""
    shared: dict[int, list[str]] = {}
    for name, parameter in bare(model).named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(canonical(name))
    return {name: names for names in shared.values() for name in names}


def _same_values(one: object, other: Tensor) -> bool:
    return (
        isinstance(one, Tensor)
        and other.is_floating_point()
        and (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        and not other.is_meta
        and torch.equal(one, other)
        and bool((other != other.flatten()[:1]).any())
    )


def with_weights(state: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with new tensors in the place of those named, also where a shared one goes by another name."""
    by_place = {
        _place(tensor): new[canonical(name)] for name, tensor in state.items() if canonical(name) in new
    }
    return {name: by_place.get(_place(tensor), tensor) for name, tensor in state.items()}


def _place(tensor: object) -> tuple[object, ...]:
    """Where the tensor's values lie: equal for two names of one tensor."""
    if not isinstance(tensor, Tensor) or not tensor.numel():
        return (id(tensor),)
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
