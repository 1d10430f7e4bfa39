"""The uses of layers' weights by torch's functions, watched while a model runs, in modules of their own or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Through which of torch's functions a layer's weight acts; attention's projections apart.
LAYER_FUNCTIONS: frozenset[object] = frozenset(
    {
        functional.linear,
        functional.conv1d,
        functional.conv2d,
        functional.conv3d,
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
    }
)


class LayerUse(NamedTuple):
    """One use of a layer: what it reads, with which weight, the bias it adds, and what it gives."""

    layer: str
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor


class LayerUses(TorchFunctionMode):
    """Within the block, hands each use of these weights to `met`; with what that returns the model goes on.

    >>> import torch
    >>> model, seen = torch.nn.Linear(3, 2), []
    >>> def met(use):
    ...     seen.append((use.layer, tuple(use.input.shape)))
    ...     return use.output
    >>> with LayerUses({"weight": model.weight}, met):
    ...     _ = model(torch.zeros(5, 3))
    >>> seen
    [('weight', (5, 3))]
    """

    def __init__(self, weights: Mapping[str, Tensor], met: Callable[[LayerUse], Tensor]) -> None:
        super().__init__()
        self._name_of = {id(weight): name for name, weight in weights.items()}
        self._met = met

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given: dict[str, Any] = dict(zip(("input", "weight", "bias"), args, strict=False))
        given |= kwargs or {}
        output: Any = func(*args, **(kwargs or {}))
        layer = self._name_of.get(id(given.get("weight")))
        if func not in LAYER_FUNCTIONS or layer is None:
            return output
        return self._met(LayerUse(layer, given["input"], given["weight"], given.get("bias"), output))
