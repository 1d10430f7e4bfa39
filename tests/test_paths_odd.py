"""Effective paths of models that are written out of the ordinary: right as the explicit graph has it, or refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from disbud import DisbudError
from disbud.measures import paths
from networks import ROW
from path_check import check_tickets
from path_models import CAUSAL, SqueezeExcite
from path_oracle import NOTHING, Entries
from path_walk import Walk, heads, together

SEQUENCE = torch.zeros(1, 4, 6)


class Between(nn.Module):
    """Two linear layers and a function between them."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], walked: Callable[[Walk, Entries], Entries]
    ) -> None:
        super().__init__()
        self.function, self.between = function, walked
        self.first = nn.Linear(6, 6)
        self.last = nn.Linear(function(torch.ones(1, 6)).shape[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.function(self.first(x)))
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        return walk(self.last, self.between(walk, walk(self.first, x)))


# One entry to one entry

ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "log1p": lambda x: torch.log1p(x.abs()),
    "expm1": torch.expm1,
    "sinh": torch.sinh,
    "atan": torch.atan,
    "sign": torch.sign,
    "round": torch.round,
    "square": torch.square,
    "power": lambda x: x.abs() ** 0.5,
    "softmax": lambda x: x.softmax(-1),
    "log softmax": lambda x: functional.log_softmax(x, -1),
    "layer norm": lambda x: functional.layer_norm(x, (6,)),
    "RMS norm": lambda x: functional.rms_norm(x, (6,)),
    "divided by its norm": lambda x: x / (x.norm(dim=-1, keepdim=True) + 1e-6),
    "where positive": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "clamped": lambda x: x.clamp(min=0),
    "clipped": lambda x: x.clip(-1, 1),
    "dropout": lambda x: functional.dropout(x, 0.5, training=True),
    "noise": lambda x: x + torch.randn_like(x),
    "detached": lambda x: x.detach(),
    "data": lambda x: x.data,
    "to float32": lambda x: x.to(torch.float32),
    "through half": lambda x: x.half().float(),
    "double and back": lambda x: x.double().float(),
    "plus a new tensor": lambda x: x + torch.ones(1, 6),
    "if its sum": lambda x: x if float(x.sum()) > -1e30 else -x,
    "swish": lambda x: x * torch.sigmoid(1.702 * x),
}


# What comparisons of signals decide can come out either way.
COMPARED: dict[str, Callable[[Tensor], Tensor]] = {
    "by a mask": lambda x: x * (x > 2),
    "by a mask in its type": lambda x: x * (x > x.mean()).to(x.dtype),
    "by a mask of some shape": lambda x: x * (x > 2).float().view(6).unsqueeze(0),
    "by what is left of one": lambda x: x * (1 - (x <= x.mean()).float()),
    "by ones filled": lambda x: x * torch.ones_like(x).masked_fill(x < x.mean(), 0.0),
    "by the largest": lambda x: x * torch.zeros_like(x).scatter(1, x.topk(2, 1).indices, 1.0),
    "filled": lambda x: x.masked_fill(x < x.mean(), 0.0),
    "filled in place": lambda x: x.clone().masked_fill_(x < x.mean(), 0.0),
    "low where it is low": lambda x: x.masked_fill(x < x.mean(), -torch.inf).softmax(-1),
    "where low": lambda x: torch.where(x < 2, -torch.inf, x),
}


@pytest.mark.parametrize("name", COMPARED)
def test_what_a_comparison_decides_can_be_either(name: str) -> None:
    check_tickets(Between(COMPARED[name], lambda walk, x: x), ROW)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_what_acts_on_each_entry_is_the_identity_or_is_refused(name: str) -> None:
    model = Between(ELEMENTWISE[name], lambda walk, x: x)
    try:
        paths(model, None, example=ROW)
    except DisbudError:
        return
    check_tickets(model, ROW)


def _into_new(x: Tensor) -> Tensor:
    """Written into a tensor that the model makes."""
    out = torch.zeros(x.shape[0], 5)
    out[:, 1:4] = x[:, :3]
    return out


def _halves(x: Entries) -> tuple[Entries, Entries]:
    return x[:, :3], x[:, 3:]


