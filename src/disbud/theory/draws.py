"""The weights of linear and convolution layers that can be drawn, and how: Gaussian or orthogonal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from disbud.errors import DisbudError
from disbud.isolation import bare
from disbud.parameters import parameters
from disbud.seeds import generator


@dataclass(frozen=True)
class Site:
    """One layer's weight, its bias, and what their laws depend on."""

    name: str
    weight: nn.Parameter
    bias_name: str | None
    bias: nn.Parameter | None
    groups: int
    transposed: bool
    stride: int

    @property
    def fan_in(self) -> float:
        """Inputs of an output unit; in a transposed convolution, on average over the positions."""
        if not self.transposed:
            return math.prod(self.weight.shape[1:])
        return self.weight.numel() / self.weight.shape[1] / self.groups / self.stride


def sites(model: nn.Module) -> tuple[list[Site], tuple[str, ...]]:
    """Every linear and convolution layer, and the names of all parameters that belong to none.

    A weight that layers share comes with each of them, since each has a bias of its own; its draws go by its name.
    """
    if not isinstance(model, nn.Module):
        raise DisbudError(f"a model is a torch.nn.Module, not a {type(model).__name__}")
    found = [_checked(path or "the model", site) for path, site in _layers(model)]
    if not found:
        raise DisbudError("the model has no linear or convolution layer whose weights could be drawn")
    drawn = {id(p) for site in found for p in (site.weight, site.bias) if p is not None}
    return found, tuple(name for name, p in parameters(bare(model)).items() if id(p) not in drawn)


def fan_ins(model: nn.Module) -> dict[str, float]:
    """The inputs of an output unit by the name of the weight; of a weight that layers share, in the first of them."""
    found: dict[str, float] = {}
    for _, site in _layers(model):
        if site is not None and not isinstance(site.weight, nn.parameter.UninitializedParameter):
            found.setdefault(site.name, site.fan_in)
    return found


def _layers(model: nn.Module) -> Iterator[tuple[str, Site | None]]:
    """Every linear and convolution layer by its path; None in the place of one whose weight is computed."""
    model = bare(model)
    name_of = {id(parameter): name for name, parameter in parameters(model).items()}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd):
            yield path, _site(module, name_of)


def _site(module: nn.Linear | _ConvNd, name_of: Mapping[int, str]) -> Site | None:
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is None:
        return None
    return Site(
        name_of[id(weight)],
        weight,
        None if bias is None else name_of[id(bias)],
        bias,
        module.groups if isinstance(module, _ConvNd) else 1,
        isinstance(module, _ConvTransposeNd),
        math.prod(module.stride) if isinstance(module, _ConvNd) else 1,
    )


def gaussian(site: Site, sigma_w: float, seed: int) -> Tensor:
    """N(0, sw^2 / fan_in)."""
    return _normal(site.weight.shape, site.name, seed) * (sigma_w / math.sqrt(site.fan_in))


def orthonormal(site: Site, sigma_w: float, seed: int) -> Tensor:
    """Orthonormal rows or columns, at the centre of the kernel, scaled so that rows have norm sw on average."""
    shape = site.weight.shape
    if site.transposed and site.stride > 1:
        raise DisbudError(
            f"{site.name}: a transposed convolution of stride above 1 cannot be delta-orthogonal, as its kernel's "
            "centre meets only some of the outputs; take orthogonal=False"
        )
    stream = _stream(site.name, seed)
    weight = torch.zeros(shape, dtype=torch.float32, device="cpu")
    taps = weight.view(shape[0], shape[1], -1)
    centre = 0
    for size in shape[2:]:
        centre = centre * size + size // 2
    rows = shape[0] // site.groups
    for group in range(site.groups):
        block = nn.init.orthogonal_(
            torch.empty(rows, shape[1], dtype=torch.float32, device="cpu"), generator=stream
        )
        outputs, inputs = (shape[1], rows) if site.transposed else (rows, shape[1])
        # Columns of norm 1 leave rows of square norm inputs / outputs.
        gain = sigma_w * math.sqrt(max(1.0, outputs / inputs))
        taps[group * rows : (group + 1) * rows, :, centre] = gain * block
    return weight


def biases(site: Site, sigma_b: float, seed: int) -> Tensor | None:
    """N(0, sb^2), where the layer has biases."""
    if site.bias is None or site.bias_name is None:
        return None
    return sigma_b * _normal(site.bias.shape, site.bias_name, seed)


def _normal(shape: torch.Size, name: str, seed: int) -> Tensor:
    # On the CPU and in float32, whatever the defaults and the model: the same draws everywhere.
    return torch.randn(shape, generator=_stream(name, seed), dtype=torch.float32, device="cpu")


def _stream(name: str, seed: int) -> torch.Generator:
    return generator(seed, "theory", "initialize", name)


def _checked(path: str, site: Site | None) -> Site:
    if site is None:
        raise DisbudError(
            f"{path}: the weight is computed by a parametrization or torch.nn.utils.prune, so it cannot be drawn; "
            "remove that first (torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.prune.remove)"
        )
    if isinstance(site.weight, nn.parameter.UninitializedParameter):
        raise DisbudError(f"{path} has no shape yet: run the model once on an input first")
    if not site.weight.is_floating_point() or site.weight.is_meta:
        raise DisbudError(
            f"{path}: weights of {site.weight.dtype} on {site.weight.device} cannot be drawn; load the model as "
            "floating-point numbers on a device that holds values"
        )
    return site
