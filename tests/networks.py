"""The one table of small networks that methods, measures and compaction are checked on, against brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Network(NamedTuple):
    """How to build a network (seeded), one example input, and how many classes it tells apart."""

    factory: Callable[[], nn.Module]
    example: Tensor
    classes: int

    def build(self, seed: int = 0) -> nn.Module:
        """The network with weights of that seed; the global random stream is left alone."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.factory()

    def batch(
        self, size: int = 8, seed: int = 0, *, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor]:
        """Random inputs shaped like the example, in that dtype where it is not of integers, and one label each."""
        g = torch.Generator().manual_seed(seed)
        shape = (size, *self.example.shape[1:])
        labels = torch.arange(size) % self.classes
        if not self.example.is_floating_point():
            return torch.randint(0, 11, shape, generator=g), labels
        return torch.randn(shape, generator=g, dtype=dtype), labels


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.branch = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))
        self.shortcut = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(self.branch(x) + self.shortcut(x))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class DenselyConnected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(7, 4, 3, padding=1)
        self.head = nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.tanh(self.first(x))], 1)
        x = torch.cat([x, torch.tanh(self.second(x))], 1)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Tied(nn.Module):
    """An embedding whose weight is the output layer's too, and one linear layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.hidden = nn.Linear(5, 5)
        self.head = nn.Linear(5, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).mean(1)
        x = torch.tanh(self.hidden(torch.tanh(self.hidden(x))))
        out: Tensor = self.head(x)
        return out


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.3, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.embed(tokens)).mean(1))
        return out


class Unused(nn.Module):
    """A branch that is registered and computed, but whose output leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 7)
        self.idle = nn.Linear(7, 4)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        self.idle(x)
        out: Tensor = self.head(x)
        return out


class Functional(nn.Module):
    """Its layers are never called: forward takes their weights; and they are registered in reverse."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 3)
        self.first = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(functional.linear(x, self.first.weight, self.first.bias))
        return functional.linear(x, self.last.weight)


class Branching(nn.Module):
    """Control flow that depends on values, so that it cannot be traced; registered in reverse."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 3)
        self.first = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.tanh(x) if x.sum() > -1e9 else x
        for _ in range(int(x.shape[0] > 0)):
            x = x * 2
        out: Tensor = self.last(x)
        return out


IMAGE = torch.zeros(1, 3, 6, 6)
ROW = torch.zeros(1, 6)
TOKENS = torch.zeros(1, 4, dtype=torch.int64)


def _linear() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def _without_biases() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 3, bias=False),
    )


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(3), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip


def _batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip


def _strided() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 5, 2, dilation=2),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


def _grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 3, groups=6), nn.Tanh(),
        nn.Conv2d(6, 4, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def _transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.Tanh(), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def _conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 4, 3),
        nn.BatchNorm1d(4),
        nn.Tanh(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def _conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3)
    )


def _dropout() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))


NETWORKS: dict[str, Network] = {
    "linear": Network(_linear, ROW, 3),
    "without-biases": Network(_without_biases, ROW, 3),
    "conv": Network(_conv, IMAGE, 3),
    "batch-norm": Network(_batch_norm, IMAGE, 3),
    "strided": Network(_strided, IMAGE, 3),
    "grouped": Network(_grouped, IMAGE, 3),
    "transposed": Network(_transposed, torch.zeros(1, 3, 5, 5), 3),
    "conv1d": Network(_conv1d, torch.zeros(1, 3, 7), 3),
    "conv3d": Network(_conv3d, torch.zeros(1, 2, 3, 3, 3), 3),
    "residual": Network(Residual, IMAGE, 3),
    "densely-connected": Network(DenselyConnected, IMAGE, 3),
    "tied": Network(Tied, TOKENS, 11),
    "transformer": Network(Transformer, TOKENS, 3),
    "dropout": Network(_dropout, ROW, 3),
    "unused-branch": Network(Unused, ROW, 3),
    "functional": Network(Functional, ROW, 3),
    "untraceable": Network(Branching, ROW, 3),
}
