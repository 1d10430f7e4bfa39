"""Networks that hold all that accelerate follows in the blocked layout, and things it must leave to torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

import disbud
from disbud.acceleration import Accelerated, accelerate
from disbud.models import build

Factory = Callable[[], nn.Module]


class Depthwise(nn.Module):
    """Depthwise and grouped convolutions, a mean over pixels, and scaling by a number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8, momentum=None)
        self.depth = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.point = nn.Conv2d(8, 12, 1, groups=2)
        self.last = nn.BatchNorm2d(12, affine=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.norm(self.stem(x)))
        x = functional.silu(self.last(self.point(0.5 * self.depth(x)))) / 2 + 1
        out: Tensor = self.head(x.mean([-2, -1]))
        return out


class Joined(nn.Module):
    """Concatenations, sums, work in place on what is read again, odd windows, a view, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, (3, 2), padding="same", padding_mode="circular")
        self.second = nn.Conv2d(9, 6, 3, dilation=2, padding="same")
        self.even = nn.Conv2d(6, 6, 2, padding="same")
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)
        self.gate = nn.Linear(6, 6)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
        self.head = nn.Linear(6 * 3 * 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.first(x).tanh()], 1)
        x = self.second(x)
        y = self.relu(x)  # x is y from here on
        x = x + self.even(y)
        x += y
        x = self.norm(x).relu()
        gate = torch.sigmoid(self.gate(functional.adaptive_avg_pool2d(x, 1).flatten(1)))
        x = functional.max_pool2d(x * gate[:, :, None, None], 3, stride=1)
        x = self.pool(x)
        x = functional.adaptive_max_pool2d(x, (3, 3))
        out: Tensor = self.head(x.view(x.size(0), -1))
        return out


class Summed(nn.Module):
    """Sums before a ReLU, in place and not, some of them read again as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 6, 3, padding=1) for n in (3, 6, 6))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = z = self.b(x)
        z += x
        z = self.relu(z)  # and so is y
        x = self.c(y + z)
        w = 0.3 * x
        v = w
        v += x
        w = w - functional.relu(v)  # w is v, and keeps what is below zero
        w = torch.relu(w + x) + (x + 1) + w
        out: Tensor = self.head(w.mean((2, 3)))
        return out


class Sequence(nn.Module):
    """Convolutions along one axis, with attention, which is left to torch, between them."""

    def __init__(self) -> None:
        super().__init__()
        self.rise = nn.Conv1d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.tokens = nn.Linear(8, 8)
        self.fall = nn.Conv1d(8, 6, 4, stride=2, padding=1, padding_mode="reflect", groups=2)
        self.pool = nn.MaxPool1d(2)
        self.features = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.norm(self.rise(x)).relu()
        rows = x.transpose(1, 2)
        x = x + self.attend(rows, rows, rows, attn_mask=mask, need_weights=False)[0].transpose(1, 2)
        x = functional.gelu(self.tokens(x.transpose(1, 2))).transpose(1, 2)
        x = self.pool(functional.leaky_relu(self.fall(x), 0.1))
        out: Tensor = self.head(self.features(x.flatten(1)))
        return out


class Choosing(nn.Module):
    """A choice by value in the middle of what can be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.choice = Choice()
        self.after = nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.after(self.choice(self.before(x))))
        return out


class Choice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) if float(x.detach().sum()) > -1e9 else x
        return out


def _vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12 * 2 * 2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip


def _odd() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 7, (3, 5), stride=(2, 1), padding=(1, 2)), nn.ELU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(7, 5, 3, padding=2, dilation=2), nn.Hardtanh(), nn.AdaptiveAvgPool2d((2, 3)), nn.Identity(),
        nn.Flatten(), nn.Linear(30, 4),
    )  # fmt: skip


def _residual() -> nn.Module:
    return build("resnet20:width=0.25", classes=4, input_shape=(3, 9, 9))


def _padded_shortcuts() -> nn.Module:
    return build("resnet20:width=0.25,shortcut=identity,stable=true", classes=4, input_shape=(3, 8, 8))


NETWORKS: dict[str, tuple[Factory, tuple[int, ...]]] = {
    "vgg": (_vgg, (3, 9, 8)),
    "odd": (_odd, (3, 11, 9)),
    "residual": (_residual, (3, 9, 9)),
    "padded-shortcuts": (_padded_shortcuts, (3, 8, 8)),
    "depthwise": (Depthwise, (3, 9, 9)),
    "joined": (Joined, (3, 8, 7)),
    "summed": (Summed, (3, 7, 5)),
    "sequence": (Sequence, (3, 10)),
    "choosing": (Choosing, (3, 6, 6)),
}


def made(name: str, *, sparsity: float = 0.6, images: int = 3) -> tuple[nn.Module, disbud.Ticket, Tensor]:
    """A network whose normalisations and biases are no longer at their start, its ticket, and a batch."""
    factory, shape = NETWORKS[name]
    torch.manual_seed(1)
    model = factory()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    ticket = disbud.prune(model, "random", sparsity=sparsity, example=torch.zeros(2, *shape), seed=2)
    ticket.apply_(model)
    return model, ticket, torch.randn(images, *shape)


def planned(model: nn.Module, ticket: disbud.Ticket, x: Tensor, kernel: str) -> Accelerated:
    """The accelerated model with every layer that can be run by that kernel; "mixed" takes them in turn."""
    names = list(accelerate(model, ticket, example=x, plan="model").plan)
    kernels = {"mixed": ("sparse", "dense", "dense")}.get(kernel, (kernel,))
    plan = {name: kernels[i % len(kernels)] for i, name in enumerate(names)}
    return accelerate(model, ticket, example=x, plan=plan)


def gradients(model: nn.Module, ticket: disbud.Ticket) -> Iterator[tuple[str, Tensor]]:
    """The gradients of a dense model, at the kept places where it is pruned."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            mask = ticket.masks.get(name)
            yield name, parameter.grad if mask is None else parameter.grad[mask]


def apart(got: Tensor, wanted: Tensor) -> float:
    """The relative norm of what is between two tensors."""
    return float((got.detach() - wanted.detach()).norm() / wanted.detach().norm().clamp(min=1e-6))


def furthest(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest relative difference of two states of the same keys."""
    assert got.keys() == wanted.keys()
    return max(apart(got[name].double(), wanted[name].double()) for name in wanted)
