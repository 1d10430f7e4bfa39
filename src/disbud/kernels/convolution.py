"""Sparse convolutions and linear layers on blocked activations, with their gradients."""

from __future__ import annotations

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from disbud.errors import DisbudError
from disbud.kernels import plain
from disbud.kernels.layout import Blocked, Layout, check_kind, lanes_in_use, with_halo
from disbud.kernels.library import Library, library
from disbud.kernels.memory import empty
from disbud.kernels.pattern import Pattern
from disbud.kernels.plan import Plan, Sizes, input_halo, output_halo, plan


def sparse_layer(
    x: Blocked, values: Tensor, pattern: Pattern, *, bias: Tensor | None = None, halo: int = 0
) -> Blocked:
    """The convolution or linear layer of that pattern; its output has at least `halo` zero columns between rows.

    A linear layer takes the features of images in the order that flattening them gives, wherever they lie.

    >>> import torch
    >>> from disbud.kernels import Pattern, pack, sparse_layer, unpack
    >>> weight = torch.randn(8, 4, 3, 3) * (torch.rand(8, 4, 3, 3) < 0.2)
    >>> x = torch.randn(5, 4, 6, 6)
    >>> pattern = Pattern.of_convolution(weight != 0, padding=1)
    >>> y = unpack(sparse_layer(pack(x, halo=1), pattern.gather(weight), pattern))
    >>> torch.allclose(y, torch.nn.functional.conv2d(x, weight, padding=1), atol=1e-5)
    True
    """
    _check(x, values, pattern, bias)
    size = (x.layout.height, x.layout.width)
    asked = 0 if pattern.is_linear else max(halo, output_halo(pattern, size))
    kernels = library()
    if kernels is None:
        return plain.sparse_layer(x, values, pattern, bias=bias, halo=asked)
    x = with_halo(x, max(x.layout.halo, input_halo(pattern, size)))
    made = plan(pattern, Sizes(x.layout.channels, *size, x.layout.halo, asked))
    layout = Layout(
        x.layout.images, made.output.channels, made.output.height, made.output.width, made.output.halo
    )
    data: Tensor = _SparseLayer.apply(x.data, values, bias, made, (x.layout, layout), kernels)  # type: ignore[no-untyped-call]
    return Blocked(data, layout)


class _SparseLayer(Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        data: Tensor,
        values: Tensor,
        bias: Tensor | None,
        made: Plan,
        layouts: tuple[Layout, Layout],
        kernels: Library,
    ) -> Tensor:
        data, values = data.contiguous(), values.contiguous()
        bias = None if bias is None else bias.contiguous()
        output = empty(layouts[1].shape)
        kernels.gather(
            made.forward, values, bias=bias, lanes=lanes_in_use(layouts[1]), input=data, output=output
        )
        ctx.save_for_backward(data, values)
        ctx.made, ctx.layouts, ctx.kernels = made, layouts, kernels
        return output

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[no-untyped-def]
        ctx, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        data, values = ctx.saved_tensors
        gradient = gradient.contiguous()
        kernels: Library = ctx.kernels
        of_data = of_values = of_bias = None
        if ctx.needs_input_grad[1]:
            of_values = kernels.weight_gradient(ctx.made.forward, len(values), input=data, gradient=gradient)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2))
        if ctx.needs_input_grad[0]:
            of_data = empty(ctx.layouts[0].shape)
            lanes = lanes_in_use(ctx.layouts[0])
            for phase in ctx.made.backward:
                kernels.gather(phase, values, bias=None, lanes=lanes, input=gradient, output=of_data)
            if any(phase.halo < ctx.layouts[0].halo for phase in ctx.made.backward):
                kernels.clear_halo(ctx.layouts[0], of_data)
        return of_data, of_values, of_bias, None, None, None


def _check(x: Blocked, values: Tensor, pattern: Pattern, bias: Tensor | None) -> None:
    pattern.check_values(values)
    for tensor in (x.data, values, *([] if bias is None else [bias])):
        check_kind(tensor)
    given = x.layout.features if pattern.is_linear else x.layout.channels
    if given != pattern.inputs:
        what = "features" if pattern.is_linear else "channels"
        raise DisbudError(f"the pattern takes {pattern.inputs} {what}, and the input has {given}: {x.layout}")
    if bias is not None and tuple(bias.shape) != (pattern.outputs,):
        raise DisbudError(f"the bias has shape {tuple(bias.shape)}, and the layer {pattern.outputs} outputs")
