"""Effective weights by calculus: a network of ones and sums, whose gradient is zero where no path passes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from disbud import Ticket
from disbud.seeds import generator

Example = Tensor | tuple[Tensor, ...]


class Linearised(nn.Module):
    """A sequential network in float64 with its masks for weights, sums for pooling, and nothing between."""

    def __init__(self, model: nn.Module, ticket: Ticket | None) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).double()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                mask = ticket.masks.get(name) if ticket else None
                parameter.copy_(torch.tensor(float(parameter.dim() > 1)) if mask is None else mask)
        for module in list(self.model.modules()):
            for key, child in module.named_children():
                setattr(module, key, self._plain(child))

    def _plain(self, module: nn.Module) -> nn.Module:
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            setting = module.kernel_size, module.stride, module.padding
            return nn.AvgPool2d(*setting, ceil_mode=module.ceil_mode, divisor_override=1)
        if isinstance(module, nn.AdaptiveAvgPool2d):
            return _Sum()
        if isinstance(module, nn.ReLU | nn.BatchNorm2d | nn.BatchNorm1d | nn.Dropout | nn.Tanh):
            return nn.Identity()
        return module

    def counted(self, example: Tensor) -> tuple[float, dict[str, Tensor]]:
        """P, and where its gradient is not zero."""
        total = self.model(torch.ones_like(example, dtype=torch.float64)).sum()
        total.backward()
        return total.item(), {
            name: (p.grad != 0) & (p != 0) if p.grad is not None else torch.zeros(p.shape, dtype=torch.bool)
            for name, p in self.model.named_parameters()
            if p.dim() > 1
        }


class _Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3), keepdim=True)


def sensitive(model: nn.Module, ticket: Ticket, example: Example, seed: int = 0) -> dict[str, Tensor]:
    """Where the real model's output depends on a weight: gates and attention as they are, normalisation left out.

    With small positive weights and inputs no ReLU is off, no hard sigmoid is saturated, and nothing cancels.
    """
    stream = generator(seed, "sensitive")
    model = copy.deepcopy(model).double()
    for module in list(model.modules()):
        for key, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
                setattr(module, key, nn.Identity())
            elif isinstance(child, nn.Dropout):
                child.p = 0.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.rand(parameter.shape, generator=stream, dtype=torch.float64) * 0.1 + 0.05
            mask = ticket.masks.get(name)
            parameter.copy_(drawn * mask if mask is not None else drawn * (name == "embed.weight"))
    inputs = [
        torch.rand(one.shape, generator=stream, dtype=torch.float64) if one.is_floating_point() else one
        for one in (example if isinstance(example, tuple) else (example,))
    ]
    out = model(*inputs)
    total = torch.zeros((), dtype=torch.float64)
    for one in out.values() if isinstance(out, dict) else (out,):
        total = total + (one * torch.rand(one.shape, generator=stream, dtype=torch.float64)).sum()
    if total.requires_grad:
        total.backward()
    owned = dict(model.named_parameters())
    return {
        name: torch.zeros_like(mask) if owned[name].grad is None else (owned[name].grad != 0) & mask
        for name, mask in ticket.masks.items()
    }
