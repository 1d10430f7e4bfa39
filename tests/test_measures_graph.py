"""A layer as a graph: degrees against loops over the weights, spectra against numpy and graphs known by heart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import DisbudError, Ticket
from disbud.measures import degree_distribution, degrees, expansion
from disbud.measures import spectrum as spectrum_module
from disbud.measures.spectrum import golub_kahan, two_largest
from disbud.measures.units import units
from disbud.seeds import generator
from networks import NETWORKS


def of(mask: Tensor) -> tuple[nn.Module, Ticket]:
    """A linear layer with this mask, outputs along the first axis."""
    return nn.Linear(mask.shape[1], mask.shape[0]), Ticket.from_masks({"weight": mask})


def edges_by_loop(layer: nn.Module, mask: Tensor) -> Counter[tuple[int, int, int]]:
    """(input unit, output unit, tap) of every kept weight, from the definition of each layer."""
    found: Counter[tuple[int, int, int]] = Counter()
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
    groups = getattr(layer, "groups", 1)
    for first, second, tap in mask.reshape(*mask.shape[:2], -1).nonzero().tolist():
        if transposed:
            group = first // (mask.shape[0] // groups)
            found[first, group * mask.shape[1] + second, tap] += 1
        else:
            group = first // (mask.shape[0] // groups)
            found[group * mask.shape[1] + second, first, tap] += 1
    return found


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(7, 5),
    "conv": lambda: nn.Conv2d(4, 6, 3),
    "conv 1d": lambda: nn.Conv1d(4, 6, 5),
    "grouped": lambda: nn.Conv2d(6, 4, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed, grouped": lambda: nn.ConvTranspose1d(6, 4, 3, groups=2),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_graphs_are_those_of_the_definition(kind: str) -> None:
    layer = LAYERS[kind]()
    ticket = disbud.prune(layer, "random", sparsity=0.8)
    (graph,) = units(layer, ticket)
    expected = edges_by_loop(layer, ticket.masks["weight"])
    size = math.prod(ticket.masks["weight"].shape[2:])
    kept, taps = torch.zeros_like(graph.kept), torch.zeros_like(graph.taps)
    inputs = getattr(layer, "in_channels", 0) or layer.in_features
    outputs = getattr(layer, "out_channels", 0) or layer.out_features
    assert kept.shape == (inputs, outputs)
    assert taps.shape == (inputs * size, outputs)
    for (i, o, tap), count in expected.items():
        kept[i, o] += count
        taps[i * size + tap, o] += count
    assert torch.equal(graph.kept, kept)
    assert torch.equal(graph.taps, taps)
    for edges, counted in (("weights", kept), ("kernels", (kept > 0).double())):
        (row,) = degrees(layer, ticket, edges=edges)
        assert row["edges"] == int(counted.sum())
        assert row["in_mean"] == pytest.approx(float(counted.sum(0).mean()))
        assert row["out_sd"] == pytest.approx(float(counted.sum(1).numpy().std()))
        assert (row["in_min"], row["out_max"]) == (int(counted.sum(0).min()), int(counted.sum(1).max()))
        assert row["unread_inputs"] == int((counted.sum(1) == 0).sum())
        assert row["unfed_outputs"] == int((counted.sum(0) == 0).sum())
        table = degree_distribution(layer, ticket, edges=edges)
        for side, axis in (("in", 0), ("out", 1)):
            got = {r["degree"]: r["units"] for r in table if r["side"] == side}
            assert got == Counter(counted.sum(axis).int().tolist())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_graphs(name: str) -> None:
    model = NETWORKS[name].build()
    ticket = disbud.prune(model, "random", sparsity=0.5)
    table = degrees(model, ticket)
    assert dict(zip(table["layer"], table["edges"], strict=True)) == {
        layer: int(mask.sum()) for layer, mask in ticket.masks.items()
    }
    for row, spectrum in zip(table, expansion(model, ticket), strict=True):
        # The mean degree of either side is below s_1, the largest degrees' geometric mean above it.
        assert math.sqrt(row["in_mean"] * row["edges"] / spectrum["inputs"]) <= spectrum["first"] * (1 + 1e-9)
        assert spectrum["first"] <= math.sqrt(row["in_max"] * row["out_max"]) * (1 + 1e-9)


def test_hidden_units_of_a_chain_are_sinks_sources_or_disconnected() -> None:
    # A convolution with 8 channels, each flattened into 4 inputs: fed are 0 to 3, read are 3 and 4.
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    conv, linear = torch.zeros(8, 2, 1, 1), torch.zeros(3, 32)
    conv[:4, 1] = 1
    linear[0, 13], linear[2, 19] = 1, 1
    table = degrees(model, Ticket.from_masks({"0.weight": conv, "3.weight": linear}))
    first, last = table
    assert (first["sinks"], first["sources"], first["disconnected"]) == (3, 1, 3)
    assert (last["sinks"], last["sources"], last["disconnected"]) == (None, None, None)
    assert table.summary["sinks"] == 3


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.a(x))


def test_where_signals_join_hidden_units_are_left_open() -> None:
    model = Residual()
    table = degrees(model, disbud.prune(model, "random", sparsity=0.5))
    assert table["sinks"] == (None, None)
    assert table.summary["sinks"] is None


@pytest.mark.parametrize("seed", range(4))
def test_with_an_example_a_chain_has_the_hidden_units_it_has_without(seed: int) -> None:
    network = NETWORKS["conv"]
    model = network.build()
    ticket = disbud.prune(model, "random", sparsity=0.9, seed=seed)
    plain, with_example = degrees(model, ticket), degrees(model, ticket, example=network.example)
    assert list(plain) == list(with_example)
    assert plain.summary["disconnected"] is not None


def test_where_branches_are_added_up_any_of_them_feeds() -> None:
    # Units of x + b(a(x)), read by c: x feeds all four, so none of b's is a source, whatever b feeds.
    model = nn.Sequential(Residual(), nn.Linear(4, 2))
    a, b = torch.zeros(4, 4), torch.zeros(4, 4)
    a[0, 0] = a[1, 1] = b[2, 1] = b[2, 3] = b[3, 3] = 1
    c = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0]])
    ticket = Ticket.from_masks({"0.a.weight": a, "0.b.weight": b, "1.weight": c})
    first, second, last = degrees(model, ticket, example=torch.zeros(1, 4))
    # a feeds 0 and 1; b reads 1 and 3: 0 is a sink, 3 a source, 2 disconnected.
    assert (first["sinks"], first["sources"], first["disconnected"]) == (1, 1, 1)
    # b feeds 2 and 3; c reads 0 and 2: 3 is a sink; 0 is fed by x, so no source; 1 is disconnected.
    assert (second["sinks"], second["sources"], second["disconnected"]) == (1, 0, 1)
    assert last["sinks"] is None


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_hidden_units_are_found_in_any_network(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    ticket = disbud.prune(model, "random", sparsity=0.7)
    joined = name in ("residual", "densely-connected", "transformer")
    for row in degrees(model, ticket, example=network.example):
        if row["sinks"] is not None:
            assert row["sinks"] + row["disconnected"] <= row["outputs"]
            assert joined or row["sources"] + row["disconnected"] == row["unfed_outputs"]
    whole = Ticket({name: torch.ones_like(mask) for name, mask in ticket.masks.items()})
    dense = degrees(model, whole, example=network.example)
    assert dense.sinks in (4 if name == "unused-branch" else 0, None)  # the four that lead nowhere
    assert dense.sources in (0, None)


def test_a_layer_that_is_used_twice_has_no_hidden_units_of_its_own() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2))
    table = degrees(model, disbud.prune(model, "random", sparsity=0.5))
    assert table["sinks"] == (None, None)


def test_what_has_no_units() -> None:
    with pytest.raises(DisbudError, match="bias has shape"):
        degrees(nn.Linear(3, 3), Ticket.from_masks({"bias": torch.ones(3)}))
    with pytest.raises(DisbudError, match="no way to count edges 'kernel'; did you mean 'kernels'"):
        degrees(*of(torch.ones(2, 2)), edges="kernel")
    with pytest.raises(DisbudError, match="no graph of a layer 'tap'; did you mean 'taps'"):
        expansion(*of(torch.ones(2, 2)), graph="tap")
    with pytest.raises(DisbudError, match="not a int"):
        expansion(3, Ticket.from_masks({"w": torch.ones(2, 2)}))  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match="does not fit the model"):
        degrees(nn.Linear(3, 3), Ticket.from_masks({"w": torch.ones(2, 2)}))


# Expansion


@pytest.mark.parametrize(("m", "n"), [(5, 5), (3, 8), (1, 1), (4, 1), (60, 40)])
def test_a_complete_bipartite_graph(m: int, n: int) -> None:
    (row,) = expansion(*of(torch.ones(n, m)))
    assert row["first"] == pytest.approx(math.sqrt(m * n))
    assert row["second"] == pytest.approx(0, abs=1e-9)
    assert row["relative_gap"] == pytest.approx(1)
    assert row["bound"] == pytest.approx(math.sqrt(m - 1) + math.sqrt(n - 1))
    assert row["ramanujan"] is True
    assert (row["inputs"], row["outputs"]) == (m, n)


def test_two_separate_parts_have_no_gap() -> None:
    (row,) = expansion(*of(torch.block_diag(torch.ones(6, 4), torch.ones(6, 4))))
    assert row["second"] == pytest.approx(row["first"]) == pytest.approx(math.sqrt(24))
    assert row["gap"] == pytest.approx(0, abs=1e-9)
    assert row["difference"] == pytest.approx(math.sqrt(5) + math.sqrt(3) - math.sqrt(24))
    assert row["ramanujan"] is False


def test_cycles_lie_on_the_bound() -> None:
    # The cycle of length 2n has the singular values 2 |cos(pi j / n)| and, being 2-regular, the bound 2.
    n = 9
    (row,) = expansion(*of(torch.eye(n) + torch.eye(n).roll(1, 0)))
    assert row["first"] == pytest.approx(2)
    assert row["second"] == pytest.approx(2 * math.cos(math.pi / n))
    assert row["bound"] == pytest.approx(2)
    assert row["ramanujan"] is True


def test_the_incidence_graph_of_a_projective_plane() -> None:
    # The Fano plane: 3-regular on 7 + 7 units, s = 3 and six times sqrt 2; the best expander of its size.
    lines = [(0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5)]
    mask = torch.zeros(7, 7)
    for i, points in enumerate(lines):
        mask[i, list(points)] = 1
    (row,) = expansion(*of(mask))
    assert (row["first"], row["second"]) == (pytest.approx(3), pytest.approx(math.sqrt(2)))
    assert row["difference"] == pytest.approx(2 * math.sqrt(2) - math.sqrt(2))
    # All input units have degree 3, so the one subgraph is the graph itself.
    assert row["subgraphs"] == 1
    assert row["imdb"] == pytest.approx(row["difference"])
    assert row["relative_imdb"] == pytest.approx(0.5)


def biregular(inputs: int, outputs: int, degree: int) -> Tensor:
    """A random graph in which each input has the degree, each output inputs * degree / outputs."""
    stream = generator(0, "biregular")
    ends = torch.arange(outputs).repeat_interleave(inputs * degree // outputs)
    while True:
        mask = torch.zeros(outputs, inputs)
        order = ends[torch.randperm(len(ends), generator=stream)].view(inputs, degree)
        # Clashes (an input that meets an output twice) are rearranged until there is none.
        for _ in range(100):
            clashes = [i for i, row in enumerate(order) if len(set(row.tolist())) < degree]
            if not clashes:
                mask[order.T, torch.arange(inputs)] = 1
                return mask
            others = torch.randint(inputs, (len(clashes),), generator=stream).tolist()
            for i, j in zip(clashes, others, strict=True):
                both = torch.cat([order[i], order[j]])[torch.randperm(2 * degree, generator=stream)]
                if i != j:
                    order[i], order[j] = both[:degree], both[degree:]


def test_a_random_biregular_graph_is_nearly_ramanujan() -> None:
    mask = biregular(inputs=300, outputs=200, degree=4)
    assert (mask.sum(0) == 4).all()
    assert (mask.sum(1) == 6).all()
    (row,) = expansion(*of(mask))
    assert row["first"] == pytest.approx(math.sqrt(24))
    bound = math.sqrt(3) + math.sqrt(5)
    assert row["bound"] == pytest.approx(bound)
    # Brito, Dumitriu & Harris 2022: s_2 is at most the bound plus a vanishing term, and close to it.
    assert row["second"] == pytest.approx(bound, rel=0.05)
    assert row["imdb"] == pytest.approx(row["difference"])


def test_imdb_is_the_mean_over_subgraphs_of_equal_input_degree() -> None:
    # Inputs: four of degree 3, three of degree 5, two of degree 4 (so few that the outputs have degree 2), four of
    # degree 2 (too low), one of 0.
    mask = torch.zeros(6, 14)
    for i, degree in enumerate([3, 3, 3, 3, 5, 5, 5, 4, 4, 2, 2, 2, 2, 0]):
        mask[:degree, i] = 1
    (row,) = expansion(*of(mask))
    # The parts are complete: K(4, 3) and K(3, 5), with second singular value 0.
    bounds = [math.sqrt(2) + math.sqrt(3), math.sqrt(4) + math.sqrt(2)]
    assert row["subgraphs"] == 2
    assert row["imdb"] == pytest.approx(sum(bounds) / 2, abs=1e-6)
    assert row["relative_imdb"] == pytest.approx(1, abs=1e-6)
    assert (row["inputs"], row["outputs"]) == (13, 5)


@pytest.mark.parametrize("graph", ["taps", "kernels", "counts"])
def test_spectra_of_a_convolution_are_those_of_each_graph(graph: str) -> None:
    layer = nn.Conv2d(8, 12, 3)
    ticket = disbud.prune(layer, "random", sparsity=0.7)
    (found,) = units(layer, ticket)
    matrix = {"taps": found.taps, "kernels": (found.kept > 0).double(), "counts": found.kept}[graph]
    values = numpy.linalg.svd(matrix.numpy(), compute_uv=False)
    (row,) = expansion(layer, ticket, graph=graph)
    assert (row["first"], row["second"]) == (pytest.approx(values[0]), pytest.approx(values[1]))
    assert row["relative_gap"] == pytest.approx(1 - values[1] / values[0])
    if graph == "counts":
        assert (row["bound"], row["ramanujan"], row["imdb"]) == (None, None, None)


def test_an_empty_layer_has_no_spectrum() -> None:
    table = expansion(*of(torch.zeros(3, 3)))
    (row,) = table
    assert (row["first"], row["gap"], row["bound"], row["inputs"]) == (None, None, None, 0)
    assert table.summary["relative_gap"] is None


# Singular values of matrices too large to decompose


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (250, 250)])
def test_large_matrices_give_the_same_two_values(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    matrix = (torch.rand(shape, generator=generator(0, "x")) < 0.1).double()
    twice = torch.block_diag(matrix, matrix)
    exact = two_largest(matrix)
    monkeypatch.setattr(spectrum_module, "_EXACT", 10)
    assert two_largest(matrix) == pytest.approx(exact, rel=1e-9)
    # Every value of the doubled matrix comes twice: a plain Lanczos run would show it once.
    assert two_largest(twice) == pytest.approx((exact[0], exact[0]), rel=1e-9)


def test_bidiagonalisation_bounds_the_extremes_and_ends_exact() -> None:
    matrix = torch.randn(80, 30, dtype=torch.float64, generator=generator(0, "x"))
    exact = torch.linalg.svdvals(matrix)
    for steps in (2, 5, 15):
        values, _ = golub_kahan(matrix.mv, matrix.T.mv, 30, steps)
        assert len(values) == steps
        assert values[0] <= exact[0] * (1 + 1e-12)
        assert values[-1] >= exact[-1] * (1 - 1e-12)
    values, vectors = golub_kahan(matrix.mv, matrix.T.mv, 30, 99)
    assert torch.allclose(values, exact)
    assert torch.allclose((matrix @ vectors).norm(dim=0), exact)
    identity, _ = golub_kahan(lambda v: v, lambda v: v, 30, 30)
    assert identity.tolist() == pytest.approx([1])
    nothing, _ = golub_kahan(lambda v: 0 * v, lambda v: 0 * v, 30, 30)
    assert nothing.tolist() == [0]
