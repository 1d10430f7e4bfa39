"""Scores against brute force: float64 autograd on explicit mask variables, and dense Hessians, on every network."""

from __future__ import annotations

import copy

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

import disbud
from disbud.errors import DisbudError
from networks import NETWORKS

Batches = list[tuple[Tensor, Tensor]]
NORMALISED = {
    name
    for name, network in NETWORKS.items()
    if any(isinstance(m, _BatchNorm) for m in network.build().modules())
}
PLAIN = sorted(NETWORKS.keys() - NORMALISED)


def scoring_copy(model: nn.Module) -> nn.Module:
    """The network as a score should see it: dropout off, BatchNorm on the batch's own statistics."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        module.training = isinstance(module, _BatchNorm)
    return model


def mean_loss(
    model: nn.Module, weights: dict[str, Tensor], batches: Batches, temperature: float = 1.0
) -> Tensor:
    """The mean over all examples of all batches, by hand."""
    total = sum(len(y) for _, y in batches)
    parts = []
    for x, y in batches:
        log_p = torch.log_softmax(functional_call(model, weights, (x,)) / temperature, 1)
        parts.append(-log_p[torch.arange(len(y)), y].sum() / total)
    return torch.stack(parts).sum()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    owned = dict(model.named_parameters())
    return {layer.name: owned[layer.name].detach() for layer in disbud.prunable(model)}


def sensitivity(model: nn.Module, batches: Batches, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """abs(dL/dm) at the masks given, m multiplying the dense weights."""
    model, weights = scoring_copy(model), weights_of(model)
    m = {name: masks[name].double().requires_grad_() for name in weights}
    loss = mean_loss(model, {name: weights[name] * m[name] for name in weights}, batches)
    found = torch.autograd.grad(loss, list(m.values()), materialize_grads=True)
    return {name: g.abs() for name, g in zip(m, found, strict=True)}


def dense(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights_of(model).items()}


def half(model: nn.Module, seed: int = 3) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.rand(w.shape, generator=g) < 0.5 for name, w in weights_of(model).items()}


def keep_top(scores: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The reference selection: one full stable sort."""
    flat = torch.cat([s.reshape(-1) for s in scores.values()]).numpy()
    kept = numpy.zeros(len(flat), bool)
    kept[numpy.argsort(-flat, kind="stable")[:count]] = True
    parts = torch.from_numpy(kept).split([s.numel() for s in scores.values()])
    return {name: part.view(s.shape) for (name, s), part in zip(scores.items(), parts, strict=True)}


