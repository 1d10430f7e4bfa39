"""The head of a ticket's page: what is wrong, the numbers that matter, and where the ticket came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from disbud.report.anatomy import Anatomy, dead
from disbud.report.markup import Html, joined, tag
from disbud.report.page import notice
from disbud.report.tables import pairs, tiles
from disbud.report.words import counted, names, percent, sentence

if TYPE_CHECKING:
    from disbud.origin import Json, Origin
    from disbud.ticket import Ticket

_LISTED = 6  # items of a setting that are shown; the others are counted


def head(known: Anatomy, *, about_model: str | None) -> list[Html]:
    """Warnings, the few numbers that matter most, and the origin with its parents."""
    ticket = known.ticket
    return [*map(notice, warnings(known)), _numbers(known), _origin(ticket, about_model)]


def warnings(known: Anatomy) -> list[Html]:
    """In words, what a reader must know before believing anything else on the page."""
    found: list[Html] = []
    ticket, empty = known.ticket, [layer.label for layer in known.layers if layer.is_empty]
    if empty:
        found.append(sentence(
            f"{counted(len(empty), 'layer')} of {len(known.layers):,} "
            f"{'keeps' if len(empty) == 1 else 'keep'} no weight: ", names(empty),
            ". Nothing passes through; unless a shortcut leads round, the output does not depend on the input.",
        ))  # fmt: skip
    effective = _effective(known)
    if effective == 0 and ticket.kept:
        found.append(sentence(
            f"No path leads from input to output: {counted(ticket.kept, 'kept weight')} and every channel do nothing, "
            "and the network cannot learn from its input.",
        ))  # fmt: skip
    gone, units = dead(known.with_units)
    if gone and effective != 0:
        found.append(sentence(_dead_in_words(known, gone, units)))
    if effective and effective < ticket.kept:
        idle = ticket.kept - effective
        found.append(sentence(
            f"{counted(idle, 'kept weight')} of {ticket.kept:,} ({percent(idle / ticket.kept)}) "
            f"{'does' if idle == 1 else 'do'} nothing: on no path from input to output. Effective sparsity is "
            f"{percent(1 - effective / ticket.total, most=4)}, not {percent(ticket.sparsity, most=4)}.",
        ))  # fmt: skip
    asked = ticket.origin.sparsity
    if asked is not None and abs((1 - asked) * ticket.total - ticket.kept) > 1:
        found.append(sentence(
            f"Sparsity {percent(asked, most=4)} was asked, and {percent(ticket.sparsity, most=4)} is there.",
        ))  # fmt: skip
    if known.trouble is not None:
        found.append(sentence("Paths from input to output could not be counted: ", known.trouble))
    return found


def _dead_in_words(known: Anatomy, gone: int, units: int) -> str:
    which = "kept weight on a path from input to output" if known.basis == "paths" else "kept weight"
    return (
        f"{counted(gone, 'output channel')} of {units:,} {'is' if gone == 1 else 'are'} dead: no {which} feeds "
        f"{'it, so its' if gone == 1 else 'them, so their'} layer gives out a constant there."
    )


def _effective(known: Anatomy) -> int | None:
    """Kept weights on a path, over all layers; None where that is not known of every one."""
    counts = [layer.effective for layer in known.layers]
    whole = [count for count in counts if count is not None]
    return sum(whole) if whole and len(whole) == len(counts) else None


def _numbers(known: Anatomy) -> Html:
    ticket = known.ticket
    asked = ticket.origin.sparsity
    empty = len(ticket.empty_layers)
    rows = {
        "sparsity": (
            percent(ticket.sparsity, most=4),
            "none was asked" if asked is None else f"{percent(asked, most=4)} was asked",
        ),
        "weights kept": (f"{ticket.kept:,}", f"of {ticket.total:,}"),
        "layers": (f"{len(known.layers):,}", f"{empty:,} empty" if empty else "none empty"),
    }
    effective = _effective(known)
    gone, units = dead(known.with_units)
    if effective is not None:
        rows["effective sparsity"] = (
            percent(1 - effective / ticket.total, most=4) if ticket.total else "0",
            f"{effective:,} weights on a path",
        )
    elif units:
        rows["output channels alive"] = (f"{units - gone:,}", f"of {units:,}")
    return tiles(rows)


def _origin(ticket: Ticket, about_model: str | None) -> Html:
    rows = _rows(ticket.origin)
    if ticket.start is not None:
        rows["starts from"] = f"{ticket.start.file}, SHA-256 {ticket.start.sha256[:12]}"
    if about_model is not None:
        rows["shown with"] = about_model
    return joined([tag("h3", "Where it came from"), pairs(rows), _parents(ticket.origin)])


def _rows(origin: Origin) -> dict[str, str]:
    rows: dict[str, str] = {"method": origin.method}
    if origin.sparsity is not None:
        rows["sparsity asked"] = percent(origin.sparsity, most=6)
    if origin.seed is not None:
        rows["seed"] = str(origin.seed)
    settings = {key: value for key, value in origin.settings.items() if value is not None}
    if settings:
        rows["settings"] = _listed(settings)
    if origin.evidence is not None:
        rows["evidence"] = _listed(origin.evidence)
    if origin.fingerprint is not None:
        rows["model"] = f"fingerprint {origin.fingerprint[:12]}"
    rows["made by"] = f"disbud {origin.version}"
    return rows


def _parents(origin: Origin) -> Html:
    if not origin.parents:
        return Html()
    several = len(origin.parents) > 1
    items = [
        tag(
            "li",
            tag("p", f"made of ({i} of {len(origin.parents)})" if several else "made of"),
            pairs(_rows(parent)),
            _parents(parent),
        )
        for i, parent in enumerate(origin.parents, start=1)
    ]
    return tag("ul", *items, class_="origin")


def _listed(values: Mapping[str, Json]) -> Html:
    return joined(
        [joined([key, " ", tag("code", _value(value))]) for key, value in sorted(values.items())], ", "
    )


def _value(value: Json) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return f"({counted(len(value), 'entry', 'entries')})" if len(value) > _LISTED else _inner(value)
    if isinstance(value, list):
        shown = ", ".join(map(_value, value[:_LISTED]))
        return shown + (f", and {len(value) - _LISTED:,} more" if len(value) > _LISTED else "")
    if isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef"):
        return value[:12]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _inner(values: Mapping[str, Json]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in values.items())
