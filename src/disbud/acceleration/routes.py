"""Every way to run a pruned network, timed in turn on this machine: `disbud.bench`."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from disbud.acceleration.accelerate import accelerate
from disbud.acceleration.measuring import clock_of, in_turn
from disbud.acceleration.timings import DENSE, DENSE_BF16, Bench, Route, Timing
from disbud.acceleration.weights import copied
from disbud.compaction import Compacted, compact
from disbud.errors import DisbudError
from disbud.isolation import Example, bare, forward, leaves, on_device, the_device
from disbud.measures import cost
from disbud.seeds import generator, global_streams
from disbud.ticket import Ticket

_FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
_COMPARING = 3  # runs that choose a memory format
_WHATS = ("step", "forward")
Stored = Literal["float32", "bfloat16"]
_STORED: tuple[tuple[str, Stored], ...] = (("", "float32"), (" bfloat16", "bfloat16"))
_SHORT = (torch.bfloat16, torch.float16)
__all__ = ["Bench", "Route", "Timing", "bench"]
Run = Callable[[], None]
Tell = Callable[[float, str], None]
Make = Callable[[nn.Module, Example, torch.dtype], Run]
Nets = Mapping[str | None, tuple[nn.Module, Example]]


def bench(
    model: nn.Module,
    ticket: Ticket,
    *,
    example: Example,
    rounds: int = 7,
    compiled: bool = False,
    progress: Tell | None = None,
) -> Bench:
    """Time dense, compacted and sparse ways to run the model on the ticket, in float32 and bfloat16.

    The example is a batch of the size to come. A step is forward, backward and one of SGD with momentum. Each round
    runs every route for some hundredths of a second, and ratios are taken within rounds, so that a machine that slows
    down slows all alike; one thread of the CPU is timed by the processor's clock, which stands still while others run.
    For torch's code bfloat16 is autocast, for sparse kernels what activations are stored in; a model in 16 bits is
    taken as float32. Dense and compacted networks run in the faster of their memory formats; `compiled` adds them under
    torch.compile. On another device than the CPU there are no sparse kernels. A way that cannot be gone says why, and
    where the dense model makes no step, nothing does. The model is left as it is. `progress` is told the fraction done
    and what is timed.

    >>> import disbud, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    >>> ticket = disbud.prune(model, "magnitude", sparsity=0.9)
    >>> found = disbud.bench(model, ticket, example=torch.zeros(16, 64), rounds=3)
    >>> [route.name for route in found.routes][:4]
    ['dense', 'dense bfloat16', 'compact', 'compact bfloat16']
    """
    model = bare(model)
    ticket.check(model)
    if rounds < 1:
        raise DisbudError(f"rounds={rounds} is how often each route is timed: a number of at least 1")
    device = the_device(model)
    full = _in_float32(copied(model, otherwise="every way is timed on a copy").cpu())
    ticket.apply_(full)
    example = _each_tensor(on_device(example, torch.device("cpu")), _as_float32)
    _settle(full, example)
    batch = _batch(example)
    small = _compacted(full, ticket, example)
    timings: dict[str, Mapping[str, Timing]] = {}
    refused: dict[str, str | None] = {}
    for place, what in enumerate(_WHATS):

        def tell(fraction: float, route: str, place: int = place, what: str = what) -> None:
            if progress is not None:
                progress((place + fraction) / len(_WHATS), f"{what}: {route}")

        tell(0.0, "making networks ready")
        ways = _ways(full, small, ticket, example, device=device, what=what, compiled=compiled)
        refused |= {way.name: refused.get(way.name) or way.refused for way in ways}
        timings[what] = _timed(ways, rounds, tell, kind=device.type)
    return Bench(
        tuple(
            Route(name, timings["step"].get(name), timings["forward"].get(name), why)
            for name, why in refused.items()
        ),
        _multiply_adds_left(full, ticket, example),
        batch=batch,
        threads=torch.get_num_threads(),
    )


def _batch(example: Example) -> int:
    inputs = [leaf for leaf in leaves(example) if isinstance(leaf, Tensor)]
    if not inputs or not inputs[0].dim():
        raise DisbudError("the example has no tensor with a row for each input of the batch")
    return len(inputs[0])


# The ways


@dataclass(frozen=True, eq=False)
class _Way:
    """A network made ready to be run one way; or why it cannot be."""

    name: str
    run: Run | None = None
    form: str | None = None
    refused: str | None = None


def _attempt(name: str, make: Callable[[], tuple[Run, str | None]]) -> _Way:
    """The way with that run and form, once it has run; or why it does not."""
    try:
        run, form = make()
        run()
    except (DisbudError, RuntimeError, ValueError) as error:
        return _Way(name, refused=(str(error).splitlines() or [type(error).__name__])[0])
    return _Way(name, run, form)


def _in_float32(model: nn.Module) -> nn.Module:
    return model.float() if any(parameter.dtype in _SHORT for parameter in model.parameters()) else model


def _as_float32(leaf: Tensor) -> Tensor:
    return leaf.float() if leaf.dtype in _SHORT else leaf


@torch.no_grad()
def _settle(model: nn.Module, example: Example) -> None:
    """Give BatchNorm the statistics of the example; those it has, where a batch of one input has none.

    With those of an untrained network, activations of a sparse one fade by the layer, down to numbers so small that a
    processor takes tens of times as long over each.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(module.momentum, copy.deepcopy(module.state_dict())) for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # the plain mean of what is seen
    try:
        with global_streams(0, "bench"):
            forward(model.train(), _noise(example))
    except ValueError:
        for module, (_, state) in zip(norms, before, strict=True):
            module.load_state_dict(state)
    for module, (momentum, _) in zip(norms, before, strict=True):
        module.momentum = momentum


