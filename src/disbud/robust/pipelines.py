"""SBP and MBP: initialise on the edge of chaos, prune by sensitivity or magnitude, rescale (Hayou et al. 2021)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import nn

from disbud.batches import Loss
from disbud.errors import DisbudError
from disbud.graph import Chosen
from disbud.isolation import Example
from disbud.origin import Json, Origin
from disbud.pruning import prune
from disbud.pruning.peeking import peeked
from disbud.theory import Initialised, edge_of_chaos, initialize_, rescale_
from disbud.theory import activation as activation_named
from disbud.theory.activations import Activation, ActivationLike
from disbud.theory.draws import sites
from disbud.theory.edge import least_stable_biases
from disbud.theory.reading import activation_of
from disbud.theory.rescale import check_way
from disbud.ticket import Ticket

# The deviation of biases where some are needed and none are asked for: on it tanh holds the variance 0.512.
_BIASES = 0.2


def sbp(
    model: nn.Module,
    *,
    sparsity: float,
    batches: Iterable[object],
    activation: ActivationLike | None = None,
    sigma_b: float | None = None,
    phase: str = "edge-of-chaos",
    rescale: str | None = "activations",
    inputs: Example | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    include: Chosen | None = None,
    exclude: Chosen | None = None,
    examples_per_class: int | None = 10,
    batch_size: int = 256,
) -> Ticket:
    """Sensitivity-based pruning; the model is left initialised and rescaled, to be trained on the ticket as it is.

    Weights and biases are drawn on the edge of chaos (`theory.initialize_`), scored by SNIP's abs(w dL/dw), and what
    is kept is multiplied by a factor a layer (`theory.rescale_`); weights off the ticket are zero.

    The activation is read off the model's modules where it is not named. `sigma_b` is 0 where that is an edge that
    holds every variance (ReLU), else 0.2, or the least that makes the edge stable. `rescale` is "activations" by
    default, since a mask by sensitivity follows the signals, and the paper's factor ("weights") assumes that it does
    not; None leaves the weights as drawn. Signals are measured on `inputs`, by default those of the first batch.

    >>> import torch
    >>> from disbud import data, models, robust
    >>> digits = data.load("digits")
    >>> model = models.build("mlp:hidden=50+50+50,activation=tanh", input_shape=digits.input_shape)
    >>> ticket = robust.sbp(model, sparsity=0.9, batches=digits.batches(64))
    >>> ticket.origin.method, ticket.origin.parents[0].method, int(model.fc2.weight.count_nonzero()) < 2500
    ('sbp', 'snip', True)
    """
    first, batches = peeked(batches, seed)
    inputs = _looked_at(rescale, _inputs_in(first) if inputs is None else inputs)
    with _put_back_on_error(model):
        done = _initialised(model, activation, sigma_b, phase=phase, seed=seed)
        ticket = prune(
            model, "snip", sparsity=sparsity, batches=batches, loss=loss, seed=seed, include=include, exclude=exclude,
            examples_per_class=examples_per_class, batch_size=batch_size,
        )  # fmt: skip
        return _rescaled("sbp", model, ticket, done, rescale, inputs=inputs)


def mbp(
    model: nn.Module,
    *,
    sparsity: float,
    activation: ActivationLike | None = None,
    sigma_b: float | None = None,
    phase: str = "edge-of-chaos",
    rescale: str | None = "weights",
    inputs: Example | None = None,
    seed: int = 0,
    include: Chosen | None = None,
    exclude: Chosen | None = None,
) -> Ticket:
    """Magnitude-based pruning: as `sbp`, by abs(w), which needs no data; its masks do not look at the signals.

    So the paper's factors ("weights") bring them back, and no inputs are needed.

    >>> from disbud import models, robust
    >>> model = models.build("mlp:hidden=50+50", input_shape=(1, 8, 8))
    >>> robust.mbp(model, sparsity=0.9).origin.settings["rescale"]
    'weights'
    """
    inputs = _looked_at(rescale, inputs)
    with _put_back_on_error(model):
        done = _initialised(model, activation, sigma_b, phase=phase, seed=seed)
        ticket = prune(model, "magnitude", sparsity=sparsity, seed=seed, include=include, exclude=exclude)
        return _rescaled("mbp", model, ticket, done, rescale, inputs=inputs)


def usual_biases(like: ActivationLike) -> float:
    """The deviation of biases for an edge of chaos that holds a variance above 0.

    >>> from disbud.robust.pipelines import usual_biases
    >>> usual_biases("relu"), usual_biases("tanh"), usual_biases("gelu") > 0.2
    (0.0, 0.2, True)
    """
    phi: Activation = activation_named(like)
    for sigma_b in (0.0, _BIASES):
        try:
            edge = edge_of_chaos(phi, sigma_b)
        except DisbudError:
            continue
        if edge.every_q or (edge.stable and edge.q > 0):
            return sigma_b
    least = least_stable_biases(phi)
    if least is None:
        raise DisbudError(f"{phi.name} has no stable edge of chaos; give sigma_b, or another activation")
    return least


def _looked_at(rescale: str | None, inputs: Example | None) -> Example | None:
    """Of the inputs there are, those that the rescaling looks at."""
    looked_at = None if rescale in (None, "weights") else inputs
    if rescale is not None:
        check_way(rescale, looked_at)
    return looked_at


@contextlib.contextmanager
def _put_back_on_error(model: nn.Module) -> Iterator[None]:
    """Whichever step of the block is refused, the model's weights are then as they were."""
    sites(model)  # raises for a model whose weights cannot be drawn
    owned = [p for p in model.parameters() if not isinstance(p, nn.parameter.UninitializedParameter)]
    before = [parameter.detach().clone() for parameter in owned]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, values in zip(owned, before, strict=True):
                parameter.copy_(values)
        raise


def _initialised(
    model: nn.Module,
    activation: ActivationLike | None,
    sigma_b: float | None,
    *,
    phase: str,
    seed: int,
) -> Initialised:
    like = activation_of(model) if activation is None else activation
    return initialize_(
        model, phase, activation=like, sigma_b=usual_biases(like) if sigma_b is None else sigma_b, seed=seed
    )


def _rescaled(
    name: str, model: nn.Module, ticket: Ticket, done: Initialised, how: str | None, *, inputs: Example | None
) -> Ticket:
    if how is None:
        ticket.apply_(model)
    elif how == "weights":
        rescale_(model, ticket, sigma_w=done.phase.sigma_w)
    else:
        rescale_(model, ticket, how, inputs=inputs, seed=ticket.origin.seed or 0)
    at = done.phase
    settings: dict[str, Json] = {
        "revision": 1,
        "rescale": how,
        "activation": at.activation,
        "sigma_w": at.sigma_w,
        "sigma_b": at.sigma_b,
    }
    was = ticket.origin
    origin = Origin(
        name,
        settings=settings,
        sparsity=was.sparsity,
        seed=was.seed,
        evidence=was.evidence,
        fingerprint=was.fingerprint,
        parents=(was,),
    )
    return dataclasses.replace(ticket, origin=origin)


def _inputs_in(batch: object) -> Example | None:
    """The x of an (x, y) batch."""
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    found = batch[0] if pair else None  # type: ignore[index]
    return cast("Example", found) if isinstance(found, torch.Tensor) else None
