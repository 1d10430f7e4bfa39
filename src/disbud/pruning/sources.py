"""What scores are drawn from: the batches, the example, the weights, checked before anything is done with them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from disbud.batches import Loss, cross_entropy
from disbud.errors import DisbudError
from disbud.graph import Layer
from disbud.isolation import Example
from disbud.methods.catalogue import Method
from disbud.methods.evidence import Evidence
from disbud.methods.scoring import Scoring
from disbud.parameters import canonical, parameters
from disbud.pruning.plan import as_json
from disbud.seeds import generator, global_streams
from disbud.selection import Densities, check_sparsity
from disbud.ticket import Ticket


def check_sparsity_given(sparsity: float | None, densities: Densities | None) -> None:
    """Raise where nothing says how much to remove; warn where it looks like what to keep."""
    if sparsity is None:
        if not isinstance(densities, Ticket):
            raise DisbudError("give a sparsity, the fraction of weights to remove, as in sparsity=0.98")
        return
    check_sparsity(sparsity)
    if 0 < sparsity <= 0.1:
        warnings.warn(
            f"sparsity={sparsity:g} removes {sparsity:.2%} of the weights; to keep {sparsity:.2%} of them give "
            f"sparsity={1 - sparsity:g}",
            stacklevel=3,
        )


def evidence_of(
    entry: Method,
    batches: Iterable[object] | None,
    examples_per_class: int | None,
    batch_size: int,
    rounds: int,
) -> Evidence | None:
    """What a method may look at: nothing where it looks at none, and has not been given any to look at."""
    if entry.needs != "batches" and (batches is None or not entry.construction):
        return None
    if batches is None:
        raise DisbudError(
            f"{entry.name} looks at data: give batches=..., an iterable of batches such as a DataLoader; "
            "(x, y) pairs need no loss"
        )
    return Evidence(batches, examples_per_class, batch_size, rounds)


def example_of(
    entry: Method,
    example: Example | None,
    batches: Iterable[object] | None,
    seed: int,
    *,
    always: bool = False,
) -> Example | None:
    """The input whose shape is needed: where only (x, y) batches are given, the first x.

    `always`: also where only what is around the method needs one; but a method that looks at data must not lose the
    first batch of an iterator.
    """
    looks = entry.needs == "example" or (always and not isinstance(batches, Iterator))
    if example is not None or not looks or batches is None:
        return example
    with global_streams(seed, "example"):  # a loader draws from them
        first = next(iter(batches), None)
    pair = isinstance(first, tuple | list) and len(first) == 2
    return first[0] if pair and isinstance(first[0], Tensor) else None  # type: ignore[index]


def scoring_of(
    method: str,
    model: nn.Module,
    layers: Sequence[Layer],
    *,
    evidence: Evidence | None,
    loss: Loss | None,
    example: Example | None,
    seed: int,
) -> Scoring:
    """The model under scoring, its weights checked."""
    check_values(model, layers)
    _check_loss(loss)
    return Scoring(
        model,
        layers,
        {canonical(name): name for name, _ in model.named_parameters()},
        evidence=evidence,
        loss=cross_entropy if loss is None else loss,
        example=example,
        # Two methods with one seed draw different tickets, so that a control is not a copy of what it controls.
        streams=partial(generator, seed, "mask", method),
    )


def _check_loss(loss: object) -> None:
    """Raise where it is not called as loss(model, batch) is: those of torch take outputs and targets."""
    if loss is None:
        return
    inner = loss.func if isinstance(loss, partial) else loss
    of_torch = (
        isinstance(inner, nn.modules.loss._Loss) or getattr(inner, "__module__", "") == functional.__name__
    )
    if of_torch or not callable(loss) or not takes(loss, 2):
        given = as_json(loss) if callable(loss) and not isinstance(loss, nn.Module) else repr(loss)
        raise DisbudError(
            "loss is called as loss(model, batch) and returns the mean loss of the batch; in the place of "
            f"{given} write, for (x, y) batches, "
            "loss=lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1])"
        )


def takes(function: Callable[..., object], arguments: int) -> bool:
    """Whether it can be called with so many arguments by position; a builtin that does not tell is trusted."""
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def check_values(model: nn.Module, layers: Sequence[Layer]) -> None:
    """Raise where weights to be pruned hold no values, or values that are not finite."""
    owned = parameters(model)
    for layer in layers:
        weight = owned[layer.name].detach()
        if weight.is_meta:
            raise DisbudError(
                f"{layer.name} is on the meta device and holds no values; materialise the model first"
            )
        if weight.numel() and not torch.isfinite(torch.stack(torch.aminmax(weight))).all():
            raise DisbudError(
                f"{layer.name} holds NaN or infinite weights, so no score can be drawn from the model"
            )
