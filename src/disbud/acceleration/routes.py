"""Every way to run a pruned network, timed in turn on this machine: `disbud.bench`."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from disbud.acceleration.accelerate import accelerate
from disbud.acceleration.measuring import in_turn
from disbud.compaction import Compacted, compact
from disbud.errors import DisbudError
from disbud.isolation import Example, bare, forward, leaves, on_device, the_device
from disbud.measures import cost
from disbud.origin import Json
from disbud.seeds import generator, global_streams
from disbud.ticket import Ticket

DENSE, DENSE_BF16 = "dense", "dense bfloat16"
_FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
_COMPARING = 3  # runs that choose a memory format
_WHATS = ("step", "forward")
_STORED: tuple[tuple[str, Literal["float32", "bfloat16"]], ...] = (("", "float32"), (" bfloat16", "bfloat16"))
Run = Callable[[], None]
Tell = Callable[[float, str], None]
Make = Callable[[nn.Module, Example, torch.dtype], Run]


@dataclass(frozen=True)
class Timing:
    """Median seconds, and the medians of the ratios to both dense routes in the same round: above 1 is faster.

    `memory_format` is the faster one, for torch's own code on images; sparse kernels have a layout of their own.
    """

    seconds: float
    against_dense: float
    against_bfloat16: float
    memory_format: str | None = None


@dataclass(frozen=True)
class Route:
    """One way to run the network: a training step and a forward pass, or why it cannot go that way."""

    name: str
    step: Timing | None = None
    forward: Timing | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Bench:
    """What `bench` found. `multiply_adds_left` is the share that the ticket leaves, None where it cannot be counted.

    >>> from disbud.acceleration import Bench, Route, Timing
    >>> dense, sparse = Timing(0.2, 1.0, 0.5), Timing(0.05, 4.0, 2.0)
    >>> found = Bench((Route("dense", dense, dense), Route("sparse", sparse, sparse)), 0.1, batch=64, threads=1)
    >>> found.best("step").name
    'sparse'
    """

    routes: tuple[Route, ...]
    multiply_adds_left: float | None
    batch: int
    threads: int

    def best(self, what: str) -> Route:
        """The route with the shortest "step" or "forward"."""
        timed = [(self._timing(route, what), route) for route in self.routes]
        return min(((found.seconds, route) for found, route in timed if found), key=lambda pair: pair[0])[1]

    def recommendation(self, what: str) -> str:
        """In words, the route to take for training ("step") or inference ("forward")."""
        best = self.best(what)
        found = self._timing(best, what)
        assert found is not None
        purpose = {"step": "to train", "forward": "to run"}[what]
        if best.name in (DENSE, DENSE_BF16):
            return f"{purpose}: {best.name}; no route is faster here"
        ratios = f"{found.against_dense:.1f} times as fast as dense float32, {found.against_bfloat16:.1f} as bfloat16"
        return f"{purpose}: {best.name}, {ratios}"

    def to_json(self) -> dict[str, Json]:
        """Everything as plain JSON values."""
        best = {what: self.best(what).name for what in ("step", "forward")}
        return {**asdict(self), "routes": [asdict(route) for route in self.routes], "recommended": best}

    @staticmethod
    def _timing(route: Route, what: str) -> Timing | None:
        return route.step if what == "step" else route.forward


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
    runs every route once, and ratios are taken within rounds, so that a machine that slows down slows all alike. For
    torch's code bfloat16 is autocast, for sparse kernels what activations are stored in. Dense and compacted networks
    run in the faster of their memory formats; `compiled` adds them under torch.compile. On another device than the CPU
    there are no sparse kernels. The model is left as it is. `progress` is told the fraction done and what is timed.

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
    full = copy.deepcopy(model).cpu()
    ticket.apply_(full)
    example = on_device(example, torch.device("cpu"))
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
        refused |= {way.name: way.refused for way in ways}
        timings[what] = _timed(ways, rounds, tell)
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


@torch.no_grad()
def _settle(model: nn.Module, example: Example) -> None:
    """Give BatchNorm the statistics of the example.

    With those of an untrained network, activations of a sparse one fade by the layer, down to numbers so small that a
    processor takes tens of times as long over each.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # the plain mean of what is seen
    with global_streams(0, "bench"):
        forward(model.train(), _noise(example))
    for module, momentum in zip(norms, momenta, strict=True):
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
            try:
                fast = accelerate(
                    net, its_ticket, example=example, for_training=what == "step", activations=stored
                )
                ways.append(_Way(name + suffix, make(fast, given, torch.float32)))
            except DisbudError as error:
                ways.append(_Way(name + suffix, refused=str(error)))
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
        runs = {form: make(net, x, dtype) for form, (net, x) in nets.items()}
        best = _fastest(runs) if len(runs) > 1 else forms[0]
        ways.append(_Way(name + suffix, runs[best], best))
        if compiled:
            net, x = nets[best]
            ways.append(
                _Way(f"{name}{suffix}, compiled", make(_compiled(copy.deepcopy(net)), x, dtype), best)
            )
    return ways


def _fastest(runs: Mapping[str | None, Run]) -> str | None:
    """The memory format with the shorter run, all run in turn."""
    times = in_turn(runs, rounds=_COMPARING)
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


def _timed(ways: Sequence[_Way], rounds: int, tell: Tell) -> Mapping[str, Timing]:
    runs = {way.name: way.run for way in ways if way.run is not None}
    times = in_turn(runs, rounds=rounds, warming=2, tell=tell)

    def against(other: str, name: str) -> float:
        return statistics.median(
            theirs / ours for theirs, ours in zip(times[other], times[name], strict=True)
        )

    forms = {way.name: way.form for way in ways}
    return {
        name: Timing(statistics.median(found), against(DENSE, name), against(DENSE_BF16, name), forms[name])
        for name, found in times.items()
    }


def _step(model: nn.Module, given: Example, dtype: torch.dtype) -> Run:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
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
