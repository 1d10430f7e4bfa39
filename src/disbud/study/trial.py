"""A trial: one network pruned in one way and trained, as a value that says everything its result depends on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from disbud.artifacts import digest
from disbud.catalogue import find, parse
from disbud.errors import DisbudError
from disbud.origin import Json
from disbud.study.sources import own_function
from disbud.study.trial_settings import CATALOGUES, check_settings_of
from disbud.training.recipes import parse_recipe

DENSE = "dense"
SMALL_DENSE = "small-dense"
_SMALL_DENSE_REVISION = 1
_LARGEST_SEED = 2**63 - 1  # that a store can hold


@dataclass(frozen=True)
class Seeds:
    """What is drawn in a trial: the split of the data, the first weights, the mask, the order of training.

    >>> from disbud.study import Seeds
    >>> Seeds.all(3) == Seeds(split=3, init=3, mask=3, order=3)
    True
    """

    split: int = 0
    init: int = 0
    mask: int = 0
    order: int = 0

    def __post_init__(self) -> None:
        for seed in (self.split, self.init, self.mask, self.order):
            if isinstance(seed, bool) or not isinstance(seed, int) or abs(seed) > _LARGEST_SEED:
                raise DisbudError(f"{seed!r} is no seed; take a whole number below 2^63, such as 1")

    @staticmethod
    def all(seed: int) -> Seeds:
        """One seed for all four."""
        return Seeds(seed, seed, seed, seed)


@dataclass(frozen=True)
class Trial:
    """One network, pruned in one way and trained; every part is written as on the command line.

    `method` "dense" prunes nothing; "small-dense" trains a narrower network instead, dense, with as many weights as a
    ticket of that sparsity keeps. A method of one's own is `module:function`, with settings behind it: a score or a
    ticket of (model, batches). `intervention` alters the data that is pruned with, the mask, or the weights.

    >>> from disbud.study import Seeds, Trial
    >>> trial = Trial("lenet-300-100", "digits", "digits:epochs=2", "snip", 0.9, "shuffle", Seeds.all(1))
    >>> trial.identity == trial.with_seed(2).identity, trial.identity == trial.with_seed(1).identity
    (False, True)
    """

    model: str
    data: str
    recipe: str
    method: str = DENSE
    sparsity: float | None = None
    intervention: str | None = None
    seeds: Seeds = Seeds()

    def __post_init__(self) -> None:
        self.described()  # a name that nothing has is an error here, not in a worker, and so is a setting
        check_settings_of("model", self.model)
        check_settings_of("data set", self.data)
        if self.method not in (DENSE, SMALL_DENSE):
            check_settings_of("method", self.method)
        if self.intervention is not None:
            check_settings_of("intervention", self.intervention)
        if self.method == DENSE and (self.sparsity is not None or self.intervention is not None):
            raise DisbudError(
                "the dense network is not pruned: it has neither a sparsity nor an intervention"
            )
        if self.method == SMALL_DENSE and self.intervention is not None:
            raise DisbudError(f"{SMALL_DENSE} has no ticket, so {self.intervention} has nothing to alter")
        if self.method != DENSE and self.sparsity is None:
            raise DisbudError(f"{self.method} needs a sparsity, the fraction of the weights to remove")

    @cached_property
    def identity(self) -> str:
        """SHA-256 of all that the result depends on, but for the content of the data and the environment."""
        return digest(self.described())

    def described(self) -> dict[str, Json]:
        """Every setting resolved, with the revision of each part, as plain JSON values."""
        recipe = parse_recipe(self.recipe)
        return {
            "model": _resolved("model", self.model),
            "data": _resolved("data set", self.data),
            "recipe": recipe.to_json(),
            "method": _method(self.method),
            "sparsity": self.sparsity,
            "intervention": None
            if self.intervention is None
            else _resolved("intervention", self.intervention),
            "seeds": {
                "split": self.seeds.split,
                "init": self.seeds.init,
                "mask": self.seeds.mask,
                "order": self.seeds.order,
            },
        }

    def with_seed(self, seed: int) -> Trial:
        """The same trial, with all that is drawn drawn from another seed."""
        return replace(self, seeds=Seeds.all(seed))

    def __str__(self) -> str:
        how = self.method if self.sparsity is None else f"{self.method} at {self.sparsity:g}"
        altered = f", {self.intervention}" if self.intervention else ""
        seeds = sorted({self.seeds.split, self.seeds.init, self.seeds.mask, self.seeds.order})
        return f"{self.model} on {self.data}, {how}{altered}, seed {'/'.join(map(str, seeds))}"


def _method(text: str) -> dict[str, Json] | None:
    if text == SMALL_DENSE:
        return {"name": SMALL_DENSE, "revision": _SMALL_DENSE_REVISION}
    return None if text == DENSE else _resolved("method", text)


def _resolved(kind: str, text: str) -> dict[str, Json]:
    """Name, settings and revision; of what is not in a catalogue, the text, which must name a function."""
    spec = parse(text)
    known = CATALOGUES[kind]
    settings = {key: _plain(value) for key, value in spec.settings.items()}
    if spec.name not in known and spec.argument is not None:
        own_function(f"{spec.name}:{spec.argument}")
        return {"name": f"{spec.name}:{spec.argument}", "settings": settings}
    entry = find(kind, spec.name, known)
    defaults = {key: _plain(value) for key, value in entry.settings.items()}
    return {
        "name": entry.name,
        "argument": spec.argument,
        "settings": {**defaults, **settings},
        "revision": entry.revision,
    }


def _plain(value: object) -> Json:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value  # type: ignore[return-value]
