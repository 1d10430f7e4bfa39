"""A method with every setting resolved: what is ranked with what, in how many rounds, and what goes to the origin."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real

from torch import nn

from disbud.catalogue import Value, check_settings, resolve
from disbud.errors import DisbudError
from disbud.graph import is_chain
from disbud.methods.catalogue import Method
from disbud.methods.scoring import Score, Scoring, Tensors
from disbud.origin import Json
from disbud.pruning.returned import scores_by_layer, unchanged
from disbud.selection import RULES, Densities, keep_highest, keep_lowest
from disbud.selection.groups import AGGREGATES, Granularity
from disbud.selection.names import check_name

KEEP = {"highest": keep_highest, "lowest": keep_lowest}


@dataclass(frozen=True)
class Plan:
    """A method with every setting resolved."""

    method: Method
    densities: Densities | None
    rule_settings: Mapping[str, Value]
    score_settings: Mapping[str, Value]
    rounds: int
    schedule: str
    keep: str
    regrowth: bool
    batch_norm: str
    granularity: Granularity
    aggregate: str

    @property
    def by_groups(self) -> bool:
        """Whether scores are added up over groups of weights."""
        return self.granularity.kind != "weight" and not self.method.construction

    def score(self, scoring: Scoring) -> Tensors:
        """The scores of one round."""
        function: Score = self.method.load()  # type: ignore[assignment]
        with unchanged(self.method.name, scoring.model):
            found = function(scoring, **self.score_settings)
        return scores_by_layer(self.method.name, found, scoring)

    def finish(self, scoring: Scoring, masks: Tensors) -> tuple[Tensors, Tensors | None]:
        """The masks as the method leaves them, and the weights to start from where it says which."""
        if not self.method.finish:
            return masks, None
        function = resolve(self.method.finish)
        return function(scoring, masks, singly=not self.by_groups, **self.score_settings)  # type: ignore[return-value]

    def to_json(self) -> dict[str, Json]:
        """What goes into the ticket's origin."""
        densities: Json = self.densities if isinstance(self.densities, str | None) else "ticket"
        if isinstance(self.densities, Mapping):
            densities = {str(name): float(density) for name, density in self.densities.items()}
        return {
            "revision": self.method.revision,
            "densities": densities,
            "rounds": self.rounds,
            "schedule": self.schedule,
            "keep": self.keep,
            "regrowth": self.regrowth,
            "batch_norm": self.batch_norm,
            "granularity": str(self.granularity),
            **({"aggregate": self.aggregate} if self.by_groups else {}),
            **{key: as_json(value) for key, value in {**self.rule_settings, **self.score_settings}.items()},
        }


def plan_of(
    entry: Method,
    model: nn.Module,
    settings: Mapping[str, Value],
    *,
    densities: Densities | None = None,
    rounds: int | None = None,
    schedule: str | None = None,
    keep: str = "highest",
    regrowth: bool | None = None,
    batch_norm: str | None = None,
    granularity: str = "weight",
    aggregate: str = "sum-of-abs",
) -> Plan:
    """The plan of a method, its own defaults overridden by what is given."""
    densities = entry.densities if densities is None else densities
    if densities == "global":
        densities = None
    if densities == "like":
        raise DisbudError(f"{entry.name} takes the densities of another ticket: give densities=TICKET")
    rule = _rule_settings(densities, model)
    own = dict(entry.settings)
    check_settings(f"method {entry.name!r}", settings, {**own, **rule})
    check_name("way to keep", keep, KEEP)
    if entry.construction:
        _check_not_ranked(entry, {"rounds": rounds, "schedule": schedule, "keep": keep, "regrowth": regrowth})
    groups = _groups(entry, granularity, aggregate, densities)
    rounds = entry.rounds if rounds is None else rounds
    return Plan(
        method=entry,
        densities=densities,
        rule_settings={key: settings.get(key, default) for key, default in rule.items()},
        score_settings={key: settings.get(key, default) for key, default in own.items()},
        rounds=rounds,
        schedule=schedule or ("one-shot" if rounds == 1 else entry.schedule),
        keep=keep,
        regrowth=entry.regrowth if regrowth is None else regrowth,
        batch_norm=batch_norm or entry.batch_norm,
        granularity=groups,
        aggregate=aggregate,
    )


def _groups(entry: Method, granularity: str, aggregate: str, densities: Densities | None) -> Granularity:
    """What is kept or pruned as one, if the method ranks scores that can be added up over groups."""
    found = Granularity.of(granularity)
    check_name("aggregate of a group's scores", aggregate, AGGREGATES)
    if aggregate != AGGREGATES[0] and (entry.construction or entry.trains or found.kind == "weight"):
        raise DisbudError(
            f"aggregate={aggregate!r} says how the scores of a group are added up, and no groups are ranked here; "
            "leave it out, or take a method that scores and a granularity of 'kernel', 'channel' or '2:4'"
        )
    if entry.whole_channels and found.kind in ("weight", "channel"):
        return Granularity("channel")
    if found.kind == "weight":
        return found
    if entry.construction or entry.trains:
        raise DisbudError(
            f"{entry.name} chooses single weights, so it has no granularity={granularity!r}; leave that out, or take a "
            "method that scores"
        )
    if found.kind == "n:m" and densities not in (None, "uniform"):
        raise DisbudError(
            f"granularity={granularity!r} gives every layer the same density, so it takes no densities; leave them "
            f"out, or take a method without (magnitude in the place of {entry.name})"
        )
    return found


def _check_not_ranked(entry: Method, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value not in (None, "highest"):
            raise DisbudError(
                f"{entry.name} builds its masks and ranks no scores, so it has no {name}={value!r}; leave that out"
            )


def _rule_settings(densities: Densities | None, model: nn.Module) -> dict[str, Value]:
    """The settings of a density rule with their defaults; whether the model is a chain is read off the model."""
    if not isinstance(densities, str):
        return {}
    check_name("density rule", densities, RULES)
    parameters = inspect.signature(RULES[densities]).parameters.values()
    found = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    if "chain" in found:
        found["chain"] = is_chain(model)
    return found


def as_json(value: object) -> Json:
    """A setting as it goes into the origin: plain values as they are, functions by their name."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Real):  # those of numpy too
        return int(value) if isinstance(value, Integral) else float(value)
    if callable(value):
        return f"{getattr(value, '__module__', '?')}:{getattr(value, '__qualname__', type(value).__name__)}"
    return [as_json(item) for item in value] if isinstance(value, Iterable) else repr(value)
