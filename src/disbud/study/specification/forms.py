"""What may stand in a study file, key by key; pydantic checks it, and `reading` turns its complaints into sentences."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Words: TypeAlias = str | list[str]
Fractions: TypeAlias = Fraction | list[Fraction]
Axis = Literal["model", "data", "recipe", "method", "sparsity", "intervention"]


class Form(BaseModel):
    """A table of a study file: no key but the known ones, and nothing converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SeedsForm(Form):
    """`count` seeds; each draws split, init, mask and order, but for those held at a number or listed by themselves."""

    count: Annotated[int, Field(ge=1)] = 5
    split: int | list[int] | None = None
    init: int | list[int] | None = None
    mask: int | list[int] | None = None
    order: int | list[int] | None = None


class GridForm(Form):
    """The axes of a grid; each a value or a list. What is not said in a `[[trial]]` is as in the study."""

    data: Words | None = None
    model: Words | None = None
    recipe: Words | None = None
    methods: Words | None = None
    sparsities: Fractions | None = None
    interventions: Words | None = None


class Place(Form):
    """Where in the grid: the values an axis may have."""

    model: Words | None = None
    data: Words | None = None
    recipe: Words | None = None
    method: Words | None = None
    sparsity: Fractions | None = None
    intervention: Words | None = None


class ClaimForm(Form):
    """What all claims say: a name, a sentence, where it is from, over which part of the grid."""

    name: str
    says: str
    source: str = ""
    where: Place = Place()
    wanted: Literal["for all", "there is"] = "for all"


class CompareForm(ClaimForm):
    """One variant beside another, seed by seed, in every cell of the grid."""

    kind: Literal["compare"] = "compare"
    left: Place
    right: Place
    verb: Annotated[Literal["same", "at-least", "beats", "loses-at-most"], Field(alias="is")]
    by: Annotated[float, Field(ge=0)] | None = None
    value: str = "accuracy"
    margin: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _by(self) -> CompareForm:
        if self.verb == "loses-at-most" and self.by is None:
            raise ValueError("loses-at-most needs `by`, as in by = 0.02 for two points")
        if self.by is not None and self.verb in ("same", "at-least"):
            raise ValueError(f"{self.verb} has no `by`; the margin is what counts as the same")
        return self


class GrowsForm(ClaimForm):
    """The difference left minus right rises along an axis: sparsity, or models in the order of `where`."""

    kind: Literal["grows"]
    left: Place
    right: Place
    along: Literal["sparsity", "model"] = "sparsity"
    value: str = "accuracy"


class CrossoverForm(ClaimForm):
    """Left and right change places at some sparsity: as it grows left "falls" behind, or "rises" past right."""

    kind: Literal["crossover"]
    left: Place
    right: Place
    sign: Literal["rises", "falls"] | None = None
    value: str = "accuracy"


class BoundForm(ClaimForm):
    """A value lies below, or above, a number in every cell."""

    kind: Literal["bound"]
    value: str
    most: float | None = None
    least: float | None = None

    @model_validator(mode="after")
    def _one(self) -> BoundForm:
        if (self.most is None) == (self.least is None):
            raise ValueError("give `most` or `least`, a number that the value stays below or above")
        return self


class PredictsForm(ClaimForm):
    """A value goes with another over all trials of a stratum, by rank; more so than a third does, if one is named."""

    kind: Literal["predicts"]
    x: str
    y: str = "accuracy"
    sign: Literal["rises", "falls"] = "rises"
    rather_than: str | None = None
    strata: list[str] = ["model", "data", "sparsity"]
    given: list[str] = []


class FunctionForm(ClaimForm):
    """A claim that a function of one's own decides: of (form, setting, variants) to what is `disbud.claims.Decided`."""

    kind: Literal["function"]
    function: str


class UntestedForm(ClaimForm):
    """A claim that is listed and not tested, with the reason."""

    kind: Literal["untested"]
    why: str


AnyClaim: TypeAlias = (
    CompareForm | GrowsForm | CrossoverForm | BoundForm | PredictsForm | FunctionForm | UntestedForm
)
CLAIMS: dict[str, type[ClaimForm]] = {
    "compare": CompareForm,
    "grows": GrowsForm,
    "crossover": CrossoverForm,
    "bound": BoundForm,
    "predicts": PredictsForm,
    "function": FunctionForm,
    "untested": UntestedForm,
}


class StudyForm(GridForm):
    """A whole study file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    says: str = ""
    seeds: Annotated[int, Field(ge=1)] | list[int] | SeedsForm = 5
    measures: Words = []
    controls: bool = True
    margin: Annotated[float, Field(gt=0, le=1)] | None = None
    trial: list[GridForm] = []
    claim: list[AnyClaim] = []
