"""`disbud.doctor`: prune a model by many methods, train none, and say which tickets look safe."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor, nn

from disbud.batches import Loss
from disbud.diagnosis.balance import SHARES, Plane, undefined
from disbud.diagnosis.findings import GREEN, NOT_FINITE, RED, Finding, findings, verdict
from disbud.diagnosis.signs import Signs, signs
from disbud.errors import DisbudError, unknown_name
from disbud.isolation import Example, bare
from disbud.measures import Table
from disbud.measures.table import Value
from disbud.methods.catalogue import CATALOGUE
from disbud.pruning import prune
from disbud.pruning.asked import asked
from disbud.pruning.peeking import peeked
from disbud.selection import check_sparsity
from disbud.ticket import Ticket


@dataclass(frozen=True)
class Case:
    """One method: its ticket, the signs read off it and what they say, its balance if asked; or why there is none."""

    method: str
    ticket: Ticket | None = None
    signs: Signs | None = None
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    failure: str | None = None
    balance: Table | None = None

    @property
    def verdict(self) -> str:
        """green, yellow or red; "failed" where there is no ticket."""
        return "failed" if self.failure else verdict(self.findings)


class Remark(NamedTuple):
    """What is said of a method, and how bad that is: the level of a finding, or "failed"."""

    method: str
    level: str
    words: str


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found, a case a method, the safest first; `print` shows it."""

    sparsity: float
    dense: Signs
    cases: tuple[Case, ...]

    @property
    def safe(self) -> tuple[str, ...]:
        """The methods about which nothing was found."""
        return tuple(case.method for case in self.cases if case.verdict == GREEN)

    @property
    def table(self) -> Table:
        """A row a method: its verdict and the signs."""
        return Table.of((_row(case, self.dense) for case in self.cases), {"sparsity": self.sparsity})

    def __getitem__(self, method: str) -> Case:
        """The case of a method."""
        found = next((case for case in self.cases if case.method == method), None)
        if found is None:
            raise unknown_name("method in this diagnosis", method, [case.method for case in self.cases])
        return found

    @property
    def remarks(self) -> list[Remark]:
        """What was found, method by method, or why one failed; what is wrong with the dense network is said once."""
        said = []
        whole = math.isfinite(self.dense.gradient)
        if not whole:
            why = "before anything is pruned: weights, inputs or signals hold NaN or overflow"
            said.append(Remark("dense", RED, f"{NOT_FINITE} {why}"))
        for case in self.cases:
            if case.failure:
                said.append(Remark(case.method, "failed", case.failure))
            said += [
                Remark(case.method, finding.level, finding.words)
                for finding in case.findings
                if whole or finding.words != NOT_FINITE
            ]
        return said

    def __str__(self) -> str:
        words = [f"{remark.method}: {remark.words}" for remark in self.remarks]
        words += [
            f"{case.method}, balance: {case.balance.why}"
            for case in self.cases
            if case.ticket is not None and case.balance is not None and case.balance.why is not None
        ]
        return "\n".join([str(self.table), *words, f"look safe: {', '.join(self.safe) or 'none'}"])


