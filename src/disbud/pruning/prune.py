"""From a method's name to a ticket: scores, rounds, budgets, and the settings as they were resolved."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from disbud.catalogue import Value, find
from disbud.errors import DisbudError
from disbud.graph import Chosen, Layer, prunable
from disbud.isolation import Example, bare, isolated
from disbud.methods.catalogue import CATALOGUE, Method
from disbud.methods.evidence import Evidence, Loss, cross_entropy
from disbud.methods.scoring import Scoring
from disbud.origin import Origin
from disbud.parameters import canonical, fingerprint, parameters
from disbud.pruning.grouped import masks_by_groups, record
from disbud.pruning.plan import as_json, plan_of
from disbud.pruning.rounds import masks_of
from disbud.pruning.trained import Descent, HowToTrain, by_training, layers_of
from disbud.seeds import generator, global_streams
from disbud.selection import (
    Densities,
    check_sparsity,
)
from disbud.ticket import Ticket
from disbud.ticket_file import start_of

if TYPE_CHECKING:
    import os

    from disbud.data import Dataset
    from disbud.pruning.own_trainer import Train
    from disbud.pruning.recipe_trainer import Tell
    from disbud.training.recipes import Recipe


def prune(
    model: nn.Module,
    method: str = "synflow",
    *,
    sparsity: float | None = None,
    batches: Iterable[object] | None = None,
    example: Example | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    densities: Densities | None = None,
    rounds: int | None = None,
    schedule: str | None = None,
    keep: str = "highest",
    regrowth: bool | None = None,
    batch_norm: str | None = None,
    granularity: str = "weight",
    aggregate: str = "sum-of-abs",
    include: Chosen | None = None,
    exclude: Chosen | None = None,
    examples_per_class: int | None = 10,
    batch_size: int = 256,
    data: Dataset | None = None,
    recipe: Recipe | str | None = None,
    train: Train | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Tell | None = None,
    **settings: Value,
) -> Ticket:
    """Choose which weights of a model stay, before it is trained. The model is not changed.

    Exactly round((1 - sparsity) * N) of the N prunable weights are kept. `batches` is any iterable of batches; (x, y)
    pairs need no `loss`, other batches need `loss(model, batch)`, which returns their mean loss. Of (x, y) data with
    class labels the first `examples_per_class` of each class are used, regrouped into batches of `batch_size`; None
    uses every batch as it comes. `example` is an input, a tuple or a dict of inputs, for methods that look at no data;
    (x, y) batches do as well.

    `densities` gives each layer its own budget: a rule ("uniform", "erk", "smart-ratio", ...), a ticket, or densities
    by layer name; by default the method's own. `rounds`, `schedule`, `regrowth` and `batch_norm` (the mode BatchNorm
    scores in) override the method's; `keep="lowest"` turns the ranking upside down. With a
    `granularity` of "kernel", "channel" or n of every m inputs ("2:4"), whole groups are ranked, by the sum of their
    weights' scores or, with aggregate="abs-of-sum", by the absolute value of the sum before signs are dropped; as many
    stay as the count allows, and the origin says how many weights that is. Channels that an addition joins go together,
    which needs an `example`. Further settings are the method's
    own: `disbud methods` lists them.

    A method that trains (`disbud methods` says which) needs `data`, a `disbud.data.Dataset`, and trains copies of the
    model by the `recipe` (else the data set's own), as `disbud.train` would with the same seed. What it trains is kept
    in the cache, or in the folder `checkpoint`, and never trained again; a run that was stopped goes on where it was.
    In the place of both, `train` is a function of your own: `train(model, ticket)` trains the model that it is given in
    place and returns nothing; the model is kept on the ticket (None while it is dense) around the call, and the global
    random streams are seeded. To rewind to a step it is called as `train(model, None, steps)` and stops after so many.
    What it comes to is kept only in a `checkpoint`, to be used with one function. `progress(fraction, what)` is told
    how far training by a recipe is. The ticket carries the weights that it must start from (`Ticket.start`), which
    `disbud.train` loads and `save` writes beside it.

    >>> import disbud, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU(), torch.nn.Linear(10, 5))
    >>> batch = (torch.randn(8, 20), torch.arange(8) % 5)
    >>> ticket = disbud.prune(model, "snip", sparsity=0.9, batches=[batch], examples_per_class=None)
    >>> ticket.kept, ticket.total
    (25, 250)
    """
    entry = find("method", method, CATALOGUE)
    _check_sparsity_given(sparsity, densities)
    inner = bare(model)
    how = HowToTrain(data, recipe, train, checkpoint, progress).checked(entry)
    layers = layers_of(inner, how, include=include, exclude=exclude, example=example)
    example = _example(entry, example, batches, seed, granularity)
    plan = plan_of(
        entry, inner, settings, densities=densities, rounds=rounds, schedule=schedule, keep=keep, regrowth=regrowth,
        batch_norm=batch_norm, granularity=granularity, aggregate=aggregate,
    )  # fmt: skip
    start = None
    if entry.trains:
        how.check_no_scores(batches=batches, loss=loss, batch_norm=batch_norm, regrowth=regrowth)
        _check_values(inner, layers)
        by_rounds = rounds is not None or schedule is not None
        descent = Descent.of(plan, layers, sparsity, asked="per_level" in settings, by_rounds=by_rounds)
        found, resolved = by_training(plan, descent, inner, how, seed=seed)
        masks, start, looked_at = found.masks, start_of(found.start), how.evidence()
    else:
        evidence = _evidence(entry, batches, examples_per_class, batch_size, plan.rounds)
        scoring = _scoring(
            entry.name, inner, layers, evidence=evidence, loss=loss, example=example, seed=seed
        )
        with isolated(inner, seed=seed, batch_norm=plan.batch_norm):
            masks = (masks_by_groups if plan.by_groups else masks_of)(plan, scoring, sparsity)
        was_read = evidence is not None and evidence.batches > 0  # a construction may look at data, or not
        looked_at = evidence.summary() if evidence is not None and was_read else None
        resolved = plan.to_json() | ({} if not was_read else {
            "examples_per_class": examples_per_class, "batch_size": batch_size, "loss": as_json(loss or cross_entropy),
        })  # fmt: skip
        if plan.granularity.kind != "weight":
            resolved |= record(plan, layers, sparsity, masks)
    parents = (plan.densities.origin,) if isinstance(plan.densities, Ticket) else ()
    origin = Origin(
        entry.name,
        settings=resolved | {"include": as_json(include), "exclude": as_json(exclude)},
        sparsity=None if sparsity is None else float(sparsity),
        seed=seed,
        evidence=looked_at,
        fingerprint=fingerprint(inner),
        parents=parents,
    )
    return Ticket(masks, origin, start)


def scores(
    model: nn.Module,
    method: str,
    *,
    batches: Iterable[object] | None = None,
    example: Example | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    ticket: Ticket | None = None,
    batch_norm: str | None = None,
    include: Chosen | None = None,
    exclude: Chosen | None = None,
    examples_per_class: int | None = 10,
    batch_size: int = 256,
    **settings: Value,
) -> dict[str, Tensor]:
    """A method's score of every prunable weight, by layer: what `prune` ranks in its first round.

    With a `ticket`, the scores of the pruned network, as a later round sees them; weights off it score zero unless the
    method lets them return.

    >>> import disbud, torch
    >>> model = torch.nn.Linear(3, 2, bias=False)
    >>> torch.equal(disbud.scores(model, "magnitude")["weight"], model.weight.abs())
    True
    """
    entry = find("method", method, CATALOGUE)
    if entry.trains:
        raise DisbudError(
            f"{entry.name} trains the model and scores nothing before; prune with it, or train the model and score it "
            "by 'magnitude'"
        )
    if entry.construction:
        raise DisbudError(
            f"{entry.name} builds its masks and gives no scores; prune with it, or score with another"
        )
    inner = bare(model)
    layers = prunable(inner, include=include, exclude=exclude, example=example)
    example = _example(entry, example, batches, seed)
    plan = plan_of(entry, inner, settings, batch_norm=batch_norm)
    evidence = _evidence(entry, batches, examples_per_class, batch_size, 1)
    scoring = _scoring(entry.name, inner, layers, evidence=evidence, loss=loss, example=example, seed=seed)
    if ticket is not None:
        ticket.check(inner)
        scoring.masks = {
            layer.name: ticket.masks[layer.name].to(scoring.weights[layer.name].device)
            if layer.name in ticket.masks
            else torch.ones(layer.shape, dtype=torch.bool, device=scoring.weights[layer.name].device)
            for layer in layers
        }
    with isolated(inner, seed=seed, batch_norm=plan.batch_norm):
        found = plan.score(scoring)
    return {name: _full(found[name], scoring, name, regrowth=plan.regrowth) for name in scoring.weights}


def _full(score: Tensor, scoring: Scoring, name: str, *, regrowth: bool) -> Tensor:
    """A score in the weight's own shape; some methods score only the weights still kept."""
    if scoring.masks is None or (regrowth and score.shape == scoring.masks[name].shape):
        return score.view(scoring.weights[name].shape)
    mask = scoring.masks[name]
    if score.shape == mask.shape:
        return score.masked_fill(~mask, 0)
    return torch.zeros_like(mask, dtype=score.dtype).masked_scatter_(mask, score)


