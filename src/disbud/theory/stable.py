"""Stable residual networks: each branch divided by the square root of the number of blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from disbud.errors import DisbudError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.isolation import Example


class BranchScale:
    """A forward hook that multiplies what a module returns; it copies and pickles with its model.

    >>> from disbud.theory import BranchScale
    >>> BranchScale(0.5)(None, (), 3.0)
    1.5
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module | None, inputs: object, output: Tensor) -> Tensor:
        """The output, scaled."""
        return output * self.factor


@dataclass(frozen=True)
class Stabilized:
    """What `stabilize_` did: the modules whose outputs it scales, and the factor.

    >>> from disbud.theory import Stabilized
    >>> print(Stabilized(("block.conv2",), 1.0))
    1 branch scaled by 1: block.conv2
    """

    branches: tuple[str, ...]
    factor: float

    def __str__(self) -> str:
        count = len(self.branches)
        shown = f"{', '.join(self.branches[:4])}{', ...' if count > 4 else ''}"
        return f"{count} branch{'es' if count > 1 else ''} scaled by {self.factor:.4g}: {shown}"


def stabilize_(model: nn.Module, example: Example) -> Stabilized:
    """Scale each residual branch of a model by 1 / sqrt(number of branches) (Hayou et al. 2021, Stable ResNet).

    The branches are found in one forward pass on `example`, where two signals of one origin are added: the one with
    more weighted layers behind it is the branch. A forward hook on the module that ends it does the scaling.
    Parameters, names and code stay as they are; copies of the model keep the hooks, a state dict does not hold them.
    A model whose branches cannot be told is refused. The models of disbud have it as a setting: resnet20:stable=true.

    >>> import torch
    >>> from disbud import models, theory
    >>> print(theory.stabilize_(models.build("resnet20"), torch.zeros(1, 3, 32, 32)))
    9 branches scaled by 0.3333: layer1.0.bn2, layer1.1.bn2, layer1.2.bn2, layer2.0.bn2, ...
    """
    from disbud.isolation import bare
    from disbud.theory.branches import branch_ends

    model = bare(model)
    scaled = [
        name
        for name, module in model.named_modules()
        if any(isinstance(hook, BranchScale) for hook in module._forward_hooks.values())
    ]
    if scaled:
        raise DisbudError(f"the model is stable already: the output of {scaled[0]} is scaled")
    branches = branch_ends(model, example)
    factor = 1 / math.sqrt(len(branches))
    for name in branches:
        model.get_submodule(name).register_forward_hook(BranchScale(factor))
    return Stabilized(tuple(branches), factor)