def doctor(
    model: nn.Module,
    *,
    sparsity: float,
    methods: str | Iterable[str] = "all",
    example: Example | None = None,
    batches: Iterable[object] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    balance: bool = False,
    tell: Callable[[int, int, str], None] | None = None,
) -> Diagnosis:
    """Prune a model by each method, read the signs that forecast trouble, and say in words what they mean.

    Nothing is trained, and the model is left as it was. `methods` are names with settings ("synflow:rounds=10"), or
    "all"; those that look at data take part where `batches` are given, those that need another ticket or training do
    not. Each reads the batches from the start and no further than `prune` does; of an iterator, what was read is kept.
    The gradient is taken on the first batch, or on Gaussian inputs like the `example`. With `balance` each ticket is
    also held against random masks and SynFlow of its own layer counts, as `diagnosis.balance` does. The forecast
    compares tickets of one network; its thresholds were calibrated on image classifiers that were trained for few
    epochs.

    >>> import disbud, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
    >>> found = disbud.doctor(model, sparsity=0.5, methods=["random-erk", "synflow"], example=torch.zeros(1, 20))
    >>> found.safe, found["synflow"].signs.empty_layers
    (('synflow', 'random-erk'), ())
    """
    check_sparsity(sparsity)
    names = _names(methods, data=batches is not None)
    first = None
    if batches is not None:
        batch, batches = peeked(batches, seed)
        first = _inputs_in(batch)
    if example is None:
        example = None if first is None else first[:1]
    if example is None:
        raise DisbudError(
            "the doctor sends signals through the model: give batches, or example=..., such as torch.zeros(1, 3, 8, 8)"
        )
    dense = signs(model, None, example=example, inputs=first, seed=seed)
    plane = Plane(model, example=example, seed=seed) if balance else None

    def pruned(name: str) -> Ticket:
        method, settings = asked(name)
        return prune(
            model, method.name, sparsity=sparsity, batches=batches, example=example, loss=loss, seed=seed,
            **settings,  # type: ignore[arg-type]
        )  # fmt: skip

    def read(ticket: Ticket) -> Signs:
        return signs(_as_it_starts(model, ticket), ticket, example=example, inputs=first, seed=seed)

    cases = []
    for number, name in enumerate(names):
        if tell is not None:
            tell(number, len(names), name)
        case = _case(name, pruned, read, dense)
        cases.append(case if plane is None else replace(case, balance=_balance(case, plane)))
    return Diagnosis(sparsity, dense, tuple(sorted(cases, key=_rank)))


def _as_it_starts(model: nn.Module, ticket: Ticket) -> nn.Module:
    """The model, or a copy with the weights that the ticket starts from."""
    if ticket.start is None:
        return model
    started = copy.deepcopy(bare(model))
    ticket.start_(started)
    return started


def _case(
    method: str, pruned: Callable[[str], Ticket], read: Callable[[Ticket], Signs], dense: Signs
) -> Case:
    begun = time.perf_counter()
    try:
        ticket = pruned(method)
        found = read(ticket)
    except DisbudError as error:
        return Case(method, failure=str(error), seconds=time.perf_counter() - begun)
    return Case(method, ticket, found, findings(found, dense), time.perf_counter() - begun)


def _balance(case: Case, plane: Plane) -> Table:
    if case.ticket is None:
        return undefined(str(case.failure))
    try:
        return plane.balance(case.ticket)
    except DisbudError as error:
        return undefined(str(error))


def _names(methods: str | Iterable[str], *, data: bool) -> list[str]:
    if methods == "all":
        return [
            name
            for name, method in CATALOGUE.items()
            if not method.trains and method.densities != "like" and (data or method.needs != "batches")
        ]
    names = [methods] if isinstance(methods, str) else list(methods)
    for name in names:
        asked(name)  # raises for what no method takes
    if not names:
        raise DisbudError('no method is named; give methods="all", or some of them')
    return names


def _inputs_in(batch: object) -> Tensor | None:
    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    return inputs if isinstance(inputs, Tensor) else None


def _rank(case: Case) -> tuple[int, float]:
    """The safest first; among equals those with the stronger gradient."""
    order = ("green", "yellow", "red", "failed")
    gradient = case.signs.gradient if case.signs else 0.0
    return order.index(case.verdict), -gradient if math.isfinite(gradient) else math.inf


_SIGNS = (
    "kept", "effective_sparsity", "empty_layers", "dead_units", "log10_paths", "nodes", "gradient", "multiply_adds",
)  # fmt: skip


def _row(case: Case, dense: Signs) -> Mapping[str, Value]:
    read = case.signs
    known: dict[str, Value] = dict.fromkeys(_SIGNS)
    if read is not None:
        known |= {
            "kept": read.kept,
            "effective_sparsity": read.effective_sparsity,
            "empty_layers": len(read.empty_layers),
            "dead_units": read.dead_units,
            "log10_paths": read.log10_paths,
            "nodes": read.nodes,
            "gradient": read.gradient / dense.gradient if dense.gradient else None,
            "multiply_adds": read.multiply_adds,
        }
    if case.balance is not None:
        known |= {name: case.balance.summary[name] for name in SHARES}
    return {"method": case.method, "forecast": case.verdict, **known, "seconds": case.seconds}
