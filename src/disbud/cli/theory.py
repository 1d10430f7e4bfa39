"""`disbud theory`: phases and edges of activations, forecasts for a model, robust pruning, the trainable region."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from disbud.cli import show
from disbud.cli.options import (
    COMMON,
    Classes,
    Common,
    InputShape,
    Json,
    Model,
    Weights,
    check_count,
    check_writable,
    shape_of,
)
from disbud.cli.regions import phases, region
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.data import Dataset
    from disbud.measures import Table
    from disbud.robust import Emptying
    from disbud.theory import CriticalSparsity, EdgeOfChaos, Phase
    from disbud.ticket import Ticket

theory = App(
    name="theory",
    help="Mean-field theory: what depth does to signals and gradients, and what pruning changes in that.",
)
theory.command(region)
theory.command(phases)
_ACTIVATION = (
    "tanh, relu, leaky-relu, elu, gelu, silu, hard-tanh, erf, sigmoid or linear; settings as in elu:alpha=2."
)
_ELSE_READ = "Else it is read off the model."
_DATA = "Images and labels to measure on; the model's classes and input shape come from it."
_EXAMPLES = 256


@theory.default
def phase(
    activation: Annotated[str, Parameter(help=_ACTIVATION)],
    /,
    *,
    sigma_w: Annotated[
        float | None,
        Parameter(help="Deviation of the weights times sqrt(fan-in); else that of the edge of chaos."),
    ] = None,
    sigma_b: Annotated[float, Parameter(help="Deviation of the biases.")] = 0.0,
    depth: Annotated[int, Parameter(help="Layers to forecast pruning for.")] = 100,
    width: Annotated[int, Parameter(help="Units of each of these layers.")] = 100,
    json: Json = False,
) -> int:
    """Show the phase an initialisation is in, its depth scales, the edge of chaos, and where SNIP empties a layer."""
    from disbud.theory import critical_sparsity, edge_of_chaos
    from disbud.theory import phase as phase_of

    check_count("--depth", depth)
    check_count("--width", width)
    edge, no_edge = None, ""
    try:
        edge = edge_of_chaos(activation, sigma_b)
    except DisbudError as error:
        if sigma_w is None:
            raise DisbudError(f"{error}; or give --sigma-w") from error
        no_edge = str(error)
    if sigma_w is None:
        assert edge is not None
        sigma_w = edge.sigma_w
    start = edge.q if edge is not None and edge.q > 0 and math.isclose(sigma_w, edge.sigma_w) else 1.0
    found = phase_of(activation, sigma_w=sigma_w, sigma_b=sigma_b, start=start)
    critical = None
    if 0 < found.chi < math.inf:
        critical = critical_sparsity([width**2] * depth, log_chi=math.log(found.chi))
    if json:
        show.write_json(
            {
                "phase": asdict(found),
                "edge": None if edge is None else asdict(edge),
                "critical_sparsity": None if critical is None else asdict(critical),
                "depth": depth,
                "width": width,
            }
        )
    else:
        _show_phase(found, edge, no_edge, critical, f"{depth} layers of {width} units")
    return 0


def _show_phase(
    found: Phase, edge: EdgeOfChaos | None, no_edge: str, critical: CriticalSparsity | None, layers: str
) -> None:
    every = math.isnan(found.correlation)
    scales = (
        f"{_layers(found.correlation_depth)} for correlations, {_layers(found.gradient_depth)} for gradients"
    )
    if math.isinf(found.correlation_depth) and math.isinf(found.gradient_depth):
        scales = "none: nothing changes exponentially with depth"
    rows = {
        "phase": found.name,
        "chi": f"{found.chi:.5g}, by which a layer multiplies the gradient's second moment",
        "variance": f"{found.q:.4g}, what signals flow to",
        "correlation": "every one stays as it is"
        if every
        else f"{found.correlation:.4g}, what inputs flow to",
        "depth scales": scales,
        "edge": no_edge if edge is None else str(edge).partition(": ")[2],
    }
    if critical is not None:
        rows["SNIP, one shot"] = f"of {layers}, empties one at sparsity {critical}"
    show.write(
        f"{found.activation}, sigma_w = {found.sigma_w:.5g}, sigma_b = {found.sigma_b:g}",
        show.pairs(dict(rows)),
    )


def _layers(depth: float) -> str:
    return "no exponential change" if math.isinf(depth) else f"{depth:.4g} layers"


@theory.command
def model(
    model: Model,
    /,
    *,
    data: Annotated[str, Parameter(help=_DATA)] = "digits",
    ticket: Annotated[Path | None, Parameter(help="Measure the net under the ticket in this file.")] = None,
    seed: Annotated[int, Parameter(help="Draws the weights and the examples.")] = 0,
    examples: Annotated[int, Parameter(help="Examples to measure on.")] = 64,
    activation: Annotated[str | None, Parameter(help=_ELSE_READ)] = None,
    weights: Weights = None,
    common: Common = COMMON,
) -> int:
    """Show a model's layer sensitivities, predicted and measured, which layer empties first, and whether it trains."""
    from disbud.cli.networks import load_data, network, use_threads
    from disbud.robust import forecast, sensitivities
    from disbud.ticket import Ticket

    if examples < 2:
        raise DisbudError(f"--examples {examples}: should be at least 2")
    use_threads(common.threads)
    kept = None if ticket is None else Ticket.load(ticket)
    dataset = load_data(data)
    built = network(model, dataset=dataset).build(seed, weights)
    if kept is not None:
        kept.check(built)
        kept.start_(built)
    batch = _batch(dataset, examples, seed)
    table = sensitivities(built, batch, kept, activation=activation, seed=seed)
    predicted = table.summary["no_prediction"] is None
    forecasts = [forecast(built, batch[0], kept, activation=activation)] if predicted else []
    forecasts.append(forecast(built, batch[0], kept, labels=batch[1]))
    by = "predicted" if predicted else "measured"
    emptied = [] if kept is not None else _emptied(built, batch, table, by, seed)
    if common.json:
        judged = [asdict(one) | {"trains": one.trains} for one in forecasts]
        emptying_json = [asdict(one) for one in emptied]
        named = {"model": model, "data": data, "sensitivities": table.to_json()}
        show.write_json(named | {"forecasts": judged, "emptying": emptying_json})
        return 0
    shown = show.table("layer", "kept", "predicted", "measured", right=["kept", "predicted", "measured"])
    for row in table:
        cells = ["-" if row[key] is None else f"{row[key]:.3g}" for key in ("predicted", "measured")]
        shown.add_row(str(row["layer"]), f"{row['kept']:,}", *cells)
    show.write("mean square of w dL/dw, relative to the last layer", shown)
    if not predicted:
        show.note(f"no prediction: {table.summary['no_prediction']}")
    show.write(*map(str, emptied), *map(str, forecasts))
    return 0


