"""What a trace cannot hold is left to torch's own code: attributes written, numbers drawn, modes apart, spellings."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import disbud
from acceleration_networks import apart, furthest
from disbud.acceleration import Accelerated, accelerate

# Of the dense model, for windows of even size.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
CLOSE = 1e-4
OWN = numpy.random.default_rng(0)


def halved(model: nn.Module) -> disbud.Ticket:
    """A ticket of half of the weights, that the model is put on."""
    masks = {name: torch.rand(p.shape) < 0.5 for name, p in model.named_parameters() if p.dim() > 1}
    ticket = disbud.Ticket.from_masks(masks)
    ticket.apply_(model)
    return ticket


def sparse(model: nn.Module, x: Tensor) -> Accelerated:
    ticket = halved(model)
    plan = accelerate(model, ticket, example=x, plan="model").plan
    return accelerate(model, ticket, example=x, plan=dict.fromkeys(plan, "sparse"))


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 6, 6)


class Convolving(nn.Module):
    """A convolution, something of one's own, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.between(self.conv(x).relu()).mean((2, 3)))
        return logits


class Penalised(Convolving):
    """Leaves a term of its loss in an attribute, counts its calls, and keeps a list of what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[torch.Size] = []
        self.register_buffer("batches", torch.zeros(()))

    def between(self, x: Tensor) -> Tensor:
        self.penalty = x.abs().mean()
        self.calls += 1
        self.seen.append(x.shape)
        self.batches += 1
        return x


def test_attributes_that_forward_writes_are_written_at_every_call() -> None:
    model, x = Penalised(), images()
    fast = sparse(model, x)
    assert dict(fast.explain().refused) == {"": "its forward changes attributes of its own"}
    assert set(fast.plan.values()) == {"sparse"}
    module = fast.module
    assert isinstance(module, Penalised)
    assert (module.calls, module.seen, float(module.batches)) == (0, [], 0.0)
    assert "penalty" not in vars(module)
    for net in (model, fast):
        out = net(x)
        net(x)
        own = net.module if isinstance(net, Accelerated) else net
        assert isinstance(own, Penalised)
        (out.square().mean() + own.penalty).backward()
    assert (module.calls, module.seen, float(module.batches)) == (2, model.seen, 2.0)
    assert apart(module.conv.weight.grad, model.conv.weight.grad[fast.ticket.masks["conv.weight"]]) < CLOSE
    with pytest.raises(disbud.DisbudError, match=r"cannot be copied.*finish\(model\)"):
        fast.finish()  # the term of the loss still knows where it came from
    del module.penalty
    assert fast.finish(model) is model
    assert fast.finish().calls == 2


class OneAttribute(Convolving):
    """Writes one thing of a kind that is easily missed."""

    def __init__(self, write: Callable[[nn.Module], object]) -> None:
        super().__init__()
        self.write = write
        self.table: dict[str, list[int]] = {"of": []}
        self.register_buffer("state", torch.zeros(2))

    def between(self, x: Tensor) -> Tensor:
        self.write(self)
        return x


WRITES: dict[str, Callable[[nn.Module], object]] = {
    "in a nested container": lambda model: model.table["of"].append(1),
    "a new key": lambda model: model.table.setdefault(f"{len(model.table)}", []),
    "a buffer in place": lambda model: model.state.add_(1),
    "of a submodule": lambda model: setattr(model.head, "seen", True),
}


@pytest.mark.parametrize("write", WRITES)
def test_whatever_is_written_is_noticed_and_put_back(write: str) -> None:
    model = OneAttribute(WRITES[write])
    fast = sparse(model, images())
    assert fast.explain().refused == {"": "its forward changes attributes of its own"}
    module = fast.module
    assert isinstance(module, OneAttribute)
    assert module.table == {"of": []}
    assert not module.state.any()
    assert not hasattr(module.head, "seen")


def test_attributes_that_stay_as_they_are_do_no_harm() -> None:
    class Steady(Convolving):
        def between(self, x: Tensor) -> Tensor:
            self.scale, self.sizes = 2.0, (1, 3.5)
            return x * self.scale + torch.ones(6)

    model, x = Steady(), images()
    model.scale, model.sizes = 2.0, (1, 3.5)
    fast = sparse(model, x)
    assert not fast.explain().refused
    assert apart(fast(x), model(x)) < CLOSE


class Skipping(Convolving):
    """Skips a convolution in training by what is drawn."""

    def __init__(self, draw: Callable[[nn.Module], float]) -> None:
        super().__init__()
        self.more = nn.Conv2d(8, 8, 3, padding=1)
        self.draw = draw
        self.python, self.numpy = random.Random(0), numpy.random.default_rng(0)
        self.legacy, self.torch = numpy.random.RandomState(0), torch.Generator().manual_seed(0)

    def between(self, x: Tensor) -> Tensor:
        if self.training and self.draw(self) < 0.5:
            return x
        more: Tensor = self.more(x)
        return more


DRAWS: dict[str, Callable[[nn.Module], float]] = {
    "numpy": lambda model: float(numpy.random.rand()),
    "python's own": lambda model: model.python.random(),
    "numpy's own": lambda model: model.numpy.random(),
    "numpy's old": lambda model: model.legacy.rand(),
    "torch's own": lambda model: float(torch.rand((), generator=model.torch)),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_numbers_of_any_stream_are_drawn_anew(draw: str) -> None:
    x = images()
    fast = sparse(Skipping(DRAWS[draw]), x)
    assert len({float(fast(x).sum().detach()) for _ in range(16)}) == 2
    assert "draws random numbers by itself" in fast.explain().refused[""]


def test_a_graph_that_is_another_one_each_time_is_refused() -> None:
    class Elsewhere(Convolving):
        def between(self, x: Tensor) -> Tensor:
            return x * float(OWN.random()) if self.training else x

    x = images()
    fast = sparse(Elsewhere(), x)
    assert "another way" in fast.explain().refused[""]
    assert len({float(fast(x).sum().detach()) for _ in range(4)}) == 4


class Dropping(nn.Module):
    """Drops by its own mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.conv(x), 0.5, self.training)


