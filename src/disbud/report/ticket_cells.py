"""The sections of a ticket's page with a small histogram a layer: degrees of units, and the kept weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from disbud import interventions, measures
from disbud.catalogue import find, parse
from disbud.errors import DisbudError
from disbud.isolation import Example
from disbud.report import ticket_charts
from disbud.report.anatomy import Anatomy, LayerFacts, degree_counts
from disbud.report.charts import Cell, Columns, SmallMultiples, legend
from disbud.report.markup import Html, joined
from disbud.report.page import Section, aside
from disbud.report.words import counted, name, names, sentence
from disbud.ticket import Ticket

_BINS = 36
_FEW = 30  # kept weights below which a distribution is mostly chance
_MANY = 60  # layers from which histograms are coarser, so that the page stays small
State = tuple[nn.Module | Mapping[str, Tensor], Ticket]


@dataclass(frozen=True)
class Changed:
    """An intervention, what it changes, and the weights and ticket it leaves."""

    called: str
    acts_on: str
    summary: str
    state: State


def changed(
    model: nn.Module, ticket: Ticket, intervention: str, *, seed: int, example: Example | None
) -> Changed:
    """Apply an intervention on the mask or the weights; the model and the ticket stay as they are."""
    entry = check_intervention(intervention)
    if entry.acts_on == "mask":
        after = interventions.on_mask(ticket, intervention, seed=seed, model=model, example=example)
        return Changed(intervention, "mask", entry.summary, (model, after))
    state = interventions.on_weights(model.state_dict(), ticket, intervention, seed=seed, model=model)
    return Changed(intervention, "weights", entry.summary, state)


def check_intervention(intervention: str) -> interventions.Intervention:
    """The intervention of that name, if its effect on kept weights can be shown."""
    entry = find("intervention", parse(intervention).name, interventions.CATALOGUE)
    if entry.acts_on == "data":
        others = ", ".join(e.name for e in interventions.CATALOGUE.values() if e.acts_on != "data")
        raise DisbudError(
            f"{entry.name} changes the data a ticket is found with, so it does nothing to a ticket that is there; "
            f"prune with its data and inspect that ticket, or show one of {others}"
        )
    return entry


def weights(known: Anatomy, model: nn.Module, *, after: Changed | None, zeros: str) -> Section:
    """The kept weights of each layer, before and after an intervention where one was chosen."""
    states: dict[str, State] = {"before": (model, known.ticket)}
    if after is not None:
        states["after"] = after.state
    found = _histograms(states, zeros, _BINS if len(known.layers) <= _MANY else _BINS // 2)
    kept_after = known.ticket.densities() if after is None else after.state[1].densities()
    empty = [layer.label for layer in known.layers if not layer.kept and not kept_after[layer.name]]
    cells = [
        Cell(layer.label, _closed(found[layer.name]), f"{layer.kept:,} kept")
        for layer in known.layers
        if layer.label not in empty
    ]
    blocks: list[Html | SmallMultiples] = []
    if after is not None:
        blocks.append(legend({"one": "kept by the ticket", "line-two": f"after {after.called}"}))
    if cells:
        drawn = ticket_charts.weight_histogram(
            "weights" if after is None else "before",
            None if after is None else f"after {after.called}",
            zeros=zeros,
        )
        blocks.append(SmallMultiples(drawn, cells, "Histogram of the kept weights"))
    if empty:
        blocks.append(_left_out(empty))
    if after is None:
        blocks.append(
            aside("Give an intervention as well, such as shuffle, to see what it does to these weights.")
        )
    lead = [_how_to_read_weights(after, zeros), _what_stands_out(known, states)]
    return Section("The kept weights", lead, blocks)


def degrees(known: Anatomy, model: nn.Module | None) -> Section:
    """How many kept weights each unit reads, and how many read it."""
    found = degree_counts(known.ticket, model)
    layers = [layer for layer in known.with_units if layer.kept and layer.name in found]
    cells = [Cell(layer.label, _mirrored(found[layer.name]), _spread(found[layer.name])) for layer in layers]
    lead = sentence(
        "How many kept weights lead into each output channel (upwards, in-degree) and out of each input channel "
        "(downwards, out-degree). Height is the share of the channels that have any; those with none are counted "
        "under each chart. A mask drawn at random makes narrow hills around the mean.",
    )
    blocks: list[Html | SmallMultiples] = [
        legend({"one": "in-degrees of the outputs", "two": "out-degrees of the inputs"}),
        SmallMultiples(
            ticket_charts.degree_histogram("outputs", "inputs"), cells, "Histogram of the degrees of units"
        ),
    ]
    empty = [layer.label for layer in known.with_units if not layer.kept]
    if empty:
        blocks.append(_left_out(empty))
    if model is None:
        blocks.append(
            aside(
                "Read off the masks alone, first axis outputs, second axis inputs; give the model to have grouped and "
                "transposed convolutions told apart."
            )
        )
    return Section("Degrees of the channels", [lead, _busiest(layers, found)], blocks)


def _histograms(states: Mapping[str, State], zeros: str, bins: int) -> dict[str, dict[str, list[float]]]:
    """By layer the columns low, high and one a state."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in measures.histograms(states, zeros=zeros, bins=bins):
        columns = found.setdefault(str(row["layer"]), {key: [] for key in row if key != "layer"})
        for key, values in columns.items():
            value = row[key]
            values.append(float(f"{value:.6g}") if isinstance(value, float) else int(value or 0))
    return found


