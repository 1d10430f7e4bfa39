"""Which kernel runs each layer: as given, by a model of what each costs, or measured where the model is not sure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from disbud.acceleration.layers import DENSE, SPARSE, Layer, Met, kernels_are_there
from disbud.errors import DisbudError, unknown_name
from disbud.kernels.layout import LANES

PLANS = ("auto", "model")
Plan = str | Mapping[str, str]


@dataclass(frozen=True)
class Work:
    """What a kernel does in one pass of a layer: multiply-adds, and numbers it reads or writes."""

    multiply_adds: int
    numbers: int
    passes: int


@dataclass(frozen=True)
class Price:
    """Nanoseconds of a multiply-add, of a number read or written, and of a call; the mean over a step's passes."""

    multiply_add: float
    number: float
    call: float

    def of(self, work: Work) -> float:
        """Seconds of that work."""
        one = work.multiply_adds * self.multiply_add + work.numbers * self.number + self.call
        return work.passes * one * 1e-9


# Fitted by `python benchmarks/speed.py --calibrate`: least squares of relative errors over layers of VGG-11, ResNet-18
# and LeNet-300-100 from 0.5 % kept to all, one thread of an AMD EPYC with AVX-512; half of the estimates are within
# 30 % for kernels and 25 % for torch, one in twenty is off by three or four times, being low for small work. Torch's
# price of a number is mostly that of its way from one layout to the other. Only the prices' relations matter here.
PRICES = {SPARSE: Price(0.0174, 0.27, 60_300.0), DENSE: Price(0.0115, 2.16, 31_700.0)}
# torch without kernels: convolutions are dense either way and pay for the layout; CSR products win when very sparse.
LEAST_SPARSITY_OF_CSR = 0.9
# Where the two estimates are nearer than this factor, plan="auto" measures.
SURE = 3.0


@dataclass(frozen=True)
class Estimate:
    """Seconds of one call of a layer, by each of the two kernels."""

    sparse: float
    dense: float

    @property
    def better(self) -> str:
        """The kernel that takes less."""
        return SPARSE if self.sparse <= self.dense else DENSE

    @property
    def factor(self) -> float:
        """How many times the slower one takes."""
        low, high = sorted((self.sparse, self.dense))
        return high / max(low, 1e-12)


def work_of(layer: Layer, met: Met, *, for_training: bool) -> dict[str, Work]:
    """What either kernel does for a call of that size, in each of a step's passes: forward, and the gradients."""
    # Kernels work on blocks of 16 images, the last one perhaps idle in part.
    images = math.prod(met.input[:-1]) if layer.is_linear else met.input[0]
    lanes = -(-images // LANES) * LANES
    places = 1 if layer.is_linear else math.prod(met.output[2:])
    numbers = layer.pattern.inputs + layer.pattern.outputs
    if not layer.is_linear:
        numbers = math.prod(met.input[1:]) + math.prod(met.output[1:])
    passes = (2 if met.is_first else 3) if for_training else 1
    return {
        SPARSE: Work(lanes * places * layer.pattern.kept, lanes * numbers, passes),
        DENSE: Work(images * places * layer.pattern.mask.numel(), images * numbers, passes),
    }


def estimate(layer: Layer, met: Met, *, for_training: bool) -> Estimate:
    """What the layer takes for a call of that size, by the prices."""
    work = work_of(layer, met, for_training=for_training)
    return Estimate(*(PRICES[kernel].of(work[kernel]) for kernel in (SPARSE, DENSE)))


def choose(layers: Iterable[Layer], plan: Plan, *, for_training: bool) -> None:
    """Set the kernel of every layer, and why."""
    layers = list(layers)
    if isinstance(plan, str):
        if plan not in PLANS:
            raise unknown_name("plan", plan, PLANS)
        for layer in layers:
            layer.kernel, layer.why = _chosen(layer, for_training=for_training, measure=plan == "auto")
        return
    by_name = {layer.name: layer for layer in layers}
    for name, kernel in plan.items():
        if name not in by_name:
            raise unknown_name("layer that kernels can run called", name, by_name)
        if kernel not in (SPARSE, DENSE):
            raise DisbudError(
                f"the plan runs {name} by {kernel!r}; a layer runs '{SPARSE}' or '{DENSE}', and the model or a "
                "stopwatch decides where the plan says nothing: plan='model' or plan='auto'"
            )
    for layer in layers:
        if layer.name in plan:
            layer.kernel, layer.why = plan[layer.name], "the plan says so"
        else:
            layer.kernel, layer.why = _chosen(layer, for_training=for_training, measure=False)


def _chosen(layer: Layer, *, for_training: bool, measure: bool) -> tuple[str, str]:
    if not layer.met:
        kernel = SPARSE if layer.pattern.density < 0.2 else DENSE
        return kernel, f"the example does not reach it; {layer.pattern.density:.1%} is kept"
    if not kernels_are_there():
        if layer.is_linear and 1 - layer.pattern.density >= LEAST_SPARSITY_OF_CSR:
            return SPARSE, "without compiled kernels, a CSR product"
        return DENSE, "there are no compiled kernels"
    met = layer.met[0]
    found, how = estimate(layer, met, for_training=for_training), "estimated"
    if measure and found.factor < SURE:
        from disbud.acceleration.measuring import measured

        found, how = measured(layer, met, for_training=for_training), "measured"
    why = f"{how}: {found.sparse * 1e3:.2f} ms sparse, {found.dense * 1e3:.2f} ms dense"
    return found.better, why
