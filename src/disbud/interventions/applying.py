"""From an intervention's name to its outcome: the text is read, settings are checked, the function is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, cast

from disbud.catalogue import Value, check_settings, find, parse
from disbud.errors import DisbudError
from disbud.interventions.catalogue import CATALOGUE, Intervention

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.isolation import Example
    from disbud.ticket import Ticket

_ENTRY_POINTS = {"mask": "on_mask", "weights": "on_weights", "data": "on_data"}


def on_mask(
    ticket: Ticket,
    intervention: str,
    *,
    seed: int = 0,
    model: nn.Module | None = None,
    example: Example | None = None,
    **settings: Value,
) -> Ticket:
    """A ticket with other masks; the one given stays as it is, and its origin is the parent of the new one's.

    `model` is needed where units are kept and the ticket has convolutions, whose masks do not say whether they are
    grouped or transposed. `effective` needs the model and an example of its input, such as torch.zeros(1, 3, 32, 32).

    >>> import disbud, torch
    >>> model = torch.nn.Linear(30, 20)
    >>> ticket = disbud.prune(model, "magnitude", sparsity=0.9)
    >>> shuffled = disbud.interventions.on_mask(ticket, "shuffle-degrees:rounds=30", seed=1)
    >>> shuffled == ticket, torch.equal(shuffled.masks["weight"].sum(0), ticket.masks["weight"].sum(0))
    (False, True)
    >>> shuffled.origin.method, shuffled.origin.parents[0].method
    ('shuffle-degrees', 'magnitude')
    """
    from disbud.ticket import Ticket

    entry, resolved = _resolved(intervention, "mask", settings)
    _check_kind("ticket", ticket, Ticket)
    available = {"model": model, "example": example}
    handed = {key: available[key] for key in entry.needs}
    return cast("Ticket", entry.load()(ticket, seed, **handed, **resolved))


def on_weights(
    state: Mapping[str, Tensor],
    ticket: Ticket,
    intervention: str,
    *,
    seed: int = 0,
    model: nn.Module | None = None,
    init: str | Callable[[nn.Module], object] | None = None,
    factory: Callable[[int], nn.Module] | None = None,
    **settings: Value,
) -> tuple[dict[str, Tensor], Ticket]:
    """Other weights under the same mask: a new state, and the ticket with the intervention in its origin.

    `state` is the model's state dict; tensors that do not change are handed on, those that do are new, under all their
    names: `model` says which those are, and without it entries of equal values are taken for one. The ticket's `start`,
    if it had one, is dropped: from now on the state says where training starts. `init` and `factory` are for `reinit`,
    whose function explains them and what it does with `model`.

    >>> import disbud, torch
    >>> model = torch.nn.Linear(30, 20)
    >>> ticket = disbud.prune(model, "magnitude", sparsity=0.9)
    >>> state, ticket = disbud.interventions.on_weights(
    ...     model.state_dict(), ticket, "reinit:init=kaiming-normal", seed=1
    ... )
    >>> torch.equal(state["weight"], model.weight), torch.equal(state["bias"], model.bias)
    (False, True)
    """
    from torch import nn

    from disbud.interventions.states import shared_again
    from disbud.ticket import Ticket

    given: dict[str, object] = {**settings, **({} if init is None else {"init": init})}
    entry, resolved = _resolved(intervention, "weights", given)
    _check_kind("state", state, Mapping)
    _check_kind("ticket", ticket, Ticket)
    if entry.name == "reinit":
        resolved |= {"model": model, "factory": factory}
    state = shared_again(state, ticket, model if isinstance(model, nn.Module) else None)
    return cast("tuple[dict[str, Tensor], Ticket]", entry.load()(state, ticket, seed, **resolved))


def on_data(
    batches: Iterable[tuple[Tensor, Tensor]], intervention: str, *, seed: int = 0, **settings: Value
) -> list[tuple[Tensor, Tensor]]:
    """Other data to prune with: batches of the size they came in, made of all the examples given.

    The (x, y) batches are read once, to the end, and held together, since class counts and means are those of the
    whole: of a large data set give what the method will look at.

    >>> import disbud, torch
    >>> batches = [(torch.rand(6, 3, 8, 8), torch.arange(6) % 3) for _ in range(10)]
    >>> halved = disbud.interventions.on_data(batches, "half-data", seed=1)
    >>> [len(x) for x, y in halved], torch.cat([y for x, y in halved]).bincount().tolist()
    ([6, 6, 6, 6, 6], [10, 10, 10])
    """
    import torch

    entry, resolved = _resolved(intervention, "data", settings)
    x, y, size = _gathered(batches)
    changed = cast("tuple[Tensor, Tensor]", entry.load()(x, y, seed, **resolved))
    return list(zip(*(torch.split(part, size) for part in changed), strict=True))


def _resolved(text: str, acts_on: str, given: Mapping[str, object]) -> tuple[Intervention, dict[str, object]]:
    """The intervention that the text names, and its settings: the defaults, then the text's, then the keywords'."""
    if not isinstance(text, str):
        raise DisbudError(
            f"an intervention is named by a text, such as 'shuffle' or 'reinit:init=kaiming-normal', not {text!r}"
        )
    spec = parse(text)
    entry = find("intervention", spec.name, CATALOGUE)
    if entry.acts_on != acts_on:
        raise DisbudError(
            f"{entry.name} changes the {entry.acts_on}, not the {acts_on}: "
            f"call disbud.interventions.{_ENTRY_POINTS[entry.acts_on]}"
        )
    if spec.argument is not None:
        example = next((f"{key}={value}" for key, value in entry.settings.items()), None)
        hint = f"write key=value, as in {entry.name}:{example}" if example else "it has no settings"
        raise DisbudError(f"{text!r}: {entry.name} takes no {spec.argument!r}; {hint}")
    twice = sorted(spec.settings.keys() & given.keys())
    if twice:
        raise DisbudError(f"{text!r}: {twice[0]} is given in the text and as a keyword; give it once")
    settings = {**spec.settings, **given}
    if settings and not entry.settings:
        raise DisbudError(f"{entry.name} has no settings, but {', '.join(sorted(settings))} was given")
    check_settings(f"intervention {entry.name!r}", settings, entry.settings)
    return entry, {**entry.settings, **settings}


def _check_kind(what: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        article = "a mapping of tensors by name" if kind is Mapping else f"a {kind.__name__}"
        raise DisbudError(f"{what} should be {article}, not a {type(value).__name__}")


def _gathered(batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, int]:
    """All examples together, and the size of the first batch."""
    import torch

    def is_pair(batch: object) -> bool:
        return (
            isinstance(batch, tuple | list)
            and len(batch) == 2
            and all(isinstance(part, torch.Tensor) and part.dim() > 0 for part in batch)
            and len(batch[0]) == len(batch[1])
        )

    if isinstance(batches, tuple) and is_pair(batches):
        raise DisbudError(
            "batches is one (x, y) pair; it should be an iterable of them: on_data([(x, y)], ...)"
        )
    if isinstance(batches, str | torch.Tensor | Mapping) or not isinstance(batches, Iterable):
        raise DisbudError(f"batches is an iterable of (x, y) batches, not a {type(batches).__name__}")
    pairs = list(batches)
    if not pairs:
        raise DisbudError("batches is empty: there are no examples to change")
    for batch in pairs:
        if not is_pair(batch):
            raise DisbudError(
                "the data interventions work on batches (x, y) of two tensors with one row an example, not on "
                f"a {type(batch).__name__}"
            )
    inputs, targets = zip(*pairs, strict=True)
    for parts in (inputs, targets):
        if len({(part.shape[1:], part.dtype) for part in parts}) > 1:
            raise DisbudError("the batches differ in the shape or type of their examples")
    x, y = torch.cat(inputs), torch.cat(targets)
    if not len(x):
        raise DisbudError("the batches hold no examples")
    return x, y, max(1, len(inputs[0]))