def _closed(columns: Mapping[str, Sequence[float]]) -> Columns:
    """The columns with a bin of no width at both ends, so that a line over them begins and ends at zero."""
    low, high = columns["low"], columns["high"]
    ends = {"low": (low[0], high[-1]), "high": (low[0], high[-1])}
    return {
        key: [ends.get(key, (0, 0))[0], *values, ends.get(key, (0, 0))[1]] for key, values in columns.items()
    }


def _how_to_read_weights(after: Changed | None, zeros: str) -> Html:
    counts = {
        "out": "Removed weights are left out",
        "in": "Removed weights are counted as zeros, and heights are drawn as square roots so that the others show",
    }[zeros]
    told = ["How the weights of each layer are distributed. ", counts, "; each layer has its own axes."]
    if after is not None:
        told += [f" The line shows them after {after.called} ({after.summary})."]
    return sentence(*told)


def _what_stands_out(known: Anatomy, states: Mapping[str, State]) -> Html:
    """Which layer an intervention moves most; without one, where the weights near zero are missing."""
    labels = {layer.name: layer.label for layer in known.layers}
    telling = {layer.name for layer in _telling(known.layers)}
    if "after" in states:
        table = measures.compare_weights(states["before"], states["after"], zeros="out")
        moved = [
            (float(row["wasserstein_over_sd"]), str(row["layer"]))
            for row in table
            if isinstance(row["wasserstein_over_sd"], float) and row["layer"] in telling
        ]
        if not moved:
            return sentence("In no layer can the two be compared.")
        far, layer = max(moved)
        if far < 0.02:
            return sentence(
                "Before and after look alike in every layer: none moves by more than 0.02 standard deviations."
            )
        return sentence(
            "The kept weights move most in ", name(labels[layer]),
            f": by {far:.2f} standard deviations on average (Wasserstein\u20111, zeros left out).",
        )  # fmt: skip
    gaps = [
        (float(row["min_abs"]) / float(row["sd"]), str(row["layer"]), float(row["min_abs"]))
        for row in measures.weights(*states["before"], zeros="out")
        if isinstance(row["min_abs"], float)
        and isinstance(row["sd"], float)
        and row["sd"]
        and row["layer"] in telling
    ]
    if not gaps or max(gaps)[0] < 0.05:
        return sentence("In every layer weights near zero are kept too: magnitude alone did not decide.")
    _, layer, least = max(gaps)
    return sentence(
        "The gap around zero is the widest in ", name(labels[layer]),
        f": no weight below {least:.2g} in absolute value is kept there.",
    )  # fmt: skip


