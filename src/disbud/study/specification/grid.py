"""From the axes of a study file to trials without seeds (variants), and to the seeds that each is run with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

from disbud.catalogue import find, parse
from disbud.errors import DisbudError
from disbud.interventions.catalogue import CATALOGUE as INTERVENTIONS
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.models.narrowed import can_be_narrowed
from disbud.study.specification.forms import GridForm, SeedsForm, StudyForm
from disbud.study.trial import DENSE, SMALL_DENSE, Seeds, Trial
from disbud.training.recipes import recipe_for

NONE = "none"
CALIBRATION = (Seeds.all(1001), Seeds.all(1002))  # margins are found on seeds that no claim is tested on
MOST_SEEDS = 1001  # which are numbered from 0; those that margins are found on come after them
REFERENCE = "random-uniform"  # what a margin is a share of the distance to
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Grid:
    """The variants of a study, in the order in which they are asked for: trials whose seeds are still to be drawn.

    `variants` are run with every seed; `calibration` with seeds of their own, to find margins. `left_out` are
    combinations that would only repeat another, with the reason.
    """

    variants: tuple[Trial, ...]
    calibration: tuple[Trial, ...]
    left_out: tuple[tuple[Trial, str], ...]

    def trials(self, seeds: Sequence[Seeds]) -> list[Trial]:
        """Every variant with every seed, seed by seed, and what margins need."""
        asked = [replace(variant, seeds=seed) for seed in seeds for variant in self.variants]
        return [
            *asked,
            *(replace(variant, seeds=seed) for seed in CALIBRATION for variant in self.calibration),
        ]


def grid_of(form: StudyForm) -> Grid:
    """All combinations of the axes, the off-grid trials, and the controls that verdicts need.

    >>> from disbud.study.specification import grid_of, study_of
    >>> form = study_of({
    ...     "name": "mine", "data": "digits", "model": "lenet-300-100", "methods": ["dense", "snip"],
    ...     "sparsities": [0.9, 0.98], "interventions": ["none", "shuffle"], "controls": False,
    ... })
    >>> [(variant.method, variant.sparsity, variant.intervention) for variant in grid_of(form).variants][:3]
    [('dense', None, None), ('snip', 0.9, None), ('snip', 0.9, 'shuffle')]
    """
    blocks: list[GridForm] = [form] if _many(form.methods) else []
    blocks += [_inheriting(block, form) for block in form.trial]
    if not blocks:
        raise DisbudError(
            f'{form.name} asks for no trial; give methods, as in methods = ["snip"], or a [[trial]]'
        )
    found: dict[Trial, None] = {}
    left_out: dict[Trial, str] = {}
    for variant in (variant for block in blocks for variant in _combined(block, form.name)):
        why = _repeats(variant)
        if why is None:
            found[variant] = None
        else:
            left_out[variant] = why
    asked = list(found)
    if form.controls:
        found.update(dict.fromkeys(_controls(asked)))
    calibration = [] if not form.controls or form.margin is not None else list(_calibration(asked))
    return Grid(tuple(found), tuple(calibration), tuple(left_out.items()))


def seeds_of(form: StudyForm, *, count: int | None = None) -> list[Seeds]:
    """The seeds of a study, or so many of them, by the same rule.

    >>> from disbud.study.specification import seeds_of, study_of
    >>> seeds_of(study_of({"name": "mine", "seeds": {"count": 2, "init": 7}}))
    [Seeds(split=0, init=7, mask=0, order=0), Seeds(split=1, init=7, mask=1, order=1)]
    """
    drawn = _drawn(form.seeds, count)
    _check_seeds(drawn, form.name)
    return drawn


def _drawn(given: int | list[int] | SeedsForm, count: int | None) -> list[Seeds]:
    if isinstance(given, list):
        more = [] if count is None else [seed for seed in range(MOST_SEEDS) if seed not in given]
        return [Seeds.all(seed) for seed in [*given, *more][:count]]
    if isinstance(given, int):
        return [Seeds.all(seed) for seed in range(given if count is None else count)]
    number = given.count if count is None else count
    parts = {name: _part(given, name, number) for name in ("split", "init", "mask", "order")}
    return [Seeds(**{name: values[i] for name, values in parts.items()}) for i in range(number)]


def _part(given: SeedsForm, name: str, count: int) -> list[int]:
    value = getattr(given, name)
    if value is None:
        return list(range(count))
    if isinstance(value, int):
        return [value] * count
    if len(value) < count:
        raise DisbudError(f"seeds.{name} lists {len(value)} seeds; {count} are needed")
    return list(value)


def _check_seeds(drawn: Sequence[Seeds], name: str) -> None:
    """Raise for none, for one that counts twice, and for those that margins are found on."""
    twice = next((seed for seed, times in Counter(drawn).items() if times > 1), None)
    if twice is not None or not drawn:
        raise DisbudError(
            f"{name}: seeds lists {f'{_written(twice)} twice' if twice else 'none'}; each counts once"
        )
    taken = next((seed for seed in CALIBRATION if seed in drawn), None)
    if taken is not None:
        raise DisbudError(
            f"{name}: margins are found on seed {taken.init}, so no claim is tested on it; take another"
        )
    if len(drawn) > MOST_SEEDS:
        raise DisbudError(f"{name}: there are {len(drawn)} seeds; take at most {MOST_SEEDS}")


def _written(seed: Seeds) -> str:
    numbers = dict.fromkeys((seed.split, seed.init, seed.mask, seed.order))
    return "/".join(map(str, numbers))


def _inheriting(block: GridForm, form: StudyForm) -> GridForm:
    """What a block does not say is as in the study; a block without sparsities of its own has the study's."""
    said = {key: value for key in GridForm.model_fields if _many(value := getattr(block, key))}
    general = {key: getattr(form, key) for key in GridForm.model_fields if key not in said}
    return GridForm.model_construct(**{**general, **said})