def assert_scores_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, score in expected.items():
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(found[name], score, rtol=1e-9, atol=1e-15, msg=name)
    assert any(bool(score.any()) for score in expected.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_snip_is_the_derivative_of_the_loss_by_the_mask(name: str) -> None:
    network = NETWORKS[name]
    model, batches = network.build().double(), [network.batch(8), network.batch(5, 1)]
    found = disbud.scores(model, "snip", batches=batches, examples_per_class=None)
    assert_scores_equal(found, sensitivity(model, batches, dense(model)))


@pytest.mark.parametrize("name", NETWORKS)
def test_force_and_iterative_snip_are_that_derivative_at_the_mask(name: str) -> None:
    network = NETWORKS[name]
    model, batches = network.build().double(), [network.batch(8), network.batch(5, 1)]
    masks = half(model)
    ticket = disbud.Ticket.from_masks(masks, model=model)
    expected = sensitivity(model, batches, masks)
    force = disbud.scores(model, "force", batches=batches, examples_per_class=None, ticket=ticket)
    assert_scores_equal(force, expected)
    again = disbud.scores(model, "iterative-snip", batches=batches, examples_per_class=None, ticket=ticket)
    assert_scores_equal(again, {n: score * masks[n] for n, score in expected.items()})


@pytest.mark.parametrize("method", ["iterative-snip", "force"])
@pytest.mark.parametrize("name", NETWORKS)
def test_two_rounds_by_hand(name: str, method: str) -> None:
    network = NETWORKS[name]
    model, batches = network.build().double(), [network.batch(9)]
    total = sum(w.numel() for w in weights_of(model).values())
    masks = dense(model)
    for density in (0.2**0.5, 0.2):
        scores = sensitivity(model, batches, masks)
        if method == "iterative-snip":  # what was pruned never returns: it ranks below zero
            scores = {n: score.masked_fill(~masks[n], -1) for n, score in scores.items()}
        masks = keep_top(scores, int(density * total + 0.5))
    ticket = disbud.prune(model, method, sparsity=0.8, rounds=2, batches=batches, examples_per_class=None)
    assert ticket == disbud.Ticket.from_masks(masks)


def grasp_by_hessian(model: nn.Module, batches: Batches, temperature: float) -> dict[str, Tensor]:
    model, weights = scoring_copy(model), weights_of(model)
    sizes = [w.numel() for w in weights.values()]

    def unflattened(flat: Tensor) -> dict[str, Tensor]:
        return {n: part.view_as(weights[n]) for n, part in zip(weights, flat.split(sizes), strict=True)}

    theta = torch.cat([w.reshape(-1) for w in weights.values()]).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        loss = mean_loss(model, unflattened(theta), batches, temperature)
        (g,) = torch.autograd.grad(loss, theta, create_graph=True)
        rows = [
            torch.autograd.grad(g[i], theta, retain_graph=True, materialize_grads=True)[0]
            for i in range(len(g))
        ]
    hessian = torch.stack(rows)
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-6, atol=1e-12)
    return unflattened(theta.detach() * (hessian @ g.detach()))


@pytest.mark.parametrize("name", NETWORKS)
def test_grasp_is_theta_times_the_hessian_times_the_gradient(name: str) -> None:
    network = NETWORKS[name]
    model, batches = network.build().double(), [network.batch(6)]
    temperature = 2.0
    expected = grasp_by_hessian(model, batches, temperature)
    found = disbud.scores(model, "grasp", batches=batches, examples_per_class=None, temperature=temperature)
    assert_scores_equal(found, expected)
    magnitudes = disbud.scores(
        model, "grasp-abs", batches=batches, examples_per_class=None, temperature=temperature
    )
    assert_scores_equal(magnitudes, {n: score.abs() for n, score in expected.items()})


@pytest.mark.parametrize("name", ["linear", "conv", "batch-norm"])
def test_grasp_takes_the_gradient_over_all_batches_before_the_hessian(name: str) -> None:
    network = NETWORKS[name]
    model, batches = network.build().double(), [network.batch(9), network.batch(4, 1), network.batch(6, 2)]
    found = disbud.scores(model, "grasp", batches=batches, examples_per_class=None)
    assert_scores_equal(found, grasp_by_hessian(model, batches, 200.0))
    # The mean of per-batch products, a common shortcut, is another score.
    apart = [disbud.scores(model, "grasp", batches=[batch], examples_per_class=None) for batch in batches]
    shortcut = {
        n: sum(len(b[1]) / 19 * part[n] for b, part in zip(batches, apart, strict=True)) for n in found
    }
    assert any(not torch.allclose(found[n], torch.as_tensor(shortcut[n]), rtol=1e-2, atol=0) for n in found)


def squared_gradient_norm(model: nn.Module, batches: Batches, ticket: disbud.Ticket) -> float:
    model = copy.deepcopy(model)
    ticket.apply_(model)
    weights = {n: w.requires_grad_() for n, w in weights_of(model).items()}
    found = torch.autograd.grad(mean_loss(scoring_copy(model), weights, batches), list(weights.values()))
    return float(sum((g * g).sum() for g in found))