REARRANGED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Walk, Entries], Entries]]] = {
    "rolled": (lambda x: torch.roll(x, 2, -1), lambda w, x: numpy.roll(x, 2, -1)),
    "flipped": (lambda x: x.flip(-1), lambda w, x: x[..., ::-1]),
    "chosen": (lambda x: x.index_select(1, torch.tensor([5, 0, 0])), lambda w, x: x[:, [5, 0, 0]]),
    "gathered": (lambda x: x.gather(1, torch.tensor([[5, 0, 0]])), lambda w, x: x[:, [5, 0, 0]]),
    "indexed": (lambda x: x[:, [5, 0, 0]], lambda w, x: x[:, [5, 0, 0]]),
    "split": (lambda x: torch.cat(x.split([1, 2, 3], 1)[::-1], 1), lambda w, x: x[:, [3, 4, 5, 1, 2, 0]]),
    "repeated": (lambda x: x.repeat(1, 2), lambda w, x: numpy.tile(x, (1, 2))),
    "interleaved": (lambda x: x.repeat_interleave(2, 1), lambda w, x: x.repeat(2, 1)),
    "written into a new tensor": (
        _into_new,
        lambda w, x: numpy.pad(x[:, :3], [(0, 0), (1, 1)], constant_values=-1),
    ),
    "padded": (
        lambda x: functional.pad(x, (1, 2)),
        lambda w, x: numpy.pad(x, [(0, 0), (1, 2)], constant_values=NOTHING),
    ),
    "unfolded": (
        lambda x: x.unfold(1, 3, 1).flatten(1),
        lambda w, x: numpy.concatenate([x[:, i : i + 3] for i in range(4)], 1),
    ),
    "added up": (
        lambda x: x.cumsum(-1),
        lambda w, x: numpy.stack([w.graph.reduce(x[:, : i + 1], (1,)) for i in range(6)], 1),
    ),
    "greatest": (
        lambda x: x.view(1, 2, 3).max(-1).values,
        lambda w, x: w.graph.reduce(x.reshape(1, 2, 3), (2,)),
    ),
    "least": (lambda x: x.view(1, 2, 3).amin(1), lambda w, x: w.graph.reduce(x.reshape(1, 2, 3), (1,))),
    "log of summed exponentials": (
        lambda x: x.view(1, 2, 3).logsumexp(1),
        lambda w, x: w.graph.reduce(x.reshape(1, 2, 3), (1,)),
    ),
    "twice itself": (lambda x: x + x, lambda w, x: w.graph.add(x, x)),
    "less its mean": (
        lambda x: x - x.mean(-1, keepdim=True),
        lambda w, x: w.graph.add(x, w.graph.reduce(x, (1,), keepdim=True)),
    ),
    "lesser of two": (lambda x: torch.minimum(x, x.flip(-1)), lambda w, x: w.graph.add(x, x[..., ::-1])),
    "differences in place": (lambda x: x.sub(x.flip(-1), alpha=2), lambda w, x: w.graph.add(x, x[..., ::-1])),
    "tanh and gate": (
        lambda x: torch.tanh(x[:, :3]) * torch.sigmoid(x[:, 3:]),
        lambda w, x: w.graph.gated(*_halves(x)),
    ),
    "silu and signal": (
        lambda x: functional.silu(x[:, :3]) * x[:, 3:],
        lambda w, x: w.graph.product(*_halves(x)),
    ),
    "highway": (
        lambda x: x[:, :3].sigmoid() * x[:, 3:] + (1 - x[:, :3].sigmoid()) * x[:, :3],
        lambda w, x: w.graph.add(w.graph.gated(x[:, 3:], x[:, :3]), w.graph.gated(x[:, :3], x[:, :3])),
    ),
}


@pytest.mark.parametrize("name", REARRANGED)
def test_entries_rearranged_and_joined(name: str) -> None:
    check_tickets(Between(*REARRANGED[name]), ROW)