def _compacted(model: nn.Module, ticket: Ticket, example: Example) -> Compacted | str:
    """The network without dead channels, or why there is none; two rows are enough to follow it by."""
    batch = _batch(example)
    few = _each_tensor(example, lambda leaf: leaf[:2] if leaf.dim() and len(leaf) == batch else leaf)
    try:
        return compact(model, ticket, example=few)
    except DisbudError as error:
        return str(error)


def _ways(
    model: nn.Module,
    small: Compacted | str,
    ticket: Ticket,
    example: Example,
    *,
    device: torch.device,
    what: str,
    compiled: bool,
) -> list[_Way]:
    make = _step if what == "step" else _pass
    given = on_device(_noise(example), device)
    ways = _torchs(DENSE, model, given, make, device=device, compiled=compiled)
    if any(way.refused for way in ways if way.name in (DENSE, DENSE_BF16)):
        return ways  # there is nothing to compare others with
    if isinstance(small, str):
        ways.append(_Way("compact", refused=small))
    else:
        ways += _torchs("compact", small.model, given, make, device=device, compiled=compiled)
    if device.type != "cpu":
        return ways
    sparse = {"sparse": (model, ticket)}
    if not isinstance(small, str):
        sparse["sparse compact"] = (small.model, small.ticket)
    for name, (net, its_ticket) in sparse.items():
        for suffix, stored in _STORED:

            def made(
                net: nn.Module = net, its: Ticket = its_ticket, stored: Stored = stored
            ) -> tuple[Run, None]:
                fast = accelerate(net, its, example=example, for_training=what == "step", activations=stored)
                return make(fast, given, torch.float32), None

            ways.append(_attempt(name + suffix, made))
    return ways


def _torchs(
    name: str, model: nn.Module, given: Example, make: Make, *, device: torch.device, compiled: bool
) -> list[_Way]:
    """torch's own code in both types, each in the faster memory format, and compiled besides."""
    has_images = any(leaf.dim() == 4 for leaf in leaves(given) if isinstance(leaf, Tensor))
    forms: list[str | None] = list(_FORMATS) if has_images else [None]
    ways = []
    for suffix, dtype in (("", torch.float32), (" bfloat16", torch.bfloat16)):
        nets = {form: (_laid(model, form).to(device), _laid_out(given, form)) for form in forms}

        def made(nets: Nets = nets, dtype: torch.dtype = dtype) -> tuple[Run, str | None]:
            runs = {form: make(net, x, dtype) for form, (net, x) in nets.items()}
            best = _fastest(runs, device.type) if len(runs) > 1 else next(iter(runs))
            return runs[best], best

        ways.append(_attempt(name + suffix, made))
        if compiled and ways[-1].run is not None:
            best = ways[-1].form

            def as_compiled(
                nets: Nets = nets, best: str | None = best, dtype: torch.dtype = dtype
            ) -> tuple[Run, str | None]:
                net, x = nets[best]
                return make(_compiled(copy.deepcopy(net)), x, dtype), best

            ways.append(_attempt(f"{name}{suffix}, compiled", as_compiled))
    return ways


