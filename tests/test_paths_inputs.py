"""Effective paths by what goes into a model and comes out: examples, outputs, weights a model takes itself."""

from __future__ import annotations

import dataclasses
import doctest
import subprocess
import sys
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from disbud import DisbudError
from disbud.graph import effective
from disbud.measures import paths
from networks import IMAGE, NETWORKS, ROW
from path_check import at_random, check_tickets
from path_oracle import Entries
from path_walk import Walk

# Weights that a model takes itself

TAKEN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "transposed": lambda x, w: x @ w.t(),
    "added to a bias": lambda x, w: torch.addmm(torch.ones(6), x, w.T),
    "einsum": lambda x, w: torch.einsum("bi,oi->bo", x, w),
    "scaled": lambda x, w: functional.linear(x, w * 0.5),
    "standardised": lambda x, w: functional.linear(
        x, (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True) + 1e-5)
    ),
    "its data": lambda x, w: functional.linear(x, w.data),
    "without gradient": lambda x, w: torch.no_grad()(functional.linear)(x, w),
}


class Takes(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.function(x, self.first.weight))
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        return walk(self.last, walk(self.first, x))


@pytest.mark.parametrize("name", TAKEN)
def test_weights_taken_by_the_model_count_or_are_refused(name: str) -> None:
    model = Takes(TAKEN[name])
    try:
        paths(model, None, example=ROW)
    except DisbudError:
        return
    check_tickets(model, ROW)


# Inputs and outputs


@pytest.mark.parametrize("name", NETWORKS)
def test_of_rows_and_images_one_is_taken_and_sequences_stay(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    ticket = at_random(model, 0.4, 0)
    several = network.example.repeat(3, *[1] * (network.example.dim() - 1))
    one, found = (paths(model, ticket, example=example) for example in (network.example, several))
    taken = network.example.is_floating_point() and network.example.dim() != 3
    assert list(found) == list(one)
    assert found.nodes == one.nodes
    assert found.log10_paths == pytest.approx(float(one.log10_paths) + (0 if taken else numpy.log10(3)))


def test_examples_by_name_and_in_tuples() -> None:
    model = NETWORKS["conv"].build()
    plain = paths(model, None, example=IMAGE)
    assert paths(model, None, example=(IMAGE,)) == plain
    assert paths(model, None, example={"input": IMAGE}) == plain


@pytest.mark.parametrize("what", ["linear", "conv"])
def test_an_example_without_a_batch(what: str) -> None:
    model: nn.Module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    example = torch.zeros(6)
    if what == "conv":
        model, example = (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)),
            torch.zeros(3, 5, 5),
        )
    try:
        table = paths(model, None, example=example)
    except DisbudError as error:
        assert "batch" in str(error)
        return
    assert table == paths(model, None, example=example[None])


@dataclasses.dataclass
class Plain:
    logits: Tensor


OUTPUTS: dict[str, tuple[Callable[[Tensor], object], bool]] = {
    "nested": (lambda y: {"a": [y], "b": (None, "text", 3)}, True),
    "and the class": (lambda y: (y, y.argmax(-1)), True),
    "of a class of one's own": (Plain, True),
    "nothing": (lambda y: None, False),
    "a number": (lambda y: y.sum().item(), False),
    "numpy": (lambda y: y.detach().numpy(), False),
    "the class only": (lambda y: y.argmax(-1), False),
}


class Returns(nn.Module):
    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> object:
        return self.function(self.last(self.first(x)))


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_found_or_their_absence_is_said(name: str) -> None:
    function, has = OUTPUTS[name]
    try:
        table = paths(Returns(function), None, example=ROW)
    except DisbudError as error:
        assert "output" in str(error)
        return
    assert has
    assert table.summary["log10_paths"] == pytest.approx(numpy.log10(6 * 4 * 3))
    assert table.summary["nodes"] == 13


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_recurrent_layers_are_refused(kind: type[nn.Module]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = kind(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.cell(x)
            out: Tensor = self.head(y[0] if isinstance(y, tuple) else y)
            return out

    for function in (paths, effective):
        with pytest.raises(DisbudError, match=rf"(?i){kind.__name__}|recurrent"):
            function(Recurrent(), None, example=torch.zeros(2, 4))


def test_the_example_in_the_docstring_runs_as_it_is_printed() -> None:
    examples = doctest.DocTestParser().get_examples(str(effective.__doc__))
    lines = "".join(example.source for example in examples)
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False)
    assert examples
    assert done.returncode == 0, done.stderr
