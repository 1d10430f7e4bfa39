"""Keep a model on its ticket while any loop trains it: `disbud.sparse`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from disbud.errors import DisbudError, TicketError
from disbud.parameters import parameters
from disbud.training.checkpoint import tensors
from disbud.training.given import check_model, check_ticket

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from disbud.ticket import Ticket


class Guard:
    """What `disbud.sparse` hands to its block: the ticket, a count of the steps seen, and `apply_`.

    >>> import disbud, torch
    >>> model = torch.nn.Linear(4, 2)
    >>> ticket = disbud.prune(model, "magnitude", sparsity=0.5)
    >>> with disbud.sparse(model, ticket) as guard:
    ...     guard.steps
    0
    """

    def __init__(self, model: nn.Module, ticket: Ticket) -> None:
        self.ticket = ticket
        self.steps = 0
        self._homes = _homes(model, ticket)
        self._removed = {name: ~mask for name, mask in ticket.masks.items()}
        self._hooked: dict[str, tuple[nn.Parameter, RemovableHandle | None]] = {}
        self._released = False

    @torch.no_grad()
    def apply_(self) -> None:
        """Set weights and gradients off the ticket to zero now, as after loading dense weights.

        `disbud.sparse` does so itself on entering, after each step of an optimizer, and on leaving. After the block
        it is a matter of once: nothing is followed any more.
        """
        for name, parameter in self._present().items():
            parameter.masked_fill_(self._off(name, parameter.device), 0)
            self._clean_gradient(name, parameter)

    def _present(self) -> dict[str, nn.Parameter]:
        """The model's parameters as they are now, each with its hook until the block is left.

        They are looked up by place: `load_state_dict(assign=True)` puts other objects where ours were.
        """
        present = {}
        for name, (module, attribute) in self._homes.items():
            parameter = module._parameters.get(attribute)
            if parameter is None:
                raise DisbudError(f"the parameter {name!r} was taken off the model inside disbud.sparse")
            hooked = name in self._hooked and self._hooked[name][0] is parameter
            if not hooked and not self._released:
                self._unhook(name)
                self._hooked[name] = parameter, self._hook(name, parameter)
            present[name] = parameter
        return present

    def _hook(self, name: str, parameter: nn.Parameter) -> RemovableHandle | None:
        """Clean each gradient as soon as it is accumulated: before clipping, and before DDP averages it.

        Such hooks live on the tensor, outside of what pickle and deepcopy carry, and stay with a module
        that is moved to another device or type.
        """
        if not (parameter.is_floating_point() or parameter.is_complex()):
            return None
        frozen = not parameter.requires_grad
        parameter.requires_grad_()  # torch takes no hook for a frozen tensor, but keeps one when it is frozen
        handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(
            lambda tensor: self._clean_gradient(name, tensor)
        )
        parameter.requires_grad_(not frozen)
        return handle

    @torch.no_grad()
    def _clean_gradient(self, name: str, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:  # an optimizer that steps inside backward has taken it
            return
        off = self._off(name, gradient.device)
        if gradient.layout == torch.sparse_coo:
            gradient = gradient.coalesce()
            gradient.values().masked_fill_(off[tuple(gradient.indices())], 0)
            parameter.grad = gradient
        else:
            gradient.masked_fill_(off, 0)

    def _off(self, name: str, device: torch.device) -> Tensor:
        """The weights that are removed, on that device: filling by selection also clears NaN and -0."""
        off = self._removed[name]
        if off.device != device:
            off = self._removed[name] = off.to(device)
        return off

    def _after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        # Only what this optimizer changed: when each parameter is stepped inside backward, by an optimizer of
        # its own, the rest of the graph still needs the others as they are.
        held = _held_by(optimizer, self._present())
        with torch.no_grad():
            for name, parameter in held.items():
                parameter.masked_fill_(self._off(name, parameter.device), 0)
        self.steps += bool(held)

    def _unhook(self, name: str) -> None:
        _, handle = self._hooked.pop(name, (None, None))
        if handle is not None:
            handle.remove()

    def _release(self) -> None:
        self._released = True
        for name in list(self._hooked):
            self._unhook(name)


@contextlib.contextmanager
def sparse(model: nn.Module, ticket: Ticket, optimizer: Optimizer | None = None) -> Iterator[Guard]:
    """Keep the model on the ticket inside the block: weights off it are exactly zero after every step.

    Gradients off the ticket are zero as soon as they are there, so that clipping sees the kept ones only.
    Every torch optimizer that holds a pruned parameter is followed, whether given or not; one that is given
    is checked to hold some. The block is given a `Guard`.

    The weights kept are those of the model. Where the ticket must start from weights of its own
    (`ticket.start`), load them first by `ticket.start_(model)`; a warning says so where they are not there.

    The model stays an ordinary one: it is not wrapped, its state_dict, pickles and copies are those of a
    plain model, and no hook is left behind, also when the block raises. A copy keeps its zeros but is not followed.

    >>> import disbud, torch
    >>> model = torch.nn.Linear(4, 2)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> ticket = disbud.prune(model, "magnitude", sparsity=0.5)
    >>> with disbud.sparse(model, ticket, optimizer):
    ...     model(torch.ones(1, 4)).sum().backward()
    ...     optimizer.step()
    >>> int((model.weight != 0).sum())
    4
    """
    check_model(model)
    check_ticket(ticket)
    ticket.check(model)
    if optimizer is not None:
        _check_optimizer(optimizer, model, ticket)
    said = _other_start(model, ticket)
    if said is not None:
        warnings.warn(said, stacklevel=3)  # past contextlib, at the block
    with guarded(model, ticket) as guard:
        yield guard


@contextlib.contextmanager
def guarded(model: nn.Module, ticket: Ticket) -> Iterator[Guard]:
    """`sparse` for a model and a ticket that are known to be what they should be."""
    guard = Guard(model, ticket)
    # The hook of all optimizers, not of the one given: a second optimizer on the same model counts too.
    handle = register_optimizer_step_post_hook(guard._after_step)
    try:
        guard.apply_()
        yield guard
        guard.apply_()
    except BaseException:
        with contextlib.suppress(DisbudError):  # the error of the block is the one to see
            guard.apply_()
        raise
    finally:
        handle.remove()
        guard._release()


def _other_start(model: nn.Module, ticket: Ticket) -> str | None:
    """What to say where the ticket must start from weights that the model has not; the model stays as it is."""
    if ticket.start is None:
        return None
    own = tensors(model)
    found = {name: tensor.detach().clone() for name, tensor in own.items()}
    try:
        ticket.start_(model)
        same = all(torch.equal(own[name][mask], found[name][mask]) for name, mask in ticket.masks.items())
    except TicketError as error:
        return f"{error}; whether the model has them is not known"
    finally:
        with torch.no_grad():
            for name, tensor in own.items():
                if not torch.equal(tensor, found[name]):
                    tensor.copy_(found[name])
    if same:
        return None
    return (
        f"the ticket starts from weights of its own ({ticket.start.file}), and the model has others; load them by "
        "ticket.start_(model), or say that others are meant by dataclasses.replace(ticket, start=None)"
    )


def _homes(model: nn.Module, ticket: Ticket) -> dict[str, tuple[nn.Module, str]]:
    """Where the ticket's parameters are: the module and the attribute, by canonical name."""
    places = {
        id(parameter): (module, attribute)
        for module in model.modules()
        for attribute, parameter in module._parameters.items()
        if parameter is not None
    }
    return {
        name: places[id(parameter)] for name, parameter in parameters(model).items() if name in ticket.masks
    }


def _held_by(optimizer: Optimizer, named: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in named.items() if id(parameter) in held}


def _check_optimizer(optimizer: Optimizer, model: nn.Module, ticket: Ticket) -> None:
    if not isinstance(optimizer, Optimizer):
        raise DisbudError(
            f"disbud.sparse follows torch.optim optimizers, and this is a {type(optimizer).__name__}; "
            "leave it out, and call apply_() on what the block is given after each of its steps"
        )
    trainable = {
        name: parameter
        for name, parameter in parameters(model).items()
        if name in ticket.masks and parameter.requires_grad
    }
    if trainable and not _held_by(optimizer, trainable):
        raise DisbudError(
            "the optimizer holds none of the parameters of the model that the ticket prunes; "
            "make it from this model's parameters()"
        )
