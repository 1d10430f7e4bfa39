"""SynFlow over many layers and many rounds: depth, the plain algorithm's ticket, layer collapse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud.models import build
from linearised import P


class Deep(nn.Module):
    """A chain, or with skips a residual network."""

    def __init__(self, depth: int, width: int, gain: float, skips: object) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.skips = skips
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=gain)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu() + (x if self.skips else 0)
        return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("gain", "skips"), [(1.0, False), (1e-5, False), (1.0, True)])
def test_depth_300_neither_overflows_nor_underflows(gain: float, skips: object, dtype: str) -> None:
    torch.manual_seed(0)
    model = Deep(300, 100, gain, skips)
    x = torch.ones(1, 100).double()
    for layer in model.layers:
        x = x @ layer.weight.double().abs().T + (x if skips else 0)
    assert not (torch.isfinite(x).all() and x.min() > 1e-300)  # float64 alone does not do
    found = torch.stack(
        list(disbud.scores(model, "synflow", example=torch.zeros(1, 100), dtype=dtype).values())
    )
    assert torch.isfinite(found).all()
    assert torch.equal(found > 0, torch.stack([layer.weight != 0 for layer in model.layers]))
    if not skips:
        into, out_of = found.sum(2)[:-1], found.sum(1)[1:]
        torch.testing.assert_close(into, out_of, rtol=1e-4 if dtype == "float32" else 1e-12, atol=0)


def test_a_deep_residual_network_scores_as_in_exact_numbers() -> None:
    """Python's fractions have no largest number: a network of whole weights, 40 blocks, R about 10^80."""
    model = Deep(40, 3, 1.0, True)
    torch.manual_seed(2)
    for layer in model.layers:
        layer.weight.data = torch.randint(-99, 100, (3, 3)).float()
    weights = [[[abs(int(w)) for w in row] for row in layer.weight.tolist()] for layer in model.layers]
    forward = [[1, 1, 1]]
    for w in weights:
        x = forward[-1]
        forward.append([x[i] + sum(w[i][j] * x[j] for j in range(3)) for i in range(3)])
    backward = [[1, 1, 1]]
    for w in reversed(weights):
        g = backward[-1]
        backward.append([g[j] + sum(g[i] * w[i][j] for i in range(3)) for j in range(3)])
    total = sum(forward[-1])
    assert total > 1e38  # beyond float32
    expected = torch.tensor([
        [[backward[39 - k][i] * weights[k][i][j] * forward[k][j] / total for j in range(3)] for i in range(3)]
        for k in range(40)
    ])  # fmt: skip
    found = torch.stack(list(disbud.scores(model, "synflow", example=torch.zeros(1, 3)).values()))
    torch.testing.assert_close(found / found.sum() * expected.sum(), expected, rtol=1e-4, atol=0)


def plain_rounds(model: nn.Module, shape: tuple[int, ...], sparsity: float, rounds: int) -> P:
    """Tanaka et al.'s algorithm 1, line by line, in float64, for networks without shifts."""
    layers = {layer.name: model.get_parameter(layer.name) for layer in disbud.prunable(model)}
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in layers.items()}
    total = sum(mask.numel() for mask in masks.values())
    model.eval()
    for parameter in model.parameters():
        parameter.data.abs_()
    for k in range(1, rounds + 1):
        for name, p in layers.items():
            p.data *= masks[name]
        model.zero_grad()
        model(torch.ones(1, *shape).double()).sum().backward()
        flat = torch.cat([(p * p.grad).detach().flatten() for p in layers.values()])
        kept = disbud.selection.kept_count(
            1 - (1 - sparsity) ** (k / rounds) if k < rounds else sparsity, total
        )
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[flat.sort(descending=True, stable=True).indices[:kept]] = True
        for (name, mask), part in zip(
            masks.items(), chosen.split([m.numel() for m in masks.values()]), strict=True
        ):
            masks[name] = part.view_as(mask)
    return masks


@pytest.mark.parametrize("spec", ["vgg11:width=0.125", "vgg11-bn:width=0.125"])
def test_a_hundred_rounds_give_the_plain_algorithms_ticket(spec: str) -> None:
    shape, sparsity = (3, 32, 32), 0.97
    expected = plain_rounds(build(spec).double(), shape, sparsity, 100)
    ticket = disbud.prune(
        build(spec), "synflow", sparsity=sparsity, example=torch.zeros(1, *shape), dtype="float64"
    )
    assert sum(int(mask.sum()) for mask in expected.values()) == ticket.kept
    for name, mask in expected.items():
        assert torch.equal(ticket.masks[name], mask), name


def test_a_few_rounds_in_float32_and_float64_agree() -> None:
    """More rounds need not: a weight swapped by rounding moves later scores, and the difference grows by the round."""
    kept = [
        disbud.prune(
            build("vgg11:width=0.25"), "synflow", sparsity=0.9, rounds=5, example=torch.zeros(1, 3, 32, 32), dtype=dtype
        )
        for dtype in ("float32", "float64")
    ]  # fmt: skip
    same = sum(
        int((a & b).sum()) for a, b in zip(kept[0].masks.values(), kept[1].masks.values(), strict=True)
    )
    assert same >= 0.999 * kept[0].kept


def test_many_rounds_avoid_the_layer_collapse_of_one() -> None:
    model, example = build("vgg11:width=0.125"), torch.zeros(1, 3, 32, 32)
    once = disbud.prune(model, "synflow", sparsity=0.995, example=example, rounds=1)
    often = disbud.prune(model, "synflow", sparsity=0.995, example=example)
    assert min(once.densities().values()) == 0
    assert min(often.densities().values()) > 0
    assert once.kept == often.kept


def test_pruned_weights_never_return_and_dead_ones_leave_first() -> None:
    model = build("vgg11:width=0.125")
    example = torch.zeros(1, 3, 32, 32)
    ticket = disbud.prune(model, "synflow", sparsity=0.9, example=example, rounds=20)
    again = disbud.scores(model, "synflow", example=example, ticket=ticket)
    for name, score in again.items():
        assert not score[~ticket.masks[name]].any()
    alive = sum(int((score > 0).sum()) for score in again.values())
    assert alive >= 0.99 * ticket.kept
