"""The pruned parameters of a model as vectors of what is kept: made, put back, and stood in for where torch runs."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import pickle
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.parameters import canonical, parameters

# What stands in for weights is seen by every thread: calls that do so wait for one another.
_STANDING_IN = threading.RLock()


@dataclass(frozen=True, eq=False)
class Place:
    """Where a module holds a pruned parameter, and the canonical name of that parameter."""

    holder: nn.Module
    key: str
    name: str


def places_of(model: nn.Module, names: Mapping[str, Tensor]) -> list[Place]:
    """Every place where a parameter of those canonical names is held; a shared one has several."""
    name_of = {id(parameter): name for name, parameter in parameters(model).items() if name in names}
    return [
        Place(module, key, name_of[id(parameter)])
        for module in model.modules()
        for key, parameter in module._parameters.items()
        if parameter is not None and id(parameter) in name_of
    ]


def thin(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Replace each parameter that has a mask by the vector of its kept values, wherever it is held."""
    vectors: dict[str, nn.Parameter] = {}
    for place in places_of(model, masks):
        whole = place.holder._parameters[place.key]
        assert whole is not None
        if place.name not in vectors:
            kept = whole.detach()[masks[place.name]]
            vectors[place.name] = nn.Parameter(kept, requires_grad=whole.requires_grad)
        place.holder._parameters[place.key] = vectors[place.name]


def widen(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Undo `thin`: whole parameters, with zeros where nothing is kept."""
    wholes: dict[str, nn.Parameter] = {}
    for place in places_of(model, masks):
        vector = place.holder._parameters[place.key]
        assert vector is not None
        if place.name not in wholes:
            whole = scattered(vector.detach(), masks[place.name])
            wholes[place.name] = nn.Parameter(whole, requires_grad=vector.requires_grad)
        place.holder._parameters[place.key] = wholes[place.name]


def scattered(vector: Tensor, mask: Tensor) -> Tensor:
    """The whole tensor of a vector of kept values."""
    return vector.new_zeros(mask.shape).masked_scatter(mask, vector)


@contextlib.contextmanager
def standing_in(places: list[Place], masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the modules hold whole weights, computed from the vectors, for torch's own code to read."""
    with _STANDING_IN:
        vectors = {place.name: place.holder._parameters[place.key] for place in places}
        wholes = {
            name: scattered(vector, masks[name]) for name, vector in vectors.items() if vector is not None
        }
        try:
            for place in places:
                place.holder._parameters[place.key] = wholes[place.name]  # type: ignore[assignment]
            yield
        finally:
            for place in places:
                place.holder._parameters[place.key] = vectors[place.name]


def copied(model: nn.Module, *, otherwise: str) -> nn.Module:
    """A copy of the model by itself, or an error that says what to do otherwise."""
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError, pickle.PicklingError) as error:
        raise DisbudError(
            f"the model cannot be copied ({str(error).partition(chr(10))[0]}); {otherwise}"
        ) from error


def digests(masks: Mapping[str, Tensor]) -> Tensor:
    """63 bits of the SHA-256 of each mask: whether two vectors of one length hold weights of the same places."""
    found = []
    for name, mask in sorted(masks.items()):
        content = hashlib.sha256(f"{name}{tuple(mask.shape)}".encode() + mask.contiguous().numpy().tobytes())
        found.append(int.from_bytes(content.digest()[:8], "big") >> 1)
    return torch.tensor(found, dtype=torch.int64)


def dense_state(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a thinned model under the dense model's keys and shapes: copies."""
    mask_of = masks_by_key(model, masks)
    return {
        key: (scattered(value.detach(), mask_of[key]) if key in mask_of else _its_own(value))
        for key, value in model.state_dict().items()
    }


def _its_own(value: object) -> Tensor:
    """A copy of an entry of a state: a tensor, but for what get_extra_state gives."""
    made: Tensor = value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)  # type: ignore[assignment]
    return made


def thinned_state(
    model: nn.Module, masks: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A state of the dense model as one of the thinned model; weights off the ticket are left out."""
    mask_of = masks_by_key(model, masks)
    own = model.state_dict()
    given = {canonical(key): value for key, value in state.items()}
    missing, unknown = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or unknown:
        what = f"lacks {', '.join(missing[:3])}" if missing else f"has {', '.join(unknown[:3])} besides"
        raise DisbudError(f"this is not a state of the dense model: it {what}; give model.state_dict()")
    for key, value in given.items():
        if not isinstance(own[key], Tensor):
            continue
        shape = mask_of[key].shape if key in mask_of else own[key].shape
        if value.shape != shape:
            raise DisbudError(
                f"this is not a state of the dense model: {key} is {tuple(value.shape)}, and {tuple(shape)} in it; a "
                "state of the accelerated model goes to load_state_dict"
            )
    return {key: value[mask_of[key]] if key in mask_of else value for key, value in given.items()}


def masks_by_key(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mask of each key of the state, under every name that a shared parameter has there."""
    name_of = {id(parameter): name for name, parameter in parameters(model).items() if name in masks}
    return {
        key: masks[name_of[id(parameter)]]
        for key, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) in name_of
    }
