"""The module made of sparse kernels: trained, saved and put back into the dense model like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from disbud.acceleration.explaining import Explanation, explain
from disbud.acceleration.layers import Layer
from disbud.acceleration.weights import (
    Place,
    copied,
    dense_state,
    digests,
    masks_by_key,
    standing_in,
    thinned_state,
    widen,
)
from disbud.acceleration.worth import is_worth_training
from disbud.compaction import Compacted
from disbud.errors import DisbudError
from disbud.isolation import Example
from disbud.parameters import canonical
from disbud.ticket import Ticket


class Accelerated(nn.Module):
    """A model on a ticket, run by sparse kernels; made by `accelerate`.

    `module` is the model with each pruned parameter a vector of the weights kept, in the order of the mask's True
    entries, under its old name. Everything else in it is the model's own.

    >>> import disbud, torch
    >>> from disbud.acceleration import accelerate
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> ticket = disbud.prune(model, "magnitude", sparsity=0.5)
    >>> fast = accelerate(model, ticket, example=torch.zeros(2, 8))
    >>> sum(parameter.numel() for name, parameter in fast.named_parameters() if name.endswith("weight"))
    20
    """

    places: Tensor

    def __init__(
        self,
        module: nn.Module,
        ticket: Ticket,
        *,
        layers: Mapping[str, Layer],
        refused: Mapping[str, str],
        standing: list[Place],
        full: tuple[nn.Module, Compacted] | None,
    ) -> None:
        super().__init__()
        self.module = module
        self.ticket = ticket
        self._layers = dict(layers)
        self._refused = dict(refused)
        self._standing = standing
        self._full = (full,)  # in a tuple, so that the full model is no submodule
        self.register_buffer("places", digests(ticket.masks))

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the dense model's forward returns."""
        if not self._standing:
            return self.module(*args, **kwargs)
        with standing_in(self._standing, self.ticket.masks):
            return self.module(*args, **kwargs)

    @property
    def plan(self) -> Mapping[str, str]:
        """The kernel of each layer, by the canonical name of its weight; `accelerate(plan=...)` takes it back.

        >>> import disbud, torch
        >>> from disbud.acceleration import accelerate
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> ticket = disbud.prune(model, "magnitude", sparsity=0.5)
        >>> dict(accelerate(model, ticket, example=torch.zeros(2, 8), plan={"0.weight": "sparse"}).plan)
        {'0.weight': 'sparse'}
        """
        return MappingProxyType({name: layer.kernel for name, layer in self._layers.items()})

    @property
    def is_worth_training(self) -> bool:
        """Whether the cost model expects a training step to be shorter than the dense model's own.

        >>> import disbud, torch
        >>> from disbud.acceleration import accelerate
        >>> model = disbud.models.build("lenet-300-100", input_shape=(1, 8, 8))
        >>> ticket = disbud.prune(model, "magnitude", sparsity=0.9)
        >>> accelerate(model, ticket, example=torch.zeros(64, 1, 8, 8), plan="model").is_worth_training
        False
        """
        return is_worth_training(self._layers.values())

    def explain(self, *, on: Example | None = None) -> Explanation:
        """Layer by layer which kernel runs and why; with a batch to run `on`, also how long it takes.

        >>> import disbud, torch
        >>> from disbud.acceleration import accelerate
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> ticket = disbud.prune(model, "magnitude", sparsity=0.5)
        >>> fast = accelerate(model, ticket, example=torch.zeros(2, 8), plan={"0.weight": "sparse"})
        >>> row = fast.explain().rows[0]
        >>> row.layer, row.kernel, row.why, row.kept
        ('0.weight', 'sparse', 'the plan says so', 16)
        """
        return explain(self, self.ticket, self._layers, self._refused, on=on)

    def dense_state(self) -> dict[str, Tensor]:
        """The present weights as a state of the dense model: its keys, its shapes, zeros off the ticket.

        >>> import disbud, torch
        >>> from disbud.acceleration import accelerate
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> ticket = disbud.prune(model, "magnitude", sparsity=0.5)
        >>> state = accelerate(model, ticket, example=torch.zeros(2, 8)).dense_state()
        >>> ticket.apply_(model)
        >>> torch.equal(state["0.weight"], model[0].weight)
        True
        """
        state = dense_state(self.module, self.ticket.masks)
        (full,) = self._full
        return state if full is None else full[1].expand(state)

    def load_dense_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a state of the dense model; what lies off the ticket is left out.

        >>> import disbud, torch
        >>> from disbud.acceleration import accelerate
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> ticket = disbud.prune(model, "magnitude", sparsity=0.5)
        >>> fast = accelerate(model, ticket, example=torch.zeros(2, 8))
        >>> fast.load_dense_state(torch.nn.Sequential(torch.nn.Linear(8, 4)).state_dict())
        """
        (full,) = self._full
        if full is not None:
            state = _small(*full, state)
        self.module.load_state_dict(thinned_state(self.module, self.ticket.masks, state))

    def finish(self, model: nn.Module | None = None) -> nn.Module:
        """The dense model with the present weights, exactly zero off the ticket: the model given, or a copy.

        >>> import disbud, torch
        >>> from disbud.acceleration import accelerate
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> ticket = disbud.prune(model, "magnitude", sparsity=0.5)
        >>> fast = accelerate(model, ticket, example=torch.zeros(2, 8))
        >>> fast.finish(model) is model, int((model[0].weight != 0).sum())
        (True, 16)
        """
        (full,) = self._full
        otherwise = "finish(model) fills a dense model of yours"
        if model is None and full is None:
            model = copied(self.module, otherwise=otherwise)
            for module in model.modules():
                vars(module).pop("forward", None)
            widen(model, self.ticket.masks)
            return model
        if model is None:
            assert full is not None
            model = copied(full[0], otherwise=otherwise)
            modes = {name: module.training for name, module in self.module.named_modules()}
            for name, module in model.named_modules():
                module.training = modes.get(name, self.training)
        state = self.dense_state()
        own = model.state_dict()
        model.load_state_dict({name: state[canonical(name)] for name in own if canonical(name) in state})
        return model

    # torch's own ways in

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: object,
        strict: bool,  # noqa: FBT001
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        given = state_dict.get(f"{prefix}places")
        if given is not None and not torch.equal(given, self.places):
            # At once, as torch would copy what fits before it tells of errors.
            raise RuntimeError(
                "the state is of a model accelerated on another ticket, whose kept weights lie elsewhere; take "
                "weights over by load_dense_state(other.dense_state())"
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Accelerated:  # noqa: FBT001
        probe = fn(torch.zeros(1))
        if probe.dtype != torch.float32 or probe.device.type != "cpu":
            raise DisbudError(
                f"an accelerated model cannot be moved to {probe.dtype} on {probe.device}: the kernels take float32 on "
                "the CPU; finish() gives the dense model, which can be moved"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _small(model: nn.Module, compacted: Compacted, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state of the full model as one of the compacted model."""
    given = {canonical(name): tensor for name, tensor in state.items()}
    missing, unknown = (
        sorted(compacted.full.keys() - given.keys()),
        sorted(given.keys() - compacted.full.keys()),
    )
    if missing or unknown:
        what = f"lacks {', '.join(missing[:3])}" if missing else f"has {', '.join(unknown[:3])} besides"
        raise DisbudError(f"this is not a state of the dense model: it {what}; give model.state_dict()")
    small = {name: compacted.kept[name].take(tensor) for name, tensor in given.items()}
    back, masks = compacted.expand(small), masks_by_key(model, compacted.full_ticket.masks)
    moved = [
        name
        for name, tensor in given.items()
        # What lies off the ticket is left out.
        if not torch.equal(*(each[masks[name]] if name in masks else each for each in (tensor, back[name])))
    ]
    if moved:
        raise DisbudError(
            f"this state differs in channels that compaction removed, in {', '.join(moved[:3])}; accelerate a model "
            "that holds it"
        )
    return small
