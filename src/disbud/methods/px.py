"""Path exclusion: keep the weights on the paths that make up the trace of the tangent kernel (Iurada et al. 2024)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from disbud.errors import DisbudError
from disbud.graph.flow import Inputs
from disbud.graph.flow.arithmetic import Rule, homes
from disbud.graph.flow.rules import linear_rule
from disbud.graph.flow.running import buffers_in, linearised
from disbud.graph.flow.signals import Function, Signals
from disbud.graph.flow.survivors import Survivors
from disbud.isolation import leaves, to_write_on
from disbud.methods.scoring import Scoring, Tensors
from disbud.parameters import parameters

_GATES = (
    "relu relu_ relu6 relu6_ leaky_relu leaky_relu_ prelu rrelu rrelu_ elu elu_ selu selu_ celu celu_ gelu silu mish "
    "hardswish threshold threshold_"
)
_IS_GATE = frozenset(function for name in _GATES.split() for function in homes(name))


@dataclass
class _Active:
    """The paths that inputs make active, at each output and up to a power of two; and ones for K to run on."""

    paths: list[Tensor]
    exponent: int
    ones: Inputs
    alike: bool  # whether K is the same for all inputs


def px(s: Scoring) -> Tensors:
    """theta^2 * d/d(theta^2) sum_x <J(x), K>, with J held fixed (Iurada et al. 2024, eq. 10).

    K is the linear network of weights theta^2 on an input of ones: over all paths, the product of theta^2 along them.
    J(x) is that of weights 1 on x^2, in which activations let pass what they let pass of x in the real network: over
    the active paths, x^2 where they begin. Both are pruned as the real network is. All other parameters are squared in
    both, biases are nothing, and BatchNorm scales by its running statistics: by those of the batch, the sum over the
    batch would be zero in every channel. While a last linear layer is dense, J is the same for all its outputs, and the
    ranking that of SynFlow on squared weights: inputs have a say once it is pruned. The loss only says what of a batch
    the model is given; labels have no say.
    """
    found: list[_Active] = []
    for batch in s.batches():
        new = _active(s, batch)
        if found and new.alike and found[-1].alike:
            found[-1] = _joined(found[-1], new)
        else:
            found.append(new)
    scored = [_kernel_scores(s, active) for active in found]
    top = max(exponent for _, exponent in scored)
    return {
        name: torch.stack([part[name] * 2.0 ** (exponent - top) for part, exponent in scored]).sum(0)
        for name in s.weights
    }


def _active(s: Scoring, batch: object) -> _Active:
    """J, summed over the batch where K is the same for all of it."""
    dtype, patterns = _dtype(s), _Patterns()
    with torch.no_grad(), s.using(s.masked()), patterns:
        inputs = s.given(batch)
    found = [leaf for leaf in leaves(inputs) if isinstance(leaf, Tensor)]
    alike = all(x.is_floating_point() for x in found)
    squares = _numbers(inputs, lambda x: x.to(dtype).square())
    ones = _numbers(inputs, lambda x: torch.ones_like(x[:1] if alike else x, dtype=dtype))
    weights = {
        name: (torch.ones_like(w) if s.masks is None else s.masks[name]).to(dtype)
        for name, w in s.weights.items()
    }
    with torch.no_grad(), _linear(s, weights, squares, Survivors({}, None), patterns) as (outputs, signals):
        paths, exponent = signals.align(outputs)
    return _Active([j.sum(0, keepdim=True) for j in paths] if alike else paths, exponent, ones, alike)


def _numbers(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The inputs with their floating-point tensors changed."""
    changed: Inputs = tree_map(
        lambda leaf: change(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, inputs
    )
    return changed


def _joined(a: _Active, b: _Active) -> _Active:
    top = max(a.exponent, b.exponent)
    paths = [
        p * 2.0 ** (a.exponent - top) + q * 2.0 ** (b.exponent - top)
        for p, q in zip(a.paths, b.paths, strict=True)
    ]
    return _Active(paths, top, a.ones, alike=True)


def _kernel_scores(s: Scoring, active: _Active) -> tuple[Tensors, int]:
    """theta^2 * d<J, K>/d(theta^2) at the weights still kept, up to a power of two, and its exponent."""
    theta = {name: w.to(_dtype(s)).square().contiguous().requires_grad_() for name, w in s.masked().items()}
    survivors = Survivors(theta, s.positions)
    with _linear(s, theta, active.ones, survivors, None) as (outputs, signals):
        aligned, exponent = signals.align(outputs)
        with torch._C.DisableTorchFunction():  # a product of signals would be rescaled
            total = torch.stack([(k * j).sum() for k, j in zip(aligned, active.paths, strict=True)]).sum()
        if not total.requires_grad:
            raise DisbudError(
                "the model's outputs depend on no prunable weight, so no paths lead through any"
            )
        return survivors.scores(total), active.exponent + exponent


@contextlib.contextmanager
def _linear(
    s: Scoring, weights: Tensors, inputs: Inputs, survivors: Survivors, patterns: _Patterns | None
) -> Iterator[tuple[list[Tensor], Signals]]:
    """The outputs of the linear network of these weights, all other parameters squared, gated by the patterns."""
    dtype = _dtype(s)
    state = {
        name: parameter.detach().to(dtype).square() if parameter.is_floating_point() else parameter
        for name, parameter in parameters(s.model).items()
    }
    state |= weights
    signals = Signals(state.values(), survivors, keep_biases=False)
    args, kwargs = to_write_on(inputs)
    for leaf in leaves((args, kwargs)):
        if isinstance(leaf, Tensor):
            signals.put(leaf)
    buffers = list(buffers_in(s.model, dtype, positive=False))
    rule = linear_rule if patterns is None else patterns.rule
    with linearised(s.model, state, buffers, signals, rule_of=rule):
        output = s.model(*args, **kwargs)
        yield signals.outputs([leaf for leaf in leaves(output) if isinstance(leaf, Tensor)]), signals


class _Patterns(TorchFunctionMode):
    """Where activations let something pass: noted while active, in order, and then put in the place of them."""

    def __init__(self) -> None:
        super().__init__()
        self._met: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in _IS_GATE and isinstance(args[0], Tensor):
            self._met.append(args[0] > 0)
        return func(*args, **(kwargs or {}))

    def rule(self, function: object) -> Rule:
        """What the function does in J."""
        return self._gate if function in _IS_GATE else linear_rule(function)

    def _gate(
        self, signals: Signals, func: Function, input: Tensor, *args: object, **kwargs: object
    ) -> Tensor:
        while self._met:
            pattern = self._met.pop(0)
            if pattern.shape == input.shape:
                gated = input * pattern
                name = getattr(func, "__name__", "")
                if name.endswith("_") or kwargs.get("inplace") is True or any(a is True for a in args):
                    gated = input.copy_(gated)
                return signals.put(gated, signals.exponent(input))
        raise DisbudError(
            "the model met other activations when its paths were followed than with its real weights: it decides by "
            "the values of its signals, and path exclusion is not defined for it"
        )


def _dtype(s: Scoring) -> torch.dtype:
    dtype = torch.float32
    for weight in s.weights.values():
        dtype = torch.promote_types(dtype, weight.dtype)
    return dtype
