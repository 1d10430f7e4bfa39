"""What a ticket is compared with: five altered versions of itself, and random tickets that no method made."""

from __future__ import annotations

from dataclasses import dataclass, replace

from disbud.catalogue import parse
from disbud.errors import DisbudError
from disbud.interventions.catalogue import CATALOGUE as INTERVENTIONS
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.study import Trial
from disbud.study.trial import DENSE

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Check:
    """One comparison: an intervention on the method's ticket, or another method in its place.

    `takes` says in words what a method does not need where its ticket is no worse so altered.
    """

    name: str
    intervention: str | None = None
    method: str | None = None
    takes: str = ""

    @property
    def of_data(self) -> bool:
        """Whether it is the data pruned with that is altered."""
        return (
            self.intervention is not None and INTERVENTIONS[parse(self.intervention).name].acts_on == "data"
        )

    def trial(self, base: Trial) -> Trial:
        """The trial of this check, beside that of the ticket as it is."""
        if self.method == DENSE:
            return replace(base, method=DENSE, sparsity=None, intervention=None)
        if self.method is not None:
            return replace(base, method=self.method, intervention=None)
        return replace(base, intervention=self.intervention)


ALTERED = (
    Check("random labels", "random-labels", takes="the labels"),
    Check("labels and pixels", "labels-and-pixels", takes="labels and images"),
    Check("half the data", "half-data", takes="half of the data"),
    Check("rearranged mask", "shuffle", takes="which weights of a layer are kept"),
    Check("permuted values", "permute-values", takes="which kept weight has which value"),
)
RANDOM = (
    Check("smart-ratio random", method="smart-ratio"),
    Check("ERK random", method="random-erk"),
)
CONTROLS = (Check("uniform random", method="random-uniform"), Check("dense", method=DENSE))


def checks_for(method: str) -> tuple[Check, ...]:
    """All comparisons that mean something for the method: one that looks at no data is not asked about data."""
    known = METHODS.get(parse(method).name)
    looks_at_data = known is None or known.needs == "batches" or known.trains
    altered = [check for check in ALTERED if looks_at_data or not check.of_data]
    return (*altered, *(check for check in RANDOM if check.method != method), *CONTROLS)


def check_method(method: str) -> None:
    """Raise for what cannot be checked."""
    if method == DENSE:
        raise DisbudError("the dense network is no pruning method; name one, as in snip")
