"""NTK-SAP: keep the weights that the spectrum of the neural tangent kernel depends on (Wang et al. 2023)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_map

from disbud.errors import DisbudError, unknown_name
from disbud.graph.flow import Inputs, ones_like_example
from disbud.isolation import device_of, leaves
from disbud.methods.scoring import Scoring, Tensors, at_least_single, enough_examples, gradient, unsigned
from disbud.parameters import parameters
from disbud.seeds import normal

INITS = ("kaiming-normal", "as-given")


def ntk_sap(s: Scoring, *, samples: int, draws: int, epsilon: float, init: str) -> Tensors:
    """abs(d/dm sum_x ||f(x; m*th) - f(x; m*(th + eps*d))||^2), x, th and d Gaussian (Wang et al. 2023, eq. 5).

    `draws` times a round, x and th are drawn afresh; the derivatives add up before the absolute value is taken. Both
    networks compute with the mask m and with the statistics that BatchNorm finds for m*th on x. The given weights have
    no say, but for their standard deviations where init is "as-given"; biases are zero.
    """
    _check(s, samples=samples, draws=draws, epsilon=epsilon, init=init)
    others = {
        name: torch.zeros_like(parameter)
        for name, parameter in parameters(s.model).items()
        if name.endswith("bias") and parameter.dim() == 1
    }
    m = {
        name: (torch.ones_like(w) if s.masks is None else s.masks[name].to(w.dtype)).requires_grad_()
        for name, w in s.weights.items()
    }
    total: Tensors = {}
    for draw in range(draws):
        theta = {name: _drawn(s, name, draw, init) for name in m}
        moved = {name: w + epsilon * _normal(s, f"{name} moved", draw, w) for name, w in theta.items()}
        x = _inputs(s, draw, samples)
        with _statistics(s.model), torch.no_grad(), enough_examples("samples=2 or more"):
            _outputs(s, {name: w * m[name] for name, w in theta.items()} | others, x)
        weights = [{name: w * m[name] for name, w in part.items()} | others for part in (theta, moved)]
        f, g = (_outputs(s, part, x) for part in weights)
        distance = torch.stack(
            [at_least_single(a - b).square().sum() for a, b in zip(f, g, strict=True)]
        ).sum()
        for name, part in gradient(distance, m).items():
            total[name] = total[name].add_(part) if name in total else at_least_single(part)
    return {name: unsigned(s, part) for name, part in total.items()}


def _drawn(s: Scoring, name: str, draw: int, init: str) -> Tensor:
    """A layer's weights drawn anew: N(0, 2 / fan_in), or with the standard deviation of those given."""
    weight = s.weights[name]
    drawn = _normal(s, f"{name} drawn", draw, weight)
    if init == "kaiming-normal":
        (layer,) = (layer for layer in s.layers if layer.name == name)
        return drawn * math.sqrt(2 / max(1, layer.n_in * math.prod(layer.kernel)))
    return drawn * weight.float().std(correction=0).to(weight.dtype)


def _normal(s: Scoring, what: str, draw: int, like: Tensor) -> Tensor:
    """Numbers from N(0, 1), drawn on the CPU so that every device draws the same ticket."""
    return normal(like.shape, s.generator(f"{what}, {draw}")).to(like)


def _inputs(s: Scoring, draw: int, samples: int) -> Inputs:
    """Gaussian inputs of the example's shape, so many of them; whole numbers stay as they are in the example."""
    assert s.example is not None
    like = next(iter(s.weights.values()))
    args, kwargs = ones_like_example(s.example, like.dtype, device_of(s.model))
    found = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    alone = all(leaf.is_floating_point() for leaf in found)
    drawn = {}
    for number, leaf in enumerate(found):
        if leaf.is_floating_point():
            size = (samples, *leaf.shape[1:]) if alone else leaf.shape
            drawn[id(leaf)] = _normal(s, f"input {number}", draw, leaf.new_empty(size))
    filled: Inputs = tree_map(lambda leaf: drawn.get(id(leaf), leaf), (args, kwargs))
    return filled


def _outputs(s: Scoring, weights: Tensors, x: Inputs) -> list[Tensor]:
    args, kwargs = x
    output = s.call(weights, *args, **kwargs)
    return [leaf for leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@contextlib.contextmanager
def _statistics(model: nn.Module) -> Iterator[None]:
    """Within the block BatchNorm, where it is in eval mode, takes its statistics from what it sees."""
    evaluating = [
        (module, module.momentum)
        for module in model.modules()
        if isinstance(module, _NormBase) and module.track_running_stats and not module.training
    ]
    for module, _ in evaluating:
        module.training, module.momentum = True, 1.0
    try:
        yield
    finally:
        for module, momentum in evaluating:
            module.training, module.momentum = False, momentum


def _check(s: Scoring, *, samples: object, draws: object, epsilon: object, init: object) -> None:
    for name, value in (("samples", samples), ("draws", draws)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DisbudError(f"{name} is a whole number of at least 1, not {value!r}")
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < math.inf:
        raise DisbudError(f"epsilon is a number above 0, how far the weights are moved, not {epsilon!r}")
    if init not in INITS:
        raise unknown_name("way to draw weights", str(init), INITS)
    if s.example is None:
        raise DisbudError(
            "NTK-SAP sends Gaussian inputs through the model and must know their shape: give example=..., such as "
            "torch.zeros(1, 3, 32, 32), or a tuple or dict of inputs; its numbers do not matter"
        )