@pytest.mark.parametrize("name", ["linear", "conv", "residual"])
def test_grasp_keeps_the_weights_whose_removal_would_lower_the_gradient_norm(name: str) -> None:
    network = NETWORKS[name]
    model, batches = network.build().double(), [network.batch(30)]
    norms = {}
    for keep in ("highest", "lowest"):
        ticket = disbud.prune(
            model,
            "grasp",
            sparsity=0.15,
            keep=keep,
            batches=batches,
            examples_per_class=None,
            temperature=1.0,
        )
        norms[keep] = squared_gradient_norm(model, batches, ticket)
    nothing_pruned = squared_gradient_norm(model, batches, disbud.prune(model, "magnitude", sparsity=0.0))
    assert norms["highest"] > nothing_pruned > norms["lowest"]


def test_the_temperature_divides_the_logits() -> None:
    network = NETWORKS["linear"]
    model, batches = network.build().double(), [network.batch(9)]
    cooled = copy.deepcopy(model)
    with torch.no_grad():
        last = dict(cooled.named_modules())["2"]
        last.weight.div_(4), last.bias.div_(4)
    by_temperature = disbud.scores(model, "grasp", batches=batches, examples_per_class=None, temperature=4.0)
    # In the layers before the last, a smaller last layer is the same function of their weights.
    g = grasp_by_hessian(model, batches, 4.0)
    assert_scores_equal(by_temperature, g)
    assert not torch.allclose(g["0.weight"], grasp_by_hessian(model, batches, 1.0)["0.weight"], rtol=0.1)
    for odd in (0, -1.0, float("nan"), float("inf"), True, "2"):
        with pytest.raises(DisbudError, match=r"temperature"):
            disbud.scores(model, "grasp", batches=batches, temperature=odd)


@pytest.mark.parametrize("method", ["snip", "force", "grasp"])
@pytest.mark.parametrize("name", PLAIN)
def test_batches_of_unequal_size_count_by_their_size(name: str, method: str) -> None:
    network = NETWORKS[name]
    model = network.build().double()
    x, y = network.batch(11)
    whole = disbud.scores(model, method, batches=[(x, y)], examples_per_class=None)
    parts = disbud.scores(model, method, batches=[(x[:2], y[:2]), (x[2:], y[2:])], examples_per_class=None)
    assert_scores_equal(parts, whole)


@pytest.mark.parametrize("name", NETWORKS)
def test_magnitude_is_the_absolute_weight(name: str) -> None:
    model = NETWORKS[name].build().double()
    assert_scores_equal(disbud.scores(model, "magnitude"), {n: w.abs() for n, w in weights_of(model).items()})


def test_random_scores_are_uniform_and_independent_of_the_weights() -> None:
    wide = nn.Linear(300, 200)
    scores = disbud.scores(wide, "random", seed=5)["weight"]
    assert scores.min() >= 0
    assert scores.max() < 1
    counts = torch.histc(scores, 20, 0, 1)
    assert float(((counts - 3000) ** 2 / 3000).sum()) < 43.8  # chi-squared, 19 degrees of freedom, p = .001
    other = nn.Linear(300, 200)
    assert torch.equal(scores, disbud.scores(other, "random", seed=5)["weight"])
    assert not torch.equal(scores, disbud.scores(other, "random", seed=6)["weight"])


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_batch_norm_scores_in_the_mode_asked(method: str) -> None:
    network = NETWORKS["batch-norm"]
    model, batches = network.build().double(), [network.batch(9)]
    by_batch = disbud.scores(model, method, batches=batches, examples_per_class=None)
    model.eval()
    assert_scores_equal(disbud.scores(model, method, batches=batches, examples_per_class=None), by_batch)
    running = disbud.scores(model, method, batches=batches, examples_per_class=None, batch_norm="eval")
    assert not torch.allclose(running["0.weight"], by_batch["0.weight"], rtol=0.1)


def test_a_wide_score_is_taken_of_half_precision() -> None:
    # A product of half-precision numbers underflows or ties where the ranking needs it.
    network = NETWORKS["linear"]
    for dtype in (torch.bfloat16, torch.float16):
        model, (x, y) = network.build().to(dtype), network.batch(9)
        found = disbud.scores(model, "snip", batches=[(x.to(dtype), y)], examples_per_class=None)
        assert all(score.dtype == torch.float32 for score in found.values())
