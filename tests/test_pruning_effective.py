"""count="effective": as many weights on a path as the sparsity says, whatever is kept besides."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import DisbudError
from disbud.models import build
from disbud.study.tickets import network, ticket_of
from disbud.study.trial import Trial

EXAMPLE = torch.zeros(1, 1, 8, 8)


def lenet() -> nn.Module:
    return build("lenet-300-100", input_shape=(1, 8, 8), seed=1)


def batches() -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(0)
    return [(torch.rand(100, 1, 8, 8, generator=draws), torch.arange(100) % 10)]


def effective(model: nn.Module, ticket: disbud.Ticket) -> int:
    """By matrix products of the masks alone: a weight counts if something reaches it and it reaches something."""
    first, second, third = (ticket.masks[name].double() for name in sorted(ticket.masks))
    arrives = (torch.ones(64).double(), (first.sum(1) > 0).double())
    reached = (second @ arrives[1] > 0).double()
    leads = ((third.sum(0) > 0).double(), ((second.T @ (third.sum(0) > 0).double()) > 0).double())
    counts = (
        first * leads[1][:, None],
        second * arrives[1][None] * leads[0][:, None],
        third * reached[None],
    )
    return int(sum(int(count.sum()) for count in counts))


@pytest.mark.parametrize("sparsity", [0.9, 0.98, 0.995])
@pytest.mark.parametrize("method", ["random-uniform", "random-erk", "snip", "synflow", "npb", "phew"])
def test_so_many_weights_are_on_a_path(method: str, sparsity: float) -> None:
    model = lenet()
    settings = {"rounds": 5} if method == "synflow" else {}
    ticket = disbud.prune(
        model,
        method,
        sparsity=sparsity,
        batches=batches(),
        example=EXAMPLE,
        count="effective",
        **settings,  # type: ignore[arg-type]
    )
    wanted = round((1 - sparsity) * ticket.total)
    assert abs(effective(model, ticket) - wanted) <= max(1, 0.05 * wanted)
    assert ticket.kept >= effective(model, ticket)
    assert (ticket.origin.sparsity, ticket.origin.settings["count"]) == (sparsity, "effective")
    again = disbud.prune(
        model,
        method,
        sparsity=sparsity,
        batches=batches(),
        example=EXAMPLE,
        count="effective",
        **settings,  # type: ignore[arg-type]
    )
    assert again == ticket


def test_more_is_kept_where_much_is_wasted_and_no_more_where_nothing_is() -> None:
    model = lenet()
    by_kept = disbud.prune(model, "random-uniform", sparsity=0.98)
    by_effective = disbud.prune(model, "random-uniform", sparsity=0.98, example=EXAMPLE, count="effective")
    assert (
        by_effective.kept > 1.5 * by_kept.kept
    )  # half of a uniformly random ticket of this net leads nowhere
    assert (by_kept & by_effective) == by_kept  # the same weights and more
    assert "count" not in by_kept.origin.settings
    balanced = disbud.prune(model, "npb", sparsity=0.98, example=EXAMPLE)
    assert balanced.masks.keys() == by_kept.masks.keys()
    assert disbud.prune(model, "npb", sparsity=0.98, example=EXAMPLE, count="effective").to_masks().keys()


def test_what_leaps_is_said() -> None:
    """The smallest weights are all in one layer: nothing is on a path until magnitude gets there."""
    model = nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[1].weight.fill_(1.0)
    with pytest.warns(
        UserWarning, match=r"8 weights on a path were asked for, and the nearest found is \d+ off"
    ):
        disbud.prune(model, "magnitude", sparsity=0.99, example=torch.zeros(1, 20), count="effective")


def test_bad_asks() -> None:
    model = lenet()
    with pytest.raises(DisbudError, match="did you mean 'effective'"):
        disbud.prune(model, "magnitude", sparsity=0.9, example=EXAMPLE, count="efective")
    with pytest.raises(DisbudError, match="give an example"):
        disbud.prune(model, "magnitude", sparsity=0.9, count="effective")
    with pytest.raises(DisbudError, match="trains at every level"):
        data = disbud.data.load("digits")
        disbud.prune(
            model, "lottery-ticket", sparsity=0.9, data=data, recipe="digits:epochs=1", count="effective"
        )

    def once() -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches()

    with pytest.raises(DisbudError, match="gone over again"):
        disbud.prune(model, "snip", sparsity=0.9, batches=once(), example=EXAMPLE, count="effective")


def test_a_trial_says_it_in_its_method() -> None:
    data = disbud.data.load("digits")
    plain = Trial("lenet-300-100", "digits", "digits", "random-uniform", 0.98)
    counted = Trial("lenet-300-100", "digits", "digits", "random-uniform:count=effective", 0.98)
    tickets = [ticket_of(trial, network(trial, data), data) for trial in (plain, counted)]
    assert tickets[1].kept > tickets[0].kept


def test_the_search_starts_at_the_count_that_is_kept_without_it() -> None:
    # 250 * (1 - 0.318) is 170.5: in binary it rounds to 170, in decimal, as everywhere, to 171. All are on paths.
    model = nn.Linear(25, 10)
    for count in ("kept", "effective"):
        ticket = disbud.prune(model, "random", sparsity=0.318, count=count, example=torch.zeros(1, 25))
        assert ticket.kept == 171


class Branched(nn.Module):
    """A residual branch whose layer may be left empty."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.o(x + torch.relu(self.b(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("wanted", [100, 300, 480])
def test_a_layer_that_is_to_stay_empty_bounds_the_search(wanted: int) -> None:
    densities = {"a.weight": 0.5, "b.weight": 0.0, "o.weight": 0.5}
    torch.manual_seed(0)
    model, example = Branched(), torch.zeros(1, 4)
    more = {"densities": densities, "count": "effective", "example": example}
    ticket = disbud.prune(model, "random", sparsity=1 - wanted / 4608, **more)  # type: ignore[arg-type]
    a, o = ticket.masks["a.weight"], ticket.masks["o.weight"]
    assert not ticket.masks["b.weight"].any()
    on_paths = int((a & o.any(0)[:, None]).sum() + (o & a.any(1)[None]).sum())
    assert wanted <= ticket.kept <= 512
    assert abs(on_paths - wanted) <= 0.05 * wanted
    with pytest.raises(
        DisbudError, match="cannot keep 513 weights: it reaches 512 at most"
    ):  # as without paths
        disbud.prune(model, "random", sparsity=1 - 513 / 4608, **more)  # type: ignore[arg-type]


def test_two_of_four_have_one_sparsity() -> None:
    with pytest.raises(DisbudError, match=r"granularity='2:4' has one sparsity.*leave out count='effective'"):
        disbud.prune(
            lenet(), "magnitude", sparsity=0.5, granularity="2:4", count="effective", example=EXAMPLE
        )
