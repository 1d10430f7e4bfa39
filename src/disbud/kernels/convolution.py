"""Sparse convolutions and linear layers on blocked activations, with their gradients."""

from __future__ import annotations

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from disbud.errors import DisbudError
from disbud.kernels import plain
from disbud.kernels.layout import Blocked, Layout, check_addable, check_kind, lanes_in_use, with_halo
from disbud.kernels.library import Finish, Library, library
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
    return _run(x, values, pattern, bias=bias, halo=halo, branches=False)[0]


def sparse_branch(
    x: Blocked, values: Tensor, pattern: Pattern, *, bias: Tensor | None = None, halo: int = 0
) -> tuple[Blocked, Blocked]:
    """The layer's output, as `sparse_layer` gives it, and x itself for the other branch that reads it.

    What reads x must read the one returned: the gradient of that branch is then added in the layer's own pass, where
    autograd would take one more over both.

    >>> import torch
    >>> from disbud.kernels import Pattern, add, pack, sparse_branch, unpack
    >>> pattern = Pattern.of_convolution(torch.eye(3).bool()[:, :, None, None])
    >>> leaf = torch.ones(1, 3, 2, 2, requires_grad=True)
    >>> y, x = sparse_branch(pack(leaf), torch.full((3,), 2.0), pattern)
    >>> unpack(add(y, x)).sum().backward()
    >>> leaf.grad[0, 0, 0, 0].item()
    3.0
    """
    made, branch = _run(x, values, pattern, bias=bias, halo=halo, branches=True)
    return made, branch


def folded_layer(
    x: Blocked,
    values: Tensor,
    pattern: Pattern,
    *,
    scale: Tensor,
    shift: Tensor,
    slope: float = 1.0,
    added: Blocked | None = None,
    halo: int = 0,
) -> Blocked:
    """The layer with all that follows it in one pass, without gradients: activation(scale * layer(x) + shift + added).

    Scale and shift are one number for each output, such as those of a BatchNorm with running statistics; the slope is
    that of the activation below zero, 0 for a ReLU and 1 for none.

    >>> import torch
    >>> from disbud.kernels import Pattern, folded_layer, pack, unpack
    >>> pattern = Pattern.of_linear(torch.eye(2).bool())
    >>> scale, shift = torch.tensor([2.0, 2.0]), torch.tensor([0.0, -3.0])
    >>> unpack(folded_layer(pack(torch.ones(1, 2)), torch.ones(2), pattern, scale=scale, shift=shift, slope=0.0))
    tensor([[[[2.]],
    <BLANKLINE>
             [[0.]]]])
    """
    _check(x, values, pattern, None)
    for vector in (scale, shift):
        check_kind(vector)
        if tuple(vector.shape) != (pattern.outputs,):
            raise DisbudError(
                f"a layer of {pattern.outputs} outputs is scaled and shifted by as many numbers"
            )
    kernels = library(x.data.dtype)
    if kernels is None:
        raw = plain.sparse_layer(x, values, pattern, bias=None, halo=0)
        check_addable(added, raw.layout, x.data.dtype)
        return plain.finished(raw, scale=scale, shift=shift, slope=slope, added=added, halo=halo)
    x, made, layout = _planned(x, pattern, 0 if pattern.is_linear else halo)
    check_addable(added, layout, x.data.dtype)
    output = empty(layout.shape, x.data.dtype)
    finish = Finish(
        lanes=lanes_in_use(layout),
        bias=shift.detach().contiguous(),
        scale=scale.detach().contiguous(),
        added=None if added is None else with_halo(added, layout.halo).data.detach().contiguous(),
        slope=slope,
    )
    data, values = x.data.detach().contiguous(), values.detach().contiguous()
    kernels.gather(made.forward, values, input=data, output=output, finish=finish)
    return Blocked(output, layout)


def _run(
    x: Blocked, values: Tensor, pattern: Pattern, *, bias: Tensor | None, halo: int, branches: bool
) -> tuple[Blocked, Blocked]:
    """The layer's output, and the input as the other branch is to read it."""
    _check(x, values, pattern, bias)
    asked = 0 if pattern.is_linear else max(halo, output_halo(pattern, (x.layout.height, x.layout.width)))
    kernels = library(x.data.dtype)
    if kernels is None:
        return plain.sparse_layer(x, values, pattern, bias=bias, halo=asked), x
    x, made, layout = _planned(x, pattern, asked)
    data, *branch = _SparseLayer.apply(x.data, values, bias, made, (x.layout, layout), kernels, branches)  # type: ignore[no-untyped-call]
    return Blocked(data, layout), Blocked(branch[0], x.layout) if branch else x


def _planned(x: Blocked, pattern: Pattern, halo: int) -> tuple[Blocked, Plan, Layout]:
    """The input with the halo that the layer needs, its plan, and the layout of its output."""
    size = (x.layout.height, x.layout.width)
    x = with_halo(x, max(x.layout.halo, input_halo(pattern, size)))
    made = plan(pattern, Sizes(x.layout.channels, *size, x.layout.halo, halo))
    output = made.output
    return x, made, Layout(x.layout.images, output.channels, output.height, output.width, output.halo)


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
        branches: bool,  # noqa: FBT001
    ) -> tuple[Tensor, ...]:
        given, data, values = data, data.contiguous(), values.contiguous()
        output = empty(layouts[1].shape, data.dtype)
        finish = Finish(lanes_in_use(layouts[1]), None if bias is None else bias.contiguous())
        kernels.gather(made.forward, values, input=data, output=output, finish=finish)
        ctx.save_for_backward(data, values)
        ctx.made, ctx.layouts, ctx.kernels = made, layouts, kernels
        ctx.set_materialize_grads(False)
        return (output, given.view_as(given)) if branches else (output,)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[no-untyped-def]
        ctx, gradient: Tensor | None, of_branch: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        data, values = ctx.saved_tensors
        if gradient is None:
            return of_branch, *[None] * 6
        gradient = gradient.contiguous()
        kernels: Library = ctx.kernels
        of_data = of_values = of_bias = None
        if ctx.needs_input_grad[1]:
            of_values = kernels.weight_gradient(ctx.made.forward, len(values), input=data, gradient=gradient)
        if ctx.needs_input_grad[2]:
            of_bias = kernels.sum(ctx.layouts[1], gradient)
        if ctx.needs_input_grad[0]:
            of_data = empty(ctx.layouts[0].shape, data.dtype)
            added = None if of_branch is None else of_branch.contiguous()
            finish = Finish(lanes_in_use(ctx.layouts[0]), added=added)
            for phase in ctx.made.backward:
                kernels.gather(phase, values, input=gradient, output=of_data, finish=finish)
            if any(phase.halo < ctx.layouts[0].halo for phase in ctx.made.backward):
                kernels.clear_halo(ctx.layouts[0], of_data)
        return of_data, of_values, of_bias, *[None] * 4


def _check(x: Blocked, values: Tensor, pattern: Pattern, bias: Tensor | None) -> None:
    pattern.check_values(values)
    for tensor in (values, *([] if bias is None else [bias])):
        check_kind(tensor)
    given = x.layout.features if pattern.is_linear else x.layout.channels
    if given != pattern.inputs:
        what = "features" if pattern.is_linear else "channels"
        raise DisbudError(f"the pattern takes {pattern.inputs} {what}, and the input has {given}: {x.layout}")
    if bias is not None and tuple(bias.shape) != (pattern.outputs,):
        raise DisbudError(f"the bias has shape {tuple(bias.shape)}, and the layer {pattern.outputs} outputs")
