"""The page of one ticket: what it keeps, where, of which weights, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disbud.errors import DisbudError, unknown_name
from disbud.report.charts import check_installed
from disbud.report.page import Page, Section, aside, page

if TYPE_CHECKING:
    from torch import nn

    from disbud.isolation import Example
    from disbud.report.anatomy import Anatomy
    from disbud.report.ticket_cells import Changed
    from disbud.ticket import Ticket


def ticket(
    ticket: Ticket,
    *,
    model: nn.Module | None = None,
    example: Example | None = None,
    against: Ticket | str | None = None,
    intervention: str | None = None,
    zeros: str = "out",
    seed: int = 0,
    title: str | None = None,
    about_model: str | None = None,
) -> Page:
    """A page to look at a ticket: densities, living channels, weights, degrees, masks, and every layer in numbers.

    `model` adds the histograms of its weights, `example`, one input, what lies on a path from input to output.
    `against` is a second ticket of the same layers, or a density rule such as "erk", to compare the densities with.
    `intervention` shows the kept weights before and after it, drawn by `seed`; `zeros` says whether removed weights
    count as zeros there ("in") or not at all ("out"). `about_model` says on the page which model and weights it shows.
    The same arguments give the same page.

    >>> import disbud, torch
    >>> from disbud import report
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> pruned = disbud.prune(model, "magnitude", sparsity=0.8)
    >>> page = report.ticket(pruned, model=model, example=torch.zeros(1, 8), intervention="shuffle")
    >>> "of 192" in page.html, len(page.html) < 2_000_000
    (True, True)
    """
    _check(ticket, model, example, against, intervention, zeros)
    check_installed()
    from disbud.report.anatomy import anatomy
    from disbud.report.ticket_cells import changed
    from disbud.report.ticket_head import head

    known = anatomy(ticket, model, example)
    after = None
    if intervention is not None and model is not None:
        after = changed(model, ticket, intervention, seed=seed, example=example)
    sections = _sections(known, model, against, after, zeros)
    return page(
        title or f"{ticket.origin.method} ticket", "disbud · one ticket",
        head(known, about_model=about_model), sections,
    )  # fmt: skip


def _sections(
    known: Anatomy,
    model: nn.Module | None,
    against: Ticket | str | None,
    after: Changed | None,
    zeros: str,
) -> list[Section]:
    from disbud.report import ticket_cells, ticket_layers
    from disbud.report.anatomy import densities_of
    from disbud.ticket import Ticket

    whose = f"{against.origin.method} ticket" if isinstance(against, Ticket) else against
    compared = None if against is None else densities_of(against, known.ticket, model)
    sections = []
    if known.ticket.total:
        sections.append(ticket_layers.densities(known, compared, whose))
    if known.with_units:
        sections.append(ticket_layers.units_alive(known))
    if model is None:
        hint = aside(
            "Give the model, with the weights the ticket was found on, to see how the kept ones are distributed."
        )
        sections.append(Section("The kept weights", [], [hint]))
    elif known.ticket.total:
        sections.append(ticket_cells.weights(known, model, after=after, zeros=zeros))
    if any(layer.kept for layer in known.with_units):
        sections.append(ticket_cells.degrees(known, model))
        sections.append(ticket_layers.pictures(known))
    sections.append(ticket_layers.layer_table(known, compared, whose))
    return sections


def _check(
    ticket: Ticket,
    model: nn.Module | None,
    example: Example | None,
    against: Ticket | str | None,
    intervention: str | None,
    zeros: str,
) -> None:
    from disbud.report.ticket_cells import check_intervention
    from disbud.ticket import Ticket

    if not isinstance(ticket, Ticket):
        raise DisbudError(f"a page is made of a Ticket, not of a {type(ticket).__name__}")
    if not isinstance(against, Ticket | str | None):
        raise DisbudError(
            f"against is a ticket or the name of a density rule, not a {type(against).__name__}"
        )
    if zeros not in ("in", "out"):
        raise unknown_name("way to count zeros", str(zeros), ("in", "out"))
    if example is not None and model is None:
        raise DisbudError("example is an input of the model: give model=... as well")
    if intervention is not None:
        check_intervention(intervention)
        if model is None:
            raise DisbudError(
                f"what {intervention} does is shown on the kept weights: give model=..., with the weights that the "
                "ticket was found on"
            )
