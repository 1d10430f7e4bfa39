"""Every method by name: the score behind it, the rounds and densities it ranks with, and its own settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from disbud.catalogue import Entry, Value
from disbud.errors import DisbudError

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Method(Entry):
    """A pruning method: a score function and how its scores are turned into a ticket; or a construction.

    A construction makes masks itself: it is a function of the `Scoring` and of a budget, the number of weights to keep
    in each layer or, where no density rule gives that, in all. It has neither rounds nor a ranking.

    `densities` None ranks all layers together; a density rule ranks each layer by itself. `rounds` and `schedule` are
    defaults. In a method with `regrowth`, a weight pruned in one round may return in the next. `batch_norm` is the mode
    BatchNorm is in while scoring.
    """

    source: str = ""
    needs: str = ""  # "batches" where it looks at data
    densities: str | None = None
    rounds: int = 1
    schedule: str = "exponential"
    regrowth: bool = False
    batch_norm: str = "train"
    construction: bool = False


_RANDOM, _MAGNITUDE = "disbud.methods.random:random", "disbud.methods.magnitude:magnitude"
_SNIP, _GRASP, _SYNFLOW = "disbud.methods.snip", "disbud.methods.grasp", "disbud.methods.synflow"

_METHODS = [
    Method("random", "any weights, all layers alike on average", _RANDOM),
    Method("random-uniform", "random, the same density in every layer", _RANDOM, densities="uniform"),
    Method(
        "random-uniform-plus",
        "random, uniform but for a dense first convolution and a last layer of at least 0.2",
        _RANDOM,
        source="Gale et al. 2019",
        densities="uniform-plus",
    ),
    Method(
        "random-er", "random, Erdos-Renyi densities", _RANDOM, source="Mocanu et al. 2018", densities="er"
    ),
    Method(
        "random-erk",
        "random, Erdos-Renyi-kernel densities",
        _RANDOM,
        source="Evci et al. 2020",
        densities="erk",
    ),
    Method(
        "random-igq", "random, ideal-gas-quota densities", _RANDOM, source="Chen et al. 2022", densities="igq"
    ),
    Method(
        "random-like", "random, the densities of another ticket (densities=TICKET)", _RANDOM, densities="like"
    ),
    Method(
        "smart-ratio",
        "random, densities that fall with depth: a 'random ticket'",
        _RANDOM,
        source="Su et al. 2020",
        densities="smart-ratio",
    ),
    Method("magnitude", "the largest weights over all layers", _MAGNITUDE),
    Method("magnitude-uniform", "the largest weights of each layer", _MAGNITUDE, densities="uniform"),
    Method("magnitude-erk", "the largest weights of each layer, ERK densities", _MAGNITUDE, densities="erk"),
    Method(
        "snip",
        "the loss's sensitivity to each weight",
        f"{_SNIP}:snip",
        source="Lee et al. 2019",
        needs="batches",
    ),
    Method(
        "iterative-snip",
        "SNIP scored again on the pruned net",
        f"{_SNIP}:snip",
        source="de Jorge et al. 2021",
        needs="batches",
        rounds=10,
    ),
    Method(
        "force",
        "iterated SNIP in which pruned weights can return",
        f"{_SNIP}:force",
        source="de Jorge et al. 2021",
        needs="batches",
        rounds=60,
        regrowth=True,
    ),
    Method(
        "grasp",
        "the weights that keep the gradient flowing",
        f"{_GRASP}:grasp",
        settings={"temperature": 200.0},
        source="Wang et al. 2020",
        needs="batches",
    ),
    Method(
        "grasp-abs",
        "GraSP with the sign of its score dropped",
        f"{_GRASP}:grasp_abs",
        settings={"temperature": 200.0},
        source="Liu & Singh 2021",
        needs="batches",
    ),
    Method(
        "synflow",
        "the flow of a signal through abs(w), without data",
        f"{_SYNFLOW}:synflow",
        settings={"biases": "drop", "dtype": "float32"},
        source="Tanaka et al. 2020",
        needs="example",
        rounds=100,
        batch_norm="eval",
    ),
    Method(
        "synflow-l2",
        "SynFlow on squared weights",
        f"{_SYNFLOW}:synflow_l2",
        settings={"biases": "drop", "dtype": "float32"},
        source="Tanaka et al. 2020",
        needs="example",
        rounds=100,
        batch_norm="eval",
    ),
]

CATALOGUE: dict[str, Method] = {method.name: method for method in _METHODS}


def method(
    name: str,
    summary: str,
    *,
    source: str = "",
    needs: str = "",
    densities: str | None = None,
    rounds: int = 1,
    schedule: str = "exponential",
    regrowth: bool = False,
    batch_norm: str = "train",
    construction: bool = False,
    revision: int = 1,
    **settings: Value,
) -> Callable[[Function], Function]:
    """Make a score function of one's own a method that `prune` and `scores` know by name.

    The function takes a `Scoring` and gives a score for each weight, the highest of which are kept; `settings` are its
    keyword arguments and their defaults. A construction takes the budget as well, the number of weights to keep in each
    layer (with no density rule: in all), and gives masks.

    >>> import disbud, torch
    >>> @disbud.method("smallest", "the smallest weights")
    ... def smallest(s):
    ...     return {name: -weight.abs() for name, weight in s.weights.items()}
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> ticket = disbud.prune(layer, "smallest", sparsity=0.5)
    >>> bool(layer.weight[ticket.masks["weight"]].abs() <= layer.weight.abs().min())
    True
    """
    if needs not in ("", "batches", "example"):
        raise DisbudError(f"a method needs 'batches', 'example', or nothing, not {needs!r}")

    def register(function: Function) -> Function:
        reference = f"{function.__module__}:{function.__qualname__}"
        known = CATALOGUE.get(name)
        if known is not None and known.function != reference:
            raise DisbudError(
                f"there is a method {name!r} already ({known.function}); give yours another name"
            )
        CATALOGUE[name] = _Given(
            name, summary, reference, settings, revision, source, needs, densities, rounds, schedule, regrowth,
            batch_norm, construction, given=function,
        )  # fmt: skip
        return function

    return register


@dataclass(frozen=True)
class _Given(Method):
    """A method whose function was handed over, and need not be importable by name."""

    given: Callable[..., object] | None = None

    def load(self) -> Callable[..., object]:
        assert self.given is not None
        return self.given
