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

    A method that `trains` is a function of a `Trainer` and of the levels to go down by (`methods/trained.py`). Where
    its settings have `per_level`, the fraction that each level removes, there are as many levels as that takes.

    `densities` None ranks all layers together; a density rule ranks each layer by itself. `rounds` and `schedule` are
    defaults. In a method with `regrowth`, a weight pruned in one round may return in the next. `batch_norm` is the mode
    BatchNorm is in while scoring. A construction of `whole_channels` keeps as many weights as they allow, at most what
    its budget says in all. `finish` names a function that may move weights of the masks that scores gave, and say
    which weights they are to start from.
    """

    source: str = ""
    needs: str = ""  # "batches" where it looks at data
    densities: str | None = None
    rounds: int = 1
    schedule: str = "exponential"
    regrowth: bool = False
    batch_norm: str = "train"
    construction: bool = False
    trains: bool = False
    whole_channels: bool = False
    finish: str = ""


_RANDOM, _MAGNITUDE = "disbud.methods.random:random", "disbud.methods.magnitude:magnitude"
_TRAINED = "disbud.methods.trained"
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
    Method(
        "synflow-random-rounds",
        "SynFlow with rounds at random among the early ones",
        "disbud.methods.synflow_random:synflow_random_rounds",
        settings={"every": 10, "until": 50, "variant": "plain", "biases": "drop", "dtype": "float32"},
        source="Pham et al. 2022",
        needs="example",
        rounds=100,
        regrowth=True,
        batch_norm="eval",
    ),
    Method(
        "ntk-sap",
        "what the tangent kernel's spectrum depends on, whatever the weights",
        "disbud.methods.ntk_sap:ntk_sap",
        settings={"samples": 100, "draws": 1, "epsilon": 0.01, "init": "kaiming-normal"},
        source="Wang et al. 2023",
        needs="example",
        rounds=20,
        batch_norm="eval",
    ),
    Method(
        "px",
        "the paths that make up the trace of the tangent kernel, on real inputs",
        "disbud.methods.px:px",
        source="Iurada et al. 2024",
        needs="batches",
        rounds=100,
        batch_norm="eval",
    ),
    Method(
        "poise",
        "width where signals are normalised, strong paths where not; starts in balance",
        "disbud.methods.poise:poise",
        source="disbud's own",
        settings={"concentration": 0.75, "normalised": 0.5, "signal": 0.3},
        needs="batches",
        densities="erk",
        rounds=40,
        batch_norm="eval",
        finish="disbud.methods.poise:poised",
    ),
    Method(
        "prospr",
        "the loss's sensitivity to each weight, some steps of training later",
        "disbud.methods.prospr:prospr",
        settings={"steps": 3, "lr": 0.5, "momentum": 0.9, "order": "full"},
        source="Alizadeh et al. 2022",
        needs="batches",
    ),
    Method(
        "dpai",
        "scores that climb towards more paths, dead units and kernels first",
        "disbud.methods.dpai:dpai",
        settings={"steps": 100, "lr": 0.01, "alpha": 0.9, "beta": 0.5},
        source="Xiang et al. 2025",
        needs="example",
        densities="erk",
        batch_norm="eval",
        construction=True,
    ),
    Method(
        "precrop",
        "the first channels of each layer: a narrower network",
        "disbud.methods.precrop:precrop",
        source="Cai et al. 2022",
        needs="example",
        densities="erk",
        batch_norm="eval",
        construction=True,
        whole_channels=True,
    ),
    Method(
        "npb",
        "live units first, then paths: the layer's optimum, again and again",
        "disbud.methods.npb:npb",
        settings={"mode": "nodes-first", "alpha": 0.01, "beta": 1.0, "taps": "random", "sweeps": 1},
        source="Pham et al. 2023",
        needs="example",
        densities="erk",
        batch_norm="eval",
        construction=True,
    ),
    Method(
        "phew",
        "the weights of random walks that prefer large ones",
        "disbud.methods.phew:phew",
        source="Patil & Dovrolis 2021",
        needs="example",
        batch_norm="eval",
        construction=True,
    ),
    Method(
        "magnitude-after-training",
        "the largest weights of the trained network",
        f"{_TRAINED}:iterated",
        settings={"rewind": "none", "per_level": None},
        source="Han et al. 2015",
        trains=True,
    ),
    Method(
        "lottery-ticket",
        "the largest trained weights, a fifth fewer a level, rewound to where they began",
        f"{_TRAINED}:iterated",
        settings={"rewind": "init", "per_level": 0.2},
        source="Frankle & Carbin 2019",
        trains=True,
    ),
    Method(
        "learning-rate-rewinding",
        "the largest trained weights, a fifth fewer a level, and trained on",
        f"{_TRAINED}:iterated",
        settings={"rewind": "none", "per_level": 0.2},
        source="Renda et al. 2020",
        trains=True,
    ),
    Method(
        "hybrid",
        "the largest trained weights of each layer, densities that fall with depth",
        f"{_TRAINED}:iterated",
        settings={"rewind": "none", "per_level": None},
        source="Su et al. 2020",
        densities="smart-ratio",
        trains=True,
    ),
    Method(
        "early-bird",
        "the largest weights as soon as training changes them no more",
        f"{_TRAINED}:early_bird",
        settings={"rewind": "none", "threshold": 0.1, "epochs": 5},
        source="You et al. 2020",
        trains=True,
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
    trains: bool = False,
    revision: int = 1,
    **settings: Value,
) -> Callable[[Function], Function]:
    """Make a score function of one's own a method that `prune` and `scores` know by name.

    The function takes a `Scoring` and gives a score for each weight, the highest of which are kept; `settings` are its
    keyword arguments and their defaults. A construction takes the budget as well, the number of weights to keep in each
    layer (with no density rule: in all), and gives masks. A method that trains is what `disbud.methods.trained` says.

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
            batch_norm, construction, trains, given=function,
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
