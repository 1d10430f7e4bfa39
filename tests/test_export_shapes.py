"""Exported C of signals that change their shape on the way: views, gates on channels, broadcasts, rows of BatchNorm."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compaction_oracle import at_random, lived_in
from disbud.export import CSource, to_c
from disbud.export.folding import folded
from disbud.export.memory import placed
from disbud.export.operations import Affine, Combine, View, sources
from disbud.export.tracing import traced
from disbud.seeds import generator
from export_run import apart, expected, inputs_for, needs_compiler, run_sanitized


class Between(nn.Module):
    """A convolution that makes 8 channels of 6x20, what is to be tested, and all of what comes out."""

    def __init__(self, *parts: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.parts = nn.ModuleList(parts)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x), *self.parts).flatten(1)


class Dense(nn.Module):
    """The same behind a linear layer that makes 12 features of each of the rows it is given."""

    def __init__(self, *parts: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 12)
        self.parts = nn.ModuleList(parts)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x), *self.parts).reshape(1, -1)


def _squeezed(y: Tensor, fc: nn.Module) -> Tensor:
    gate: Tensor = fc(y.mean((2, 3))).sigmoid()
    return gate


def _several(y: Tensor) -> Tensor:
    y = y.view(1, 4, 2, 120) * y.view(1, 4, 2, 120).mean(3, keepdim=True)
    y = y.reshape(1, 8, 6, 20).relu() + y.view(8, 120).mean(1).view(8, 1, 1)
    return y.view(1, 2, -1) - y.view(2, 480).mean(1)[:, None]


CONVOLVED: dict[str, tuple[Callable[..., Tensor], tuple[Callable[[], nn.Module], ...]]] = {
    "gate-view": (lambda y, fc: y * _squeezed(y, fc).view(-1, 8, 1, 1), (lambda: nn.Linear(8, 8),)),
    "gate-none": (lambda y, fc: y * _squeezed(y, fc)[:, :, None, None], (lambda: nn.Linear(8, 8),)),
    "gate-left": (lambda y, fc: _squeezed(y, fc).view(8, 1, 1) * y, (lambda: nn.Linear(8, 8),)),
    "gate-unsqueezed": (
        lambda y, fc: y - _squeezed(y, fc).unsqueeze(-1).unsqueeze(-1),
        (lambda: nn.Linear(8, 8),),
    ),
    "gate-pooled": (
        lambda y, fc: y * fc(F.adaptive_avg_pool2d(y, 1).flatten(1)).view(1, 8, 1, 1),
        (lambda: nn.Linear(8, 8),),
    ),
    "gate-in-place": (
        lambda y, fc: (y * 1.5).mul_(_squeezed(y, fc).view(-1, 8, 1, 1)),
        (lambda: nn.Linear(8, 8),),
    ),
    "pooled-sum": (
        lambda y, fc: fc(y.mean((2, 3))) + F.adaptive_max_pool2d(y, 1).flatten(1),
        (lambda: nn.Linear(8, 8),),
    ),
    "columns": (lambda y: y * y.mean((1, 2)).view(1, 1, 1, 20), ()),
    "several": (_several, ()),
    "norm-pairs": (
        lambda y, norm: norm(y.reshape(2, 8, -1)).reshape(1, -1),
        (lambda: nn.BatchNorm1d(8),),
    ),
    "norm-places": (
        lambda y, norm: norm(y.flatten(2).transpose(1, 2).reshape(-1, 8)).reshape(1, -1),
        (lambda: nn.BatchNorm1d(8),),
    ),
    "norm-flat": (lambda y, norm: norm(y.flatten(2)), (lambda: nn.BatchNorm1d(8),)),
}
ROWS: dict[str, tuple[Callable[..., Tensor], tuple[Callable[[], nn.Module], ...]]] = {
    "norm-rows": (lambda y, norm: norm(y.reshape(-1, 12)), (lambda: nn.BatchNorm1d(12),)),
    "norm-parts": (lambda y, norm: norm(y.reshape(-1, 3)), (lambda: nn.BatchNorm1d(3),)),
    "norm-across": (lambda y, norm: norm(y.reshape(1, 12, 5)), (lambda: nn.BatchNorm1d(12),)),
    "norm-sequence": (lambda y, norm: norm(y.transpose(1, 2)), (lambda: nn.BatchNorm1d(12),)),
    "norm-read-twice": (
        lambda y, norm: norm(y.reshape(-1, 12)) + y.reshape(-1, 12),
        (lambda: nn.BatchNorm1d(12),),
    ),
    "first-of-each": (lambda y: y.view(-1, 3, 4) * y.view(-1, 3, 4)[:, :, :1], ()),
    "each-row": (lambda y: y.view(5, 3, 4) / (2 + y.view(5, 12).mean(1)[:, None, None].abs()), ()),
    "against-itself": (lambda y: y.view(60, 1) - y.view(1, 60), ()),
    "leading-axis": (lambda y: torch.maximum(y.view(60), y.view(1, 1, 60).relu()), ()),
    "constant": (lambda y: y.view(5, 4, 3) * torch.linspace(1, 2, 4).view(4, 1) + torch.arange(3.0), ()),
    "constant-above": (lambda y: y.view(60, 1) * torch.linspace(-1, 1, 7), ()),
    "reshaped-output": (lambda y: y.relu().view(3, 20), ()),
}  # fmt: skip


def _network(name: str) -> tuple[nn.Module, Tensor]:
    """The network and an example."""
    made, shape = (Between, (1, 3, 6, 20)) if name in CONVOLVED else (Dense, (1, 5, 4))
    function, parts = (CONVOLVED | ROWS)[name]
    return lived_in(made(*(part() for part in parts), function=function)), torch.zeros(shape)


def _export(model: nn.Module, example: Tensor, name: str) -> tuple[CSource, Tensor, Tensor]:
    """The C, some inputs, and what torch makes of them."""
    ticket = at_random(model, 0.8, 0)
    found = to_c(model, ticket, example=example, name=name)
    inputs = inputs_for(example, 5)
    return found, inputs, expected(model, ticket, inputs)


def _hold_to_torch(models: dict[str, tuple[nn.Module, Tensor]], folder: Path) -> None:
    """All in one sanitized program: each agrees with torch to 1e-5."""
    cases = {
        name: _export(model, example, f"a_{name.replace('-', '_')}")
        for name, (model, example) in models.items()
    }
    made = run_sanitized(
        {f"a_{name.replace('-', '_')}": (source, inputs) for name, (source, inputs, _) in cases.items()},
        folder,
    )
    pieces = made.split([want.numel() for _, _, want in cases.values()])
    far = {
        name: apart(piece.view_as(want), want)
        for (name, (_, _, want)), piece in zip(cases.items(), pieces, strict=True)
    }
    assert not {name: distance for name, distance in far.items() if not distance < 1e-5}


@needs_compiler
@pytest.mark.parametrize("kind", ["convolved", "rows"])
def test_a_signal_is_read_in_the_shape_it_has_there(kind: str, tmp_path: Path) -> None:
    names = CONVOLVED if kind == "convolved" else ROWS
    _hold_to_torch({name: _network(name) for name in names}, tmp_path)


FOLDS = {  # whether BatchNorm scales what is an output of the layer before it
    "norm-flat": True,
    "norm-pairs": False,
    "norm-places": False,
    "norm-rows": True,
    "norm-parts": False,
    "norm-across": False,
    "norm-sequence": False,
    "norm-read-twice": False,
}


@pytest.mark.parametrize("name", FOLDS)
def test_batch_norm_is_folded_only_where_it_scales_the_outputs_of_the_layer(name: str) -> None:
    program = folded(traced(*_network(name)))
    assert any(isinstance(operation, Affine) for operation in program.operations) != FOLDS[name]


def test_a_gate_is_put_on_in_place() -> None:
    """The signal's memory takes the product: what is repeated is the gate."""
    for name in ("gate-view", "gate-none", "gate-left"):
        program = folded(traced(*_network(name)))
        last = program.operations[-1]
        assert isinstance(last, Combine)
        longer = replace(program, output=View(-1, ()))  # so that the product has a place of its own
        offsets = placed(longer).offsets
        signal = max((side for side in sources(last)), key=lambda view: view.size)
        assert offsets[last.output.array] == offsets[signal.array]


