"""Effective paths against an explicit graph of entries counted in Python integers, and against published figures."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

import disbud
from disbud import Ticket
from disbud.graph import effective
from disbud.measures import paths
from disbud.models import build
from networks import NETWORKS
from path_calculus import Linearised
from path_check import DENSITIES, at_random, check


@pytest.mark.parametrize(("density", "seed"), DENSITIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_random_tickets(name: str, density: float, seed: int) -> None:
    network = NETWORKS[name]
    model = network.build()
    check(model, at_random(model, density, seed), network.example)


@pytest.mark.parametrize("name", NETWORKS)
def test_dense_networks(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    check(model, None, network.example)
    dense = at_random(model, 1.1, 0)
    assert paths(model, None, example=network.example) == paths(model, dense, example=network.example)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_empty_layer(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    for empty in range(len(disbud.prunable(model))):
        check(model, at_random(model, 0.7, 3, empty=empty), network.example)


@pytest.mark.parametrize("name", NETWORKS)
def test_tickets_of_some_layers_only(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    masks = at_random(model, 0.3, 5).to_masks()
    for layer in masks:
        check(model, Ticket.from_masks({layer: masks[layer]}), network.example)


def test_tokens_are_looked_up_where_they_stand() -> None:
    model = NETWORKS["tied"].build()
    for tokens in ([[0, 1, 2, 3]], [[7, 7, 3, 7]], [[10]]):
        for density, seed in DENSITIES[1:6]:
            check(model, at_random(model, density, seed), torch.tensor(tokens))


# Published figures (METHODS of the field: Pham et al. 2023 and what their definition gives)


def _dense_resnet(*, convolutions: bool) -> int:
    """P of the dense CIFAR ResNet-20 by hand: all channels of a dense layer carry the same count at a position."""

    def conv(x: numpy.ndarray, n_out: int, kernel: int, stride: int) -> numpy.ndarray:
        size = x.shape[1]
        edge = kernel // 2
        padded = numpy.full((size + 2 * edge, size + 2 * edge), 0, object)  # numpy.pad would mix int64 in
        padded[edge : edge + size, edge : edge + size] = x.sum(0)
        ahead = range(kernel)
        one = sum(padded[a : a + size : stride, b : b + size : stride] for a in ahead for b in ahead)
        return numpy.stack([one] * n_out)

    x = conv(numpy.full((3, 32, 32), 1, object), 16, 3, 1)
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for block in range(3):
            step = stride if block == 0 else 1
            out = conv(conv(x, width, 3, step), width, 3, 1)
            if step == 2 and convolutions:
                x = conv(x, width, 1, 2)
            elif step == 2:
                fill = numpy.full((width - len(x), *out.shape[1:]), 0, object)
                x = numpy.concatenate([x[:, ::2, ::2], fill])
            x = x + out
    return int(x.sum()) * 10


@pytest.mark.parametrize(
    ("shortcut", "log", "weights"), [("conv", 49.335, 270_896), ("identity", 49.334, 268_336)]
)
def test_dense_resnet_20(shortcut: str, log: float, weights: int) -> None:
    exact = _dense_resnet(convolutions=shortcut == "conv")
    table = paths(build(f"resnet20:shortcut={shortcut}"), None, example=torch.zeros(1, 3, 32, 32))
    assert math.log10(exact) == pytest.approx(log, abs=5e-4)
    assert table.summary["log10_paths"] == pytest.approx(math.log10(exact), rel=1e-12)
    assert sum(table["weights"]) == weights  # type: ignore[arg-type]
    assert table.summary["effective_parameters"] == weights
    assert table.summary["nodes"] == 701


@pytest.mark.parametrize(
    ("spec", "pixels"), [("resnet20", 32), ("resnet20:shortcut=identity", 16), ("vgg11-bn:width=0.25", 16),
                         ("vgg13:width=0.25", 32), ("conv-4:width=0.5", 16), ("lenet-5", 28)]
)  # fmt: skip
@pytest.mark.parametrize("density", [0.1, 0.01])
def test_networks_of_the_papers_by_calculus(spec: str, pixels: int, density: float) -> None:
    # P stays below 1e308 here, and sums of products of ones cancel nowhere: no gradient is zero by accident.
    shape = (1 if spec == "lenet-5" else 3, pixels, pixels)
    model = build(spec, input_shape=shape)
    example = torch.zeros(1, *shape)
    ticket = disbud.prune(model, "random-erk", sparsity=1 - density)
    total, masks = Linearised(model, ticket).counted(example)
    found = effective(model, ticket, example=example)
    assert all(torch.equal(mask, masks[name]) for name, mask in found.masks.items())
    table = paths(model, ticket, example=example)
    assert table.summary["log10_paths"] == pytest.approx(math.log10(total) if total else -math.inf, rel=1e-12)
    assert table.summary["effective_parameters"] == found.kept


def test_on_one_pixel_only_the_centre_of_a_kernel_is_effective() -> None:
    # At 16 pixels four poolings leave one pixel to the last two convolutions of VGG-13.
    model = build("vgg13:width=0.1", input_shape=(3, 16, 16))
    found = effective(model, None, example=torch.zeros(1, 3, 16, 16))
    last = [mask for mask in found.masks.values() if mask.dim() == 4][-2:]
    for mask in last:
        assert mask[:, :, 1, 1].all()
        assert int(mask.sum()) == mask.shape[0] * mask.shape[1]
