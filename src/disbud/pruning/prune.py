"""From a method's name to a ticket: scores, rounds, budgets, and the settings as they were resolved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from disbud.batches import Loss
from disbud.catalogue import Value
from disbud.errors import DisbudError
from disbud.graph import Chosen, prunable
from disbud.isolation import Example, bare, isolated
from disbud.methods.catalogue import CATALOGUE, Method
from disbud.origin import Origin
from disbud.parameters import fingerprint
from disbud.pruning.effective import at_effective, check_count
from disbud.pruning.plan import as_json, plan_of
from disbud.pruning.rounds import in_full
from disbud.pruning.scored import Made, by_scores
from disbud.pruning.sources import (
    check_sparsity_given,
    check_values,
    evidence_of,
    example_of,
    scoring_of,
)
from disbud.pruning.trained import Descent, HowToTrain, by_training, layers_of
from disbud.selection import Densities
from disbud.selection.names import check_name
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
    count: str = "kept",
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
    which needs an `example`. `count="effective"` counts only weights on a path from input to output, for comparisons at
    equal effective sparsity (Vysogorets & Kempe 2023): it prunes again and again, keeping more, until as many weights
    are effective as the sparsity says; it needs an `example` or (x, y) batches. Further settings are the method's own:
    `disbud methods` lists them.

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
    entry, include, exclude = _entry(method), _to_keep(include), _to_keep(exclude)
    check_sparsity_given(sparsity, densities)
    inner = bare(model)
    how = HowToTrain(data, recipe, train, checkpoint, progress).checked(entry)
    layers = layers_of(inner, how, include=include, exclude=exclude, example=example)
    check_count(count, entry, batches, granularity)
    example = example_of(
        entry, example, batches, seed, always=granularity == "channel" or count == "effective"
    )
    plan = plan_of(
        entry, inner, settings, densities=densities, rounds=rounds, schedule=schedule, keep=keep, regrowth=regrowth,
        batch_norm=batch_norm, granularity=granularity, aggregate=aggregate,
    )  # fmt: skip
    if entry.trains:
        how.check_no_scores(batches=batches, loss=loss, batch_norm=batch_norm, regrowth=regrowth)
        check_values(inner, layers)
        by_rounds = rounds is not None or schedule is not None
        descent = Descent.of(plan, layers, sparsity, asked="per_level" in settings, by_rounds=by_rounds)
        found, resolved = by_training(plan, descent, inner, how, seed=seed)
        made = Made(found.masks, resolved, how.evidence(), found.start)
    else:

        def make(sparsity: float | None) -> Made:
            evidence = evidence_of(entry, batches, examples_per_class, batch_size, plan.rounds)
            return by_scores(
                plan, inner, layers, sparsity, evidence=evidence, loss=loss, example=example, seed=seed
            )

        by_paths = count == "effective"
        made = at_effective(make, plan, inner, layers, sparsity, example) if by_paths else make(sparsity)
    parents = (plan.densities.origin,) if isinstance(plan.densities, Ticket) else ()
    origin = Origin(
        entry.name,
        settings={**made.settings, "include": as_json(include), "exclude": as_json(exclude)},
        sparsity=None if sparsity is None else float(sparsity),
        seed=seed,
        evidence=made.evidence,
        fingerprint=fingerprint(inner),
        parents=parents,
    )
    return Ticket(made.masks, origin, None if made.start is None else start_of(made.start))


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
    entry = _entry(method)
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
    example = example_of(entry, example, batches, seed)
    plan = plan_of(entry, inner, settings, batch_norm=batch_norm)
    evidence = evidence_of(entry, batches, examples_per_class, batch_size, 1)
    scoring = scoring_of(entry.name, inner, layers, evidence=evidence, loss=loss, example=example, seed=seed)
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
    full = {name: in_full(score, scoring, name) for name, score in found.items()}
    if scoring.masks is None or plan.regrowth:
        return full
    return {name: score.masked_fill(~scoring.masks[name], 0) for name, score in full.items()}


def _entry(method: object) -> Method:
    check_name("method", method, CATALOGUE)
    return CATALOGUE[str(method)]


def _to_keep(chosen: Chosen | None) -> Chosen | None:
    """Patterns that can be read once more, for the origin."""
    return list(chosen) if isinstance(chosen, Iterator) else chosen