def _fastest(runs: Mapping[str | None, Run], kind: str) -> str | None:
    """The memory format with the shorter run, all run in turn."""
    times = in_turn(runs, rounds=_COMPARING, clock=clock_of(kind))
    return min(times, key=lambda form: statistics.median(times[form]))


def _multiply_adds_left(model: nn.Module, ticket: Ticket, example: Example) -> float | None:
    try:
        table = cost(model, ticket, example=example)
    except DisbudError:
        return None
    before, after = table.summary["multiply_adds"], table.summary["multiply_adds_masked"]
    return float(str(after)) / float(str(before))


def _compiled(model: nn.Module) -> nn.Module:
    model.compile()
    return model


def _laid(model: nn.Module, form: str | None) -> nn.Module:
    laid = copy.deepcopy(model)
    return laid if form is None else laid.to(memory_format=_FORMATS[form])  # type: ignore[call-overload]


def _laid_out(given: Example, form: str | None) -> Example:
    def laid(leaf: Tensor) -> Tensor:
        return leaf if form is None or leaf.dim() != 4 else leaf.contiguous(memory_format=_FORMATS[form])

    return _each_tensor(given, laid)


def _each_tensor(given: Example, change: Callable[[Tensor], Tensor]) -> Example:
    changed: Example = tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, given)
    return changed


def _noise(example: Example) -> Example:
    """Numbers of the example's size: on zeros, gradients would be zero too, and those cost less."""

    def noisy(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        return torch.randn(leaf.shape, generator=generator(0, "bench"), dtype=leaf.dtype)

    return _each_tensor(example, noisy)


# The clock


def _timed(ways: Sequence[_Way], rounds: int, tell: Tell, *, kind: str) -> Mapping[str, Timing]:
    runs = {way.name: way.run for way in ways if way.run is not None}
    if not {DENSE, DENSE_BF16} <= runs.keys():
        return {}
    times = in_turn(runs, rounds=rounds, clock=clock_of(kind), tell=tell)

    def against(other: str, name: str) -> float:
        return statistics.median(
            theirs / ours for theirs, ours in zip(times[other], times[name], strict=True)
        )

    forms = {way.name: way.form for way in ways}
    return {
        name: Timing(
            statistics.median(found), against(DENSE, name), against(DENSE_BF16, name), forms[name],
            (_quartile(found, 0), _quartile(found, 2)),
        )
        for name, found in times.items()
    }  # fmt: skip


def _quartile(found: Sequence[float], which: int) -> float:
    return statistics.quantiles(found, n=4, method="inclusive")[which] if len(found) > 1 else found[0]


def _step(model: nn.Module, given: Example, dtype: torch.dtype) -> Run:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise DisbudError("none of its parameters asks for a gradient, so that there is no step to make")
    kind = parameters[0].device.type
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)

    def run() -> None:
        model.train()
        optimizer.zero_grad()
        with torch.autocast(kind, torch.bfloat16, enabled=dtype == torch.bfloat16):
            made = leaves(forward(model, given))
        outputs = [leaf for leaf in made if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
        loss.backward()
        optimizer.step()
        _wait(kind)

    return run


def _pass(model: nn.Module, given: Example, dtype: torch.dtype) -> Run:
    kind = next(model.parameters()).device.type

    def run() -> None:
        model.eval()
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=dtype == torch.bfloat16):
            forward(model, given)
        _wait(kind)

    return run


def _wait(kind: str) -> None:
    """Until the device has done what it was given."""
    if kind != "cpu":
        torch.get_device_module(kind).synchronize()
