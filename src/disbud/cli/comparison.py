"""The work of `disbud compare`: prune, overlap and train each entrant, and gather what came of it."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from disbud.cli.tickets import Pruning, is_file, pruning_of
from disbud.errors import DisbudError, unknown_name
from disbud.methods.catalogue import CATALOGUE

if TYPE_CHECKING:
    from torch import nn

    from disbud.cli.networks import Network
    from disbud.diagnosis import Signs
    from disbud.measures import Table
    from disbud.ticket import LayerRow, Ticket
    from disbud.training.recipes import Recipe
    from disbud.training.result import Progress as Event
    from disbud.training.result import Result

DENSE = "dense"
Tell = Callable[[float, str], None]
_PRUNING_SHARE = 0.1  # of the time a trial that trains takes: a guess, for the progress bar alone


@dataclass(frozen=True)
class Entrant:
    """What takes part: a method, a ticket from a file, or with neither the dense network."""

    name: str
    pruning: Pruning | None = None
    ticket: Ticket | None = None


@dataclass
class Run:
    """One entrant at one seed: what its ticket keeps, what is read off it, and how its training went."""

    seed: int
    layers: tuple[LayerRow, ...] = ()
    signs: Signs | None = None
    balance: Table | None = None
    result: Result | None = None
    seconds: float = 0.0
    error: str | None = None

    @property
    def failure(self) -> str | None:
        """What went wrong, if anything did."""
        diverged = self.result.diverged if self.result else None
        return self.error or (str(diverged) if diverged else None)


@dataclass
class Row:
    """One entrant at one sparsity, over the seeds; `sparsity` is None where the entrant is what it is."""

    entrant: Entrant
    sparsity: float | None
    runs: list[Run] = field(default_factory=list)

    @property
    def failures(self) -> list[Run]:
        """The runs that failed."""
        return [run for run in self.runs if run.failure]

    def results(self) -> list[Result]:
        """The training runs that came to their end."""
        return [run.result for run in self.runs if run.result is not None and not run.result.diverged]

    def layers(self) -> tuple[LayerRow, ...]:
        """What the ticket of the first seed keeps of each layer; nothing for the dense network."""
        return next((run.layers for run in self.runs if run.layers), ())

    def signs(self) -> list[Signs]:
        """What was read off the tickets."""
        return [run.signs for run in self.runs if run.signs is not None]

    def balances(self) -> list[Table]:
        """Where the tickets lie between random masks and SynFlow."""
        return [run.balance for run in self.runs if run.balance is not None]

    def densities(self) -> dict[str, float]:
        """The density of each layer, averaged over the seeds."""
        pruned = [run.layers for run in self.runs if run.layers]
        return {
            layers[0].name: statistics.fmean(layer.density for layer in layers)
            for layers in zip(*pruned, strict=True)
        }


@dataclass(frozen=True)
class Overlap:
    """How much two tickets share: intersection over union, and that of random masks with the same layer densities."""

    iou: float
    chance: float


@dataclass
class Comparison:
    """Everything that was compared. Overlaps are by pairs of row numbers, the smaller first, one a seed."""

    rows: list[Row]
    overlaps: dict[tuple[int, int], list[Overlap]] = field(default_factory=dict)
    stopped: bool = False

    def overlap(self, first: int, second: int) -> Overlap | None:
        """The overlap of two rows, averaged over the seeds."""
        found = self.overlaps.get((min(first, second), max(first, second)))
        if not found:
            return None
        return Overlap(statistics.fmean(o.iou for o in found), statistics.fmean(o.chance for o in found))


@dataclass(frozen=True)
class Plan:
    """What is compared, and how."""

    network: Network
    entrants: Sequence[Entrant]
    sparsities: Sequence[float]
    seeds: Sequence[int]
    recipe: Recipe | None
    balance: bool = False

    def rows(self) -> list[Row]:
        """A row for each entrant as named; those of methods again for each further sparsity."""
        first, *further = self.sparsities or (None,)
        rows = [Row(entrant, first if entrant.pruning else None) for entrant in self.entrants]
        methods = [entrant for entrant in self.entrants if entrant.pruning]
        return rows + [Row(entrant, sparsity) for sparsity in further for entrant in methods]


def entrants_of(texts: Sequence[str]) -> list[Entrant]:
    """Read what is to be compared; each must be known, and come once."""
    for text in texts:
        if texts.count(text) > 1:
            raise DisbudError(f"{text} comes twice; name each entrant once")
    return [_entrant(text) for text in texts]


def _entrant(text: str) -> Entrant:
    from disbud.ticket import Ticket

    if text == DENSE:
        return Entrant(text)
    if is_file(text):
        name = Path(text).name.removesuffix(".safetensors").removesuffix(".ticket")
        return Entrant(name, ticket=Ticket.load(text))
    if text.partition(":")[0] not in CATALOGUE:
        raise unknown_name("method", text, [*CATALOGUE, DENSE])
    return Entrant(text, pruning=pruning_of(text))


def compare(plan: Plan, tell: Tell) -> Comparison:
    """Do all the work. An entrant that fails says so in its row and does not end the others; Ctrl-C ends it early."""
    comparison = Comparison(plan.rows())
    total = len(plan.seeds) * len(comparison.rows)
    pruning = _PRUNING_SHARE if plan.recipe else 1.0
    done = 0.0
    try:
        for seed in plan.seeds:
            tickets: list[Ticket | None] = []
            for row in comparison.rows:
                what = f"pruning: {row.entrant.name}, seed {seed}"
                tell(done / total, what)
                tickets.append(_prune(plan, row, seed, _share_of(tell, done, pruning, total, what)))
                done += pruning
            _add_overlaps(comparison, tickets)
            for row, ticket in zip(comparison.rows, tickets, strict=True) if plan.recipe else ():
                _train(
                    plan,
                    row,
                    ticket,
                    _part(tell, done, 1 - pruning, total, f"{row.entrant.name}, seed {seed}"),
                )
                done += 1 - pruning
    except KeyboardInterrupt:
        comparison.stopped = True
    return comparison


def _part(tell: Tell, done: float, share: float, total: int, what: str) -> Callable[[Event], None]:
    """Tell the progress of one training run as a part of the whole."""
    return lambda event: tell(
        (done + share * event.fraction) / total, f"{what}, epoch {event.epoch} of {event.epochs}"
    )


def _share_of(tell: Tell, done: float, share: float, total: int, what: str) -> Tell:
    """Tell the progress of one pruning as a part of the whole."""
    return lambda fraction, more: tell((done + share * fraction) / total, f"{what}, {more}")


def _prune(plan: Plan, row: Row, seed: int, tell: Tell) -> Ticket | None:
    """Add the run of this seed to the row, and return its ticket."""
    run = Run(seed)
    row.runs.append(run)
    ticket, model = row.entrant.ticket, None
    with _failing_alone(run):
        model = plan.network.build(seed)
        if row.entrant.pruning is not None:
            ticket = row.entrant.pruning.ticket(
                model, plan.network, sparsity=row.sparsity, seed=seed, recipe=plan.recipe, progress=tell
            )
        if ticket is not None:
            ticket.check(model)
            ticket.start_(model)
            run.layers = ticket.layers
    if model is not None and run.error is None:
        run.signs = _signs(plan, model, ticket)
        if plan.balance and ticket is not None:
            run.balance = _balance(plan, model, ticket, seed)
    return ticket


def _signs(plan: Plan, model: nn.Module, ticket: Ticket | None) -> Signs | None:
    """The measures of a ticket; None where nothing says how large an input is, or paths are not defined."""
    from disbud.diagnosis import signs

    example = plan.network.example()
    if example is None:
        return None
    try:
        return signs(model, ticket, example=example)
    except DisbudError as error:
        warnings.warn(f"no paths are counted: {error}", stacklevel=1)
        return None


def _balance(plan: Plan, model: nn.Module, ticket: Ticket, seed: int) -> Table:
    from disbud.diagnosis.balance import balance, undefined

    example = plan.network.example()
    assert example is not None  # the command has checked that there is one
    try:
        return balance(model, ticket, example=example, seed=seed)
    except DisbudError as error:
        return undefined(str(error))


def _train(plan: Plan, row: Row, ticket: Ticket | None, tell: Callable[[Event], None]) -> None:
    from disbud.training import train

    run = row.runs[-1]
    if run.error is not None or plan.network.dataset is None:
        return
    with _failing_alone(run):
        model = plan.network.build(run.seed)
        run.result = train(
            model, plan.network.dataset, ticket=ticket, recipe=plan.recipe, seed=run.seed, progress=tell
        )


@contextlib.contextmanager
def _failing_alone(run: Run) -> Iterator[None]:
    """Time the block, and keep its failure in the run; what nobody expected also shows its traceback."""
    began = time.perf_counter()
    try:
        yield
    except DisbudError as error:
        run.error = str(error)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        run.error = f"{type(error).__name__}: {error}"
    run.seconds += time.perf_counter() - began


def _add_overlaps(comparison: Comparison, tickets: Sequence[Ticket | None]) -> None:
    """Compare the tickets of one seed, pair by pair, where they are of one sparsity or have their own."""
    for (i, one), (j, other) in combinations(enumerate(tickets), 2):
        asked = {comparison.rows[k].sparsity for k in (i, j)} - {None}
        failed = comparison.rows[i].runs[-1].error or comparison.rows[j].runs[-1].error
        if one is None or other is None or failed or len(asked) > 1:
            continue
        found = overlap(one, other)
        if found is not None:
            comparison.overlaps.setdefault((i, j), []).append(found)


def overlap(one: Ticket, other: Ticket) -> Overlap | None:
    """The overlap of two tickets over the layers both prune; None where they share no layer or keep nothing."""
    from disbud.measures import overlap as measured
    from disbud.ticket import Ticket

    names = [name for name in one.masks if name in other.masks]
    if not names:
        return None
    first, second = (Ticket({name: ticket.masks[name] for name in names}) for ticket in (one, other))
    found = measured(first, second)
    iou, chance = found.iou, found.chance
    return Overlap(iou, chance) if isinstance(iou, float) and isinstance(chance, float) else None