def _combined(block: GridForm, name: str) -> Iterator[Trial]:
    for key, example in (("data", "digits"), ("model", "lenet-300-100"), ("methods", "snip")):
        if not _many(getattr(block, key)):
            raise DisbudError(f'{name} names no {key}; give one, as in {key} = "{example}"')
    for model, data in product(_many(block.model), _many(block.data)):
        for recipe in _many(block.recipe) or [str(recipe_for(parse(data).name))]:
            for method in _many(block.methods):
                if method == DENSE:
                    yield Trial(model, data, recipe)
                    continue
                sparsities = _many(block.sparsities)
                if not sparsities:
                    raise DisbudError(f"{name}: {method} needs sparsities, as in sparsities = [0.9, 0.98]")
                for sparsity, altered in product(sparsities, _many(block.interventions) or [NONE]):
                    yield Trial(model, data, recipe, method, sparsity, None if altered == NONE else altered)


def _many(value: _Value | list[_Value] | None) -> list[_Value]:
    return [] if value is None else list(dict.fromkeys(value)) if isinstance(value, list) else [value]


def _repeats(variant: Trial) -> str | None:
    """Why a variant is none of its own: it alters what its method does not look at."""
    if variant.intervention is None:
        return None
    acts_on = find("intervention", parse(variant.intervention).name, INTERVENTIONS).acts_on
    if variant.method == SMALL_DENSE:
        return "the small dense network has no ticket to alter"
    method = METHODS.get(parse(variant.method).name)
    if acts_on == "data" and method is not None and method.needs != "batches" and not method.trains:
        return f"{method.name} looks at no data"
    return None


def _controls(variants: Sequence[Trial]) -> Iterator[Trial]:
    """Dense, two random masks and a small dense network of as many weights, in every setting at every sparsity."""
    for setting, sparsities in _settings(variants).items():
        yield replace(setting, method=DENSE, sparsity=None, intervention=None)
        for sparsity in sparsities:
            for method in (REFERENCE, "random-erk", SMALL_DENSE):
                if method != SMALL_DENSE or can_be_narrowed(setting.model):
                    yield replace(setting, method=method, sparsity=sparsity)


def _calibration(variants: Sequence[Trial]) -> Iterator[Trial]:
    for setting, sparsities in _settings(variants).items():
        yield setting
        yield from (replace(setting, method=REFERENCE, sparsity=sparsity) for sparsity in sparsities)


def _settings(variants: Sequence[Trial]) -> Mapping[Trial, Sequence[float]]:
    """Each model with its data and recipe, as its dense trial, and the sparsities asked for in it."""
    found: dict[Trial, dict[float, None]] = {}
    for variant in variants:
        setting = found.setdefault(dense_of(variant), {})
        if variant.sparsity is not None:
            setting[variant.sparsity] = None
    return {setting: list(sparsities) for setting, sparsities in found.items()}


def dense_of(variant: Trial) -> Trial:
    """The dense network of the same setting."""
    return replace(variant, method=DENSE, sparsity=None, intervention=None)
