"""`disbud prune` and `disbud inspect`: make a ticket, and look at one."""

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
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.ticket import Ticket


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
    common: Common = COMMON,
) -> int:
    """Prune a model before it is trained, and write the ticket: which weights stay."""
    from disbud.cli.networks import load_data, network, use_threads
    from disbud.cli.tickets import pruning_of, summary, to_json

    settings = how.settings()
    use_threads(common.threads)
    pruning = pruning_of(method, settings)
    if sparsity is None and isinstance(pruning.settings.get("densities", ""), str):
        raise DisbudError("give --sparsity, the fraction of the weights to remove, as in --sparsity 0.98")
    out = out or _default_name(model, pruning.method.name, sparsity)
    check_writable("--out", out)
    dataset = load_data(data) if data else None
    net = network(model, dataset=dataset, classes=classes, input_shape=shape_of(input_shape))
    built = net.build(seed, weights)
    pruning.check_data(net)
    began = time.perf_counter()
    ticket = pruning.ticket(built, net, sparsity=sparsity, seed=seed)
    seconds = time.perf_counter() - began
    ticket.save(out)
    if common.json:
        named = {"ticket": str(out), "model": model, "data": data, "seconds": seconds}
        show.write_json(named | to_json(ticket))
        return 0
    how_long = f"{model} by {pruning.method.name}, seed {seed}, in {show.duration(seconds)}"
    show.write(how_long, summary(ticket), f"wrote {out}")
    return 0


@Parameter(name="*")
@dataclass(frozen=True)
class HowToShow:
    """The options of the page that `disbud inspect` writes."""

    html: Annotated[
        Path | None, Parameter(help="Write a page to look at: one file that any browser shows offline.")
    ] = None
    against: Annotated[
        str | None,
        Parameter(
            help="On the page: densities to compare with, by a rule such as erk, or the file of a ticket."
        ),
    ] = None
    intervention: Annotated[
        str | None,
        Parameter(help="On the page: show the kept weights after this too, as in shuffle. Needs --model."),
    ] = None
    zeros: Annotated[
        Literal["in", "out"] | None,
        Parameter(help="On the page: whether removed weights count as zeros in histograms; out unless said."),
    ] = None

    def check(self) -> None:
        """Raise where an option of the page is given without a page, and where it could not be written."""
        for option in ("against", "intervention", "zeros"):
            if self.html is None and getattr(self, option) is not None:
                raise DisbudError(f"--{option} is about the page: give --html FILE, as in --html ticket.html")
        check_writable("--html", self.html)


_AS_IT_IS = HowToShow()


def inspect(
    ticket: Annotated[Path, Parameter(help="The file of a ticket.")],
    /,
    *,
    model: Annotated[
        str | None,
        Parameter(help="Check that the ticket fits this model, and count what stays of the whole model."),
    ] = None,
    weights: Annotated[
        Path | None,
        Parameter(
            help="The model's weights (safetensors); else those the ticket starts from, or of the seed."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        Parameter(
            help="Draws the model's weights and the intervention; else the seed the ticket was made with."
        ),
    ] = None,
    classes: Classes = None,
    input_shape: InputShape = None,
    how: HowToShow = _AS_IT_IS,
    common: Common = COMMON,
) -> int:
    """Show what a ticket keeps of each layer, and where it came from; with --html, as a page to look at."""
    from disbud.cli.networks import use_threads
    from disbud.cli.tickets import layer_table, origin_lines, summary, to_json
    from disbud.ticket import Ticket

    use_threads(common.threads)
    how.check()
    loaded = Ticket.load(ticket)
    if model is None and any(given is not None for given in (classes, input_shape, weights, seed)):
        raise DisbudError(
            "--classes, --input-shape, --weights and --seed say how --model is built; give --model too"
        )
    shown = None if model is None else _model_of(loaded, model, weights, seed, classes, shape_of(input_shape))
    parameters = None if shown is None else sum(p.numel() for p in shown.module.parameters())
    left = None if parameters is None else parameters - loaded.total + loaded.kept
    if how.html is not None:
        _write_page(loaded, ticket, shown, how)
    if common.json:
        named = {"ticket": str(ticket), "model": model, "html": None if how.html is None else str(how.html)}
        show.write_json({**named, "parameters": parameters, "left": left, **to_json(loaded)})
        return 0
    show.write(summary(loaded), "", layer_table(loaded), "", *origin_lines(loaded.origin))
    _tell_more(loaded, None if left is None else f"fits {model}: {left:,} of its {parameters:,}", how)
    return 0


def _tell_more(ticket: Ticket, fits: str | None, how: HowToShow) -> None:
    if ticket.start is not None:
        show.write(show.pairs({"starts from": f"{ticket.start.file} (SHA-256 {ticket.start.sha256[:12]})"}))
    if fits is not None:
        show.write("", f"{fits} parameters stay, those not pruned among them")
    if how.html is not None:
        show.write("", f"wrote {how.html}")


@dataclass(frozen=True)
class _Shown:
    """A model to show a ticket with, one input where its shape is known, and the weights that were asked for."""

    name: str
    module: nn.Module
    example: Tensor | None
    seed: int
    weights: str | None

    def on_its_weights(self, ticket: Ticket) -> str:
        """Load the weights the ticket starts from, where no others were asked for; what the page shows, in words."""
        weights = self.weights or f"drawn by seed {self.seed}"
        if self.weights is None and ticket.start is not None:
            ticket.start_(self.module)
            weights = "that the ticket starts from"
        return f"{self.name}, weights {weights}"


def _model_of(
    ticket: Ticket,
    model: str,
    weights: Path | None,
    seed: int | None,
    classes: int | None,
    shape: tuple[int, ...] | None,
) -> _Shown:
    """The model with the weights asked for, else with those of the seed that the ticket was made with."""
    from disbud.cli.networks import network

    origin = ticket.origin
    while (
        origin.parents
    ):  # an intervention has a seed of its own; the model's is that of the ticket it began with
        origin = origin.parents[0]
    drawn_by = (origin.seed or 0) if seed is None else seed
    net = network(model, classes=classes, input_shape=shape)
    built = net.build(drawn_by, weights)
    ticket.check(built)
    source = None if seed is None else f"drawn by seed {seed}"
    return _Shown(model, built, net.example(), drawn_by, source if weights is None else f"of {weights}")


def _write_page(ticket: Ticket, file: Path, shown: _Shown | None, how: HowToShow) -> None:
    from disbud import report
    from disbud.cli.tickets import is_file
    from disbud.ticket import Ticket

    words = None if shown is None else shown.on_its_weights(ticket)
    against: Ticket | str | None = how.against
    if how.against is not None and is_file(how.against):
        against = Ticket.load(how.against)
    page = report.ticket(
        ticket,
        model=None if shown is None else shown.module,
        example=None if shown is None else shown.example,
        against=against,
        intervention=how.intervention,
        zeros=how.zeros or "out",
        seed=0 if shown is None else shown.seed,
        title=file.name.removesuffix(".safetensors").removesuffix(".ticket"),
        about_model=words,
    )
    page.save(how.html or "")


def _default_name(model: str, method: str, sparsity: float | None) -> Path:
    """A file name with the odd characters of the model replaced."""
    parts = [model, method] if sparsity is None else [model, method, f"{sparsity:.10g}"]
    return Path(re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)) + ".ticket.safetensors")
