"""Distributions of weights and their distances: scipy and closed forms as oracles, identities as properties."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

import disbud
from disbud import DisbudError, Ticket, TicketError
from disbud.measures import (
    compare_weights,
    histograms,
    jensen_shannon,
    kolmogorov_smirnov,
    wasserstein,
    weights,
)
from disbud.measures.samples import Sample
from disbud.seeds import generator

numbers = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40).map(
    lambda x: torch.tensor(x, dtype=torch.float64)
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "test"))


def model() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 5))
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=i) ** 3)
    return net


def shuffled(ticket: Ticket, seed: int = 0) -> Ticket:
    """The mask of each layer in a random order."""
    masks = {}
    for name, mask in ticket.masks.items():
        order = torch.randperm(mask.numel(), generator=generator(seed, "shuffle", name))
        masks[name] = mask.reshape(-1)[order].view(mask.shape)
    return Ticket.from_masks(masks)


def magnitude(tensors: Mapping[str, Tensor], density: float) -> Ticket:
    """The largest of each tensor."""
    masks = {}
    for name, w in tensors.items():
        order = w.reshape(-1).abs().argsort(descending=True)
        mask = torch.zeros(w.numel(), dtype=torch.bool)
        mask[order[: round(density * w.numel())]] = True
        masks[name] = mask.view(w.shape)
    return Ticket.from_masks(masks)


# Distances


@given(numbers, numbers)
def test_wasserstein_is_scipys_and_kolmogorov_smirnov_the_largest_difference(a: Tensor, b: Tensor) -> None:
    assert wasserstein(a, b) == pytest.approx(
        stats.wasserstein_distance(a.numpy(), b.numpy()), rel=1e-9, abs=1e-9
    )
    # scipy's ks_2samp divides by zero for samples of one; the definition does not.
    largest = max(abs((a <= x).double().mean() - (b <= x).double().mean()) for x in torch.cat([a, b]))
    assert kolmogorov_smirnov(a, b) == pytest.approx(float(largest), abs=1e-12)


@pytest.mark.parametrize("bins", [1, 7, 100])
def test_jensen_shannon_is_scipys_squared_on_numpys_histograms(bins: int) -> None:
    a, b = draw(3000).double(), draw(2000, seed=1).double() * 1.5 + 0.2
    edges = numpy.histogram_bin_edges(numpy.concatenate([a, b]), bins)
    p, q = (numpy.histogram(x, edges)[0] for x in (a, b))
    assert jensen_shannon(a, b, bins=bins) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)


def test_closed_forms_of_the_distances() -> None:
    a = draw(500).double()
    assert wasserstein(a, a + 0.3) == pytest.approx(0.3)
    assert wasserstein(a, 3 * a) == pytest.approx(2 * float(a.abs().mean()))
    assert kolmogorov_smirnov(a, a + 100) == 1
    assert jensen_shannon(a, a) == 0
    assert jensen_shannon(a, a + 100) == pytest.approx(1)
    one = torch.ones(5)
    assert (wasserstein(one, one), kolmogorov_smirnov(one, one), jensen_shannon(one, one)) == (0, 0, 0)


def test_nothing_has_no_distance() -> None:
    for distance in (wasserstein, kolmogorov_smirnov, jensen_shannon):
        with pytest.raises(DisbudError, match="no numbers"):
            distance(torch.ones(0), torch.ones(1))
        with pytest.raises(DisbudError, match="NaN"):
            distance(torch.tensor([math.nan]), torch.ones(1))


@given(numbers, st.integers(0, 30))
def test_zeros_that_are_counted_are_as_good_as_zeros_that_are_there(values: Tensor, zeros: int) -> None:
    counted = Sample(values.sort().values, zeros)
    there = Sample.of(torch.cat([values, torch.zeros(zeros)]))
    assert (counted.size, counted.range) == (there.size, there.range)
    levels = [0, 0.1, 0.5, 0.77, 1]
    assert counted.quantiles(levels) == pytest.approx(there.quantiles(levels))
    edges = torch.linspace(-100, 100, 8, dtype=torch.float64)
    assert torch.equal(counted.counts(edges), there.counts(edges))
    assert torch.equal(counted.distribution(edges), there.distribution(edges))
    moments, expected = counted.moments(), there.moments()
    for name in ("mean", "sd", "abs_mean", "min_abs"):
        assert moments[name] == pytest.approx(expected[name], abs=1e-9), name
    other = draw(5).double()
    assert wasserstein(counted, other) == pytest.approx(wasserstein(there, other))
    assert kolmogorov_smirnov(other, counted) == pytest.approx(kolmogorov_smirnov(other, there))


# One state


@pytest.mark.parametrize("zeros", ["in", "out"])
def test_every_column_is_scipys(zeros: str) -> None:
    net = model()
    ticket = disbud.prune(net, "random", sparsity=0.6)
    table = weights(net, ticket, zeros=zeros)
    for row, (name, mask) in zip(table, ticket.masks.items(), strict=True):
        w = net.get_parameter(name).detach().double()
        x = (w[mask] if zeros == "out" else (w * mask).flatten()).numpy()
        assert (row["layer"], row["kept"], row["total"]) == (name, int(mask.sum()), mask.numel())
        expected = {
            "density": mask.double().mean(),
            "mean": x.mean(),
            "sd": x.std(),
            "abs_mean": abs(x).mean(),
            "skew": stats.skew(x),
            "kurtosis": stats.kurtosis(x),
            "min_abs": abs(x).min(),
            "q5": numpy.quantile(x, 0.05),
            "q50": numpy.quantile(x, 0.5),
            "q99": numpy.quantile(x, 0.99),
        }
        for column, value in expected.items():
            assert row[column] == pytest.approx(float(value), rel=1e-9, abs=1e-12), column
    assert table.summary == {
        "zeros": zeros,
        "kept": ticket.kept,
        "total": ticket.total,
        "density": ticket.density,
    }


def test_values_the_model_still_holds_off_the_ticket_count_as_zero() -> None:
    w = {"w": torch.tensor([[5.0, 1.0]])}
    ticket = Ticket.from_masks({"w": torch.tensor([[0, 1]])})
    assert weights(w, ticket, zeros="in")["q99"] == (0.99,)
    assert weights(w, ticket, zeros="out")["mean"] == (1.0,)


def test_zeros_has_no_default_and_two_values() -> None:
    with pytest.raises(TypeError, match="zeros"):
        weights(model(), None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="zeros"):
        compare_weights((model(), None), (model(), None))  # type: ignore[call-arg]
    with pytest.raises(DisbudError, match="no way to count zeros 'inn'; did you mean 'in'"):
        weights(model(), None, zeros="inn")


def test_an_empty_layer_and_a_constant_one_have_what_is_defined() -> None:
    tensors = {"a": draw(2, 3), "b": torch.full((2, 3), 0.1)}
    ticket = Ticket.from_masks({"a": torch.zeros(2, 3), "b": torch.ones(2, 3)})
    a, b = weights(tensors, ticket, zeros="out")
    assert (a["kept"], a["density"], a["mean"], a["min_abs"], a["q50"]) == (0, 0, None, None, None)
    assert (b["sd"], b["skew"], b["kurtosis"]) == (0, None, None)
    assert weights(tensors, ticket, zeros="in")["sd"] == (0, 0)
    row = next(iter(compare_weights((tensors, ticket), (tensors, None), zeros="out")))
    assert (row["wasserstein"], row["sd_ratio"], row["jensen_shannon"]) == (None, None, None)


def test_models_wrappers_state_dicts_and_scores_are_one() -> None:
    net = model()
    ticket = disbud.prune(net, "magnitude", sparsity=0.5)
    expected = weights(net, ticket, zeros="out")
    assert weights(nn.DataParallel(net), ticket, zeros="out") == expected
    assert weights(nn.DataParallel(net).state_dict(), ticket, zeros="out") == expected
    assert weights(net, None, zeros="out")["layer"] == ("0.weight", "2.weight")
    scores = disbud.scores(net, "magnitude")
    assert weights(scores, None, zeros="out")["mean"] == weights(net, None, zeros="out")["abs_mean"]
    half = weights(net.half(), ticket, zeros="out")
    assert half["sd"] == pytest.approx(expected["sd"], rel=1e-3)


def test_what_cannot_be_measured_says_why() -> None:
    net, ticket = model(), Ticket.from_masks({"2.weight": torch.ones(5, 32)})
    with pytest.raises(TicketError, match=r"no tensor '2.weight' among 0.weight"):
        weights({"0.weight": torch.ones(2)}, ticket, zeros="in")
    with pytest.raises(TicketError, match=r"shape \(2,\), and \(5, 32\) in the ticket"):
        weights({"2.weight": torch.ones(2)}, ticket, zeros="in")
    with pytest.raises(DisbudError, match=r"floating-point numbers, not torch\.int64"):
        weights({"2.weight": torch.ones(5, 32).long()}, ticket, zeros="in")
    with pytest.raises(DisbudError, match=r"quantiles lie between 0 and 1; 5"):
        weights(net, ticket, zeros="in", quantiles=(5,))
    with pytest.raises(DisbudError, match="not a int"):
        weights(3, ticket, zeros="in")  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match="meta device"):
        weights(nn.Linear(2, 2, device="meta"), None, zeros="in")
    net[2].weight.data[0, 0] = math.nan
    with pytest.raises(DisbudError, match=r"2.weight holds NaN"):
        weights(net, ticket, zeros="in")
    with pytest.raises(DisbudError, match="a state is a pair"):
        compare_weights(net, net, zeros="in")  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match=r"different models: they differ in [02].weight"):
        compare_weights((model(), ticket), (model(), None), zeros="in")


# Two states


@pytest.mark.parametrize("zeros", ["in", "out"])
def test_comparisons_are_scipys(zeros: str) -> None:
    net = model()
    a, b = (disbud.prune(net, method, sparsity=0.6) for method in ("magnitude", "random"))
    table = compare_weights((net, a), (net, b), zeros=zeros, bins=30)
    for row in table:
        w = net.get_parameter(str(row["layer"])).detach().double()
        x, y = (
            (w[m] if zeros == "out" else (w * m).flatten()).numpy()
            for m in (a.masks[str(row["layer"])], b.masks[str(row["layer"])])
        )
        assert row["wasserstein"] == pytest.approx(stats.wasserstein_distance(x, y))
        assert row["wasserstein_over_sd"] == pytest.approx(stats.wasserstein_distance(x, y) / x.std())
        assert row["kolmogorov_smirnov"] == pytest.approx(stats.ks_2samp(x, y, method="asymp").statistic)
        assert row["sd_ratio"] == pytest.approx(y.std() / x.std())
        assert row["jensen_shannon"] == pytest.approx(
            jensen_shannon(torch.tensor(x), torch.tensor(y), bins=30)
        )
    assert table.summary["wasserstein"] == pytest.approx(sum(table["wasserstein"]) / 2)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.05, 1))
def test_with_zeros_in_distances_are_the_density_times_those_with_zeros_out(
    seed: int, density: float
) -> None:
    # F = (1 - density) [x >= 0] + density F_kept: true of any two tickets with the same counts, not of magnitude alone.
    before, after = {"w": draw(10, 12, seed=seed)}, {"w": draw(10, 12, seed=seed + 1) * 2 + 1}
    ticket = magnitude(before, density)
    states = (before, ticket), (after, shuffled(ticket, seed))
    (out,), (in_,) = (compare_weights(*states, zeros=zeros) for zeros in ("out", "in"))
    kept = ticket.density
    assert in_["wasserstein"] == pytest.approx(kept * out["wasserstein"])
    assert in_["kolmogorov_smirnov"] == pytest.approx(kept * out["kolmogorov_smirnov"])
    assert in_["wasserstein_over_density"] == pytest.approx(out["wasserstein"])


def test_at_different_densities_the_quotient_is_not_defined() -> None:
    w = {"w": draw(10, 10)}
    states = (w, magnitude(w, 0.5)), (w, magnitude(w, 0.2))
    assert compare_weights(*states, zeros="in")["wasserstein_over_density"] == (None,)


@pytest.mark.parametrize("density", [0.1, 0.223, 0.5])
def test_shuffling_magnitude_at_init_lowers_the_kept_deviation_as_the_closed_form_says(
    density: float,
) -> None:
    # CLAIMS 1.4: Gaussian init sqrt(1 + t phi(t) / (1 - Phi(t))), t = Phi^-1(1 - density/2); uniform
    # sqrt(3 - 3d + d^2). Liu & Singh's figure: .0886 / .0505 = 1.754 at density .223.
    t = stats.norm.ppf(1 - density / 2)
    expected = {
        "gaussian": math.sqrt(1 + t * stats.norm.pdf(t) / stats.norm.sf(t)),
        "uniform": math.sqrt(3 - 3 * density + density**2),
    }
    if density == 0.223:
        assert expected["gaussian"] == pytest.approx(1.754, abs=5e-4)
    tensors = {
        "gaussian": draw(1000, 400),
        "uniform": torch.rand(1000, 400, generator=generator(0, "uniform")) * 2 - 1,
    }
    ticket = magnitude(tensors, density)
    table = compare_weights((tensors, shuffled(ticket)), (tensors, ticket), zeros="out")
    for row in table:
        assert row["sd_ratio"] == pytest.approx(expected[str(row["layer"])], rel=0.01)


def test_permuting_kept_values_among_kept_positions_changes_no_distance() -> None:
    w = draw(20, 20)
    ticket = magnitude({"w": w}, 0.3)
    mask = ticket.masks["w"]
    order = torch.randperm(int(mask.sum()), generator=generator(0, "permute"))
    moved = w.clone()
    moved[mask] = w[mask][order]
    for zeros in ("in", "out"):
        (row,) = compare_weights(({"w": w}, ticket), ({"w": moved}, ticket), zeros=zeros)
        assert (row["wasserstein"], row["kolmogorov_smirnov"], row["jensen_shannon"]) == (0, 0, 0)
        assert row["sd_ratio"] == pytest.approx(1)


# Histograms


@pytest.mark.parametrize("zeros", ["in", "out"])
def test_histograms_are_numpys_on_shared_bins(zeros: str) -> None:
    net = model()
    states = {
        "a": (net, disbud.prune(net, "magnitude", sparsity=0.6)),
        "b": (net, disbud.prune(net, "random", sparsity=0.9)),
    }
    table = histograms(states, zeros=zeros, bins=12)
    for layer in ("0.weight", "2.weight"):
        rows = [row for row in table if row["layer"] == layer]
        w = net.get_parameter(layer).detach().double()
        kept = {
            name: (w[t.masks[layer]] if zeros == "out" else (w * t.masks[layer]).flatten()).numpy()
            for name, (_, t) in states.items()
        }
        edges = numpy.histogram_bin_edges(numpy.concatenate(list(kept.values())), 12)
        assert [row["low"] for row in rows] == pytest.approx(list(edges[:-1]))
        assert [row["high"] for row in rows] == pytest.approx(list(edges[1:]))
        for name, values in kept.items():
            assert [row[name] for row in rows] == numpy.histogram(values, edges)[0].tolist()


def test_histograms_of_nothing_and_of_one_value() -> None:
    constant = {"w": torch.full((4,), 3.0)}
    table = histograms({"x": (constant, None)}, zeros="out", bins=2)
    assert (table["low"], table["high"], table["x"]) == ((2.5, 3.0), (3.0, 3.5), (0, 4))
    nothing = Ticket.from_masks({"w": torch.zeros(4)})
    assert histograms({"x": (constant, nothing)}, zeros="out", bins=2)["x"] == (0, 0)
    with pytest.raises(DisbudError, match="cannot be called 'low'"):
        histograms({"low": (constant, None)}, zeros="out")
    with pytest.raises(DisbudError, match="at least one state"):
        histograms({}, zeros="out")
    with pytest.raises(DisbudError, match="bins is a whole number"):
        histograms({"x": (constant, None)}, zeros="out", bins=0)