def _check_sparsity_given(sparsity: float | None, densities: Densities | None) -> None:
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


def _evidence(
    entry: Method,
    batches: Iterable[object] | None,
    examples_per_class: int | None,
    batch_size: int,
    rounds: int,
) -> Evidence | None:
    if entry.needs != "batches" and (batches is None or not entry.construction):
        return None
    if batches is None:
        raise DisbudError(
            f"{entry.name} looks at data: give batches=..., an iterable of batches such as a DataLoader; "
            "(x, y) pairs need no loss"
        )
    return Evidence(batches, examples_per_class, batch_size, rounds)


def _example(
    entry: Method,
    example: Example | None,
    batches: Iterable[object] | None,
    seed: int,
    granularity: str = "weight",
) -> Example | None:
    """The input whose shape is needed: where only (x, y) batches are given, the first x.

    Channels need one too; but a method that looks at data must not lose the first batch of an iterator.
    """
    looks = entry.needs == "example" or (granularity == "channel" and not isinstance(batches, Iterator))
    if example is not None or not looks or batches is None:
        return example
    with global_streams(seed, "example"):  # a loader draws from them
        first = next(iter(batches), None)
    pair = isinstance(first, tuple | list) and len(first) == 2
    return first[0] if pair and isinstance(first[0], Tensor) else None  # type: ignore[index]


def _scoring(
    method: str,
    model: nn.Module,
    layers: Sequence[Layer],
    *,
    evidence: Evidence | None,
    loss: Loss | None,
    example: Example | None,
    seed: int,
) -> Scoring:
    _check_values(model, layers)
    return Scoring(
        model,
        layers,
        {canonical(name): name for name, _ in model.named_parameters()},
        evidence=evidence,
        loss=loss or cross_entropy,
        example=example,
        # Two methods with one seed draw different tickets, so that a control is not a copy of what it controls.
        streams=partial(generator, seed, "mask", method),
    )


def _check_values(model: nn.Module, layers: Sequence[Layer]) -> None:
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
