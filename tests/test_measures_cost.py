"""Multiply-adds against counts by hooks, and against a network whose dead channels were cut out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

import disbud
from disbud import Ticket
from disbud.measures import cost
from disbud.seeds import generator
from networks import NETWORKS

MODULES_CALLED = set(NETWORKS) - {
    "transformer",
    "functional",
}  # whose layers' weights are used without the layers


def by_hooks(model: nn.Module, example: Tensor) -> int:
    """Multiply-adds of every convolution and linear module that runs."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        channels = -1 if isinstance(module, nn.Linear) else 1
        places = inputs[0] if isinstance(module, _ConvTransposeNd) else output
        total += module.weight.numel() * places.numel() // places.shape[channels]

    for module in model.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(example)
    return total


@pytest.mark.parametrize("name", sorted(MODULES_CALLED))
def test_dense_multiply_adds_are_those_of_the_modules_that_run(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    table = cost(model, None, example=network.example)
    assert table.multiply_adds == sum(table["dense"]) == by_hooks(network.build(), network.example)
    assert table["masked"] == table["dense"]
    assert table.parameters == table.kept == sum(layer.size for layer in disbud.prunable(model))
    assert table.ticket_bytes is None


def test_attention_counts_its_projections_where_they_are_used() -> None:
    model = nn.MultiheadAttention(6, 2, batch_first=True)
    query, memory = torch.zeros(1, 5, 6), torch.zeros(1, 3, 6)
    table = cost(model, None, example=(query, memory, memory))
    # Queries at 5 positions, keys and values at 3, the outputs at 5.
    assert table["dense"] == (36 * (5 + 3 + 3), 36 * 5)


def test_published_figures() -> None:
    # 40.8 million for ResNet-20 and 4.09 billion for ResNet-50 (He et al. 2016, without their biases and pooling).
    small = disbud.models.build("resnet20")
    assert cost(small, None, example=torch.zeros(1, 3, 32, 32)).multiply_adds == 40_813_184
    large = disbud.models.build("resnet50:stem=imagenet", classes=1000, input_shape=(3, 224, 224))
    found = cost(large, None, example=torch.zeros(1, 3, 224, 224)).multiply_adds
    assert found == pytest.approx(4.09e9, rel=0.01)


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2, bias=False), nn.ReLU(),
        nn.Conv2d(16, 10, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(10, 4, bias=False),
    )  # fmt: skip


def at_random(model: nn.Module, density: float, seed: int) -> Ticket:
    masks = {}
    for layer in disbud.prunable(model):
        stream = generator(seed, "a random ticket", layer.name)
        masks[layer.name] = torch.rand(layer.shape, generator=stream) < density
    return Ticket.from_masks(masks)


def cut(model: nn.Sequential, ticket: Ticket, x: Tensor) -> nn.Sequential:
    """The same network with only the channels that some image can excite and that can move some output."""
    ticket.apply_(model)
    layers = [module for module in model if isinstance(module, nn.Conv2d | nn.Linear)]
    kernels = [layer.weight.detach().flatten(2).abs().sum(2) if layer.weight.dim() > 2 else layer.weight.detach().abs()
               for layer in layers]  # fmt: skip
    fed = [torch.ones(3, dtype=torch.bool)]
    for kernel in kernels:
        fed.append((kernel[:, fed[-1]] > 0).any(1))
    alive = [fed[-1]]
    for kernel, reached in zip(reversed(kernels), reversed(fed[:-1]), strict=True):
        alive.insert(0, reached & (kernel[alive[0]] > 0).any(0))
    small, position = nn.Sequential(), 0
    for module in model:
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()[alive[position + 1]][:, alive[position]]
            layer = nn.Conv2d(
                weight.shape[1], weight.shape[0], 3, stride=module.stride, padding=module.padding, bias=False
            )
        elif isinstance(module, nn.Linear):
            weight = module.weight.detach()[alive[position + 1]][:, alive[position]]
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        else:
            small.append(module)
            continue
        layer.weight.data = weight
        small.append(layer)
        position += 1
    wide = torch.zeros(len(x), 4, dtype=x.dtype)
    with torch.no_grad():
        wide[:, alive[-1]] = small(x[:, alive[0]])
        assert torch.allclose(wide, model(x), rtol=1e-10, atol=1e-12)
    return small


@pytest.mark.parametrize("density", [0.5, 0.1, 0.08])
@pytest.mark.parametrize("seed", range(3))
def test_live_multiply_adds_are_those_of_the_network_without_its_dead_channels(
    density: float, seed: int
) -> None:
    model = chain().double()
    ticket = at_random(model, density, seed)
    table = cost(model, ticket, example=torch.zeros(1, 3, 9, 9))
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    small = cut(model, ticket, x)
    first = next(module for module in small if isinstance(module, nn.Conv2d))
    assert table.multiply_adds_live == by_hooks(small, torch.zeros(1, first.in_channels, 9, 9).double())
    assert table.multiply_adds_live <= table.multiply_adds
    assert table.kept == ticket.kept


def test_masked_multiply_adds_go_by_the_kept_weights_of_each_layer() -> None:
    model = chain()
    ticket = at_random(model, 0.3, 0)
    table = cost(model, ticket, example=torch.zeros(1, 3, 9, 9))
    positions = [81, 16, 4, 1]
    assert table["masked"] == tuple(p * row.kept for p, row in zip(positions, ticket.layers, strict=True))


def test_groups_keep_their_own_channels() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4, bias=False), nn.Conv2d(4, 2, 1, groups=2, bias=False))
    masks = {
        "0.weight": torch.tensor([1, 1, 1, 0]).view(4, 1, 1, 1),
        "1.weight": torch.tensor([[1, 1], [0, 1]]),
    }
    masks["1.weight"] = masks["1.weight"].view(2, 2, 1, 1)
    table = cost(model, Ticket.from_masks(masks), example=torch.zeros(1, 4, 2, 2))
    # The second group's only kept weight reads a channel that is not fed: that group is dead.
    assert table["live"] == (2 * 4, 2 * 4)


def test_bytes_of_the_ticket_are_those_of_its_file(tmp_path: Path) -> None:
    model = chain()
    ticket = at_random(model, 0.3, 0)
    ticket.save(tmp_path / "t.safetensors")
    found = cost(model, ticket, example=torch.zeros(1, 3, 9, 9)).ticket_bytes
    assert found == (tmp_path / "t.safetensors").stat().st_size
    assert math.ceil(ticket.total / 8) <= found
