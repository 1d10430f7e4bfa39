"""`disbud compare`: tickets side by side, and how well the networks that stay on them train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from disbud.cli import show
from disbud.cli.balancing import NO_BALANCE, Balancing
from disbud.cli.options import (
    COMMON,
    Classes,
    Common,
    Data,
    InputShape,
    Model,
    WorkFailed,
    check_count,
    shape_of,
)
from disbud.cli.progress import Progress
from disbud.cli.training import RECIPE_HELP
from disbud.errors import DisbudError
from disbud.training.recipes import parse_recipe

if TYPE_CHECKING:
    from disbud.cli.comparison import Entrant
    from disbud.cli.networks import Network

_SEEDS_WHEN_TRAINING = 3
Entrants = Annotated[
    str,
    Parameter(
        help="What is compared: a method, with settings as in synflow:rounds=10; the file of a ticket; or dense, "
        "the network as it is."
    ),
]


def compare(
    model: Model,
    /,
    *entrants: Entrants,
    sparsity: Annotated[
        list[float] | None,
        Parameter(help="Fraction of the weights that methods remove; may be given several times."),
    ] = None,
    data: Data = None,
    train: Annotated[
        str | None, Parameter(help=f"Also train each entrant by this recipe. {RECIPE_HELP}.")
    ] = None,
    seeds: Annotated[
        int | None,
        Parameter(help="How many seeds; each draws weights, ticket and order anew. 3 with --train, else 1."),
    ] = None,
    seed: Annotated[int, Parameter(help="The first of the seeds.")] = 0,
    classes: Classes = None,
    input_shape: InputShape = None,
    balancing: Balancing = NO_BALANCE,
    common: Common = COMMON,
) -> int:
    """Compare methods and tickets on one model: what they keep, how much they share, how well they train."""
    recipe = parse_recipe(train) if train is not None else None
    if not entrants:
        raise DisbudError(
            "name what is to be compared: methods, dense, or ticket files, as in: synflow snip dense"
        )
    count = seeds if seeds is not None else _SEEDS_WHEN_TRAINING if recipe else 1
    check_count("--seeds", count)
    balancing.check()
    from disbud.cli.compared import failures, planes, show_comparison, to_json
    from disbud.cli.comparison import Plan, entrants_of
    from disbud.cli.comparison import compare as work
    from disbud.cli.networks import load_data, network, use_threads

    use_threads(common.threads)
    found = entrants_of(entrants)
    _check_sparsities(sparsity or [], needed=any(entrant.pruning for entrant in found))
    dataset = load_data(data or "digits") if data or recipe else None
    net = network(model, dataset=dataset, classes=classes, input_shape=shape_of(input_shape))
    net.build(seed)  # a model that cannot be built is no entrant's failure
    for entrant in found:
        if entrant.pruning is not None:
            entrant.pruning.check_data(net)
    if balancing.wanted:
        _check_balance(net, found)
    if recipe is not None:
        _note_other_starts(found, range(seed, seed + count))
    plan = Plan(net, found, sparsity or [], range(seed, seed + count), recipe, balance=balancing.wanted)
    with Progress() as progress:
        comparison = work(plan, progress.update)
    if common.json:
        show.write_json(to_json(plan, comparison))
    else:
        show_comparison(plan, comparison)
    for failure in failures(comparison):
        show.error(failure)
    if comparison.stopped:
        raise KeyboardInterrupt
    balancing.draw(planes(plan, comparison))
    if any(row.failures for row in comparison.rows):
        raise WorkFailed("not every entrant came to its end")
    return 0


def _check_balance(network: Network, entrants: Sequence[Entrant]) -> None:
    """Raise where there is nothing to hold against the ends, or nothing says how large an input is."""
    if network.shape is None:
        raise DisbudError("a balance counts paths: give --input-shape, as in 3x32x32, or --data")
    if not any(entrant.pruning or entrant.ticket for entrant in entrants):
        raise DisbudError("a balance is that of a ticket: name methods or ticket files beside dense")


def _note_other_starts(entrants: Sequence[Entrant], seeds: Sequence[int]) -> None:
    """A ticket of one seed, trained from the weights of another, is not what it was made to be."""
    for entrant in entrants:
        ticket = entrant.ticket
        made_at = None if ticket is None or ticket.start is not None else ticket.origin.model_seed()
        if made_at is not None and any(seed != made_at for seed in seeds):
            show.note(
                f"{entrant.name} was made at seed {made_at}; at other seeds it meets other starting weights"
            )


def _check_sparsities(sparsities: list[float], *, needed: bool) -> None:
    from disbud.selection import check_sparsity

    for sparsity in sparsities:
        check_sparsity(sparsity)
        if sparsities.count(sparsity) > 1:
            raise DisbudError(f"--sparsity {sparsity:g} comes twice")
    if needed and not sparsities:
        raise DisbudError(
            "give --sparsity, the fraction of the weights that the methods remove, as in --sparsity 0.98"
        )
    if sparsities and not needed:
        raise DisbudError(
            "--sparsity is for methods, and no entrant is one; tickets have the sparsity they were made at"
        )
