"""One pass that counts paths: the model on an example of ones, as its linearised network with links for weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.graph.flow.arithmetic import Rule
from disbud.graph.flow.counting import counting_rule
from disbud.graph.flow.counts import Counts
from disbud.graph.flow.running import buffers_in, given, linearised, ones_like_example
from disbud.isolation import Example, device_of, isolated, leaves
from disbud.parameters import parameters


def all_open(
    model: nn.Module, dtype: torch.dtype, *, but: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """What stands for the parameters of a model: these tensors for some, and for the others links that all lead on."""
    given = but or {}
    state = {
        name: torch.ones_like(parameter, dtype=dtype) if parameter.is_floating_point() else parameter
        for name, parameter in parameters(model).items()
        if name not in given
    }
    return {**state, **given}


@contextlib.contextmanager
def counted(
    model: nn.Module,
    state: Mapping[str, Tensor],
    signals: Counts,
    example: Example,
    *,
    rule_of: Callable[[object], Rule] = counting_rule,
) -> Iterator[list[Tensor]]:
    """The model's outputs as signals that count the paths there; derivatives belong inside the block."""
    with isolated(model, seed=0):
        args, kwargs = given(signals, ones_like_example(example, signals.dtype, device_of(model)))
        buffers = list(buffers_in(model, signals.dtype, positive=False))
        with linearised(model, state, buffers, signals, rule_of=rule_of):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True to a scalar")
                output = _followed(model, *args, **kwargs)
            found = signals.outputs([leaf for leaf in leaves(output) if isinstance(leaf, Tensor)])
            if not found:
                raise DisbudError(
                    "no output of the model comes from its input by way of tensors: it returns a "
                    f"{type(output).__name__}; paths need a model that returns what it computes, such as logits"
                )
            yield found


def _followed(model: nn.Module, *args: object, **kwargs: object) -> object:
    try:
        return model(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
        if isinstance(error, DisbudError):
            raise
        raise DisbudError(
            f"the model runs on the example, but not where its signals count paths: {error}; it may take its "
            "outputs or other tensors out of torch, to a type of their own, or decide by their values"
        ) from error
