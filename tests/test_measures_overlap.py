"""Overlap of tickets: set arithmetic, and chance against simulation and exact enumeration."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import disbud
from disbud import Ticket, TicketError
from disbud.measures import overlap
from disbud.seeds import generator


def mask(size: int, kept: int, *seed: int | str) -> Tensor:
    return torch.randperm(size, generator=generator(0, "mask", *seed)) < kept


def test_counts_and_densities_of_each_layer_and_overall() -> None:
    a = Ticket.from_masks({"x": torch.tensor([1, 1, 1, 0]), "y": torch.tensor([[0, 0], [0, 0]])})
    b = Ticket.from_masks({"x": torch.tensor([0, 0, 1, 1]), "y": torch.tensor([[0, 1], [0, 0]])})
    x, y = overlap(a, b)
    assert (x["shared"], x["union"], x["iou"], x["density_distance"]) == (1, 4, 0.25, 0.25)
    assert (y["shared"], y["union"], y["iou"], y["density_distance"]) == (0, 1, 0, 0.25)
    assert y["chance"] == 0
    summary = overlap(a, b).summary
    assert (summary["shared"], summary["union"], summary["iou"]) == (1, 5, 0.2)
    assert summary["density_distance"] == 2 / 8
    assert overlap(b, a).summary["iou"] == 0.2


def test_a_ticket_and_itself_and_its_complement() -> None:
    ticket = disbud.prune(nn.Linear(30, 20), "random", sparsity=0.7)
    assert overlap(ticket, ticket).summary["iou"] == 1
    assert overlap(ticket, ~ticket).summary["iou"] == 0


def test_an_empty_layer_has_no_overlap() -> None:
    nothing = Ticket.from_masks({"x": torch.zeros(4)})
    (row,) = overlap(nothing, nothing)
    assert (row["iou"], row["chance"]) == (None, None)


@pytest.mark.parametrize(("n", "k_a", "k_b"), [(50, 5, 20), (432, 4, 4), (1000, 500, 300), (60, 60, 7)])
def test_chance_is_the_expectation_over_the_hypergeometric_law(n: int, k_a: int, k_b: int) -> None:
    law = stats.hypergeom(n, k_a, k_b)
    exact = law.expect(lambda shared: shared / (k_a + k_b - shared))
    a, b = (Ticket.from_masks({"x": mask(n, k)}) for k in (k_a, k_b))
    assert overlap(a, b)["chance"][0] == pytest.approx(exact, abs=1e-3)
    both, m = k_a + k_b, law.expect()
    v = law.expect(lambda shared: (shared - m) ** 2)
    assert overlap(a, b)["chance"][0] == pytest.approx(m / (both - m) + both * v / (both - m) ** 3)


def test_chance_is_what_random_tickets_of_the_same_densities_share() -> None:
    sizes = {"x": (40, 4, 9), "y": (300, 60, 30), "z": (100, 1, 2)}
    simulated: dict[str, list[float]] = {name: [] for name in (*sizes, "overall")}
    for trial in range(3000):
        a, b = (
            {name: mask(size[0], size[i], name, i, trial) for name, size in sizes.items()} for i in (1, 2)
        )
        shared = {name: int((a[name] & b[name]).sum()) for name in sizes}
        either = {name: int((a[name] | b[name]).sum()) for name in sizes}
        for name in sizes:
            simulated[name].append(shared[name] / either[name])
        simulated["overall"].append(sum(shared.values()) / sum(either.values()))
    table = overlap(Ticket.from_masks(a), Ticket.from_masks(b))
    chance = dict(zip(table["layer"], table["chance"], strict=True)) | {"overall": table.summary["chance"]}
    for name, found in simulated.items():
        values = torch.tensor(found, dtype=torch.float64)
        error = float(values.std()) / len(found) ** 0.5
        assert chance[name] == pytest.approx(float(values.mean()), abs=4 * error), name
    # The ratio of expectations, without the second-order term, would fail here.
    assert abs(4 * 9 / 40 / (13 - 4 * 9 / 40) - chance["x"]) > 0.003


def test_tickets_of_different_models() -> None:
    a, b = Ticket.from_masks({"x": torch.ones(4)}), Ticket.from_masks({"x": torch.ones(2, 2)})
    with pytest.raises(TicketError, match="different models: they differ in x"):
        overlap(a, b)
    with pytest.raises(TicketError, match="they differ in y"):
        overlap(a, Ticket.from_masks({"x": torch.ones(4), "y": torch.ones(1)}))
    with pytest.raises(TicketError, match="two tickets, not a dict"):
        overlap(a, {})  # type: ignore[arg-type]
