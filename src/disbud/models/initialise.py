"""How a network's weights start.

The default is He's normal, variance 2 / fan_in, for every convolution and linear layer whatever its
activation: what open_lth and, for its CIFAR nets, SynFlow's code use. (GraSP's and Su et al.'s code takes
fan_out for ResNets, and .01 as the classifier's deviation; Frankle & Carbin 2019 take Glorot's normal.)
"""

from __future__ import annotations

from torch import nn

from disbud.errors import unknown_name

KAIMING_NORMAL = "kaiming-normal"
TORCH = "torch"


def initialise(model: nn.Module, init: object) -> None:
    """Draw the weights from torch's global stream; "torch" keeps what the layers drew when they were made."""
    if init not in (KAIMING_NORMAL, TORCH):
        raise unknown_name("initialisation", str(init), (KAIMING_NORMAL, TORCH))
    if init == TORCH:
        return
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
