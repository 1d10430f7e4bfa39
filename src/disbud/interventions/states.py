"""A model's state as a value: tensors found by canonical name, and exchanged without touching the others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from disbud.errors import DisbudError
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
