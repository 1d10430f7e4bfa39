"""`disbud prune`: make a ticket."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from disbud.cli import show
from disbud.cli.options import (
    COMMON,
    Classes,
    Common,
    Data,
    InputShape,
    Model,
    Weights,
    check_writable,
    examples_of,
    settings_of,
    shape_of,
)
from disbud.cli.progress import Progress
from disbud.cli.training import RECIPE_HELP
from disbud.errors import DisbudError
from disbud.training.recipes import parse_recipe

if TYPE_CHECKING:
    from disbud.methods.catalogue import Method
    from disbud.training.recipes import Recipe


@Parameter(name="*")
@dataclass(frozen=True)
class HowToPrune:
    """The options that change how the method prunes; None leaves it to the method."""

    densities: Annotated[
        str | None, Parameter(help="How much each layer keeps: a rule such as erk, or the file of a ticket.")
    ] = None
    rounds: Annotated[int | None, Parameter(help="Score and prune in so many rounds.")] = None
    schedule: Annotated[
        str | None, Parameter(help="Sparsity over the rounds: exponential, linear or one-shot.")
    ] = None
    keep: Annotated[
        Literal["highest", "lowest"] | None,
        Parameter(help="Which scores stay; lowest turns the method upside down."),
    ] = None
    batch_norm: Annotated[
        Literal["train", "eval"] | None, Parameter(help="Mode of BatchNorm while scoring.")
    ] = None
    examples_per_class: Annotated[
        str | None, Parameter(help="Examples of each class that the method looks at, 10 unless said; or all.")
    ] = None
    include: Annotated[
        list[str] | None, Parameter(help="Prune only weights of this name, as in 'layer3.*'.")
    ] = None
    exclude: Annotated[list[str] | None, Parameter(help="Leave weights of this name whole.")] = None
    set: Annotated[
        list[str] | None, Parameter(help="A setting of the method, as in --set temperature=100.")
    ] = None

    def settings(self) -> dict[str, object]:
        """What was asked for, as `disbud.prune` takes it."""
        named = ("densities", "rounds", "schedule", "keep", "batch_norm", "include", "exclude")
        asked = {name: getattr(self, name) for name in named if getattr(self, name) is not None}
        return {**settings_of(self.set or []), **asked, **examples_of(self.examples_per_class)}


_AS_THE_METHOD_DOES = HowToPrune()


@Parameter(name="*")
@dataclass(frozen=True)
class HowToTrain:
    """The options of methods that train before they prune."""

    recipe: Annotated[
        str | None,
        Parameter(help=f"For a method that trains. {RECIPE_HELP}; else the data set's own."),
    ] = None
    checkpoint: Annotated[
        Path | None,
        Parameter(
            help="For a method that trains: keep what it trains in this folder and go on from there; else in the cache."
        ),
    ] = None

    def recipe_for(self, method: Method) -> Recipe | None:
        """The recipe asked for; raises where an option is given to a method that does not train."""
        for option in ("recipe", "checkpoint"):
            if not method.trains and getattr(self, option) is not None:
                raise DisbudError(f"--{option}: {method.name} does not train; leave it out")
        return None if self.recipe is None else parse_recipe(self.recipe)


_BY_THE_DATA_SETS_RECIPE = HowToTrain()


def prune(
    model: Model,
    /,
    *,
    method: Annotated[str, Parameter(help="A method that `disbud methods` lists.")] = "synflow",
    sparsity: Annotated[
        float | None,
        Parameter(
            help="Fraction of the weights to remove, as in 0.98. Needed unless --densities names a ticket."
        ),
    ] = None,
    data: Data = None,
    out: Annotated[
        Path | None, Parameter(help="Where the ticket goes; else MODEL-METHOD-SPARSITY.ticket.safetensors.")
    ] = None,
    seed: Annotated[
        int, Parameter(help="Draws the model's weights, the examples, and what the method draws.")
    ] = 0,
    weights: Weights = None,
    classes: Classes = None,
    input_shape: InputShape = None,
    how: HowToPrune = _AS_THE_METHOD_DOES,
    training: HowToTrain = _BY_THE_DATA_SETS_RECIPE,
    common: Common = COMMON,
) -> int:
    """Prune a model before it is trained, and write the ticket: which weights stay."""
    from disbud.cli.networks import load_data, network, use_threads
    from disbud.cli.tickets import pruning_of, summary, to_json

    settings = how.settings()
    use_threads(common.threads)
    pruning = pruning_of(method, settings)
    recipe = training.recipe_for(pruning.method)
    if sparsity is None and isinstance(pruning.settings.get("densities", ""), str):
        raise DisbudError("give --sparsity, the fraction of the weights to remove, as in --sparsity 0.98")
    out = out or _default_name(model, pruning.method.name, sparsity)
    check_writable("--out", out)
    dataset = load_data(data) if data else None
    net = network(model, dataset=dataset, classes=classes, input_shape=shape_of(input_shape))
    built = net.build(seed, weights)
    pruning.check_data(net)
    began = time.perf_counter()
    with Progress() as progress:
        ticket = pruning.ticket(
            built,
            net,
            sparsity=sparsity,
            seed=seed,
            recipe=recipe,
            checkpoint=training.checkpoint,
            progress=progress.update,
        )
    seconds = time.perf_counter() - began
    ticket.save(out)
    if common.json:
        named = {"ticket": str(out), "model": model, "data": data, "seconds": seconds}
        show.write_json(named | to_json(ticket))
        return 0
    how_long = f"{model} by {pruning.method.name}, seed {seed}, in {show.duration(seconds)}"
    beside = f", and beside it {ticket.start.file}, the weights it starts from" if ticket.start else ""
    show.write(how_long, summary(ticket), f"wrote {out}{beside}")
    return 0


def _default_name(model: str, method: str, sparsity: float | None) -> Path:
    """A file name with the odd characters of the model replaced."""
    parts = [model, method] if sparsity is None else [model, method, f"{sparsity:.10g}"]
    return Path(re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)) + ".ticket.safetensors")
