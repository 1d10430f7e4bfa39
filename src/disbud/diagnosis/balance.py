"""Where a ticket lies in the plane of nodes and paths: beside random masks and SynFlow of the same layer counts."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import nn

from disbud import measures
from disbud.errors import DisbudError
from disbud.graph import prunable
from disbud.isolation import Example, bare
from disbud.measures import Table
from disbud.measures.table import Value
from disbud.pruning import prune
from disbud.seeds import derive
from disbud.ticket import Ticket

SHARES = ("nodes_share", "paths_share", "balance")


def balance(model: nn.Module, ticket: Ticket, *, example: Example, seed: int = 0, draws: int = 3) -> Table:
    """How a ticket trades nodes for paths, on a scale from SynFlow to random masks of the same layer counts.

    In the plane of effective nodes and log10 of effective paths (Pham et al. 2023; `measures.paths`), random masks lie
    where nodes are many, SynFlow where paths are. Both ends keep exactly as many weights of each layer as the ticket:
    the random one is the mean over so many `draws`, the other SynFlow on the model's present weights. `nodes_share` is
    0 at the SynFlow end and 1 at the random end, `paths_share` the other way round. `balance` is their sum less 1: 0 on
    the straight line between the ends, above it where the ticket has more than what it gives up in one is worth in the
    other. Shares may leave 0 to 1, since neither end is a bound.

    A share is None where nothing is traded: the ends differ by no more than random masks do among themselves (nodes
    saturate), SynFlow has more nodes too, or no path is left; `why` says which. The row of the random end has the
    ranges over its draws beside its means.

    >>> import disbud, torch
    >>> from disbud.diagnosis import balance
    >>> model = disbud.models.build("mlp:hidden=40+40", classes=5, input_shape=(20,))
    >>> ticket = disbud.prune(model, "synflow", sparsity=0.9, example=torch.zeros(1, 20))
    >>> found = balance(model, ticket, example=torch.zeros(1, 20))
    >>> found["place"], found.why
    (('ticket', 'random', 'synflow', 'dense'), None)
    >>> found.nodes_share < 0.2, found.paths_share > 0.8
    (True, True)
    """
    return Plane(model, example=example, seed=seed, draws=draws).balance(ticket)


@dataclass(frozen=True)
class Place:
    """A ticket in the plane, or several on average and how far apart these are; `effective` weights are on a path."""

    nodes: float
    log10_paths: float
    effective: float
    nodes_range: float | None = None
    log10_paths_range: float | None = None

    @property
    def cut(self) -> bool:
        """Whether no path is left, so that there is no such place."""
        return self.log10_paths == -math.inf


@dataclass(frozen=True)
class Ends:
    """What tickets of some layer counts are held against."""

    random: Place
    synflow: Place
    dense: Place


class Plane:
    """The plane of one model's nodes and paths, in which tickets of the same layer counts share their ends."""

    def __init__(self, model: nn.Module, *, example: Example, seed: int, draws: int = 3) -> None:
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise DisbudError(f"draws is a whole number of random masks, at least 1, not {draws!r}")
        self._model, self._example, self._seed, self._draws = model, example, seed, draws
        self._found: dict[frozenset[tuple[str, int]], Ends] = {}

    def balance(self, ticket: Ticket) -> Table:
        """The balance of a ticket, as `balance` has it."""
        own = self._place(ticket)
        counts = frozenset((row.name, row.kept) for row in ticket.layers)
        if counts not in self._found:
            self._found[counts] = self._ends(ticket)
        ends = self._found[counts]
        places = {"ticket": own, "random": ends.random, "synflow": ends.synflow, "dense": ends.dense}
        summary = {**_shares(own, ends), "draws": self._draws}
        return Table.of(({"place": name, **asdict(place)} for name, place in places.items()), summary)

    def _ends(self, ticket: Ticket) -> Ends:
        known = {layer.name for layer in prunable(bare(self._model), example=self._example)}
        foreign = next((name for name in ticket.masks if name not in known), None)
        if foreign is not None:
            raise DisbudError(
                f"the ends of a balance prune the layers that the ticket does, and no method prunes {foreign}; leave "
                "it out of the ticket"
            )
        # Streams of their own: a random ticket of this seed is not among the masks that it is held against.
        seeds = [derive(self._seed, "random end", draw) for draw in range(self._draws)]
        drawn = [self._place(self._like(ticket, "random-like", seed=seed)) for seed in seeds]
        whole = Ticket({name: mask.new_ones(mask.shape) for name, mask in ticket.masks.items()})
        synflow = self._place(self._like(ticket, "synflow", seed=self._seed))
        return Ends(_middle(drawn), synflow, self._place(whole))

    def _like(self, ticket: Ticket, method: str, *, seed: int) -> Ticket:
        """The model pruned by the method to the ticket's count in each layer."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what is wrong with an end shows in its place
            return prune(
                self._model,
                method,
                densities=ticket,
                include=lambda layer: layer.name in ticket.masks,
                example=self._example,
                seed=seed,
            )

    def _place(self, ticket: Ticket) -> Place:
        found = measures.paths(self._model, ticket, example=self._example)
        return Place(
            *(float(found.summary[x] or 0) for x in ("nodes", "log10_paths", "effective_parameters"))
        )


def undefined(why: str) -> Table:
    """What stands for a balance that cannot be measured."""
    return Table((), (), {**dict.fromkeys(SHARES), "why": why})


def _middle(drawn: Sequence[Place]) -> Place:
    """The mean over random masks: of paths the geometric one, which is no path at all if one mask leaves none."""

    def mean(values: Sequence[float]) -> float:
        return statistics.fmean(values)

    def spread(values: Sequence[float]) -> float | None:
        return max(values) - min(values) if len(values) > 1 and min(values) > -math.inf else None

    nodes, paths = [one.nodes for one in drawn], [one.log10_paths for one in drawn]
    return Place(
        mean(nodes), mean(paths), mean([one.effective for one in drawn]), spread(nodes), spread(paths)
    )


def _shares(own: Place, ends: Ends) -> dict[str, Value]:
    """The entries of the summary: where between the ends a ticket is, or why that cannot be said."""
    random, synflow = ends.random, ends.synflow
    nodes, paths, why = None, None, []
    cut = {"the ticket": own, "one random mask or more": random, "SynFlow": synflow}
    if leaving_none := [name for name, place in cut.items() if place.cut]:
        why = [f"no path leads from input to output in {', '.join(leaving_none)}"]
    else:
        at_random, at_synflow = ("random masks", random.nodes), ("SynFlow", synflow.nodes)
        same_nodes = _no_scale("nodes", at_synflow, at_random, random.nodes_range)
        at_random, at_synflow = ("random masks", random.log10_paths), ("SynFlow", synflow.log10_paths)
        same_paths = _no_scale("log10 paths", at_random, at_synflow, random.log10_paths_range)
        why = [words for words in (same_nodes, same_paths) if words is not None]
        if same_nodes is None:
            nodes = (own.nodes - synflow.nodes) / (random.nodes - synflow.nodes)
        if same_paths is None:
            paths = (own.log10_paths - random.log10_paths) / (synflow.log10_paths - random.log10_paths)
    return {
        "nodes_share": nodes,
        "paths_share": paths,
        "balance": None if nodes is None or paths is None else nodes + paths - 1,
        "why": "; ".join(why) or None,
    }


def _no_scale(
    what: str, less: tuple[str, float], more: tuple[str, float], spread: float | None
) -> str | None:
    """Why there is no scale from the end with little of something to the one with much, if there is none."""
    (low, zero), (high, one) = less, more
    if math.isclose(zero, one, rel_tol=1e-9):
        return f"{what}: {one:.4g} at both ends"
    if one < zero:
        return f"{what}: {one:.4g} in {high} but {zero:.4g} in {low}, so there is no trade"
    if spread is not None and one - zero <= spread:
        return f"{what}: {one:.4g} in {high}, {zero:.4g} in {low}, and random masks differ by {spread:.4g}"
    return None
