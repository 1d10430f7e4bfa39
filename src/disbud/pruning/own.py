"""A method of one's own as a plain function of a model and batches, held to what every method is held to."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from disbud.catalogue import Value
from disbud.errors import DisbudError
from disbud.graph import prunable
from disbud.isolation import bare
from disbud.origin import Origin
from disbud.parameters import canonical, fingerprint, parameters
from disbud.seeds import global_streams
from disbud.selection import keep_highest, kept_count
from disbud.ticket import Ticket


def own_ticket(
    function: Callable[..., object],
    model: nn.Module,
    batches: Iterable[object],
    *,
    sparsity: float,
    seed: int = 0,
    **settings: Value,
) -> Ticket:
    """The ticket of `function(model, batches)`, which returns a score for each weight by name, or a ticket.

    Of scores the highest are kept, over all layers that were scored. The function is handed `sparsity` and `seed` too
    where it has parameters of these names; the global random streams are seeded around it. It must leave the model's
    weights and buffers as they were, and a ticket of its own must keep exactly what is asked. Gradients, modes and what
    requires gradients are put back for it.

    >>> import torch
    >>> from disbud.pruning import own_ticket
    >>> model = torch.nn.Linear(10, 4)
    >>> def largest(model, batches):
    ...     return {"weight": model.weight.abs()}
    >>> own_ticket(largest, model, [], sparsity=0.9).kept
    4
    """
    inner = bare(model)
    name = (
        f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__name__)}"
    )
    wanted = inspect.signature(function).parameters
    handed = {key: value for key, value in {"sparsity": sparsity, "seed": seed}.items() if key in wanted}
    before = {key: value.clone() for key, value in _held(inner).items()}
    with global_streams(seed, "a method of one's own"), _put_back(model):
        found = function(model, batches, **handed, **settings)
    _check_untouched(name, inner, before)
    if isinstance(found, Ticket):
        found.check(inner)
        kept, origin = kept_count(sparsity, found.total), found.origin
        if found.kept != kept:
            raise DisbudError(
                f"{name} kept {found.kept:,} of {found.total:,} weights; a sparsity of {sparsity:g} is {kept:,}"
            )
        masks = found.to_masks()
    else:
        scores = _scores(name, inner, found)
        total = sum(score.numel() for score in scores.values())
        masks, origin = keep_highest(scores, kept_count(sparsity, total)), Origin("given")
    return Ticket(
        masks,
        Origin(
            name,
            settings={key: value for key, value in settings.items() if not isinstance(value, tuple)},
            sparsity=float(sparsity),
            seed=seed,
            fingerprint=fingerprint(inner),
            parents=(origin,) if isinstance(found, Ticket) else (),
        ),
        found.start if isinstance(found, Ticket) else None,
    )


def _held(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, and what else a state dict holds."""
    every = dict(model.named_buffers()) | model.state_dict()
    return {key: value for key, value in every.items() if isinstance(value, Tensor)}


@contextlib.contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    """Gradients, what requires them, and the modes of modules, as they were before the block.

    Inside it parameters have copies of their gradients, for backward adds to what is there.
    """
    learned = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _, gradient in learned:
        parameter.grad = None if gradient is None else gradient.clone()
    try:
        yield
    finally:
        for parameter, wanted, gradient in learned:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


def _check_untouched(name: str, model: nn.Module, before: Mapping[str, Tensor]) -> None:
    after = _held(model)
    if after.keys() != before.keys():
        raise DisbudError(f"{name} changed what the model is made of; score a copy.deepcopy(model)")
    changed = next((key for key, value in after.items() if not _same(value, before[key])), None)
    if changed is not None:
        raise DisbudError(
            f"{name} changed the model ({changed}); score a copy.deepcopy(model), or put it back"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


def _scores(name: str, model: nn.Module, found: object) -> dict[str, Tensor]:
    """The scores by canonical name, in the order of the layers."""
    if not isinstance(found, Mapping) or not found:
        raise DisbudError(
            f"{name} returned a {type(found).__name__}; it should return scores, a tensor of the weight's shape by "
            "parameter name, or a disbud.Ticket"
        )
    owned = parameters(model)
    given = {canonical(str(key)): value for key, value in found.items()}
    for key, score in given.items():
        if key not in owned:
            some = ", ".join(list(owned)[:4])
            raise DisbudError(f"{name} scored {key!r}, which is no parameter of the model; it has {some}")
        if not isinstance(score, Tensor) or score.shape != owned[key].shape:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise DisbudError(f"{name} scored {key} with {got}; its shape is {tuple(owned[key].shape)}")
        if not torch.isfinite(score).all():
            raise DisbudError(f"{name} gave {key} scores that are NaN or infinite, which have no order")
    names = [layer.name for layer in prunable(model) if layer.name in given]
    return {key: given[key].detach() for key in dict.fromkeys([*names, *given])}
