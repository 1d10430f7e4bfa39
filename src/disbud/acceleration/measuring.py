"""Both ways of running a layer, timed in turn, and what was found kept for this machine."""

from __future__ import annotations

import copy
import json
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from disbud import artifacts
from disbud.acceleration.layers import DENSE, SPARSE, Layer, Met, RunLayer
from disbud.acceleration.planning import Estimate
from disbud.acceleration.signals import Signal, Wish
from disbud.errors import DisbudError
from disbud.kernels import library
from disbud.seeds import generator

ROUNDS = 3
# Seconds that a sample takes, so that neither the clock's own steps nor a short pause decide: of a whole network, and
# of one layer among many; and the most calls in one.
SAMPLE, SAMPLE_OF_LAYER, MOST_CALLS = 0.02, 0.005, 200
Clock = Callable[[], float]
_FILE = "seconds.json"
Name = TypeVar("Name", bound=Hashable)


def measured(layer: Layer, met: Met, *, for_training: bool) -> Estimate:
    """Seconds of one call each way: looked up, or measured now and kept by machine, shape and number of weights."""

    def make(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(seconds(layer, met, for_training=for_training)))

    try:
        entry = artifacts.get_or_make(_key(layer, met, for_training=for_training), make)
    except DisbudError:  # the cache cannot be written, and is only there to save time
        found = seconds(layer, met, for_training=for_training)
    else:
        found = json.loads((entry / _FILE).read_text())
    return Estimate(found[SPARSE], found[DENSE])


def _key(layer: Layer, met: Met, *, for_training: bool) -> artifacts.Key:
    kernels, pattern = library(), layer.pattern
    return {
        "what": "seconds of a layer",
        "machine": [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()],
        "kernels": None if kernels is None else kernels.instructions,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "weight": list(pattern.mask.shape),
        "window": [list(pattern.stride), list(pattern.padding), list(pattern.dilation), pattern.groups],
        "border": list(layer.border),
        "kept": pattern.kept,
        "input": list(met.input),
        "is first": met.is_first,
        "stored": str(layer.stored),
        "for training": for_training,
    }


def seconds(
    layer: Layer,
    met: Met,
    *,
    for_training: bool,
    rounds: int = ROUNDS,
    clock: Clock | None = None,
) -> dict[str, float]:
    """The median seconds of a call by each kernel, the two in turn."""
    x = torch.randn(met.input, generator=generator(0, "timing"))
    ways = {kernel: _way(layer, x, kernel, met, for_training=for_training) for kernel in (SPARSE, DENSE)}
    times = in_turn(ways, rounds=rounds, clock=clock or clock_of("cpu"), sample=SAMPLE_OF_LAYER)
    return {kernel: statistics.median(found) for kernel, found in times.items()}


def clock_of(kind: str) -> Clock:
    """The clock for work on that kind of device: one thread of the processor is timed by what it does itself."""
    return time.process_time if kind == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def in_turn(
    ways: Mapping[Name, Callable[[], object]],
    *,
    rounds: int,
    clock: Clock,
    sample: float = SAMPLE,
    tell: Callable[[float, Name], object] | None = None,
) -> dict[Name, list[float]]:
    """Seconds of each way in each round; a round runs all of them in turn.

    A sample is the mean of as many calls as take that many seconds, after one that does not count, as in a loop. `tell`
    hears the fraction of the rounds that is done, and what is timed next.
    """
    times: dict[Name, list[float]] = {name: [] for name in ways}
    calls = {name: _calls(way, sample, clock) for name, way in ways.items()}
    for number in range(rounds):
        for name, way in ways.items():
            if tell is not None:
                tell(number / rounds, name)
            way()
            times[name].append(_mean(way, calls[name], clock))
    return times


def _calls(way: Callable[[], object], sample: float, clock: Clock) -> int:
    """How many calls make a sample: by the second one, as the first sets up what later ones use."""
    way()
    return min(MOST_CALLS, max(1, round(sample / max(_mean(way, 1, clock), 1e-9))))


def _mean(way: Callable[[], object], calls: int, clock: Clock) -> float:
    begun = clock()
    for _ in range(calls):
        way()
    return (clock() - begun) / calls


def _way(layer: Layer, x: Tensor, kernel: str, met: Met, *, for_training: bool) -> Callable[[], None]:
    """One call from signal to signal, as between two sparse layers; the first layer is given the image."""
    mine = copy.copy(layer)
    mine.kernel = kernel
    run = RunLayer(mine, then_blocked=True, is_first=met.is_first)
    given: object = x
    if not met.is_first and x.dim() == layer.axes + 1:
        pixels = (1, 1, *x.shape[2:])[-2:]
        given = Signal.of(x, halo=Wish([layer.pattern]).halo((pixels[0], pixels[1])), stored=layer.stored)
    leaf = given.blocked.data if isinstance(given, Signal) else x

    def forward() -> None:
        with torch.inference_mode():
            run(Wish(), given)

    def step() -> None:
        leaf.requires_grad_(not met.is_first)
        made = run(Wish(), given)
        data = made.blocked.data if isinstance(made, Signal) else made
        assert isinstance(data, Tensor)
        wanted = [] if met.is_first else [leaf]
        wanted += [layer.weight] if layer.weight.requires_grad else []
        if wanted:  # nothing is, in a first layer that is frozen
            torch.autograd.grad(data, wanted, data.detach())

    def way() -> None:
        with torch.inference_mode(mode=False), torch.enable_grad():
            step()

    return way if for_training else forward