def _mirrored(sides: Mapping[str, Mapping[int, int]]) -> Columns:
    """Shares of the units that have any by bins of whole degrees: outputs up, inputs down; no empty bins."""
    sides = {side: {degree: n for degree, n in of.items() if degree} for side, of in sides.items()}
    width = max((degree for of in sides.values() for degree in of), default=0) // _BINS + 1
    binned = {side: _binned(of, width) for side, of in sides.items()}
    units = {side: max(1, sum(of.values())) for side, of in sides.items()}
    columns: dict[str, list[float | str]] = {
        key: [] for key in ("low", "high", "degree", "up", "down", "outputs", "inputs")
    }
    for start in sorted(binned["in"].keys() | binned["out"].keys()):
        into, out = binned["in"].get(start, 0), binned["out"].get(start, 0)
        row: dict[str, float | str] = {
            "low": start,
            "high": start + width,
            "degree": f"{start:,}" if width == 1 else f"{start:,} to {start + width - 1:,}",
            "up": round(into / units["in"], 5),
            "down": -round(out / units["out"], 5),
            "outputs": f"{into:,} of {units['in']:,}",
            "inputs": f"{out:,} of {units['out']:,}",
        }
        for key, value in row.items():
            columns[key].append(value)
    return columns


def _binned(counts: Mapping[int, int], width: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for degree, units in counts.items():
        start = degree // width * width
        found[start] = found.get(start, 0) + units
    return found


def _spread(sides: Mapping[str, Mapping[int, int]]) -> str:
    means = {
        side: sum(degree * units for degree, units in counts.items()) / max(1, sum(counts.values()))
        for side, counts in sides.items()
    }
    none = [counted(sides[side].get(0, 0), which) for side, which in (("in", "output"), ("out", "input"))]
    without = f"; none: {' and '.join(none)}" if any(of.get(0) for of in sides.values()) else ""
    return f"mean in {_short(means['in'])}, out {_short(means['out'])}{without}"


def _short(mean: float) -> str:
    return f"{mean:,.0f}" if mean >= 100 else f"{mean:.3g}"


def _busiest(layers: Sequence[LayerFacts], found: Mapping[str, Mapping[str, Mapping[int, int]]]) -> Html:
    """The layer whose in-degrees vary most, in units of what chance alone gives."""

    def dispersion(layer: LayerFacts) -> float:
        # The variance over that of a hypergeometric count: 1 for a mask drawn at random within the layer.
        counts = found[layer.name]["in"]
        units = sum(counts.values())
        each = layer.total / units
        mean = sum(degree * n for degree, n in counts.items()) / units
        variance = sum((degree - mean) ** 2 * n for degree, n in counts.items()) / units
        chance = mean * (1 - mean / each) * (1 - 1 / units)
        return variance / chance if chance > 0 else 0.0

    uneven = max(_telling(layers), key=dispersion)
    if dispersion(uneven) < 2:
        return sentence("In every layer in-degrees vary about as much as in a mask drawn at random.")
    return sentence(
        "In-degrees are the most uneven in ", name(uneven.label),
        f": their variance is {dispersion(uneven):,.2g} times that of a mask drawn at random.",
    )  # fmt: skip


def _telling(layers: Sequence[LayerFacts]) -> Sequence[LayerFacts]:
    """The layers that keep enough weights for their spread to say something; all of them where none does."""
    return [layer for layer in layers if layer.kept >= _FEW] or layers


def _left_out(labels: Sequence[str]) -> Html:
    return aside(joined(["Not drawn, because nothing is kept: ", names(labels), "."]))
