"""The claims of Hayou et al. 2021 about signals in random networks: drawn anew for every seed, trained nowhere."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from scipy import stats
from torch import Tensor, nn

from disbud import measures, robust, theory
from disbud.claims import Decided, for_all
from disbud.graph import prunable
from disbud.models import build
from disbud.pruning import prune
from disbud.pruning import scores as scores_of
from disbud.seeds import generator
from disbud.study.deciding import Setting, held
from disbud.study.specification.forms import FunctionForm
from disbud.study.trial import Trial
from disbud.ticket import Ticket

DEPTH, WIDTH, SIGMA_B = 30, 100, 0.2
CRITICAL_SIZE = 100  # layers, and units a layer: the size at which the paper states that layers empty
SLOPE_WITHIN = 0.15  # of |log chi|
FLAT = 5.0
DEPTHS = (4, 8, 16, 32)
DRAWS = 20  # networks a claim, whatever the number of trainings: they take seconds
FEW = 8  # of deep residual networks, which take longer
NEARLY = 0.9  # of networks, where the paper says all; and where it says none, all but so many
PHASES = {"ordered": 0.75, "chaotic": 1.5}  # of the weights' deviation on the edge
Draw = Callable[[int], float]
_EMPTY = "the share of networks with an empty layer"


def slope_off_the_edge(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """4.1: the slope of log m_l over the layers is -log chi (m_l / m_L = chi^(L - l)) to within 15 % of it."""
    cells = {}
    for name, factor in PHASES.items():
        predicted = _log_chi(factor)

        def error(seed: int, factor: float = factor, predicted: float = predicted) -> float:
            found = _sensitivities(factor, seed)
            slope = stats.linregress(range(len(found)), [math.log(m) for m in found]).slope
            return abs(float(slope) + predicted) / abs(predicted)

        cells[name] = held(_drawn(error), what="the slope's relative error", most=SLOPE_WITHIN)
    return for_all(cells)


def flat_on_the_edge(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """4.1: on the edge, the largest m_l is at most five times the smallest."""

    def spread(seed: int) -> float:
        found = _sensitivities(1.0, seed)
        return max(found) / min(found)

    return held(_drawn(spread), what="largest over smallest sensitivity", most=FLAT)


def layers_empty_off_the_edge(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """4.2: with |log chi| = .2 or more, a layer is empty at 90 %; on the edge none is (100 layers of 100 units)."""

    def empty_at_90(factor: float) -> Draw:
        return lambda seed: float(_critical(factor, seed) <= 0.9)

    cells = {
        name: held(_drawn(empty_at_90(factor)), what=_EMPTY, least=NEARLY) for name, factor in PHASES.items()
    }
    cells["on the edge"] = held(_drawn(empty_at_90(1.0)), what=_EMPTY, most=1 - NEARLY)
    return for_all(cells)


def rescaling_restores_magnitude(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """4.3 for magnitude."""
    return _restored("magnitude")


def rescaling_restores_random(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """4.3 for random pruning."""
    return _restored("random-uniform")


def rescaling_restores_sensitivity(
    form: FunctionForm, setting: Setting, variants: Sequence[Trial]
) -> Decided:
    """4.3 for sensitivity."""
    return _restored("snip")


def magnitude_empties_the_widest(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """4.5: in a chain whose layers differ in width, the layer with the most inputs is the first to be empty."""

    def hit(seed: int) -> float:
        model = build("mlp:hidden=80+320+160+40", input_shape=(1, 8, 8), seed=seed)
        scores = scores_of(model, "magnitude", seed=seed)
        widest = max(prunable(model), key=lambda layer: layer.shape[1]).name
        return float(min(scores, key=lambda name: float(scores[name].max())) == widest)

    return held(_drawn(hit), what="the share of networks in which it does", least=0.5)


def sensitivity_grows_in_resnets(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """4.6: log of the mean sensitivity against the number of blocks has a slope near log(1 + (sw^2/2)^2), at sw = 1."""
    rate = math.log(1 + 0.25)

    def error(seed: int) -> float:
        means = [math.log(statistics.fmean(_in_blocks(blocks, seed, stable=False))) for blocks in DEPTHS]
        return abs(float(stats.linregress(DEPTHS, means).slope) / rate - 1)

    return held(_drawn(error, FEW), what="the relative error of the growth a block", most=0.25)


def sensitivity_falls_in_stable_resnets(
    form: FunctionForm, setting: Setting, variants: Sequence[Trial]
) -> Decided:
    """4.6: log of the mean sensitivity against log depth has a slope near -1 where branches are scaled."""

    def error(seed: int) -> float:
        means = [math.log(statistics.fmean(_in_blocks(blocks, seed, stable=True))) for blocks in DEPTHS]
        slope = float(stats.linregress([math.log(blocks) for blocks in DEPTHS], means).slope)
        return abs(slope + 1)

    return held(_drawn(error, FEW), what="the distance of the exponent from -1", most=0.25)


def stable_resnets_spread_no_further(
    form: FunctionForm, setting: Setting, variants: Sequence[Trial]
) -> Decided:
    """4.6: at the largest depth, the log of the largest over the smallest, Stable minus plain, is at most 0."""

    def wider(seed: int) -> float:
        stable, plain = (_in_blocks(DEPTHS[-1], seed, stable=stable) for stable in (True, False))
        return math.log(max(stable) / min(stable)) - math.log(max(plain) / min(plain))

    return held(_drawn(wider, FEW), what="by how much the stable one's log spread is larger", most=0.0)


def relu_is_scale_free(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """4.8: without biases, the sensitivities of a ReLU network stay within a factor of five at any deviation."""

    def spread(factor: float) -> Draw:
        def ratio(seed: int) -> float:
            found = _sensitivities(factor, seed, activation="relu", sigma_b=0.0)
            return max(found) / min(found)

        return ratio

    return for_all(
        {
            f"weights {factor:g} times the edge's": held(
                _drawn(spread(factor)), what="largest over smallest sensitivity", most=FLAT
            )
            for factor in (0.5, 1.0, 2.0)
        }
    )


def _drawn(draw: Draw, draws: int = DRAWS) -> dict[int, float]:
    """One network a number; the study's seeds stand for trainings, and there are none here."""
    return {number: draw(number) for number in range(draws)}


