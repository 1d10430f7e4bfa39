"""What `disbud doctor` and `disbud compare` share about balance: its options, its columns, its picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.text import Text

from disbud.cli import show
from disbud.cli.options import check_writable

if TYPE_CHECKING:
    from disbud.measures import Table

_SHARES = {"nodes_share": "nodes share", "paths_share": "paths share", "balance": "balance"}
_MEANING = (
    "nodes share: 0 as SynFlow, 1 as random masks of the same layer counts; paths share: the other way round\n"
    "balance: their sum less 1, above 0 where a ticket is better than the straight line between both"
)


@Parameter(name="*")
@dataclass(frozen=True)
class Balancing:
    """Whether tickets are held against the ends of their layer counts, and where they are drawn."""

    balance: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Also hold each ticket against random masks and SynFlow with as many weights in each layer: how many "
            "nodes does it keep for its paths? Costs a SynFlow for each ticket.",
        ),
    ] = False
    plot: Annotated[
        Path | None,
        Parameter(help="Draw nodes and paths into this .png, .svg or .pdf file; implies --balance."),
    ] = None

    @property
    def wanted(self) -> bool:
        """Whether balances are to be measured."""
        return self.balance or self.plot is not None

    def check(self) -> None:
        """Raise before any work is done where the picture could not be written."""
        if self.plot is not None:
            from disbud.report.balance_picture import picture_kind

            picture_kind(self.plot)
            check_writable("--plot", self.plot)

    def draw(self, panels: Mapping[str, Sequence[tuple[str, Table]]]) -> None:
        """Draw the picture where one is asked for: a panel a title, with each ticket's name and balance."""
        if self.plot is not None:
            from disbud.report.balance_picture import draw_balance

            draw_balance(panels, self.plot)


NO_BALANCE = Balancing()


def show_balance(rows: Sequence[tuple[str, Sequence[Table]]], of: str = "") -> None:
    """Print where the tickets of each name lie, on average where there are several, and why where that is not said."""
    table = show.table("", *_SHARES.values(), "", right=_SHARES.values(), folding=[""])
    for name, found in rows:
        table.add_row(name, *(_mean(found, share) for share in _SHARES), Text(_why(found), style=show.FAINT))
    show.write(
        "", Text(f"Balance of nodes and paths{of}", style="bold"), table, Text(_MEANING, style=show.FAINT)
    )


def _mean(found: Sequence[Table], share: str) -> str:
    """The mean over the tickets, if all of them have the share."""
    values = [value for table in found if isinstance(value := table.summary[share], float)]
    if not values or len(values) < len(found):
        return "-"
    return f"{statistics.fmean(values):{'+' if share == 'balance' else ''}.2f}"


def _why(found: Sequence[Table]) -> str:
    """The reasons for shares that are missing, with of how many tickets."""
    said = [str(table.summary["why"]) for table in found if table.summary["why"] is not None]
    several = f"{len(said)} of {len(found)}: " if len(found) > 1 and said else ""
    return several + "; ".join(dict.fromkeys(said))
