"""The sections of a ticket's page with one row or picture a layer: densities, living channels, masks, the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from disbud.report import ticket_charts
from disbud.report.anatomy import Anatomy, LayerFacts
from disbud.report.charts import legend
from disbud.report.drawing import Row
from disbud.report.markup import Html, escaped, joined, tag
from disbud.report.page import Section, aside
from disbud.report.pictures import data_uri, density_png, local_densities
from disbud.report.tables import table
from disbud.report.words import counted, name, names, percent, sentence

_TIMES, _NONE = "\u00d7", "\u2013"
_OWN_GROUP = "(of a grouped convolution those of the output's own group) "
_FINEST, _COARSEST = 96, 12  # bins along a side of a picture
_PICTURE_BYTES = 600_000  # before they are written as text, all pictures together


def densities(known: Anatomy, against: Mapping[str, float] | None, whose: str | None) -> Section:
    """How much each layer keeps, against what was asked and against another ticket or a density rule."""
    asked = _asked(known)
    layers = [layer for layer in known.layers if layer.total]
    rows: list[Row] = [
        {
            "label": layer.label,
            "layer": layer.name,
            "density": layer.density,
            "kept": f"{layer.kept:,} of {layer.total:,}",
            **({} if against is None else {"against": against[layer.name]}),
        }
        for layer in layers
    ]
    how = ["Each dot is the fraction of a layer's weights that is kept, on a logarithmic axis"]
    if asked is not None:
        how.append(f"; the dashed line is the density asked of the whole network, {percent(asked, most=4)}")
    if against is not None:
        how.append(
            f"; the diamond is the density by {whose}, and the line between them how far the two lie apart"
        )
    lead = [sentence(*how, ". ", _extremes(layers)), *_farthest(layers, against, whose)]
    marks = {"dot-one": "this ticket"} | ({"diamond-two": whose} if whose else {})
    if any(row["density"] == 0 or row.get("against") == 0 for row in rows):
        marks["cross-bad"] = "keeps nothing"
    if asked is not None:
        marks["dashed"] = "asked of the whole network"
    chart = ticket_charts.densities(rows, asked=asked, against=whose)
    return Section("How much each layer keeps", lead, [legend(marks), chart])


def units_alive(known: Anatomy) -> Section:
    """How many of each layer's input and output channels still take part."""
    layers = known.with_units
    rows: list[Row] = [
        {
            "label": layer.label,
            "layer": layer.name,
            "slot": side,
            "share": (units - gone) / units,
            "alive": f"{units - gone:,} of {units:,} ({percent((units - gone) / units)})",
        }
        for layer in layers
        for side, units, gone in (
            ("inputs", layer.inputs, layer.dead_inputs),
            ("outputs", layer.outputs, layer.dead_outputs),
        )
    ]
    meaning = {
        "paths": "A channel, or a feature of a linear layer, counts as alive when a kept weight of this layer reads it "
        "(inputs) or feeds it (outputs) that lies on a path from the network's input to its output.",
        "model": "A channel, or a feature of a linear layer, counts as alive when a kept weight of this layer reads "
        "it (inputs) or feeds it (outputs).",
        "masks": "A channel, or a feature of a linear layer, counts as alive when a kept weight of this layer reads "
        "it (inputs) or feeds it (outputs).",
    }[known.basis]
    missing = {
        "paths": [],
        "model": [] if known.trouble else [aside(
            "Give an example input as well to see which channels lie on a path from input to output."
        )],
        "masks": [aside(
            "Read off the masks alone, first axis outputs, second axis inputs. Give the model and an example input to "
            "see which channels lie on a path from input to output, with grouped and transposed convolutions told "
            "apart."
        )],
    }[known.basis]  # fmt: skip
    return Section(
        "Channels that are alive",
        [sentence(meaning, " ", _thinnest(layers))],
        [legend({"two": "inputs", "one": "outputs"}), ticket_charts.units_alive(rows), *missing],
    )


def pictures(known: Anatomy) -> Section:
    """Where in each layer the kept weights lie."""
    layers = [layer for layer in known.with_units if layer.kept]
    side = max(_COARSEST, min(_FINEST, int((_PICTURE_BYTES / max(1, len(layers))) ** 0.5)))
    grouped = any(layer.inputs * layer.outputs != layer.shape[0] * layer.shape[1] for layer in layers)
    lead = sentence(
        "Each picture is the mask of one layer: outputs from top to bottom, inputs from left to right "
        f"{_OWN_GROUP if grouped else ''}with the weights of a kernel taken together, stretched to one size. "
        "The stronger the colour, the more is kept there; empty stripes are channels that keep nothing. "
        "Each layer has its own scale, given under the picture.",
    )
    skipped = [layer.label for layer in known.with_units if not layer.kept]
    left_out = (
        [aside(joined(["Not drawn, because nothing is kept: ", names(skipped), "."]))] if skipped else []
    )
    cells = tag("div", *(_picture(known, layer, side) for layer in layers), class_="cells")
    return Section("Where the kept weights lie", [lead], [cells, *left_out])


