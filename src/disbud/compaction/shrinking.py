"""From the places kept to the small model: smaller tensors in its modules, sizes that fit, and its ticket."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from disbud.compaction.kept import Kept
from disbud.origin import Origin
from disbud.parameters import canonical, fingerprint
from disbud.ticket import Ticket


def shrunk(model: nn.Module, kept: Mapping[str, Kept]) -> nn.Module:
    """The model with only what is kept of its parameters and buffers: the same classes of modules, no gradients."""
    small = copy.deepcopy(model)
    owned: list[tuple[str, Tensor]] = [*small.named_parameters(), *small.named_buffers()]
    kept_of = {id(tensor): kept[canonical(name)] for name, tensor in owned}
    made = {id(tensor): _smaller(tensor, kept_of[id(tensor)]) for _, tensor in owned}
    for module in small.modules():
        weight = module._parameters.get("weight")
        if weight is not None and not kept_of[id(weight)].whole:
            _restate(module, kept_of[id(weight)])
        elif isinstance(module, _NormBase):  # which may have statistics and no weight
            statistics = module._buffers.get("running_mean")
            if statistics is not None:
                module.num_features = kept_of[id(statistics)].small[0]
        for holder in (module._parameters, module._buffers):
            for key, tensor in holder.items():
                if tensor is not None:
                    holder[key] = made[id(tensor)]  # type: ignore[assignment]
    for name, norm in bare_norms(small):
        norm.num_features = kept[name].small[0]
    return small


def bare_norms(model: nn.Module) -> Iterator[tuple[str, _NormBase]]:
    """Normalisations that say a number of channels and have no tensor that shows it, by the name of that number."""
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and module.weight is None and module.running_mean is None:
            yield canonical(f"{name}.num_features"), module


def _smaller(tensor: Tensor, kept: Kept) -> Tensor:
    taken = kept.take(tensor)
    return (
        nn.Parameter(taken, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else taken
    )


def _restate(module: nn.Module, weight: Kept) -> None:
    """Have a module of torch's say the sizes that its weight now has."""
    first, *rest = weight.small
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = first, rest[0]
    elif isinstance(module, _ConvNd):
        module.groups = weight.groups or module.groups
        transposed = isinstance(module, _ConvTransposeNd)
        into, out_of = (first, rest[0] * module.groups) if transposed else (rest[0] * module.groups, first)
        module.in_channels, module.out_channels = into, out_of
    elif isinstance(module, _NormBase):
        module.num_features = first
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = rest[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = first


def small_ticket(ticket: Ticket, kept: Mapping[str, Kept], small: nn.Module) -> Ticket:
    """The ticket that fits the small model. It starts from the weights that are there."""
    masks = {name: kept[name].take(mask) for name, mask in ticket.masks.items()}
    return Ticket(masks, Origin("compact", parents=(ticket.origin,), fingerprint=fingerprint(small)))


def every_name(model: nn.Module, kept: Mapping[str, Kept]) -> dict[str, Kept]:
    """What is kept under every name a tensor has, those of a shared one too."""
    owned = [*model.named_parameters(), *model.named_buffers()]
    name_of = {id(tensor): canonical(name) for name, tensor in owned}
    again: list[tuple[str, Tensor]] = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {canonical(name): kept[name_of[id(tensor)]] for name, tensor in again}


def is_extra(name: str) -> bool:
    """Whether an entry of a state is what a module adds to it by get_extra_state, which goes by no channels."""
    return name.rpartition(".")[2] == "_extra_state"


def full_state(model: nn.Module, ticket: Ticket) -> dict[str, Tensor]:
    """The state of the model, with zeros off the ticket."""
    name_of = {id(parameter): canonical(name) for name, parameter in model.named_parameters()}
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and not is_extra(name):
            mask = ticket.masks.get(name_of.get(id(tensor), ""))
            value = tensor.detach().clone()
            found[canonical(name)] = value if mask is None else value.masked_fill_(~mask.to(value.device), 0)
    return found
