"""`disbud inspect`: look at a ticket, in the terminal or on a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from disbud.cli import show
from disbud.cli.options import COMMON, Classes, Common, InputShape, check_writable, shape_of
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.diagnosis import Signs
    from disbud.ticket import Ticket


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
    read = None if shown is None else _read(loaded, shown)
    if how.html is not None:
        _write_page(loaded, ticket, shown, how)
    if common.json:
        page = None if how.html is None else str(how.html)
        named = {"ticket": str(ticket), "model": model, "html": page, "parameters": parameters, "left": left}
        show.write_json({**named, **to_json(loaded), "signs": None if read is None else read.to_json()})
        return 0
    layers = layer_table(loaded, None if read is None else read.paths)
    show.write(summary(loaded), "", layers, "", *origin_lines(loaded.origin))
    _tell_more(loaded, read, None if left is None else f"fits {model}: {left:,} of its {parameters:,}", how)
    return 0


def _read(ticket: Ticket, shown: _Shown) -> Signs | None:
    """Paths, nodes and cost; None where nothing says how large an input is, or paths are not defined."""
    from disbud.diagnosis import signs

    if shown.example is None:
        show.note("to count paths and multiply-adds, say how large an input is: --input-shape, as in 3x32x32")
        return None
    try:
        return signs(shown.module, ticket, example=shown.example)
    except DisbudError as error:
        show.note(f"no paths are counted: {error}")
        return None


def _tell_more(ticket: Ticket, read: Signs | None, fits: str | None, how: HowToShow) -> None:
    if ticket.start is not None:
        show.write(show.pairs({"starts from": f"{ticket.start.file} (SHA-256 {ticket.start.sha256[:12]})"}))
    if fits is not None:
        show.write("", f"{fits} parameters stay, those not pruned among them")
    if read is not None:
        show.write(show.pairs(_measures(read)))
    if how.html is not None:
        show.write("", f"wrote {how.html}")


def _measures(read: Signs) -> dict[str, str]:
    cost = read.cost.summary
    dense, masked, live = (
        int(cost[name] or 0) for name in ("multiply_adds", "multiply_adds_masked", "multiply_adds_live")
    )
    paths = "none" if read.log10_paths == -math.inf else f"10^{read.log10_paths:.1f}"
    return {
        "effective sparsity": f"{read.effective_sparsity:.4%}, {read.effective:.1%} of the kept weights are on a path",
        "paths and nodes": f"{paths} paths, {read.nodes:,} nodes",
        "multiply-adds": f"{dense:,}; of the kept weights {_part(masked, dense)}; without dead channels "
        f"{_part(live, dense)}",
        "ticket": f"{cost['ticket_bytes']:,} bytes",
    }


def _part(value: int, whole: int) -> str:
    return f"{value:,} ({value / whole:.1%})" if whole else f"{value:,}"


@dataclass(frozen=True)
class _Shown:
    """A model to show a ticket with, one input where its shape is known, and what it is, in words."""

    module: nn.Module
    example: Tensor | None
    seed: int
    words: str


def _model_of(
    ticket: Ticket,
    model: str,
    weights: Path | None,
    seed: int | None,
    classes: int | None,
    shape: tuple[int, ...] | None,
) -> _Shown:
    """The model with the weights asked for, else with those that the ticket starts from or was made at."""
    from disbud.cli.networks import network

    net = network(model, classes=classes, input_shape=shape)
    built = net.build_for(ticket, seed=seed, weights=weights)
    drawn_by = (ticket.origin.model_seed() or 0) if seed is None else seed
    if weights is not None:
        source = f"of {weights}"
    elif seed is None and ticket.start is not None:
        source = "that the ticket starts from"
    else:
        source = f"drawn by seed {drawn_by}"
    return _Shown(built, net.example(), drawn_by, f"{model}, weights {source}")


def _write_page(ticket: Ticket, file: Path, shown: _Shown | None, how: HowToShow) -> None:
    from disbud import report
    from disbud.cli.tickets import is_file
    from disbud.ticket import Ticket

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
        about_model=None if shown is None else shown.words,
    )
    page.save(how.html or "")
