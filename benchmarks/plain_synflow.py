"""SynFlow the plain way: the published algorithm line by line, for comparison with `disbud.prune(model, "synflow")`.

A hundred rounds of: absolute values of every parameter, a full forward and backward pass on an input of ones, one
threshold over all scores by `torch.kthvalue`, masks multiplied in. Biases are left out and BatchNorm's shifts are zero
in the models it is run on, as in networks before training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Clock = dict[str, float]
Result = TypeVar("Result")


def plain_synflow(
    model: nn.Module, density: float, rounds: int, shape: tuple[int, ...], clock: Clock | None = None
) -> dict[str, Tensor]:
    """The masks of the convolution and linear weights; `clock` collects the seconds each part takes."""
    spent = {} if clock is None else clock
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    masks = {name: torch.ones_like(layer.weight) for name, layer in layers.items()}
    start = {key: value.clone() for key, value in model.state_dict().items()}
    training = model.training
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
        for name, module in model.named_modules():
            if name in layers and layers[name].bias is not None:
                layers[name].bias.zero_()  # type: ignore[union-attr]
            if isinstance(module, nn.BatchNorm2d):
                module.bias.zero_()
                module.running_mean.zero_()  # type: ignore[union-attr]
    dense = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    for k in range(1, rounds + 1):
        _timed(spent, "forward and backward", lambda: _flow(model, layers, dense, masks, shape))
        scores = _timed(spent, "scores", lambda: _scores(layers))
        kept = round(density ** (k / rounds) * scores.numel())
        _timed(spent, "threshold and masks", lambda: _threshold(layers, masks, scores, kept))  # noqa: B023
    model.load_state_dict(start)
    model.train(training)
    model.zero_grad()
    return masks


def _flow(
    model: nn.Module,
    layers: dict[str, nn.Conv2d | nn.Linear],
    dense: dict[str, Tensor],
    masks: dict[str, Tensor],
    shape: tuple[int, ...],
) -> None:
    """R and its gradient, at the masked absolute weights."""
    model.zero_grad()
    with torch.no_grad():
        for name, layer in layers.items():
            torch.mul(dense[name], masks[name], out=layer.weight)
    model(torch.ones(1, *shape)).sum().backward()


def _scores(layers: dict[str, nn.Conv2d | nn.Linear]) -> Tensor:
    return torch.cat([(layer.weight * layer.weight.grad).detach().flatten() for layer in layers.values()])  # type: ignore[operator]


def _threshold(
    layers: dict[str, nn.Conv2d | nn.Linear], masks: dict[str, Tensor], scores: Tensor, kept: int
) -> None:
    threshold = torch.kthvalue(scores, scores.numel() - kept).values
    for name, layer in layers.items():
        masks[name] = ((layer.weight * layer.weight.grad) > threshold).to(layer.weight.dtype)  # type: ignore[operator]


def _timed(spent: Clock, part: str, work: Callable[[], Result]) -> Result:
    begun = time.perf_counter()
    result = work()
    spent[part] = spent.get(part, 0.0) + time.perf_counter() - begun
    return result
