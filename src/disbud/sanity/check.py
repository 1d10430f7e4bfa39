"""`disbud.sanity_check`: train a method's ticket beside its altered versions, and judge the differences."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from disbud.catalogue import parse, resolve
from disbud.claims import Looks, Margin, Verdict, calibrated_margin
from disbud.data import Dataset
from disbud.errors import DisbudError
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.methods.evidence import TooFewExamples
from disbud.sanity.checks import AS_IT_IS, Check, check_method, checks_for
from disbud.sanity.findings import SanityCheck, summed_up
from disbud.study import Engine, InProcess, Outcome, Pool, Progress, Seeds, Store, Trial, perform
from disbud.study.datasets import guessing, loaded
from disbud.study.specification.grid import CALIBRATION
from disbud.study.tickets import network, ticket_of
from disbud.ticket import Ticket
from disbud.training.recipes import recipe_for

_OTHER_BATCH = 10_000  # added to a seed, it draws another batch to prune with
Tell = Callable[[float, str], None]


def sanity_check(
    model: str | Callable[..., object],
    method: str | Callable[..., object],
    data: str,
    *,
    sparsity: float,
    recipe: str | None = None,
    seeds: int = 5,
    until_decided: bool = False,
    margin: float | None = None,
    workers: int | None = None,
    store: str | os.PathLike[str] | None = None,
    tell: Tell | None = None,
) -> SanityCheck:
    """Train a method's ticket, its altered versions and random tickets, and say what the method takes from its data.

    A method passes a check if its tickets train markedly worse when what is checked is altered: when it prunes with
    random labels, scrambled images or half of the data, when its mask is rearranged within layers, when the kept values
    are permuted. It fails if they train as well (equivalence tests on paired seeds within a margin that is fixed on
    other seeds: Su et al. 2020). `model` and `method` are written as on the command line, or functions that can be
    imported by name: a model's factory, and a function of (model, batches) to scores or a ticket. A seed draws the
    split of the data, the first weights, the mask and the order. `until_decided` adds seeds where nothing is decided,
    at 10, 15, 20 and 30 of them, by a sequential design. Trials are kept in the store, which studies share:
    what was stopped goes on, and what a study ran is not run again.

    >>> import disbud, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = disbud.sanity_check(
    ...         "lenet-300-100", "magnitude", "digits", sparsity=0.9, recipe="digits:epochs=1", seeds=3, workers=1,
    ...         store=folder,
    ...     )
    >>> [row.check for row in found.rows]
    ['rearranged mask', 'permuted values', 'smart-ratio random', 'ERK random']
    """
    model, method = _named("model", model), _named("method", method)
    check_method(method)
    if seeds < 3:
        raise DisbudError(f"seeds={seeds}: paired tests need at least 3 seeds; 5 is the default")
    recipe = recipe or _recipe_for(data)
    base = Trial(model, data, recipe, method, sparsity)
    checks = checks_for(method)
    _try(base, checks)
    looks = Looks() if until_decided else None
    engine = InProcess() if workers == 1 else Pool(workers)
    with Store.open(store, write=True) as kept, engine as opened:
        runner = _Runner(base, checks, store=kept, engine=opened, tell=tell)
        fixed = runner.margin() if margin is None else Margin(margin, why="given")
        for count in looks.seeds if looks else (seeds,):
            outcomes, redrawn = runner.outcomes(count), runner.redrawn(count)
            found = summed_up(
                base, checks, outcomes, fixed, looks, chance=guessing(data, base.seeds.split), redrawn=redrawn
            )
            if all(row.verdict is not Verdict.UNDECIDED for row in found.rows):
                break
    return found


class _Runner:
    """Runs trials, each once, and remembers what came of them."""

    def __init__(
        self,
        base: Trial,
        checks: Sequence[Check],
        *,
        store: Store,
        engine: Engine,
        tell: Tell | None,
    ) -> None:
        self._base, self._checks, self._tell = base, checks, tell
        self._store, self._engine = store, engine
        self._done: dict[Trial, Outcome] = {}
        self._redrawn: dict[int, Ticket] = {}

    def outcomes(self, seeds: int) -> dict[str, dict[int, Outcome]]:
        """By check and seed, for so many seeds."""
        trials = {
            (name, seed): trial
            for seed in range(seeds)
            for name, trial in self._variants(Seeds.all(seed)).items()
        }
        self._do(list(trials.values()))
        found: dict[str, dict[int, Outcome]] = {}
        for (name, seed), trial in trials.items():
            found.setdefault(name, {})[seed] = self._done[trial]
        return found

    def redrawn(self, seeds: int) -> dict[int, Ticket]:
        """By seed, the same network's ticket from another batch; none where pruning looks at no batch, or trains."""
        known = METHODS.get(parse(self._base.method).name)
        if known is not None and known.needs != "batches":
            return {}
        for seed in range(len(self._redrawn), seeds):
            trial = replace(self._base, seeds=replace(Seeds.all(seed), mask=seed + _OTHER_BATCH))
            dataset = loaded(trial.data, trial.seeds.split)
            self._redrawn[seed] = ticket_of(trial, network(trial, dataset), dataset)
        return self._redrawn

    def margin(self) -> Margin:
        """From dense and uniformly random networks at seeds of their own."""
        names = ("dense", "uniform random")
        trials = {seeds.init: self._variants(seeds) for seeds in CALIBRATION}
        self._do([variants[name] for variants in trials.values() for name in names])
        dense, random = (
            {seed: self._done[variants[name]].accuracy for seed, variants in trials.items()} for name in names
        )
        return calibrated_margin(dense, random)

    def _variants(self, seeds: Seeds) -> dict[str, Trial]:
        base = replace(self._base, seeds=seeds)
        return {AS_IT_IS: base, **{check.name: check.trial(base) for check in self._checks}}

    def _do(self, trials: Sequence[Trial]) -> None:
        missing = [trial for trial in dict.fromkeys(trials) if trial not in self._done]
        name = f"sanity: {self._base}".partition(", seed ")[0]
        self._store.note_study(name, name, missing)  # so that they are not taken for trials of no study
        records = perform(missing, store=self._store, engine=self._engine, retry_failed=True, tell=self._told)
        self._done.update((trial, self._store.outcome(record)) for trial, record in records.items())

    def _told(self, progress: Progress) -> None:
        """A check needs all of its trials: the first that fails ends it."""
        if progress.latest is None:
            return
        trial, error = progress.latest.trial, progress.latest.error
        if error is not None:
            raise DisbudError(f"{trial}: {error}")
        if self._tell is not None:
            self._tell(progress.fraction, str(trial))