def test_the_head_of_the_file_has_the_shape_that_torch_gives() -> None:
    model, example = _network("reshaped-output")
    text = to_c(model, at_random(model, 1.0, 0), example=example).text
    assert "1x5x4 -> 1x60, C99." in text


# Networks at random: each step is drawn for the shape that the signal has there

Step = Callable[[Tensor], Tensor]
_SIZES = range(12, 300)


class Drawn(nn.Module):
    """A linear layer and steps drawn at random, all of whose sizes are fixed when it is built."""

    def __init__(self, seed: int, *, steps: int = 12) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.first = nn.Linear(9, 24)
        self.steps: list[Step] = []
        seen, now = [torch.zeros(1, 24)], torch.zeros(1, 24)
        while len(self.steps) < steps:
            step = draw.choice(DRAWS)(draw, now.shape)
            made = step(now)
            if made.numel() in _SIZES and made.dim() <= 4:
                self.steps.append(step)
                now = made
                seen.append(now)
        like = [place for place, one in enumerate(seen[:-1]) if one.numel() == now.numel()]
        self.kept = draw.choice(like) if like else None  # is added to the last, in that one's shape

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        seen = [y]
        for step in self.steps:
            seen.append(step(seen[-1]))
        last = seen[-1]
        return (last if self.kept is None else last + seen[self.kept].reshape(last.shape)).reshape(1, -1)