def _emptied(
    built: nn.Module, batch: tuple[Tensor, Tensor], table: Table, by: str, seed: int
) -> list[Emptying]:
    """Which layer goes first by each method; a note where that cannot be foreseen."""
    from disbud.robust import emptying

    found = []
    for method in ("sensitivity", "magnitude"):
        try:
            found.append(emptying(built, batch, method=method, table=table, by=by, seed=seed))
        except DisbudError as error:
            show.note(str(error))
    return found


@theory.command
def prune(
    model: Model,
    /,
    *,
    sparsity: Annotated[float, Parameter(help="Fraction of the weights to remove, as in 0.9.")],
    out: Annotated[Path, Parameter(help="Where the ticket goes; the weights it starts from go beside it.")],
    method: Annotated[
        Literal["sbp", "mbp"], Parameter(help="By sensitivity, which needs --data, or by magnitude.")
    ] = "sbp",
    data: Annotated[str | None, Parameter(help=_DATA)] = None,
    activation: Annotated[str | None, Parameter(help=_ELSE_READ)] = None,
    sigma_b: Annotated[
        float | None, Parameter(help="Deviation of the biases; else what the edge of chaos needs.")
    ] = None,
    rescale: Annotated[
        Literal["weights", "activations", "differences", "none"] | None,
        Parameter(help="How the kept weights are rescaled; else activations for sbp, weights for mbp."),
    ] = None,
    seed: Annotated[int, Parameter(help="Draws the weights, and the examples.")] = 0,
    classes: Classes = None,
    input_shape: InputShape = None,
    common: Common = COMMON,
) -> int:
    """Initialise on the edge of chaos, prune, rescale: a ticket that carries the weights it starts from."""
    from disbud.cli.networks import load_data, network, use_threads
    from disbud.robust import mbp, sbp

    use_threads(common.threads)
    check_writable("--out", out)
    how = {"sbp": "activations", "mbp": "weights"}[method] if rescale is None else rescale
    measures = how in ("activations", "differences")
    _check_data(data, method, f"--rescale {how}" if measures else None)
    dataset = load_data(data) if data else None
    built = network(model, dataset=dataset, classes=classes, input_shape=shape_of(input_shape)).build(seed)
    batch = None if dataset is None else _batch(dataset, _EXAMPLES, seed)
    inputs = batch[0] if batch is not None and measures else None
    way = None if how == "none" else how
    if method == "sbp":
        ticket = sbp(
            built, sparsity=sparsity, batches=[batch], activation=activation, sigma_b=sigma_b, rescale=way,
            inputs=inputs, seed=seed,
        )  # fmt: skip
    else:
        ticket = mbp(
            built,
            sparsity=sparsity,
            activation=activation,
            sigma_b=sigma_b,
            rescale=way,
            inputs=inputs,
            seed=seed,
        )
    _save(ticket, built, out)
    if common.json:
        show.write_json({"ticket": str(out), "model": model, "data": data, "origin": ticket.origin.to_json()})
        return 0
    at = ticket.origin.settings
    where = f"edge of chaos: {at['activation']}, sigma_w = {at['sigma_w']:.5g}, sigma_b = {at['sigma_b']:g}"
    show.write(ticket.summary, f"{where}; rescaled by {way or 'nothing'}", f"wrote {out}")
    return 0


def _save(ticket: Ticket, built: nn.Module, out: Path) -> None:
    """The ticket, and beside it the weights it was rescaled to."""
    from disbud.parameters import canonical, parameters
    from disbud.ticket_file import start_of

    # A shared parameter stands in the state under each of its names, and in a file of weights once.
    own = {*parameters(built), *(canonical(name) for name, _ in built.named_buffers())}
    state = {canonical(name): tensor for name, tensor in built.state_dict().items()}
    start = start_of({name: state[name].detach().clone() for name in own & state.keys()})
    dataclasses.replace(ticket, start=start).save(out)


def _check_data(data: str | None, method: str, measuring: str | None) -> None:
    asked = method if method == "sbp" else measuring
    if data is None and asked is not None:
        raise DisbudError(f"{asked} looks at data: give --data, as in --data digits")


def _batch(dataset: Dataset, examples: int, seed: int) -> tuple[Tensor, Tensor]:
    batch: tuple[Tensor, Tensor] = next(iter(dataset.batches(examples, seed=seed)))
    return batch