def layer_table(known: Anatomy, against: Mapping[str, float] | None, whose: str | None) -> Section:
    """Every layer in numbers."""
    effective = any(layer.effective is not None for layer in known.layers)
    columns = ["layer", "shape", "weights", "kept", "density"]
    columns += [f"density by {whose}"] if against is not None else []
    columns += ["on a path"] if effective else []
    columns += ["dead inputs", "dead outputs"]
    rows = [
        [
            name(layer.label),
            _TIMES.join(map(str, layer.shape)) or "1",
            f"{layer.total:,}",
            f"{layer.kept:,}",
            tag("span", "empty", class_="bad") if layer.is_empty else percent(layer.density),
            *([percent(against[layer.name])] if against is not None else []),
            *([_NONE if layer.effective is None else f"{layer.effective:,}"] if effective else []),
            _gone(layer.dead_inputs, layer.inputs),
            _gone(layer.dead_outputs, layer.outputs),
        ]
        for layer in known.layers
    ]
    dead = "touched by no kept weight of the layer" + (" on a path" if known.basis == "paths" else "")
    lead = sentence(
        f"Counts of {counted(len(rows), 'layer')}, in the order of the ticket. Dead inputs and outputs are {dead}.",
        " All names end in .weight, which is left out."
        if known.layers[0].label != known.layers[0].name
        else "",
    )
    return Section("Layer by layer", [lead], [table(columns, rows, words=("layer", "shape"))])


def _asked(known: Anatomy) -> float | None:
    """The density asked of the whole network; a file can state a sparsity that none has."""
    sparsity = known.ticket.origin.sparsity
    return None if sparsity is None or not 0 <= sparsity < 1 else 1 - sparsity


def _extremes(layers: Sequence[LayerFacts]) -> Html:
    """Which layers keep least and most."""
    least, most = (choose(layers, key=lambda layer: layer.density) for choose in (min, max))
    if least.density == most.density:
        return sentence(f"All layers keep {percent(least.density)}.")
    empty = [layer for layer in layers if layer.is_empty]
    if empty:
        first = [
            names([layer.label for layer in empty]),
            " keep" + ("s" if len(empty) == 1 else "") + " nothing",
        ]
    else:
        first = [name(least.label), f" keeps {percent(least.density)}, the least"]
    return sentence(*first, "; ", name(most.label), f" keeps {percent(most.density)}, the most.")


def _farthest(
    layers: Sequence[LayerFacts], against: Mapping[str, float] | None, whose: str | None
) -> list[Html]:
    """Which layer's density differs most from the one it is compared with."""
    if against is None:
        return []

    def factor(layer: LayerFacts) -> float:
        pair = sorted((layer.density, against[layer.name]))
        return pair[1] / pair[0] if pair[0] else float("inf") if pair[1] else 1.0

    far = max(layers, key=factor)
    if factor(far) == 1:
        return [sentence(f"Every layer keeps exactly as much by {whose}.")]
    return [
        sentence(
            "The two differ most in ", name(far.label),
            f": {percent(far.density)} here, {percent(against[far.name])} by {whose}.",
        )
    ]  # fmt: skip


def _thinnest(layers: Sequence[LayerFacts]) -> Html:
    """The layer with the smallest share of living outputs."""

    def share(layer: LayerFacts) -> float:
        return (layer.outputs - layer.dead_outputs) / layer.outputs

    thinnest = min(layers, key=share)
    if not any(layer.dead_outputs or layer.dead_inputs for layer in layers):
        return sentence("Here all of them are.")
    if all(layer.dead_outputs == layer.outputs for layer in layers):
        return sentence("Here none of them is.")
    if not thinnest.dead_outputs:
        reading = max(layers, key=lambda layer: layer.dead_inputs)
        return sentence(
            "Here all outputs are; the most inputs are dead in ", name(reading.label),
            f": {reading.dead_inputs:,} of {reading.inputs:,}.",
        )  # fmt: skip
    alive = thinnest.outputs - thinnest.dead_outputs
    few = "none" if not alive else f"{alive:,}"
    return sentence(
        "The narrowest place is ", name(thinnest.label),
        f", where {few} of {thinnest.outputs:,} outputs {'is' if alive < 2 else 'are'} alive.",
    )  # fmt: skip


def _picture(known: Anatomy, layer: LayerFacts, side: int) -> Html:
    mask = known.ticket.masks[layer.name]
    mask = mask.transpose(0, 1) if layer.transposed else mask
    found = local_densities(mask, side)
    words = f"{mask.shape[0]:,} {_TIMES} {mask.shape[1]:,}; most: {percent(float(found.max()))}"
    image = tag(
        "img", src=data_uri(density_png(found)), alt=f"mask of {layer.name}", title=f"{layer.name}: {words}"
    )  # fmt: skip
    return tag("figure", tag("figcaption", name(layer.label)), image, tag("p", words))


def _gone(gone: int, of: int) -> Html:
    if not of:
        return escaped(_NONE)
    return (
        tag("span", f"{gone:,}", class_="bad")
        if gone == of
        else escaped(f"{gone:,} of {of:,}" if gone else "0")
    )