def _cut(draw: random.Random, size: int, axes: int) -> list[int]:
    """Sizes whose product that is."""
    sizes = []
    for _ in range(axes - 1):
        sizes.append(draw.choice([one for one in range(1, size + 1) if size % one == 0]))
        size //= sizes[-1]
    return [*sizes, size]


def _axis(draw: random.Random, shape: torch.Size) -> int:
    """One that is longer than one entry."""
    return draw.choice([axis for axis, size in enumerate(shape) if size > 1])


def _viewed(draw: random.Random, shape: torch.Size) -> Step:
    sizes = _cut(draw, shape.numel(), draw.randint(1, 4))
    return lambda y: y.reshape(sizes)


def _permuted(draw: random.Random, shape: torch.Size) -> Step:
    order = draw.sample(range(len(shape)), len(shape))
    return lambda y: y.permute(order)


def _with_its_mean(draw: random.Random, shape: torch.Size) -> Step:
    axis, pair = _axis(draw, shape), draw.choice(PAIRS)
    return lambda y: pair(y, y.mean(axis, keepdim=True))


def _with_a_slice(draw: random.Random, shape: torch.Size) -> Step:
    axis, pair = _axis(draw, shape), draw.choice(PAIRS)
    at = draw.randrange(shape[axis])
    return lambda y: pair(y.narrow(axis, at, 1), y)


def _gated(draw: random.Random, shape: torch.Size) -> Step:
    """Along one axis by a view of what was pooled over all others."""
    axis, pair = _axis(draw, shape), draw.choice(PAIRS)
    cut = (prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
    gate = [size if place == axis else 1 for place, size in enumerate(shape)][draw.choice([0, axis]) :]
    return lambda y: pair(y, y.reshape(cut).mean(2).sum(0).sigmoid().view(gate))


def _with_a_constant(draw: random.Random, shape: torch.Size) -> Step:
    sizes = [draw.choice([1, size]) for size in shape][draw.randrange(len(shape)) :]
    pair, numbers = draw.choice(PAIRS), _numbers(draw, sizes)
    return lambda y: pair(y, numbers.to(y))


def _against_itself(draw: random.Random, shape: torch.Size) -> Step:
    rows, columns = _cut(draw, shape.numel(), 2)
    pair = draw.choice(PAIRS)
    return lambda y: pair(y.reshape(rows, columns, 1), y.reshape(rows, 1, columns))


def _normed(draw: random.Random, shape: torch.Size) -> Step:
    sizes = _cut(draw, shape.numel(), 3)
    mean, scale, shift = (_numbers(draw, sizes[1:2]) for _ in range(3))
    variance = 0.5 + _numbers(draw, sizes[1:2]).square()
    tables = (mean, variance, scale, shift)
    return lambda y: F.batch_norm(y.reshape(sizes), *(table.to(y) for table in tables))


def _multiplied(draw: random.Random, shape: torch.Size) -> Step:
    weight = _numbers(draw, [draw.randint(2, 6), shape[-1]]) / shape[-1] ** 0.5
    return lambda y: F.linear(y, weight.to(y))


def _summed(draw: random.Random, shape: torch.Size) -> Step:
    axis = _axis(draw, shape)
    return lambda y: y.sum(axis)


def _joined(draw: random.Random, shape: torch.Size) -> Step:
    axis = _axis(draw, shape)
    return lambda y: torch.cat([y, y.flip(axis)], axis)


def _applied(draw: random.Random, shape: torch.Size) -> Step:
    axis = _axis(draw, shape)
    return draw.choice(
        [F.relu, torch.tanh, lambda y: F.softmax(y, axis), lambda y: (y * 0.5).mul_(y).add_(1)]
    )


def _numbers(draw: random.Random, sizes: list[int]) -> Tensor:
    return torch.randn(sizes, generator=generator(draw.randrange(2**31), "constants"), dtype=torch.float64)


PAIRS: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add, torch.sub, torch.maximum, torch.minimum, lambda a, b: a * b.tanh(), lambda a, b: a.tanh() * b,
    lambda a, b: a / (1 + b.abs()),
]  # fmt: skip
DRAWS = [
    _viewed, _viewed, _viewed, _permuted, _with_its_mean, _with_a_slice, _gated, _gated, _with_a_constant,
    _against_itself, _normed, _multiplied, _summed, _joined, _applied,
]  # fmt: skip


@needs_compiler
def test_networks_at_random_agree_with_torch(tmp_path: Path) -> None:
    models = {f"drawn-{seed}": Drawn(seed) for seed in range(16)}
    _hold_to_torch({name: (lived_in(model), torch.zeros(1, 9)) for name, model in models.items()}, tmp_path)
