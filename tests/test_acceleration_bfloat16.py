"""Accelerated models whose activations are bfloat16 are the dense model but for rounding, and learn as well."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import disbud
from acceleration_networks import NETWORKS, apart, made
from disbud.acceleration import Accelerated, accelerate
from disbud.acceleration.program import Step, observing
from disbud.acceleration.signals import Signal

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
# Some roundings of 2^-8 one after another.
CLOSE = 2e-2


def accelerated(model: nn.Module, ticket: disbud.Ticket, x: Tensor) -> Accelerated:
    names = list(accelerate(model, ticket, example=x, plan="model").plan)
    plan = dict.fromkeys(names, "sparse")
    return accelerate(model, ticket, example=x, plan=plan, activations="bfloat16")


@pytest.mark.parametrize("network", NETWORKS)
def test_it_is_the_dense_model_but_for_rounding(network: str) -> None:
    model, ticket, _ = made(network)
    x = torch.randn(17, *NETWORKS[network][1])
    fast = accelerated(model, ticket, x)
    for mode in (True, False):
        for net in (model, fast):
            net.train(mode)
        for gradients in (torch.enable_grad, torch.no_grad):
            with gradients():
                found = fast(x)
                assert found.dtype == torch.float32
                assert 0 < apart(found, model(x)) < CLOSE


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    """That of all weights as one vector."""
    model.zero_grad()
    (model(x).float().square() * torch.arange(1.0, 5)).sum().backward()
    found = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
    assert {value.dtype for value in found.values()} == {torch.float32}
    return torch.cat([value.flatten() for name, value in sorted(found.items())])


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_as_good_as_those_of_bfloat16_autocast(network: str) -> None:
    """A ReLU or a pooling whose inputs are rounded may take another way, so that the bound is what torch's are off."""
    model, ticket, _ = made(network, sparsity=0.6)
    dense = disbud.Ticket.from_masks({name: torch.ones_like(mask) for name, mask in ticket.masks.items()})
    fast = accelerated(model, dense, torch.zeros(17, *NETWORKS[network][1]))
    errors: dict[str, list[float]] = {"ours": [], "autocast": []}
    for seed in range(6):
        x = torch.randn(17, *NETWORKS[network][1], generator=torch.Generator().manual_seed(seed))
        exact, ours = gradient(model, x), gradient(fast, x)
        with torch.autocast("cpu", torch.bfloat16):
            usual = gradient(model, x)
        errors["ours"].append(apart(ours, exact))
        errors["autocast"].append(apart(usual, exact))
    ours, usual = (math.hypot(*errors[kind]) for kind in ("ours", "autocast"))
    assert 0 < ours < 1.5 * usual


def test_signals_are_bfloat16_and_all_that_is_kept_is_float32() -> None:
    model, ticket, x = made("residual")
    fast = accelerated(model, ticket, x)
    types: set[torch.dtype] = set()

    def observer(step: Step, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        result = step.call(step.wish, *args, **kwargs)
        types.update(value.stored for value in args if isinstance(value, Signal))
        return result

    with observing(observer):
        fast(x)
    assert types == {torch.bfloat16}
    assert all(value.dtype != torch.bfloat16 for value in fast.state_dict().values())
    plain = accelerate(model, ticket, example=x, plan="model")
    plain.load_state_dict(fast.state_dict())


def test_unknown_types_are_refused() -> None:
    model, ticket, x = made("vgg")
    with pytest.raises(disbud.DisbudError, match="'bfloat'; did you mean 'bfloat16'"):
        accelerate(model, ticket, example=x, activations="bfloat")  # type: ignore[arg-type]


def accuracy_on_digits(activations: str, seed: int) -> float:
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[shuffled], y[shuffled]
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    ticket = disbud.prune(model, "random", sparsity=0.8, densities="uniform", seed=seed)
    fast = accelerate(model, ticket, example=x[:64], plan="model", activations=activations)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.05, momentum=0.9)
    order = torch.Generator().manual_seed(seed)
    for _ in range(6):
        for batch in torch.randperm(1200, generator=order).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(fast(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return float((fast.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean())


def test_digits_are_learnt_as_well() -> None:
    found = {kind: [accuracy_on_digits(kind, seed) for seed in (0, 1)] for kind in ("float32", "bfloat16")}
    means = {kind: sum(values) / len(values) for kind, values in found.items()}
    assert means["float32"] > 0.93
    assert abs(means["bfloat16"] - means["float32"]) < 0.015, found
