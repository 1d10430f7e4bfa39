"""Which weights can be pruned, in which order, under which names, and what is said when there are none."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import disbud
from disbud.errors import DisbudError
from disbud.graph import is_chain
from disbud.graph.kernels import Kernels
from networks import IMAGE, NETWORKS, ROW, Functional

EXPECTED = {
    "linear": "0 2",
    "without-biases": "0 2 4",
    "conv": "0 3 7",
    "batch-norm": "0 3 8",
    "strided": "0 2 4",
    "grouped": "0 2 4 7",
    "transposed": "0 2 6",
    "conv1d": "0 5",
    "conv3d": "0 4",
    "residual": "stem branch.0 branch.2 shortcut head",
    "densely-connected": "first second head",
    "dropout": "1 4",
    "unused-branch": "first idle head",
    "functional": "first last",
}


def names(model: nn.Module, **more: object) -> list[str]:
    return [layer.name for layer in disbud.prunable(model, **more)]  # type: ignore[arg-type]


@pytest.mark.parametrize("by_example", [False, True])
@pytest.mark.parametrize("name", EXPECTED)
def test_the_order_is_the_one_the_signal_meets_them_in(name: str, by_example: bool) -> None:
    network = NETWORKS[name]
    example = {"example": network.example} if by_example else {}
    assert names(network.build(), **example) == [f"{layer}.weight" for layer in EXPECTED[name].split()]


def test_without_a_trace_the_order_is_the_registration_and_an_example_mends_it() -> None:
    network = NETWORKS["untraceable"]
    assert names(network.build()) == ["last.weight", "first.weight"]
    assert names(network.build(), example=network.example) == ["first.weight", "last.weight"]


def test_examples_are_tensors_tuples_or_mappings() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b, self.a = nn.Linear(2, 3), nn.Linear(6, 2)

        def forward(self, x: Tensor, scale: Tensor, *, flip: bool = False) -> Tensor:
            if float(scale) == 0:
                raise RuntimeError("not this one")
            out: Tensor = self.b(self.a(x)) if not flip else self.a(x)
            return out

    one = torch.ones(1)
    for example in ((ROW, one), [ROW, one], {"x": ROW, "scale": one, "flip": False}):
        assert names(Two(), example=example) == ["a.weight", "b.weight"]
    assert names(Two(), example={"x": ROW, "scale": one, "flip": True}) == ["a.weight", "b.weight"]
    with pytest.raises(RuntimeError, match=r"not this one"):
        names(Two(), example=(ROW, torch.zeros(1)))
    with pytest.raises(DisbudError, match=r"an example is a tensor, a tuple or a dict of inputs, not a str"):
        names(Two(), example="x")


def test_kinds_and_units() -> None:
    def only(model: nn.Module) -> disbud.Layer:
        (layer,) = disbud.prunable(model)
        return layer

    grouped = only(nn.Conv2d(6, 4, (3, 5), groups=2))
    assert (grouped.kind, grouped.n_in, grouped.n_out, grouped.kernel, grouped.size) == (
        "conv",
        3,
        4,
        (3, 5),
        180,
    )
    transposed = only(nn.ConvTranspose2d(6, 4, 2))
    assert (transposed.kind, transposed.n_in, transposed.n_out, transposed.kernel) == (
        "transposed-conv",
        6,
        4,
        (2, 2),
    )
    both = only(nn.ConvTranspose2d(8, 12, 2, groups=4))  # each output sees the two inputs of its group
    assert (both.n_in, both.n_out, both.groups) == (2, 3, 4)
    assert Kernels.of(both).sizes == (4, 2, 3, 4)
    assert (grouped.groups, transposed.groups, Kernels.of(grouped).sizes) == (2, 1, (2, 3, 2, 15))
    linear = only(nn.Linear(6, 4))
    assert (linear.kind, linear.n_in, linear.n_out, linear.kernel, linear.size) == ("linear", 6, 4, (), 24)
    assert only(nn.Conv1d(2, 3, 7)).kernel == (7,)
    assert only(nn.Conv3d(2, 3, (1, 2, 3))).kernel == (1, 2, 3)


def test_attention_gives_its_input_projections() -> None:
    attention = disbud.prunable(nn.MultiheadAttention(8, 2))
    assert [(x.name, x.kind, x.shape) for x in attention] == [
        ("in_proj_weight", "attention", (24, 8)),
        ("out_proj.weight", "linear", (8, 8)),
    ]
    apart = disbud.prunable(nn.MultiheadAttention(8, 2, kdim=5, vdim=7))
    assert [(x.name, x.shape) for x in apart] == [
        ("q_proj_weight", (8, 8)),
        ("k_proj_weight", (8, 5)),
        ("v_proj_weight", (8, 7)),
        ("out_proj.weight", (8, 8)),
    ]
    network = NETWORKS["transformer"]
    block = "self_attn.in_proj_weight self_attn.out_proj.weight linear1.weight linear2.weight"
    expected = [*(f"block.{name}" for name in block.split()), "head.weight"]
    assert names(network.build()) == names(network.build(), example=network.example) == expected


def test_a_shared_weight_comes_once_under_its_first_name() -> None:
    network = NETWORKS["tied"]
    model = network.build()
    layers = {layer.name: layer for layer in disbud.prunable(model, example=network.example)}
    assert layers.keys() == {"embed.weight", "hidden.weight"}
    assert layers["embed.weight"].aliases == ("head.weight",)
    assert layers["embed.weight"].kind == "linear"
    assert names(model, exclude="head.*") == ["hidden.weight"]  # an alias is a name too
    assert names(model, include="head.*") == ["embed.weight"]
    shared = nn.Linear(3, 3)
    (layer,) = disbud.prunable(nn.Sequential(shared, nn.ReLU(), shared))
    assert (layer.name, layer.aliases) == ("0.weight", ("2.weight",))


def test_include_and_exclude() -> None:
    model = NETWORKS["residual"].build()
    everything = [f"{layer}.weight" for layer in EXPECTED["residual"].split()]
    assert names(model, include="*") == everything
    assert names(model, include="branch.*") == ["branch.0.weight", "branch.2.weight"]
    assert names(model, exclude=["branch.*", "head.*"]) == ["stem.weight", "shortcut.weight"]
    assert names(model, include=("branch.*", "head.weight"), exclude="*.0.*") == [
        "branch.2.weight",
        "head.weight",
    ]
    assert names(model, include=lambda layer: layer.kernel == (3, 3)) == everything[:3]
    assert names(model, exclude=lambda layer: layer.kind == "linear") == everything[:4]
    assert names(model, exclude="norm.*") == everything  # names a parameter that is never pruned


def test_a_pattern_that_matches_nothing_is_a_typing_error() -> None:
    model = NETWORKS["residual"].build()
    for more in ({"exclude": "branhc.0.weight"}, {"include": ["head.*", "branhc.0.weight"]}):
        with pytest.raises(
            DisbudError, match=r"no parameter .* matches 'branhc.0.weight'; the closest is branch.0.weight"
        ):
            names(model, **more)
    with pytest.raises(DisbudError, match=r"for all of a module write branch\.\*"):
        names(model, exclude="branch")
    with pytest.raises(
        DisbudError, match=r"leave nothing to prune; the model has stem.weight, branch.0.weight"
    ):
        names(model, include="norm.weight")
    with pytest.raises(DisbudError, match=r"leave nothing to prune"):
        names(model, exclude=lambda layer: True)


def test_nothing_prunable() -> None:
    with pytest.raises(DisbudError, match=r"nothing to prune: no linear.*\(its parameters: weight, bias\)"):
        names(nn.BatchNorm1d(3))
    with pytest.raises(DisbudError, match=r"its parameters: none"):
        names(nn.ReLU())
    with pytest.raises(DisbudError, match=r"a model is a torch.nn.Module, not a Tensor"):
        names(torch.ones(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "compute",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_computed_weights_cannot_be_pruned(compute: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(DisbudError, match=r"nothing to prune; weight: a parametrization.* remove that first"):
        names(compute(nn.Linear(6, 4)))
    mixed = nn.Sequential(compute(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 3))
    before = copy.deepcopy(mixed.state_dict())
    with pytest.warns(
        UserWarning, match=r"0.weight cannot be pruned: a parametrization or torch.nn.utils.prune"
    ):
        assert names(mixed) == ["2.weight"]
    for key, value in mixed.state_dict().items():  # the power iteration of spectral_norm has not moved
        assert torch.equal(value, before[key])
    with pytest.warns(UserWarning, match=r"cannot be pruned"):
        ticket = disbud.prune(mixed, "snip", sparsity=0.5, batches=[(torch.randn(5, 6), torch.arange(5) % 3)],
                              examples_per_class=None)  # fmt: skip
    assert (ticket.kept, ticket.total) == (6, 12)


def test_weights_without_a_shape() -> None:
    for lazy, which in (
        (nn.LazyLinear(3), "weight"),
        (nn.Sequential(nn.Linear(3, 3), nn.LazyConv2d(3, 3)), "1.weight"),
        (nn.Sequential(nn.Linear(3, 3), nn.LazyBatchNorm1d()), "1.weight"),
        (nn.Sequential(nn.Linear(3, 3), nn.LazyBatchNorm1d(affine=False)), "1.running_mean"),
    ):
        with pytest.raises(DisbudError, match=f"^{which} has no shape yet: run the model once on an input"):
            names(lazy)
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(2))
    model(torch.zeros(2, 3))
    assert names(model) == ["0.weight", "2.weight"]


class Views(nn.Module):
    """Flattens by asking for the size of its signal, as many published networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x.view(x.size(0), -1)
        out: Tensor = self.head(x.reshape(x.shape[0], x.numel() // x.shape[0]))
        return out


def test_chains() -> None:
    chains = {name for name, network in NETWORKS.items() if is_chain(network.build())}
    joined = {"residual", "densely-connected", "untraceable"}
    assert chains == NETWORKS.keys() - joined
    assert is_chain(Views())
    assert is_chain(Functional())
    Views()(IMAGE)


def test_looking_leaves_no_trace() -> None:
    class Noting(nn.Module):
        """Keeps its last signal, counts its calls, draws random numbers, and fails when it is traced."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)
            self.calls: Tensor
            self.register_buffer("calls", torch.zeros(()))
            self.last: object = None
            self.times = 0

        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            self.times += 1
            self.calls.add_(1)
            self.last = x
            self.layer.fresh = x
            if x.sum() > 0:
                raise RuntimeError("boom")
            out: Tensor = self.layer(x)
            return out

    model = Noting()
    before = torch.random.get_rng_state()
    names(model)
    is_chain(model)
    names(model, example=ROW)
    with pytest.raises(RuntimeError, match=r"boom"):
        names(model, example=ROW + 1)
    assert (model.times, model.last, model.calls.item()) == (0, None, 0)
    assert not hasattr(model.layer, "fresh")
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), before)
    copy.deepcopy(model)
