"""How a comparison is shown: densities by layer, overlaps, the table of results; and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from disbud.cli import show
from disbud.cli.balancing import show_balance
from disbud.cli.comparison import DENSE, Comparison, Plan, Row
from disbud.cli.doctoring import SIGNS, sign_cells

if TYPE_CHECKING:
    from disbud.measures import Table

_NONE = "-"


def show_comparison(plan: Plan, comparison: Comparison) -> None:
    """Print everything, the results last."""
    show.write(Text(_heading(plan), style="bold"))
    for sparsity in plan.sparsities or (None,):
        group = _group(comparison, sparsity)
        of = "" if sparsity is None or len(plan.sparsities) < 2 else f" at sparsity {sparsity:g}"
        if group:
            show.write("", Text(f"Density of each layer{of}", style="bold"))
            show.write(*_density_tables([comparison.rows[i] for i in group]))
        if any(comparison.rows[i].signs() for i in group):
            show.write("", Text(f"What is left{of}", style="bold"))
            show.write(
                _signs_table(
                    [row for row in comparison.rows if row.entrant.name == DENSE]
                    + [comparison.rows[i] for i in group]
                )
            )
        if plan.balance and group:
            show_balance(
                [(comparison.rows[i].entrant.name, comparison.rows[i].balances()) for i in group], of
            )
        if len(group) > 1:
            head = Text(f"Overlap{of}", style="bold")
            head.append(
                "  intersection over union; above the diagonal, by chance", style=f"not bold {show.FAINT}"
            )
            show.write("", head, *_overlap_tables(comparison, group))
    show.write("", _results(plan, comparison))
    if plan.recipe is not None and any(len(_rivals(row, comparison)) > 1 for row in comparison.rows):
        show.write(Text("bold: the best ticket at its sparsity", style=show.FAINT))


def planes(plan: Plan, comparison: Comparison) -> dict[str, list[tuple[str, Table]]]:
    """The tickets at each sparsity, by name, with where they lie; those of files at every one."""
    return {
        plan.network.spec if sparsity is None else f"{plan.network.spec}, sparsity {sparsity:g}": [
            (row.entrant.name, table)
            for row in (comparison.rows[i] for i in _group(comparison, sparsity))
            for table in row.balances()
        ]
        for sparsity in plan.sparsities or (None,)
    }


def _group(comparison: Comparison, sparsity: float | None) -> list[int]:
    """The numbers of the rows with tickets that are shown together: those of one sparsity, or of their own."""
    return [
        i
        for i, row in enumerate(comparison.rows)
        if row.layers() and (row.sparsity is None or row.sparsity == sparsity)
    ]


def failures(comparison: Comparison) -> list[str]:
    """A line for each run that failed."""
    return [
        f"{_label(row)}, seed {run.seed}: {run.failure}" for row in comparison.rows for run in row.failures
    ]


def _heading(plan: Plan) -> str:
    network = plan.network
    parts = [network.spec if network.dataset is None else f"{network.spec} on {network.dataset.name}"]
    if plan.recipe is not None:
        recipe = str(plan.recipe)
        parts.append(f"recipe {recipe}" + ("" if "epochs" in recipe else f", {plan.recipe.epochs} epochs"))
    first, last = plan.seeds[0], plan.seeds[-1]
    parts.append(f"seed {first}" if first == last else f"{len(plan.seeds)} seeds from {first}, mean ± sd")
    return "; ".join(parts)


def _label(row: Row) -> str:
    return row.entrant.name if row.sparsity is None else f"{row.entrant.name} at {row.sparsity:g}"


def _density_tables(rows: Sequence[Row]) -> Iterator[RenderableType]:
    """Layers down, entrants across, in as many tables as the width asks for."""
    columns = [row.densities() for row in rows]
    layers = list(dict.fromkeys(name for column in columns for name in column))
    cells = [_densities(column, layers) for column in columns]
    names = [row.entrant.name for row in rows]
    widths = [2 + max(len(name), *map(len, column)) for name, column in zip(names, cells, strict=True)]
    for block in show.blocks(widths, show.console().width - max(map(len, ["layer", *layers]))):
        heads = [names[i] for i in block]
        table = show.table("layer", *heads, right=heads)
        for number, layer in enumerate(layers):
            chosen = [cells[i][number] for i in block]
            table.add_row(layer, *(Text(cell, style=show.BAD if cell == "EMPTY" else "") for cell in chosen))
        yield table


def _densities(column: dict[str, float], layers: Sequence[str]) -> list[str]:
    texts = show.percents([column.get(layer) for layer in layers])
    return ["EMPTY" if column.get(layer) == 0 else text for layer, text in zip(layers, texts, strict=True)]


def _signs_table(rows: Sequence[Row]) -> RenderableType:
    """What was read off the tickets of each entrant, averaged over the seeds."""
    table = show.table("entrant", *SIGNS, right=SIGNS, folding=["entrant"])
    for row in rows:
        found = row.signs()
        faint = show.FAINT if row.entrant.name == DENSE else ""
        table.add_row(
            Text(row.entrant.name, style=faint), *(sign_cells(found) if found else [_NONE] * len(SIGNS))
        )
    return table


def _overlap_tables(comparison: Comparison, group: Sequence[int]) -> Iterator[RenderableType]:
    """A square: overlap below the diagonal, what chance gives above it; columns go by number."""
    names = [f"{i} {comparison.rows[k].entrant.name}" for i, k in enumerate(group, start=1)]
    for block in show.blocks([7] * len(group), show.console().width - max(map(len, names))):
        heads = [f"{i + 1}" for i in block]
        table = show.table("", *heads, right=heads)
        for i, first in enumerate(group):
            table.add_row(names[i], *(_overlap_cell(comparison, first, group[j], below=j < i) for j in block))
        yield table


def _overlap_cell(comparison: Comparison, first: int, second: int, *, below: bool) -> Text:
    found = comparison.overlap(first, second)
    if found is None:
        return Text("")
    return Text(f"{found.iou:.3f}") if below else Text(f"{found.chance:.3f}", style=show.FAINT)


def _results(plan: Plan, comparison: Comparison) -> RenderableType:
    """The table of results, one row an entrant and sparsity."""
    numbers = ["sparsity", "kept", "empty"]
    if plan.recipe is not None:
        numbers += ["accuracy %", "cross-entropy"]
    numbers.append("seconds")
    table = show.table("entrant", *numbers, right=numbers, folding=["entrant"])
    for row in comparison.rows:
        best = _best(row, comparison)
        cells = [Text(row.entrant.name, style=show.BEST if best else ""), *_kept_cells(row)]
        if plan.recipe is not None:
            cells += [
                Text(text, style=show.BEST if best else show.BAD if text == "failed" else "")
                for text in _result_cells(row)
            ]
        cells.append(Text(_seconds(statistics.fmean(run.seconds for run in row.runs)) if row.runs else _NONE))
        table.add_row(*cells)
    return table


def _kept_cells(row: Row) -> list[Text]:
    layers = row.layers()
    if not layers:
        if row.runs and not row.failures and row.entrant.pruning is None:
            return [Text("0"), Text("all"), Text("0")]
        return [
            Text(f"{row.sparsity:g}" if row.sparsity is not None else _NONE),
            _failed_or_none(row),
            Text(_NONE),
        ]
    kept, total = sum(layer.kept for layer in layers), sum(layer.total for layer in layers)
    empty = sum(not layer.kept for layer in layers if layer.total)
    sparsity = f"{1 - kept / total:.5g}" if row.sparsity is None else f"{row.sparsity:g}"
    return [Text(sparsity), Text(f"{kept:,}"), Text(f"{empty}", style=show.BAD if empty else "")]


def _failed_or_none(row: Row) -> Text:
    return Text("failed", style=show.BAD) if row.failures else Text(_NONE)


def _result_cells(row: Row) -> list[str]:
    results = row.results()
    if not results:
        return ["failed" if row.failures else _NONE, _NONE]
    return [
        _mean_and_sd([100 * result.accuracy for result in results], 2),
        _mean_and_sd([result.loss for result in results], 3),
    ]


def _mean_and_sd(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _rivals(row: Row, comparison: Comparison) -> list[Row]:
    """The tickets a row is ranked among: those of its sparsity that were trained."""
    if not row.layers():
        return []
    return [
        other
        for other in comparison.rows
        if other.layers() and other.sparsity == row.sparsity and other.results()
    ]


def _best(row: Row, comparison: Comparison) -> bool:
    rivals = _rivals(row, comparison)
    means = [statistics.fmean(result.accuracy for result in rival.results()) for rival in rivals]
    return len(rivals) > 1 and any(
        rival is row and mean == max(means) for rival, mean in zip(rivals, means, strict=True)
    )


def to_json(plan: Plan, comparison: Comparison) -> dict[str, object]:
    """The comparison as plain JSON values."""
    network = plan.network
    return {
        "model": network.spec,
        "classes": network.classes,
        "input_shape": network.shape,
        "data": network.dataset
        and {"name": network.dataset.name, "fingerprint": network.dataset.fingerprint},
        "recipe": plan.recipe and plan.recipe.to_json(),
        "seeds": list(plan.seeds),
        "stopped": comparison.stopped,
        "entrants": [_row_json(row) for row in comparison.rows],
        "overlaps": [
            {"entrants": [first, second], "iou": found.iou, "chance": found.chance}
            for first, second in comparison.overlaps
            if (found := comparison.overlap(first, second))
        ],
    }


def _row_json(row: Row) -> dict[str, object]:
    results = row.results()
    return {
        "entrant": row.entrant.name,
        "sparsity": row.sparsity,
        "densities": row.densities(),
        "accuracy": statistics.fmean(r.accuracy for r in results) if results else None,
        "accuracy_sd": statistics.stdev(r.accuracy for r in results) if len(results) > 1 else None,
        "loss": statistics.fmean(r.loss for r in results) if results else None,
        "loss_sd": statistics.stdev(r.loss for r in results) if len(results) > 1 else None,
        "runs": [
            {
                "seed": run.seed,
                "kept": sum(layer.kept for layer in run.layers) if run.layers else None,
                "total": sum(layer.total for layer in run.layers) if run.layers else None,
                "empty_layers": [layer.name for layer in run.layers if layer.total and not layer.kept],
                "accuracy": run.result and run.result.accuracy,
                "loss": run.result and run.result.loss,
                "seconds": run.seconds,
                "signs": run.signs and run.signs.to_json(),
                **({} if run.balance is None else {"plane": run.balance.to_json()}),
                "error": run.failure,
            }
            for run in row.runs
        ],
    }
