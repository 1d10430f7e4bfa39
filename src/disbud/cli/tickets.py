"""Tickets from a method or a file, and how they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from disbud.cli import show
from disbud.errors import DisbudError, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from disbud.cli.networks import Network
    from disbud.measures import Table
    from disbud.methods.catalogue import Method
    from disbud.origin import Json, Origin
    from disbud.ticket import LayerRow, Ticket
    from disbud.training.recipes import Recipe

_BAR = 16


@dataclass(frozen=True)
class Pruning:
    """A method with the settings asked for; names and settings are known to exist."""

    method: Method
    settings: Mapping[str, object]

    def check_data(self, network: Network) -> None:
        """Raise where the method looks at data or at an input and there is none."""
        name = self.method.name
        if self.method.trains and network.dataset is None:
            raise DisbudError(f"{name} trains the model: give --data, as in --data digits")
        if self.method.needs == "batches" and network.dataset is None:
            raise DisbudError(f"{name} looks at data: give --data, as in --data digits")
        if self.method.needs == "example" and network.shape is None:
            raise DisbudError(
                f"{name} sends an input through the model: give --input-shape, as in 3x32x32, or --data"
            )

    def ticket(
        self,
        model: nn.Module,
        network: Network,
        *,
        sparsity: float | None,
        seed: int,
        recipe: Recipe | None = None,
        checkpoint: Path | None = None,
        progress: Callable[[float, str], None] | None = None,
    ) -> Ticket:
        """Prune the model; recipe, checkpoint and progress are of use to a method that trains."""
        from disbud.pruning import prune

        if self.method.trains:
            return prune(
                model,
                self.method.name,
                sparsity=sparsity,
                seed=seed,
                data=network.dataset,
                recipe=recipe,
                checkpoint=checkpoint,
                progress=progress,
                **self.settings,  # type: ignore[arg-type]
            )
        looks = self.method.needs == "batches" and network.dataset is not None
        return prune(
            model,
            self.method.name,
            sparsity=sparsity,
            batches=network.dataset.batches(seed=seed) if looks and network.dataset else None,
            example=network.example(),
            seed=seed,
            **self.settings,  # type: ignore[arg-type]
        )


def pruning_of(text: str, more: Mapping[str, object] | None = None) -> Pruning:
    """Read METHOD or METHOD:key=value,...; the settings in `more` win."""
    from disbud.pruning.asked import asked

    method, settings = asked(text, more)
    densities = settings.get("densities")
    if isinstance(densities, str):
        settings["densities"] = _densities(densities)
    if method.densities == "like" and densities is None:
        raise DisbudError(f"{method.name} takes the densities of another ticket: give --densities FILE")
    return Pruning(method, settings)


def _densities(text: str) -> str | Ticket:
    """A density rule, or the ticket in a file of that name."""
    from disbud.selection import RULES
    from disbud.ticket import Ticket

    known = [*RULES, "global"]
    if text in known:
        return text
    if is_file(text):
        return Ticket.load(text)
    raise unknown_name("density rule", text, known)


def is_file(text: str) -> bool:
    """Whether a text means a file rather than a name."""
    return text.endswith(".safetensors") or "/" in text or Path(text).is_file()


# Showing


def layer_table(ticket: Ticket, paths: Table | None = None) -> RenderableType:
    """One row a layer: shape, counts, density with a bar where there is room, and what is dead.

    With the measured paths, dead are the units on no path; without, the slices of the weight that keep nothing.
    """
    wide = show.console().width >= 100
    on_path = {row["layer"]: row for row in paths or ()}
    dead = ("dead out", "dead in") if paths else ("empty out", "empty in")
    numbers = ("weights", "kept", *(["effective"] if paths else []), "density", *dead)
    table = show.table("layer", "shape", *numbers, *([""] if wide else []), right=numbers)
    densest = max(row.density for row in ticket.layers)
    densities = show.percents([row.density for row in ticket.layers])
    for row, density in zip(ticket.layers, densities, strict=True):
        empty = bool(row.total) and not row.kept
        found = on_path.get(row.name)
        counts = [row.total, row.kept, *([found["effective"]] if found else [])]
        gone = [found["dead_outputs"], found["dead_inputs"]] if found else [row.empty_rows, row.empty_columns]
        cells: list[RenderableType] = [
            Text(row.name),
            "x".join(map(str, row.shape)),
            *(f"{count:,}" for count in counts),
            Text("EMPTY" if empty else density),
            *(f"{count or ''}" for count in gone),
        ]
        if wide:
            cells.append(Text(_bar(row, densest), style="cyan"))
        table.add_row(*cells, style=show.BAD if empty else None)
    return table


def _bar(row: LayerRow, densest: float) -> str:
    """The density against that of the densest layer, in eighths of a character."""
    eighths = math.ceil(8 * _BAR * row.density / densest) if densest else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def summary(ticket: Ticket) -> Text:
    """One line: what is kept, and in red how many layers are empty."""
    line = Text(f"{ticket.kept:,} of {ticket.total:,} weights kept, sparsity {ticket.sparsity:.4%}")
    if ticket.empty_layers:
        names = ", ".join(ticket.empty_layers[:4]) + (", ..." if len(ticket.empty_layers) > 4 else "")
        line.append(
            f"; {len(ticket.empty_layers)} of {len(ticket.masks)} layers EMPTY, nothing passes them: {names}",
            show.BAD,
        )
    return line


def origin_lines(origin: Origin, depth: int = 0) -> list[RenderableType]:
    """Where the ticket came from; the origins of its parents follow, each further in."""
    rows: dict[str, RenderableType] = {"method": origin.method}
    if origin.sparsity is not None:
        rows["sparsity asked"] = f"{origin.sparsity:g}"
    if origin.seed is not None:
        rows["seed"] = str(origin.seed)
    settings = {key: value for key, value in origin.settings.items() if value is not None}
    if settings:
        rows["settings"] = ", ".join(f"{key}={_setting(value)}" for key, value in settings.items())
    if origin.evidence is not None:
        rows["evidence"] = ", ".join(f"{key} {_shortened(value)}" for key, value in origin.evidence.items())
    if origin.fingerprint is not None:
        rows["model"] = f"fingerprint {origin.fingerprint[:12]}"
    rows["made by"] = f"disbud {origin.version}"
    lines: list[RenderableType] = [show.pairs(rows, indent=2 + 4 * depth)]
    for i, parent in enumerate(origin.parents, start=1):
        heading = "made of" if len(origin.parents) == 1 else f"made of ({i} of {len(origin.parents)})"
        lines.append(Text(" " * (2 + 4 * depth) + heading, style=show.FAINT))
        lines += origin_lines(parent, depth + 1)
    return lines


def _setting(value: Json) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"({len(value)} layers)"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shortened(value: Json) -> str:
    """A hash by its first digits."""
    return f"{value[:12]}" if isinstance(value, str) and len(value) == 64 else str(value)


def to_json(ticket: Ticket) -> dict[str, Json]:
    """The ticket's counts and origin as plain JSON values."""
    return {
        "kept": ticket.kept,
        "total": ticket.total,
        "sparsity": ticket.sparsity,
        "empty_layers": list(ticket.empty_layers),
        "layers": [
            {
                "name": row.name,
                "shape": list(row.shape),
                "kept": row.kept,
                "total": row.total,
                "density": row.density,
                "empty_rows": row.empty_rows,
                "empty_columns": row.empty_columns,
            }
            for row in ticket.layers
        ],
        "origin": ticket.origin.to_json(),
        "start": ticket.start.to_json() if ticket.start else None,
    }
