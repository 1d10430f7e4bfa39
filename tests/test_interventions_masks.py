"""What each intervention on the mask changes, against chance, and what it keeps, against the network's connections."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from disbud import DisbudError, Ticket
from disbud.interventions import on_mask

SIGMAS = 6  # a false alarm of 2e-9 for each comparison with chance

LAYERS = {
    "linear": nn.Linear(40, 30, bias=False),
    "conv": nn.Conv2d(16, 24, 3, bias=False),
    "one-by-one": nn.Conv2d(32, 24, 1, bias=False),
    "grouped": nn.Conv2d(24, 36, 3, groups=3, bias=False),
    "depthwise": nn.Conv2d(60, 60, (3, 5), groups=60, bias=False),
    "sequence": nn.Conv1d(17, 30, 5, bias=False),
    "transposed": nn.ConvTranspose2d(18, 24, 3, bias=False),
    "transposed grouped": nn.ConvTranspose2d(24, 18, 3, groups=3, bias=False),
    "attention": nn.MultiheadAttention(24, 4, bias=False),
}


def ticket_for(layer: nn.Module, density: float, seed: int = 0) -> Ticket:
    """A ticket whose units have uneven counts, as those of pruning methods have."""
    stream = torch.Generator().manual_seed(seed)
    name, shape = next((name, p.shape) for name, p in layer.named_parameters())
    uneven = torch.rand(shape[0], 1, generator=stream) + torch.rand(1, shape[1], generator=stream)
    uneven = uneven.view(*shape[:2], *[1] * (len(shape) - 2))
    return Ticket.from_masks({name: torch.rand(shape, generator=stream) < uneven * density}, model=layer)


def connections(layer: nn.Module, ticket: Ticket) -> Tensor:
    """output x input x tap: what the layer itself computes with the mask as its weights, by autograd."""
    (mask,) = ticket.masks.values()
    weight = mask.double()
    if isinstance(layer, nn.MultiheadAttention):  # three matrices, each with outputs and inputs of its own
        return torch.block_diag(*weight.chunk(3)).unsqueeze(2)
    if isinstance(layer, nn.Linear):
        x = torch.zeros(1, mask.shape[1], dtype=torch.float64)
    elif isinstance(layer, nn.ConvTranspose2d):
        x = torch.zeros(1, layer.in_channels, 1, 1, dtype=torch.float64)
    else:
        x = torch.zeros(1, layer.in_channels, *mask.shape[2:], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: torch.func.functional_call(layer, {"weight": weight}, (x,)), x
    )
    by_unit = jacobian.flatten(3 if isinstance(layer, nn.Linear) else 4)[0]
    if isinstance(layer, nn.Linear):
        return jacobian.view(mask.shape[0], mask.shape[1], 1)
    if isinstance(layer, nn.ConvTranspose2d):  # out x taps x 1 x in
        return jacobian[0].flatten(1, 2).squeeze(2).flatten(2).transpose(1, 2)
    return by_unit.flatten(0, -3).view(mask.shape[0], layer.in_channels, -1)


def chance(groups: list[tuple[int, int]]) -> tuple[float, float]:
    """Mean and deviation of the overlap of two random masks that keep k of n in each of the groups."""
    mean = sum(k * k / n for k, n in groups if n)
    variance = sum((k * (n - k) / n) ** 2 / (n - 1) for k, n in groups if n > 1)
    return mean, math.sqrt(variance)


def overlap_is_chance(ticket: Ticket, outcome: Ticket, groups: list[tuple[int, int]]) -> None:
    mean, deviation = chance(groups)
    assert ticket.kept > mean + 2 * SIGMAS * deviation, "the test could not tell a change from none"
    assert abs((ticket & outcome).kept - mean) <= SIGMAS * deviation


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    return LAYERS[request.param]


@pytest.fixture(params=[0.1, 0.5], ids=["sparse", "half"])
def ticket(layer: nn.Module, request: pytest.FixtureRequest) -> Ticket:
    return ticket_for(layer, request.param)


def test_shuffle_keeps_the_layers_counts_and_nothing_else(ticket: Ticket) -> None:
    (row,) = ticket.layers
    for name in ("shuffle", "like", "shuffle-global"):
        outcome = on_mask(ticket, name, seed=1)
        assert outcome.kept == ticket.kept
        overlap_is_chance(ticket, outcome, [(row.kept, row.total)])


def test_shuffle_rows_keeps_each_output_units_count(layer: nn.Module, ticket: Ticket) -> None:
    outcome = on_mask(ticket, "shuffle-rows", seed=1, model=layer)
    before, after = connections(layer, ticket), connections(layer, outcome)
    assert torch.equal(before.sum((1, 2)), after.sum((1, 2)))
    size = next(iter(ticket.masks.values())).numel() // len(before)
    overlap_is_chance(ticket, outcome, [(int(k), size) for k in before.sum((1, 2))])
    if size > before.shape[2]:
        assert not torch.equal(before.sum((0, 2)), after.sum((0, 2)))


def test_shuffle_columns_keeps_each_input_units_count(layer: nn.Module, ticket: Ticket) -> None:
    outcome = on_mask(ticket, "shuffle-columns", seed=1, model=layer)
    before, after = connections(layer, ticket), connections(layer, outcome)
    assert torch.equal(before.sum((0, 2)), after.sum((0, 2)))
    size = next(iter(ticket.masks.values())).numel() // before.shape[1]
    overlap_is_chance(ticket, outcome, [(int(k), size) for k in before.sum((0, 2))])
    if size > before.shape[2]:
        assert not torch.equal(before.sum((1, 2)), after.sum((1, 2)))


def test_shuffle_kernels_keeps_whole_kernels(ticket: Ticket) -> None:
    outcome = on_mask(ticket, "shuffle-kernels", seed=1)
    (before,), (after,) = ticket.masks.values(), outcome.masks.values()
    first, second = (mask.reshape(mask.shape[:2].numel(), -1).double() for mask in (before, after))
    assert sorted(first.tolist()) == sorted(second.tolist())
    # What a random order puts on top of each other: mean and variance of sum_i a(i, order(i)) (Hoeffding 1951).
    on_top = first @ first.T
    mean = float(on_top.mean() * len(first))
    centred = on_top - on_top.mean(0) - on_top.mean(1, keepdim=True) + on_top.mean()
    deviation = math.sqrt(float((centred**2).sum()) / (len(first) - 1))
    assert ticket.kept > mean + SIGMAS * deviation
    assert abs((ticket & outcome).kept - mean) <= SIGMAS * deviation


def test_shuffle_degrees_keeps_both_degrees_of_every_unit_at_every_tap(
    layer: nn.Module, ticket: Ticket
) -> None:
    if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels:
        with pytest.warns(UserWarning, match="left every mask as it was"):
            on_mask(ticket, "shuffle-degrees", model=layer)
        return
    outcome = on_mask(ticket, "shuffle-degrees", seed=1, model=layer)
    before, after = connections(layer, ticket), connections(layer, outcome)
    assert torch.equal(before.sum(0), after.sum(0))
    assert torch.equal(before.sum(1), after.sum(1))
    assert after.max() == 1
    moved = 1 - (ticket & outcome).kept / ticket.kept
    assert moved > 0.5 * (1 - ticket.density)


@pytest.mark.parametrize(("units", "degree"), [(60, 2), (61, 9), (60, 30), (60, 54)])
def test_shuffle_degrees_forgets_the_mask_it_starts_from(units: int, degree: int) -> None:
    # Where all degrees are the same every position is kept with the same probability, by symmetry.
    band = torch.tensor(
        [[(column - row) % units < degree for column in range(units)] for row in range(units)]
    )
    ticket = Ticket({"w": band})
    overlaps = [(on_mask(ticket, "shuffle-degrees", seed=seed) & ticket).kept for seed in range(20)]
    mean, deviation = chance([(ticket.kept, ticket.total)])
    assert abs(sum(overlaps) / len(overlaps) - mean) <= SIGMAS * deviation / math.sqrt(len(overlaps))


@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)), density=st.floats(0, 1), seed=st.integers(0, 10**6)
)
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:shuffle-degrees left every mask")
def test_shuffle_degrees_of_any_small_mask(shape: tuple[int, int], density: float, seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    after = on_mask(Ticket({"w": mask}), "shuffle-degrees:rounds=4", seed=seed).masks["w"]
    assert torch.equal(mask.sum(0), after.sum(0))
    assert torch.equal(mask.sum(1), after.sum(1))


def test_only_shuffle_global_moves_weights_between_layers() -> None:
    stream = torch.Generator().manual_seed(0)
    ticket = Ticket({f"w{d}": torch.rand(60, 50, generator=stream) < d / 10 for d in (1, 5, 9)})
    counts = [row.kept for row in ticket.layers]
    for name in ("shuffle", "shuffle-rows", "shuffle-columns", "shuffle-degrees", "shuffle-kernels", "like"):
        assert [row.kept for row in on_mask(ticket, name).layers] == counts
    spread = on_mask(ticket, "shuffle-global")
    assert spread.kept == ticket.kept
    for before, after in zip(ticket.layers, spread.layers, strict=True):
        mean = ticket.kept / 3
        deviation = math.sqrt(3000 * ticket.density * (1 - ticket.density) * 2 / 3)
        assert abs(after.kept - mean) <= SIGMAS * deviation
        assert 1400 < before.kept < 1600 or abs(before.kept - after.kept) > SIGMAS * deviation


def test_no_two_interventions_share_their_draws() -> None:
    ticket = Ticket({"w": torch.rand(40, 50, generator=torch.Generator().manual_seed(0)) < 0.3})
    names = (
        "shuffle",
        "shuffle-rows",
        "shuffle-columns",
        "shuffle-degrees",
        "shuffle-kernels",
        "like",
        "shuffle-global",
    )
    assert len({tuple(on_mask(ticket, name).masks["w"].flatten().tolist()) for name in names}) == len(names)


def test_a_layers_shuffle_does_not_hang_on_the_other_layers() -> None:
    stream = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(20, 30, generator=stream) < 0.3 for name in "abc"}
    for name in ("shuffle", "shuffle-rows", "shuffle-columns", "shuffle-degrees", "shuffle-kernels", "like"):
        together = on_mask(Ticket(masks), name).masks["b"]
        assert torch.equal(together, on_mask(Ticket({"b": masks["b"]}), name).masks["b"])
        assert not torch.equal(together, on_mask(Ticket({"c": masks["b"]}), name).masks["c"])


# Effective


def on_paths(ticket: Ticket) -> Ticket:
    """The weights of a stack of linear layers that lie on an input-output path, by products of boolean matrices."""
    masks = [mask.double() for mask in ticket.masks.values()]
    found = {}
    for i, name in enumerate(ticket.masks):
        reached, reaching = torch.ones(masks[0].shape[1], dtype=torch.float64), None
        for mask in masks[:i]:
            reached = (mask @ reached).clamp(max=1)
        reaching = torch.ones(masks[-1].shape[0], dtype=torch.float64)
        for mask in reversed(masks[i + 1 :]):
            reaching = (reaching @ mask).clamp(max=1)
        found[name] = (masks[i] * reached * reaching[:, None]).bool()
    return Ticket(found)


ROW = torch.zeros(1, 12)


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 20),
        nn.ReLU(),
        nn.Linear(20, 20),
        nn.ReLU(),
        nn.Linear(20, 15),
        nn.ReLU(),
        nn.Linear(15, 8),
    )


def stack(density: float, seed: int = 0) -> Ticket:
    stream = torch.Generator().manual_seed(seed)
    return Ticket(
        {
            name: torch.rand(weight.shape, generator=stream) < density
            for name, weight in chain().named_parameters()
            if weight.dim() > 1
        }
    )


def effective(ticket: Ticket, text: str = "effective", seed: int = 0) -> Ticket:
    return on_mask(ticket, text, seed=seed, model=chain(), example=ROW)


@pytest.mark.parametrize("density", [0.08, 0.15, 0.3])
def test_effective_drops_exactly_what_is_on_no_path(density: float) -> None:
    ticket = stack(density)
    outcome = effective(ticket)
    assert outcome == on_paths(ticket)
    assert 0 < outcome.kept < ticket.kept
    assert effective(outcome) == outcome
    assert effective(ticket, seed=1) == outcome


@pytest.mark.parametrize("density", [0.08, 0.15, 0.3])
def test_effective_refills_each_layer_with_weights_on_a_path(density: float) -> None:
    ticket = stack(density)
    outcome = effective(ticket, "effective:refill=true")
    assert [row.kept for row in outcome.layers] == [row.kept for row in ticket.layers]
    assert on_paths(outcome) == outcome
    assert on_paths(ticket) & outcome == on_paths(ticket)
    assert outcome != effective(ticket, "effective:refill=true", seed=1)


def test_effective_refills_where_few_positions_can_be_on_a_path() -> None:
    # At one pixel eight taps of nine meet only padding, and half of the kept weights go there.
    model = nn.Sequential(nn.Conv2d(20, 20, 3, padding=1, bias=False))
    mask = torch.zeros(20, 20, 3, 3).bool()
    mask[:, :5] = True
    ticket = Ticket({"0.weight": mask & (torch.arange(9).view(3, 3) % 3 == 0)})
    outcome = on_mask(ticket, "effective:refill=true", model=model, example=torch.zeros(1, 20, 1, 1))
    assert outcome.kept == ticket.kept == 300
    assert outcome.masks["0.weight"][:, :, 1, 1].sum() == 300


def test_effective_says_what_it_cannot_do() -> None:
    ticket = stack(0.15)
    with pytest.raises(DisbudError, match=r"effective needs model=\.\.\. and example"):
        on_mask(ticket, "effective")
    with pytest.raises(DisbudError, match=r"effective needs example=\.\.\."):
        on_mask(ticket, "effective", model=chain())
    with pytest.raises(DisbudError, match="refill is true or false, not 3"):
        on_mask(ticket, "effective", refill=3, model=chain(), example=ROW)
    broken = Ticket({**ticket.masks, "4.weight": torch.zeros(15, 20).bool()})
    with pytest.raises(DisbudError, match=r"after 200 draws 0\.weight still lacks .*refill=false"):
        effective(broken, "effective:refill=true")
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, bias=False))
    full = Ticket({"0.weight": torch.ones(2, 2, 3, 3).bool()})
    with pytest.raises(
        DisbudError, match=r"0\.weight has 4 weights that can be on a path, and the ticket keeps 36"
    ):
        on_mask(full, "effective:refill=true", model=model, example=torch.zeros(1, 2, 1, 1))
