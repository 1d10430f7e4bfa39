"""Brute force for compaction: the full network with zeros for what the ticket removes, run and trained by hand."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from disbud import Ticket, prunable
from disbud.compaction import Compacted, compact
from disbud.seeds import generator


def lived_in(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with random biases, scales and running statistics, as after training."""
    model = model.double()
    stream = generator(seed, "lived in")
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point() and (value.dim() < 2):
                drawn = torch.randn(value.shape, generator=stream, dtype=torch.float64)
                value.copy_(drawn.abs() + 0.5 if "var" in name else 0.5 * drawn)
    return model


def at_random(model: nn.Module, density: float, seed: int) -> Ticket:
    """Each weight kept by the toss of a coin."""
    return Ticket.from_masks(
        {
            layer.name: torch.rand(layer.shape, generator=generator(seed, "coin", layer.name)) < density
            for layer in prunable(model)
        }
    )


def masked(model: nn.Module, ticket: Ticket) -> nn.Module:
    """A copy with zeros off the ticket."""
    full = copy.deepcopy(model)
    for name, parameter in full.named_parameters():
        if name in ticket.masks:
            parameter.data[~ticket.masks[name]] = 0
    return full


def taken(full: Tensor, axes: tuple[Tensor | None, ...]) -> Tensor:
    """What is kept of a tensor, axis by axis; the second axis by group where its places are."""
    if len(axes) > 1 and axes[1] is not None and axes[1].dim() == 2:
        rows = full if axes[0] is None else full[axes[0]]
        parts = rows.chunk(len(axes[1]))
        return torch.cat([part[:, places] for part, places in zip(parts, axes[1], strict=True)])
    for axis, places in enumerate(axes):
        full = full if places is None else full.index_select(axis, places)
    return full


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs), labels)


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-10, floor: float = 1e-3) -> bool:
    return float((found - wanted).norm()) <= tolerance * max(float(wanted.norm()), floor)


def check_exact(model: nn.Module, ticket: Ticket, inputs: Tensor, labels: Tensor) -> Compacted:
    """Compact, and hold the outcome to the masked network: outputs, derivatives, statistics, and three steps of SGD."""
    found = compact(model, ticket, example=inputs[:1])
    full, small = masked(model, ticket), found.model
    with torch.no_grad():
        assert close(small.eval()(inputs), full.eval()(inputs)), "outputs in evaluation"
    without_dropout(full.train()), without_dropout(small.train())
    for step in range(4):
        losses = []
        for net, masks in ((full, ticket.masks), (small, found.ticket.masks)):
            net.zero_grad()
            loss = loss_of(net, inputs, labels)
            loss.backward()
            losses.append(loss.detach())
            for name, parameter in net.named_parameters():
                if name in masks and parameter.grad is not None:
                    parameter.grad[~masks[name]] = 0
        assert close(*losses), f"loss at step {step}"
        compare(found, full, small, gradients=True)
        with torch.no_grad():
            for net in (full, small):
                for parameter in net.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
    back = copy.deepcopy(model)
    back.load_state_dict(found.expand())
    with torch.no_grad():
        assert close(back.eval()(inputs), small.eval()(inputs)), "outputs once expanded"
        assert close(small(inputs), full.eval()(inputs)), "outputs after training"
    return found


def compare(found: Compacted, full: nn.Module, small: nn.Module, *, gradients: bool) -> None:
    """Parameters, derivatives and buffers of the small network against those places of the full one."""
    theirs = {**dict(full.named_parameters()), **dict(full.named_buffers())}
    largest = max(float(p.grad.norm()) for p in full.parameters() if p.grad is not None)
    for name, value in [*small.named_parameters(), *small.named_buffers()]:
        axes = found.kept[name].axes
        assert close(value.detach().double(), taken(theirs[name].detach().double(), axes)), name
        its = theirs[name].grad
        if gradients and isinstance(value, nn.Parameter) and its is not None:
            mine = torch.zeros_like(value) if value.grad is None else value.grad
            assert close(mine, taken(its, axes), floor=1e-3 * largest + 1e-6), f"derivative of {name}"


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0


def rows(*shape: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(4, *shape, generator=generator(0, "inputs"), dtype=torch.float64)
    return inputs, torch.arange(4) % 3


def keeping(model: nn.Module, **cut: object) -> Ticket:
    """All weights kept but those at an index: a module's name with "_" for ".", and what of its weight is cut."""
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in prunable(model)}
    for name, index in cut.items():
        masks[f"{name.replace('_', '.').lstrip('.')}.weight"][index] = False
    return Ticket(masks)


def seeded(make: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()  # type: ignore[operator]
    return model.double()  # type: ignore[no-any-return]


class Added(nn.Module):
    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.branch = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        out: Tensor = self.head(functional.relu(self.norm(self.branch(x)) + x).mean((2, 3)))
        return out