class InPlace(nn.Module):
    """Branches added up in place, as torchvision's residual blocks are, and rows of an image cleared."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.head, self.short = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        y = self.norm(self.branch(x))
        y += x
        out: Tensor = self.head(self.act(y))
        out += self.short(x)
        out[:, :, 0] = 0
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        x = walk(self.stem, x)
        y = walk(self.head, walk.graph.add(walk(self.branch, x), x))
        out = numpy.array(walk.graph.add(y, walk(self.short, x)))
        out[:, :, 0] = NOTHING
        return out


def test_what_is_written_over_a_layers_output_is_not_of_the_layer() -> None:
    check_tickets(InPlace(), torch.zeros(1, 3, 3, 3))


RARE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Walk, Entries], Entries]]] = {
    "differences": (lambda x: x.diff(dim=-1), lambda w, x: w.graph.add(x[:, 1:], x[:, :-1])),
    "between two": (lambda x: torch.lerp(x, x.flip(-1), 0.5), lambda w, x: w.graph.add(x, x[..., ::-1])),
    "times its step": (lambda x: x * (x > 0), lambda w, x: x),
    "product over an axis": (
        lambda x: x.view(1, 2, 3).prod(1),
        lambda w, x: w.graph.product(*_halves(x)),
    ),
}


@pytest.mark.parametrize("name", RARE)
def test_rare_joins_are_right_or_refused(name: str) -> None:
    model = Between(*RARE[name])
    try:
        paths(model, None, example=ROW)
    except DisbudError:
        return
    check_tickets(model, ROW)


def test_a_mask_of_zeros_in_the_shape_of_a_comparison_lets_nothing_through() -> None:
    model = Between(lambda x: x * torch.zeros_like(x > 2, dtype=x.dtype), lambda walk, x: x)
    assert paths(model, None, example=ROW).effective_parameters == 0


# Gates

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": lambda s: torch.sigmoid(s)[..., None, None],
    "sliced before": lambda s: torch.sigmoid(s[:, :, None, None]),
    "viewed": lambda s: s.sigmoid().view(1, 4, 1, 1),
    "expanded": lambda s: s.sigmoid().view(1, 4, 1, 1).expand(1, 4, 3, 3).contiguous(),
    "copied": lambda s: s.sigmoid().clone().unsqueeze(2).unsqueeze(3),
    "doubled": lambda s: (2 * s.sigmoid()).unsqueeze(2).unsqueeze(3),
    "one minus": lambda s: (1 - s.sigmoid()).unsqueeze(2).unsqueeze(3),
    "one plus": lambda s: (s.sigmoid() + 1).unsqueeze(2).unsqueeze(3),
    "in its own precision": lambda s: s.float().sigmoid().to(s.dtype).unsqueeze(2).unsqueeze(3),
    "repeated": lambda s: s.sigmoid().view(1, 4, 1, 1).repeat(1, 1, 3, 3),
    "softmax": lambda s: s.softmax(1).view(1, 4, 1, 1),
}


class Gated(SqueezeExcite):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x))
        s = self.up(functional.relu(self.down(x.mean((2, 3)))))
        out: Tensor = self.head(x * self.gate(s))
        return out


@pytest.mark.parametrize("name", GATES)
def test_a_gate_stays_one_on_its_way(name: str) -> None:
    check_tickets(Gated(GATES[name]), torch.zeros(1, 3, 3, 3))


# Attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
LOW = torch.finfo(torch.float32).min


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1)


FULL: dict[str, Attend] = {
    "einsum": lambda q, k, v: torch.einsum(
        "bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1), v
    ),
    "keys first": lambda q, k, v: (k @ q.mT).softmax(-2).mT @ v,
    "in float32": lambda q, k, v: torch.softmax(_scores(q, k), -1, dtype=torch.float32).to(q.dtype) @ v,
    "less its maximum": lambda q, k, v: (
        (_scores(q, k) - _scores(q, k).amax(-1, keepdim=True)).softmax(-1) @ v
    ),
    "dropout": lambda q, k, v: functional.dropout(_scores(q, k).softmax(-1), 0.5, training=True) @ v,
    "position bias": lambda q, k, v: (_scores(q, k) + torch.ones(1, 2, 4, 4)).softmax(-1) @ v,
    "bmm": lambda q, k, v: torch.bmm(torch.bmm(q[0] * 0.3, k[0].mT).softmax(-1), v[0])[None],
    "function": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, dropout_p=0.3, scale=0.1),
}
MASKED: dict[str, Attend] = {
    "added": lambda q, k, v: (
        (_scores(q, k) + torch.zeros(4, 4).masked_fill(~CAUSAL, -torch.inf)).softmax(-1) @ v
    ),
    "low": lambda q, k, v: (_scores(q, k) + torch.zeros(4, 4).masked_fill(~CAUSAL, LOW)).softmax(-1) @ v,
    "filled low": lambda q, k, v: _scores(q, k).masked_fill(~CAUSAL, -1e9).softmax(-1) @ v,
    "where": lambda q, k, v: torch.where(CAUSAL, _scores(q, k), -torch.inf).softmax(-1) @ v,
    "function": lambda q, k, v: functional.scaled_dot_product_attention(
        q, k, v, torch.zeros(4, 4).masked_fill(~CAUSAL, -torch.inf)
    ),
}


class Attending(nn.Module):
    """One linear layer for queries, keys and values, as in most vision transformers."""

    def __init__(self, attend: Attend, *, masked: bool) -> None:
        super().__init__()
        self.attend, self.masked = attend, masked
        self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(1, 4, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        out: Tensor = self.out(self.attend(q, k, v).transpose(1, 2).reshape(1, 4, 6))
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        q, k, v = (heads(part, 2) for part in numpy.split(walk(self.qkv, x), 3, axis=2))
        allowed = CAUSAL.numpy() if self.masked else None
        return walk(self.out, together(walk.graph.attention(q, k, v, allowed)))


@pytest.mark.parametrize("name", FULL)
def test_attention_however_it_is_written(name: str) -> None:
    check_tickets(Attending(FULL[name], masked=False), SEQUENCE)


@pytest.mark.parametrize("name", MASKED)
def test_positions_that_may_not_be_looked_at(name: str) -> None:
    check_tickets(Attending(MASKED[name], masked=True), SEQUENCE)
