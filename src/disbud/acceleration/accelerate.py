"""From a model and a ticket to the module made of sparse kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from disbud.acceleration.accelerated import Accelerated
from disbud.acceleration.building import runner_of
from disbud.acceleration.layers import Layer, RunLayer, layer_of
from disbud.acceleration.planning import Plan, choose
from disbud.acceleration.program import Step, observing
from disbud.acceleration.reading import Reading, is_layer, names_of, one_call, read
from disbud.acceleration.weights import Place, copied, places_of, thin
from disbud.compaction import Compacted
from disbud.compaction import compact as compacted_of
from disbud.errors import DisbudError, unknown_name
from disbud.isolation import Example, bare, forward, isolated, leaves
from disbud.parameters import canonical
from disbud.seeds import generator
from disbud.ticket import Ticket

# How far the accelerated model may be from the dense one on the example, in the relative norm: rounding, added up over
# a deep network, stays well below it; a graph that is not the model's does not. bfloat16 rounds by up to 2^-8, which
# is 4e-3, and does so some dozens of times in a deep network.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
# Numbers of that size are rounding, as where BatchNorm divides the rounding of a constant by its own deviation.
FLOOR = 0.01
STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Compaction is worth its seconds, for compact="auto", from this share of the weights on.
WORTH_COMPACTING = 0.1


def accelerate(
    model: nn.Module,
    ticket: Ticket,
    *,
    example: Example,
    for_training: bool = True,
    plan: Plan = "auto",
    compact: bool | Literal["auto"] = False,
    activations: Literal["float32", "bfloat16"] = "float32",
) -> Accelerated:
    """The model on the ticket as a module made of sparse kernels; the model itself is left as it is.

    Its forward is the model's, on ordinary tensors. Its parameters are the weights kept, one vector for each pruned
    parameter, and all others; training it takes the steps that `disbud.sparse` takes on the dense model. The example
    has the size of the batches to come: the plan is made for it, and any other size works.

    `plan` says which kernel runs each layer: "auto" measures the layers where the cost model is not sure, and keeps
    what it found for this machine; "model" is the cost model alone, the same everywhere; a mapping from the names of
    weights to "sparse" or "dense" is obeyed, the model deciding the rest. `compact` takes dead channels out first:
    "auto" where that removes a tenth of the weights at least. The state keeps the dense model's way back in all cases.

    `activations` says what the kernels' layers hand on: "bfloat16" halves the memory they move, and rounds each number
    to 8 bits; sums, weights, statistics, and the gradients of parameters are float32 in both.

    >>> import disbud, torch
    >>> from disbud.acceleration import accelerate
    >>> model = disbud.models.build("resnet20:width=0.5")
    >>> example = torch.zeros(16, 3, 8, 8)
    >>> ticket = disbud.prune(model, "random", sparsity=0.9)
    >>> fast = accelerate(model, ticket, example=example, plan="model")
    >>> ticket.apply_(model)
    >>> x = torch.randn(5, 3, 8, 8)
    >>> torch.allclose(fast.eval()(x), model.eval()(x), atol=1e-4)
    True
    """
    model, stored = _checked(model, ticket), _stored(activations)
    full: tuple[nn.Module, Compacted] | None = None
    if compact is not False:
        full = _compacted(model, ticket, example, always=compact is True)
    its_ticket = ticket if full is None else full[1].ticket
    skeleton = _skeleton(model if full is None else full[1].model, its_ticket)
    reading = read(skeleton, example)
    wanted = _output(skeleton, example)
    layers = _layers(skeleton, its_ticket, reading, stored)
    standing = _standing(skeleton, its_ticket, layers)
    _install(skeleton, reading, layers)
    _meet(skeleton, example)
    thin(skeleton, its_ticket.masks)
    choose(layers.values(), plan, for_training=for_training)
    _install(skeleton, reading, layers)
    fast = Accelerated(
        skeleton,
        its_ticket,
        layers={layer.name: layer for layer in layers.values()},
        refused=reading.refused,
        standing=standing,
        full=full,
    )
    _check_agrees(wanted, _output(fast, example), TOLERANCE[stored])
    return fast if for_training else fast.eval()


def _stored(activations: str) -> torch.dtype:
    if activations not in STORED:
        raise unknown_name("type of activations", str(activations), STORED)
    return STORED[activations]


def _skeleton(model: nn.Module, ticket: Ticket) -> nn.Module:
    """A copy of the model on its ticket, without gradients."""
    skeleton = copied(
        model, otherwise="where old weight_norm makes its weights, take torch's parametrizations"
    )
    for parameter in skeleton.parameters():
        parameter.grad = None
    ticket.apply_(skeleton)
    return skeleton


def _checked(model: nn.Module, ticket: Ticket) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise DisbudError(f"a model is a torch.nn.Module, not a {type(model).__name__}")
    model = bare(model)
    if isinstance(model, Accelerated):
        raise DisbudError("the model is accelerated already; finish() gives the dense one back")
    ticket.check(model)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and (
            parameter.dtype != torch.float32 or parameter.device.type != "cpu"
        ):
            raise DisbudError(
                f"the kernels take float32 on the CPU, and {name} is {parameter.dtype} on {parameter.device}; "
                "accelerate model.float().cpu()"
            )
    return model


def _compacted(
    model: nn.Module, ticket: Ticket, example: Example, *, always: bool
) -> tuple[nn.Module, Compacted] | None:
    try:
        found = compacted_of(model, ticket, example=example)
    except DisbudError:
        if always:
            raise
        return None
    before, after = found.account.parameters
    if not always and after > (1 - WORTH_COMPACTING) * before:
        return None
    return copied(model, otherwise="accelerate it with compact=False"), found


def _layers(model: nn.Module, ticket: Ticket, reading: Reading, stored: torch.dtype) -> dict[int, Layer]:
    """Every layer that a region calls and whose weight nothing else reads whole, by the identity of its module."""
    called = {
        module.get_submodule(str(node.target))
        for region in reading.regions.values()
        for module in [model.get_submodule(region.path)]
        for graph in (region.training, region.evaluation)
        for node in graph.nodes
        if node.op == "call_module"
    }
    shared = {
        place.name
        for place in places_of(model, ticket.masks)
        if place.key != "weight" or place.holder not in called or not is_layer(place.holder)
    }
    name_of = names_of(model)
    layers = {}
    for path, module in model.named_modules():
        if module in called and is_layer(module):
            weight = name_of[id(module.weight)]
            if weight not in shared:
                name = canonical(f"{path}.weight" if path else "weight")
                layers[id(module)] = layer_of(name, module, ticket.masks.get(weight), stored=stored)
    return layers


def _standing(model: nn.Module, ticket: Ticket, layers: Mapping[int, Layer]) -> list[Place]:
    """Where pruned parameters are held that no layer of ours reads: torch wants them whole."""
    return [
        place
        for place in places_of(model, ticket.masks)
        if place.key != "weight" or id(place.holder) not in layers
    ]


def _install(model: nn.Module, reading: Reading, layers: Mapping[int, Layer]) -> None:
    """Put the programs in the place of each region's forward, and of each layer's, for code that calls it itself."""
    paths = {path for path, module in model.named_modules() if id(module) in layers}
    for region in {**{path: one_call(path) for path in paths}, **reading.regions}.values():
        module = model.get_submodule(region.path)
        module.forward = runner_of(module, region, layers)


def _meet(model: nn.Module, example: Example) -> None:
    """Run the example once, so that each layer knows the sizes it meets."""

    def observer(step: Step, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        made = step.call(step.wish, *args, **kwargs)
        if isinstance(step.call, RunLayer):
            (x,) = [*args, *kwargs.values()]
            step.call.meet(x, made)
        return made

    with isolated(model, seed=0), torch.no_grad(), observing(observer):
        forward(model, example)


def _output(model: nn.Module, example: Example) -> list[Tensor]:
    """The floating-point outputs for the example, or for noise of its size where it is all of one number."""

    def noisy(leaf: object) -> object:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or bool((leaf != leaf.mean()).any()):
            return leaf
        return torch.randn(leaf.shape, generator=generator(0, "verifying an accelerated model"))

    with isolated(model, seed=0), torch.no_grad():
        made = leaves(forward(model, tree_map(noisy, example)))
    return [leaf for leaf in made if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _check_agrees(wanted: list[Tensor], found: list[Tensor], tolerance: float) -> None:
    for want, got in zip(wanted, found, strict=True):
        allowed = want.norm() + FLOOR * want.numel() ** 0.5
        apart = float((got - want).norm() / allowed.clamp(min=1e-30))
        if apart > tolerance and bool(want.isfinite().all()):
            raise DisbudError(
                f"the accelerated model is off the dense one by {apart:.1e} on the example: its forward does something "
                "that torch.fx does not see, such as choices made in Python; accelerate the submodules that are plain"
            )
