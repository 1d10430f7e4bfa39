"""Residual nets: predictions against drawn ones, branches found in real models, the setting of disbud's own."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import DisbudError, models, theory
from networks import NETWORKS


def measured(
    blocks: int, branch_layers: int, *, stable: bool, width: int = 100, draws: int = 30
) -> np.ndarray:
    """N E[(W dL/dW)^2] by block and layer, E[(dL/dy_L)^2] = 1, over drawn nets; no code of disbud's takes part."""
    scale, found = blocks**-0.5 if stable else 1.0, []
    for draw in range(draws):
        stream = torch.Generator().manual_seed(draw)
        weights = [
            (torch.randn(width, width, generator=stream) / width**0.5).requires_grad_()
            for _ in range(blocks * branch_layers)
        ]
        x = torch.randn(width, generator=stream)
        x = x / x.square().mean().sqrt()
        for block in range(blocks):
            branch = x
            for weight in weights[block * branch_layers : (block + 1) * branch_layers]:
                branch = weight @ branch.relu()
            x = x + scale * branch
        gradients = torch.autograd.grad(x @ torch.randn(width, generator=stream), weights)
        found.append(
            [float((w.detach() * g).square().sum()) / width for w, g in zip(weights, gradients, strict=True)]
        )
    return np.mean(found, axis=0).reshape(blocks, branch_layers)


@pytest.mark.parametrize("branch_layers", [1, 2])
@pytest.mark.parametrize("stable", [False, True])
def test_predictions_hold_in_drawn_nets(branch_layers: int, stable: bool) -> None:
    said = theory.residual("relu", blocks=8, sigma_w=1.0, branch_layers=branch_layers, stable=stable)
    ratio = measured(8, branch_layers, stable=stable) / np.array(said.sensitivities)
    assert ratio.mean() == pytest.approx(1, abs=0.15)
    assert ratio.std() < 0.12  # the same in every block


def test_the_closed_forms_for_relu() -> None:
    for k in (1, 2):
        plain = [
            theory.residual("relu", blocks=n, sigma_w=1.3, branch_layers=k).mean_sensitivity for n in (20, 21)
        ]
        assert plain[1] / plain[0] == pytest.approx(1 + (1.3**2 / 2) ** k)
        stable = [
            n * theory.residual("relu", blocks=n, sigma_w=1.3, branch_layers=k, stable=True).mean_sensitivity
            for n in (1000, 4000)
        ]
        assert stable[1] / stable[0] == pytest.approx(1, rel=1e-3)  # m of order 1 / L
    rows = np.array(theory.residual("relu", blocks=20, sigma_w=1.0).sensitivities)
    assert rows.max() / rows.min() == pytest.approx(1)


@pytest.mark.parametrize(
    "spec",
    [
        "resnet20:width=0.25",
        "resnet20:width=0.25,shortcut=identity",
        "resnet50:width=0.05",
        "wrn-16-8:width=0.05",
    ],
)
def test_branches_are_found_and_scaled_as_the_setting_does(spec: str) -> None:
    x = torch.randn(2, 3, 32, 32)
    plain, stable = models.build(spec).eval(), models.build(f"{spec},stable=true").eval()
    before = plain(x)
    done = theory.stabilize_(plain, x)
    assert done.factor == pytest.approx(len(done.branches) ** -0.5)
    assert torch.equal(plain(x), stable(x))
    assert not torch.allclose(plain(x), before)
    assert plain.state_dict().keys() == stable.state_dict().keys()
    pruned = [disbud.prune(model, "synflow", sparsity=0.8, rounds=2, example=x) for model in (plain, stable)]
    assert pruned[0] == pruned[1]
    for copied in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert torch.equal(copied(x), stable(x))
    with pytest.raises(DisbudError, match="stable already"):
        theory.stabilize_(plain, x)


def test_a_plain_net_computes_as_before_and_the_setting_is_checked() -> None:
    assert models.build("resnet20:stable=false").layer1[0].scale == 1
    assert models.build("resnet32:stable=true").layer1[0].scale == pytest.approx(15**-0.5)
    with pytest.raises(DisbudError, match="stable is true or false, not 'yes'"):
        models.build("resnet20:stable=yes")


def test_transformers_have_two_branches_and_chains_none() -> None:
    done = theory.stabilize_(NETWORKS["transformer"].build(), NETWORKS["transformer"].example)
    assert len(done.branches) == 2
    for name in ("linear", "conv", "densely-connected", "tied"):
        with pytest.raises(DisbudError, match="adds no branch"):
            theory.stabilize_(NETWORKS[name].build(), NETWORKS[name].example)


class Odd(nn.Module):
    """Sums of two signals of one origin, of every kind that cannot be scaled."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(x)
        match self.kind:
            case "equal":
                return self.first(x) + self.second(x)
            case "function":
                return x + self.first(x).relu()
            case "twice":
                x = x + self.first(x)
                return x + self.first(x)
            case "elsewhere":
                branch = self.first(x)
                return (x + branch) * branch
        branch = self.second(self.first(x).relu())
        branch += x
        return branch


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("equal", "both have 1 weighted layers"),
        ("function", "ends in a function"),
        ("twice", "used 2 times"),
        ("elsewhere", "read elsewhere too"),
    ],
)
def test_branches_that_cannot_be_scaled_are_refused(kind: str, says: str) -> None:
    model = Odd(kind)
    with pytest.raises(DisbudError, match=says):
        theory.stabilize_(model, torch.zeros(2, 3))
    assert not any(module._forward_hooks for module in model.modules())


def test_an_addition_in_place_is_seen() -> None:
    assert theory.stabilize_(Odd("in place"), torch.zeros(2, 3)).branches == ("second",)


def test_looking_for_branches_leaves_the_example_as_it_was() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu_(x)
            return x + self.layer(x)

    example = -torch.ones(2, 6)
    assert theory.stabilize_(nn.Sequential(Block(), Block()), example).branches == ("0.layer", "1.layer")
    assert torch.equal(example, -torch.ones(2, 6))