def _try(base: Trial, checks: Sequence[Check]) -> None:
    """Make a ticket of each kind that does not train first, so that what cannot work is said before any long work."""
    dataset = loaded(base.data, base.seeds.split)
    _check_labels(dataset)
    for trial in (base, *(check.trial(base) for check in checks)):
        known = METHODS.get(parse(trial.method).name)
        if trial.sparsity is not None and not (known is not None and known.trains):
            with warnings.catch_warnings():
                warnings.simplefilter("error", TooFewExamples)
                try:
                    ticket_of(trial, network(trial, dataset), dataset)
                except TooFewExamples as warning:
                    raise DisbudError(_too_few(trial, dataset, warning)) from None


def _too_few(trial: Trial, dataset: Dataset, warning: TooFewExamples) -> str:
    which = "" if trial.intervention is None else f" with {trial.intervention}"
    said = str(warning).partition(";")[0]
    method = parse(trial.method).name
    return f"{method} on {dataset.name}{which}: {said}; ask for fewer, as in {method}:examples_per_class=2"


def _check_labels(dataset: Dataset) -> None:
    present = torch.unique(dataset.train.labels)
    if len(present) < 2:
        raise DisbudError(
            f"{dataset.name} has examples of one class only; a method cannot be checked on that"
        )


def _recipe_for(data: str) -> str:
    return str(recipe_for(parse(data).name))


def _named(kind: str, given: str | Callable[..., object]) -> str:
    """A function by the name under which a worker can import it."""
    if isinstance(given, str):
        return given
    if isinstance(given, torch.nn.Module) or not callable(given):
        raise DisbudError(
            f"{kind}: give a name, as on the command line, or a function that can be imported, not a "
            f"{type(given).__name__}; a seed draws first weights of its own, so a built model does not do"
        )
    name = f"{getattr(given, '__module__', '')}:{getattr(given, '__qualname__', '')}"
    try:
        found = resolve(name)
    except DisbudError:
        found = None
    if found is not given:
        raise DisbudError(f"{kind}: {name} cannot be imported by that name; define it at the top of a module")
    return name