def test_each_part_has_its_own_mode() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([Dropping(), Dropping()])
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([x, x[:, :1]], 1)[:, :3]
            logits: Tensor = self.head((self.parts[0](x) + self.parts[1](x)).mean((2, 3)))
            return logits

    model, x = Two(), images()
    fast = sparse(model, x)
    assert not fast.explain().refused
    for modes in ((True, True), (True, False), (False, True), (False, False)):
        found = []
        for net in (model, fast.module):
            net.train()
            for part, mode in zip(net.parts, modes, strict=True):
                part.train(mode)
        for net in (model, fast):
            torch.manual_seed(3)
            net.zero_grad()
            found.append(net(x))
            found[-1].square().sum().backward()
        assert apart(found[1], found[0]) < CLOSE
        got, wanted = fast.module.head.weight.grad, model.head.weight.grad
        assert apart(got, wanted[fast.ticket.masks["head.weight"]]) < CLOSE
    copied = copy.deepcopy(fast)
    copied.module.parts[0].train()
    assert apart(copied(x), copied(x)) > CLOSE
    assert apart(fast(x), fast(x)) == 0


def test_a_frozen_part_of_a_sequence_drops_nothing() -> None:
    model, x = nn.Sequential(Dropping(), nn.Flatten(), nn.Linear(288, 2)), images()
    fast = sparse(model, x).train()
    assert apart(fast(x), fast(x)) > CLOSE
    fast.module[0].eval()
    model[0].eval()
    assert apart(fast(x), model(x)) < CLOSE


def test_running_statistics_of_a_norm_called_twice_are_counted_in_its_order() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Conv2d(3, 8, 3, padding=1) for _ in "ab")
            self.norm = nn.BatchNorm2d(8, momentum=0.5)

        def forward(self, x: Tensor) -> Tensor:
            p, q = self.a(x), self.b(x)
            u = self.norm(p)
            v = self.norm(q)
            return (u + q).mean((2, 3)) + (2.0 * v).mean((2, 3))

    model, x = Twice(), images()
    fast = sparse(model, x)
    for net in (model, fast):
        net.train()(x)
    assert furthest(dict(fast.module.named_buffers()), dict(model.named_buffers())) < CLOSE


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean dtype": lambda y: y.mean((2, 3), dtype=torch.float32),
    "mean axis": lambda y: y.mean(axis=(2, 3)),
    "torch.mean axis": lambda y: torch.mean(y, axis=(2, 3)),
    "cat axis": lambda y: torch.cat([y, y], axis=1).mean((2, 3)),
    "reshape shape": lambda y: y.reshape(shape=(y.shape[0], -1)),
    "view size": lambda y: y.view(size=(y.shape[0], -1)),
    "div rounding": lambda y: y.div(2, rounding_mode="floor").mean((2, 3)),
    "size dim": lambda y: y.size(dim=0) * y.mean((2, 3)),
    "flatten input": lambda y: torch.flatten(input=y, start_dim=1),
    "add other": lambda y: y.add(other=1.0).mean((2, 3)),
    "add alpha": lambda y: y.add(y, alpha=2.0).mean((2, 3)),
    "pool input": lambda y: functional.avg_pool2d(input=y, kernel_size=2),
    "clamp input": lambda y: torch.clamp(input=y, min=0).mean((2, 3)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_that_torch_takes_is_taken(spelling: str) -> None:
    class Spelt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return SPELLINGS[spelling](self.conv(x))

    model, x = Spelt(), images()
    fast = sparse(model, x)
    assert not fast.explain().refused
    assert apart(fast(x), model(x)) < CLOSE


@pytest.mark.parametrize("padding", ["circular", "reflect", "same"])
def test_windows_wider_than_the_map_are_padded_first(padding: str) -> None:
    def conv(inputs: int) -> nn.Conv2d:
        if padding == "same":
            return nn.Conv2d(inputs, 8, 4, padding="same")
        return nn.Conv2d(inputs, 8, 3, padding=1, padding_mode=padding)

    model = nn.Sequential(
        conv(3), nn.ReLU(), nn.MaxPool2d(2), conv(8), nn.ReLU(), conv(8), nn.AdaptiveAvgPool2d(1)
    )
    x = torch.randn(4, 3, 4, 4)
    fast = sparse(model, x)
    assert set(fast.plan.values()) == {"sparse"}
    assert apart(fast(x), model(x)) < CLOSE