def _chain(depth: int, width: int, kind: type[nn.Module], *, bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, bias=bias), kind()]
    return nn.Sequential(*layers, nn.Linear(width, 10, bias=bias))


def _initialised(
    factor: float,
    seed: int,
    *,
    depth: int = DEPTH,
    width: int = WIDTH,
    activation: str = "tanh",
    sigma_b: float = SIGMA_B,
) -> nn.Sequential:
    """A chain on the edge of chaos, its weights then multiplied by a factor."""
    model = _chain(depth, width, {"tanh": nn.Tanh, "relu": nn.ReLU}[activation], bias=sigma_b > 0)
    theory.initialize_(model, activation=activation, sigma_b=sigma_b, seed=seed)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Linear):
                module.weight.mul_(factor)
    return model


def _batch(width: int, seed: int, examples: int = 100) -> tuple[Tensor, Tensor]:
    x = torch.randn(examples, width, generator=generator(seed, "inputs"))
    return x, torch.arange(examples) % 10


def _sensitivities(
    factor: float, seed: int, *, activation: str = "tanh", sigma_b: float = SIGMA_B
) -> list[float]:
    """m_l of the hidden layers but the first, relative to the last layer."""
    model = _initialised(factor, seed, activation=activation, sigma_b=sigma_b)
    table = robust.sensitivities(model, _batch(WIDTH, seed), activation=activation, seed=seed)
    return [float(str(value)) for value in table["measured"][1:-1]]


def _log_chi(factor: float) -> float:
    """Of the gradient's second moment, at the variance that signals settle on."""
    sigma_w = factor * theory.edge_of_chaos("tanh", sigma_b=SIGMA_B).sigma_w
    return math.log(theory.phase("tanh", sigma_w=sigma_w, sigma_b=SIGMA_B).chi)


def _critical(factor: float, seed: int) -> float:
    """The sparsity at which sensitivity pruning empties the first layer of 100 layers of 100 units."""
    model = _initialised(factor, seed, depth=CRITICAL_SIZE - 1, width=CRITICAL_SIZE)
    scores = scores_of(
        model, "snip", batches=[_batch(CRITICAL_SIZE, seed)], examples_per_class=None, seed=seed
    )
    first = min(float(values.max()) for values in scores.values())
    gone = sum(int((values <= first).sum()) for values in scores.values())
    return gone / sum(values.numel() for values in scores.values())


def _restored(method: str) -> Decided:
    """The correlation of two signals at the end: pruning to a tenth raises it, rescaling undoes half of that at least.

    Rescaling that overshoots undoes as little as one that falls as far short.
    """
    rise, undone = {}, {}
    for number in range(DRAWS):
        dense, plain, rescaled = (_end(method, number, how) for how in ("dense", "none", "weights"))
        rise[number] = plain - dense
        undone[number] = 1 - abs(rescaled - dense) / rise[number] if rise[number] > 0 else math.nan
    return for_all(
        {
            "pruned, it is ordered": held(rise, what="the rise of the correlation", least=0.0),
            "rescaled, it is not": held(undone, what="the share of the rise undone", least=0.5),
        }
    )


def _end(method: str, seed: int, how: str) -> float:
    """The correlation of signals before the last layer of a deep chain: dense, pruned to a tenth, or rescaled too."""
    model = _initialised(1.0, seed, depth=40, width=200)
    x, y = _batch(200, seed, 64)
    ticket: Ticket | None = None
    if how != "dense":
        batches = [(x, y)] if method == "snip" else None
        ticket = prune(model, method, sparsity=0.9, batches=batches, examples_per_class=None, seed=seed)
        if how != "none":
            theory.rescale_(model, ticket, how)
    return float(str(measures.signal(model, x, ticket)["correlation"][-2]))


class _Residual(nn.Module):
    """y + scale * W2 relu(W1 relu(y)), block after block: a ResNet with two-layer branches and no normalisation."""

    def __init__(self, blocks: int, width: int, seed: int, scale: float) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(blocks))
        self.head = nn.Linear(width, 10, bias=False)
        self.scale = scale
        stream = generator(seed, "init")
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(0.0, 1 / math.sqrt(width), generator=stream)

    def forward(self, y: Tensor) -> Tensor:
        """Logits."""
        for first, second in zip(self.first, self.second, strict=True):
            y = y + self.scale * second(torch.relu(first(torch.relu(y))))
        return self.head(y)  # type: ignore[no-any-return]


@lru_cache(maxsize=2 * FEW * len(DEPTHS))  # three claims look at them, and they take seconds each
def _in_blocks(blocks: int, seed: int, *, stable: bool) -> tuple[float, ...]:
    """m_l = E[(W dL/dW)^2] of the blocks' layers, not relative to any layer."""
    model = _Residual(blocks, WIDTH, seed, 1 / math.sqrt(blocks) if stable else 1.0)
    table = robust.sensitivities(model, _batch(WIDTH, seed), seed=seed)
    last = float(str(table.last))
    return tuple(float(str(row["measured"])) * last for row in table if row["layer"] != "head.weight")
