"""Rescaling a pruned network so that signals keep the strength they had before it was pruned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from disbud.catalogue import Value
from disbud.errors import DisbudError, unknown_name
from disbud.origin import Origin

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.isolation import Example
    from disbud.ticket import Ticket

HOW = ("weights", "activations", "differences")


@dataclass(frozen=True)
class Rescaled:
    """What `rescale_` did: by which factor it multiplied the kept weights of each layer.

    >>> import disbud, torch
    >>> model = torch.nn.Linear(4, 1, bias=False)
    >>> model.weight.data = torch.tensor([[2.0, 1.0, 2.0, 0.0]])
    >>> ticket = disbud.Ticket.from_masks({"weight": torch.tensor([[1, 0, 0, 0]])})
    >>> disbud.theory.rescale_(model, ticket).factors["weight"], model.weight.tolist()
    (1.5, [[3.0, 0.0, 0.0, 0.0]])
    """

    how: str
    factors: Mapping[str, float]

    def __str__(self) -> str:
        least, most = min(self.factors.values()), max(self.factors.values())
        return f"rescaled by {self.how}: {len(self.factors)} layers, factors {least:.4g} to {most:.4g}"


def rescale_(
    model: nn.Module,
    ticket: Ticket,
    how: str = "weights",
    *,
    sigma_w: float | None = None,
    inputs: Example | None = None,
    seed: int = 0,
) -> Rescaled:
    """Multiply the kept weights of each layer, in place, by a factor that undoes what pruning did to signals.

    The model holds its dense weights when this is called; afterwards those off the ticket are zero. The factor is for

    - "weights": sw / sqrt(fan_in * mean((W * M)^2)) (Hayou et al. 2021, section 3). sw is `sigma_w`, or, where it is
      not given, that of the layer's own dense weights. It assumes that the mask does not look at the signals.
    - "activations": what gives the layer's outputs on `inputs` the mean square they have in the dense net;
    - "differences": what gives the differences of its outputs between pairs of inputs that mean square. Biases are in
      no difference, and what all inputs have in common is not in it either: masks chosen by data keep just that.

    The last two go layer by layer in the order the signal meets them, each layer already reading rescaled signals.
    `inputs` is a batch, the examples along the first axis, of data or of Gaussian noise. A weight that is used several
    times is matched where it is used first. BatchNorm computes with batch statistics.

    >>> import disbud, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64))
    >>> ticket = disbud.prune(model, "random", sparsity=0.75)
    >>> print(disbud.theory.rescale_(model, ticket, "activations", inputs=torch.randn(32, 64)).how)
    activations
    """
    check_way(how, inputs)
    if ticket.start is not None:
        raise DisbudError(
            "the ticket names the weights it starts from, and training would load them over the rescaled ones; load "
            "them with ticket.start_(model), and rescale with dataclasses.replace(ticket, start=None)"
        )
    if how == "weights":
        return _by_weights_(model, ticket, sigma_w)
    if sigma_w is not None:
        raise DisbudError(f'sigma_w belongs to how="weights"; {how!r} measures what the dense net does')
    assert inputs is not None
    from disbud.theory.matching import matched_

    return Rescaled(how, MappingProxyType(matched_(model, ticket, how, inputs=inputs, seed=seed)))


def check_way(how: str, inputs: Example | None) -> None:
    """Raise for a way to rescale that there is not, or that looks at other inputs than these."""
    if how not in HOW:
        raise unknown_name("way to rescale", how, HOW)
    if how == "weights" and inputs is not None:
        raise DisbudError('"weights" looks at no inputs; how="activations" and how="differences" do')
    if how != "weights" and inputs is None:
        raise DisbudError(
            f"{how!r} measures signals: give inputs=..., a batch of data or of noise, as in torch.randn(64, 784)"
        )


def rescaled(
    state: Mapping[str, Tensor], ticket: Ticket, seed: int, *, sigma_w: Value = None
) -> tuple[dict[str, Tensor], Ticket]:
    """The same by "weights" on a model's state dict, as an intervention: a new state, off the ticket too zero.

    A state does not say whether a convolution is transposed, so with `sigma_w` only matrices can be rescaled. Nothing
    is drawn; the seed is only recorded.

    >>> import torch
    >>> from disbud import Ticket
    >>> from disbud.theory.rescale import rescaled
    >>> ticket = Ticket.from_masks({"weight": torch.tensor([[1, 0]])})
    >>> state, _ = rescaled({"weight": torch.tensor([[1.0, 3.0**0.5]])}, ticket, 0)
    >>> state["weight"].tolist()
    [[2.0, 0.0]]
    """
    from disbud.parameters import canonical
    from disbud.ticket import Ticket

    if sigma_w is not None and (isinstance(sigma_w, bool) or not isinstance(sigma_w, int | float)):
        raise DisbudError(f"rescale: sigma_w is a number above 0, not {sigma_w!r}")
    by_name = {canonical(name): tensor for name, tensor in state.items()}
    missing = next((name for name in ticket.masks if name not in by_name), None)
    if missing is not None:
        raise DisbudError(
            f"the state has no {missing}, which the ticket masks; give the model's whole state_dict()"
        )
    new = {}
    for name, mask in ticket.masks.items():
        weight, mask = by_name[name].detach(), mask.to(by_name[name].device)
        if sigma_w is not None and weight.dim() > 2:
            raise DisbudError(
                f"rescale: the fan-in of {name}, of shape {tuple(weight.shape)}, depends on the layer's kind and "
                "stride, which a state dict does not hold; leave sigma_w out, or call disbud.theory.rescale_ with the "
                "model"
            )
        factor = _factor(name, weight, mask, sigma_w, math.prod(weight.shape[1:]))
        new[name] = weight.masked_fill(~mask, 0) * factor
    # A shared tensor stands in the state under several names.
    place = {by_name[name].data_ptr(): new[name] for name in new if by_name[name].numel()}
    changed = {
        name: place.get(tensor.data_ptr(), tensor) if tensor.numel() else tensor
        for name, tensor in state.items()
    }
    origin = Origin(
        "rescale",
        settings={"revision": 1} if sigma_w is None else {"revision": 1, "sigma_w": sigma_w},
        seed=seed,
        fingerprint=ticket.origin.fingerprint,
        parents=(ticket.origin,),
    )
    return changed, Ticket(ticket.to_masks(), origin, None)


def _by_weights_(model: nn.Module, ticket: Ticket, sigma_w: float | None) -> Rescaled:
    import torch

    from disbud.parameters import parameters
    from disbud.theory.draws import fan_ins

    ticket.check(model)
    owned, fan_in = parameters(model), fan_ins(model)
    masks = {name: mask.to(owned[name].device) for name, mask in ticket.masks.items()}
    # All factors are known before any weight changes, so that an error leaves the model as it was.
    factors = {}
    for name, mask in masks.items():
        weight = owned[name].detach()
        # What no such layer owns, as attention's projections, has its outputs first.
        factors[name] = _factor(name, weight, mask, sigma_w, fan_in.get(name, math.prod(weight.shape[1:])))
    with torch.no_grad():
        for name, factor in factors.items():
            owned[name].masked_fill_(~masks[name], 0).mul_(factor)
    return Rescaled("weights", MappingProxyType(factors))


def _factor(name: str, weight: Tensor, mask: Tensor, sigma_w: float | None, fan_in: float) -> float:
    """sw / sqrt(fan_in * mean((W * M)^2)); with the dense layer's own sw, the fan-in cancels."""
    if weight.shape != mask.shape or not weight.is_floating_point() or weight.is_meta:
        raise DisbudError(
            f"{name} holds {tuple(weight.shape)} values of {weight.dtype} on {weight.device}; the ticket's mask has "
            f"the shape {tuple(mask.shape)}, and rescaling needs floating-point values"
        )
    squares = weight.double().square()
    kept, removed = float(squares[mask].sum()), float(squares[~mask].sum())
    if not kept or not math.isfinite(kept + removed):
        what = "keeps no weight but zeros" if not kept else "holds NaN or infinite weights"
        raise DisbudError(f"{name} {what} under the ticket, so no factor brings its signals back")
    if sigma_w is not None:
        if not 0 < sigma_w < math.inf:
            raise DisbudError(
                f"sigma_w, the weights' deviation times sqrt(fan_in), is above 0, not {sigma_w!r}"
            )
        return sigma_w / math.sqrt(fan_in * kept / weight.numel())
    if not removed and not bool(mask.all()):
        raise DisbudError(
            f"{name} is zero off the ticket already, so what it was before pruning cannot be seen: rescale before the "
            "ticket is applied, or give sigma_w"
        )
    return math.sqrt((kept + removed) / kept)
