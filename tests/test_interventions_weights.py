"""Interventions on the weights: what is drawn anew, what is moved, and what stays bit for bit."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from disbud import DisbudError, Ticket
from disbud.interventions import on_weights
from disbud.models import build

SIGMAS = 6


class Tied(nn.Module):
    """Two layers that share one weight, as an autoencoder's or a language model's ends do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(20, 20), nn.Linear(20, 20)
        self.last.weight = self.first.weight


def seeded(make: object, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 96, 3),
        nn.BatchNorm2d(96),
        nn.Conv2d(96, 96, 3, groups=4),
        nn.ConvTranspose2d(96, 64, 3, groups=2),
        nn.Flatten(),
        nn.Linear(64 * 9, 200),
    )


def ticket_of(model: nn.Module, density: float = 0.3, seed: int = 0) -> Ticket:
    stream = torch.Generator().manual_seed(seed)
    return Ticket.from_masks(
        {
            name: torch.rand(p.shape, generator=stream) < density
            for name, p in model.named_parameters()
            if p.dim() > 1
        },
        model=model,
    )


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


NAMES = [
    "kaiming-normal",
    "kaiming-uniform",
    "xavier-normal",
    "xavier-uniform",
    "orthogonal",
    "sparse-kaiming",
]
EVERY = [*(f"reinit:init={name}" for name in NAMES), "reinit", "permute-values", "sign-only"]


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.filterwarnings("ignore:reinit. reset_parameters draws")
def test_only_the_weights_under_a_mask_change_and_only_in_the_outcome(text: str) -> None:
    model = seeded(net)
    ticket = Ticket(
        {"2.weight": ticket_of(model).masks["2.weight"], "5.weight": ticket_of(model).masks["5.weight"]}
    )
    state = model.state_dict()
    before, stream = copied(state), torch.random.get_rng_state()
    asked = {"model": model} if text.startswith("reinit") else {}
    changed, _ = on_weights(state, ticket, text, seed=4, **asked)
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert same(state, before), "the state given was changed"
    assert same(model.state_dict(), before), "the model given was changed"
    assert list(changed) == list(state)
    for name, tensor in changed.items():
        if name in ticket.masks:
            assert tensor.data_ptr() != state[name].data_ptr()
            assert not torch.equal(tensor, state[name])
            assert (tensor.shape, tensor.dtype) == (state[name].shape, state[name].dtype)
        else:
            assert tensor is state[name]
    again, _ = on_weights(state, ticket, text, seed=4, **asked)
    other, _ = on_weights(state, ticket, text, seed=5, **asked)
    assert same(changed, again)
    assert same(changed, other) == (text == "sign-only")


# reinit: named


def fan_in(module: nn.Module) -> int:
    """How many products are summed in one output, counted on the module itself with ones everywhere."""
    ones = copy.deepcopy(module).double()
    with torch.no_grad():
        for parameter in ones.parameters():
            parameter.fill_(float(parameter.dim() > 1))
        shape = (1, module.in_features) if isinstance(module, nn.Linear) else (1, module.in_channels, 5, 5)
        return int(ones(torch.ones(shape, dtype=torch.float64)).max())


@pytest.mark.parametrize("shape", ["normal", "uniform"])
def test_kaiming_has_variance_two_over_the_fan_in(shape: str) -> None:
    model = seeded(net)
    state, _ = on_weights(
        model.state_dict(), ticket_of(model), "reinit", init=f"kaiming-{shape}", model=model
    )
    for index in (0, 2, 3, 5):
        weight = state[f"{index}.weight"].double()
        expected = 2 / fan_in(model[index])
        assert abs(float(weight.var()) / expected - 1) <= SIGMAS * math.sqrt(2 / weight.numel())
        assert abs(float(weight.mean())) <= SIGMAS * math.sqrt(expected / weight.numel())
        bound = math.sqrt(3 * expected)
        assert (float(weight.abs().max()) <= bound * (1 + 1e-6)) == (shape == "uniform")


@pytest.mark.parametrize("shape", ["normal", "uniform"])
def test_xavier_has_variance_two_over_both_fans(shape: str) -> None:
    model = seeded(lambda: nn.Linear(300, 100))
    state, _ = on_weights(model.state_dict(), ticket_of(model), f"reinit:init=xavier-{shape}")
    assert abs(float(state["weight"].var()) / (2 / 400) - 1) <= SIGMAS * math.sqrt(2 / 30_000)
    bound = math.sqrt(6 / 400)
    assert (float(state["weight"].abs().max()) <= bound * (1 + 1e-6)) == (shape == "uniform")


def test_orthogonal_has_orthonormal_rows_or_columns_in_each_group() -> None:
    model = seeded(
        lambda: nn.Sequential(nn.Linear(40, 25), nn.Linear(25, 40), nn.Conv2d(12, 18, 3, groups=3))
    )
    state, _ = on_weights(model.state_dict(), ticket_of(model), "reinit:init=orthogonal", model=model)
    wide, tall = state["0.weight"].double(), state["1.weight"].double()
    assert torch.allclose(wide @ wide.T, torch.eye(25).double(), atol=1e-5)
    assert torch.allclose(tall.T @ tall, torch.eye(25).double(), atol=1e-5)
    for group in state["2.weight"].double().flatten(1).chunk(3):
        assert torch.allclose(group @ group.T, torch.eye(6).double(), atol=1e-5)


def test_sparse_kaiming_keeps_the_signal_through_uneven_units() -> None:
    # Of inputs with unit variance every output unit that has any input makes one of variance 2, however few it has.
    model = seeded(lambda: nn.Linear(400, 6, bias=False))
    mask = torch.zeros(6, 400).bool()
    for unit, count in enumerate((1, 4, 30, 100, 400)):
        mask[unit, :count] = True
    ticket = Ticket.from_masks({"weight": mask}, model=model)
    squares = torch.zeros(6, dtype=torch.float64)
    for seed in range(400):
        state, _ = on_weights(model.state_dict(), ticket, "reinit:init=sparse-kaiming", seed=seed)
        squares += (state["weight"].double() * mask).square().sum(1) / 400
    # A sum of k squared normals of variance 2/k has variance 8/k.
    for unit, count in enumerate((1, 4, 30, 100, 400)):
        assert abs(squares[unit] - 2) <= SIGMAS * math.sqrt(8 / count / 400)
    assert squares[5] == 0


def test_sparse_kaiming_counts_inputs_where_the_layer_has_them() -> None:
    model = seeded(lambda: nn.ConvTranspose2d(64, 8, 3, groups=2, bias=False))
    mask = torch.zeros(64, 4, 3, 3).bool()
    mask[:16] = True  # outputs of the first group have 16 inputs a tap, those of the second have none
    ticket = Ticket.from_masks({"weight": mask}, model=model)
    state, _ = on_weights(model.state_dict(), ticket, "reinit:init=sparse-kaiming", model=model)
    kept = state["weight"][mask].double()
    assert abs(float(kept.var()) / (2 / (16 * 9)) - 1) <= SIGMAS * math.sqrt(2 / len(kept))


# reinit: the model's own law


def test_a_factory_builds_the_model_again_with_other_weights() -> None:
    model = build("resnet20:width=0.25", seed=3)
    ticket = ticket_of(model)
    seeds = []

    def factory(seed: int) -> nn.Module:
        seeds.append(seed)
        return build("resnet20:width=0.25", seed=seed)

    state, outcome = on_weights(model.state_dict(), ticket, "reinit", seed=3, factory=factory)
    rebuilt = build("resnet20:width=0.25", seed=seeds[0]).state_dict()
    assert seeds[0] != 3, "the model's own seed would give its own weights"
    assert all(torch.equal(state[name], rebuilt[name]) for name in ticket.masks)
    assert outcome.origin.settings["init"].endswith("factory")
    on_weights(model.state_dict(), ticket, "reinit", seed=4, factory=factory)
    assert seeds[1] != seeds[0]


def test_a_factory_that_ignores_its_seed_is_an_error() -> None:
    model = build("mlp:hidden=20", input_shape=(1, 8, 8))
    with pytest.raises(
        DisbudError, match="gives the weights that are there already; a factory must use the seed"
    ):
        on_weights(
            model.state_dict(),
            ticket_of(model),
            "reinit",
            factory=lambda seed: build("mlp:hidden=20", input_shape=(1, 8, 8)),
        )


def test_a_factory_that_draws_from_the_global_streams_is_seeded() -> None:
    ticket = ticket_of(seeded(lambda: nn.Linear(30, 20)))
    state = seeded(lambda: nn.Linear(30, 20)).state_dict()
    first, second, third = (
        on_weights(state, ticket, "reinit", seed=seed, factory=lambda seed: nn.Linear(30, 20))[0]
        for seed in (0, 0, 1)
    )
    assert same(first, second)
    assert not same(first, third)


def test_init_is_a_function_of_a_copy_of_the_model() -> None:
    model = seeded(net)
    ticket = ticket_of(model)

    def init(model: nn.Module) -> None:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)

    state, outcome = on_weights(model.state_dict(), ticket, "reinit", model=model, init=init)
    assert abs(float(state["5.weight"].std()) - 0.5) <= SIGMAS * 0.5 / math.sqrt(
        2 * state["5.weight"].numel()
    )
    assert torch.equal(state["5.bias"], model[5].bias), "biases are not the ticket's"
    assert outcome.origin.settings["init"].endswith("init")


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
def test_reset_parameters_is_warned_of_where_the_law_was_another(pruned: bool) -> None:
    model = build("lenet-300-100", input_shape=(1, 28, 28))
    ticket = ticket_of(model)
    if pruned:
        ticket.apply_(model)
    with pytest.warns(
        UserWarning, match=r"another standard deviation.*fc1.weight \(0.050\d before, 0.020\d now\)"
    ):
        on_weights(model.state_dict(), ticket, "reinit", model=model)
    torch_made = build(
        "mlp:hidden=30+5,init=torch", input_shape=(1, 28, 28)
    )  # chance alone moves 50 weights by more
    ticket = ticket_of(torch_made)
    if pruned:
        ticket.apply_(torch_made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(20):
            on_weights(torch_made.state_dict(), ticket, "reinit", model=torch_made, seed=seed)


def test_reset_parameters_reaches_attention_and_says_where_it_cannot() -> None:
    model = seeded(lambda: nn.MultiheadAttention(16, 2))
    ticket = ticket_of(model)
    state, _ = on_weights(model.state_dict(), ticket, "reinit", model=model)
    assert not torch.equal(state["in_proj_weight"], model.in_proj_weight)
    own = nn.Module()
    own.weight = nn.Parameter(torch.rand(4, 4))
    with pytest.raises(
        DisbudError, match=r"the model, a Module that owns weight, has no reset_parameters; give fact"
    ):
        on_weights(own.state_dict(), ticket_of(own), "reinit", model=own)


def test_reinit_says_what_it_needs() -> None:
    model = seeded(lambda: nn.Linear(6, 5))
    state, ticket = model.state_dict(), ticket_of(model)
    with pytest.raises(DisbudError, match=r"give factory=.*; model=.*; or init= one of kaiming-normal"):
        on_weights(state, ticket, "reinit")
    with pytest.raises(DisbudError, match=r"give factory=.*; model="):
        on_weights(state, ticket, "reinit", init=nn.init.ones_)
    with pytest.raises(DisbudError, match="needs no init beside it"):
        on_weights(state, ticket, "reinit", init="orthogonal", factory=lambda seed: model)
    with pytest.raises(DisbudError, match="the model itself is given as model="):
        on_weights(state, ticket, "reinit", factory=model)
    with pytest.raises(DisbudError, match=r"model is a torch\.nn\.Module, not a type"):
        on_weights(state, ticket, "reinit", model=nn.Linear)
    with pytest.raises(DisbudError, match="init is a name or a function of a model, not a int"):
        on_weights(state, ticket, "reinit", init=3)
    with pytest.raises(DisbudError, match=r"factory should return a torch\.nn\.Module, not a Tensor"):
        on_weights(state, ticket, "reinit", factory=lambda seed: torch.zeros(5, 6))
    with pytest.raises(DisbudError, match=r"should have weight of shape \(5, 6\); it is \(6, 5\) there"):
        on_weights(state, ticket, "reinit", factory=lambda seed: nn.Linear(5, 6))
    with pytest.raises(DisbudError, match="gives weight NaN or infinite weights"):
        on_weights(state, ticket, "reinit", model=model, init=lambda m: m.weight.fill_(math.nan))
    with pytest.raises(DisbudError, match="sign-only has no settings, but init was given"):
        on_weights(state, ticket, "sign-only", init="orthogonal")
    vector = Ticket({"bias": torch.ones(5).bool()})
    with pytest.raises(DisbudError, match="bias has fewer than two axes"):
        on_weights(state, vector, "reinit:init=orthogonal")


# permute-values and sign-only


def test_permute_values_moves_kept_values_among_kept_positions() -> None:
    model = seeded(net)
    ticket, state = ticket_of(model), model.state_dict()
    changed, _ = on_weights(state, ticket, "permute-values", seed=1)
    for name, mask in ticket.masks.items():
        assert torch.equal(changed[name][~mask], state[name][~mask])
        before, after = state[name][mask], changed[name][mask]
        assert torch.equal(before.sort().values, after.sort().values)
        # A random order leaves one value in its place on average, Poisson(1): more than 15 come once in 2e13.
        assert int((before == after).sum()) <= 15
        correlation = float(torch.corrcoef(torch.stack([before, after]))[0, 1])
        assert abs(correlation) <= SIGMAS / math.sqrt(len(before))


def test_sign_only_keeps_signs_and_the_second_moment() -> None:
    model = seeded(net)
    ticket, state = ticket_of(model), model.state_dict()
    with torch.no_grad():
        state["5.weight"][ticket.masks["5.weight"].nonzero()[0].unbind()] = 0  # kept, and without a sign
    changed, _ = on_weights(state, ticket, "sign-only")
    for name, mask in ticket.masks.items():
        before, after = state[name][mask].double(), changed[name][mask].double()
        assert torch.equal(before.sign(), after.sign())
        assert len(after[after != 0].abs().unique()) == 1
        assert before.abs().unique().numel() > 1000
        assert math.isclose(float(before.square().sum()), float(after.square().sum()), rel_tol=1e-6)
        assert torch.equal(changed[name][~mask], state[name][~mask])


def test_sign_only_refuses_what_has_no_magnitude() -> None:
    ticket = Ticket({"w": torch.ones(3).bool()})
    with pytest.raises(DisbudError, match="w holds NaN or infinite weights"):
        on_weights({"w": torch.tensor([1.0, math.inf, 2.0])}, ticket, "sign-only")
    empty = Ticket({"w": torch.zeros(3).bool()})
    assert on_weights({"w": torch.ones(3)}, empty, "sign-only")[0]["w"].tolist() == [1, 1, 1]


# States


@pytest.mark.parametrize("text", ["reinit:init=orthogonal", "permute-values", "sign-only"])
def test_a_shared_weight_changes_under_both_its_names(text: str) -> None:
    model = seeded(Tied)
    state = model.state_dict()
    assert {"first.weight", "last.weight"} <= state.keys()
    changed, _ = on_weights(state, ticket_of(model), text)
    assert torch.equal(changed["first.weight"], changed["last.weight"])
    assert not torch.equal(changed["first.weight"], state["first.weight"])
    twin = seeded(Tied, 1)
    twin.load_state_dict(changed)
    assert torch.equal(twin.first.weight, changed["first.weight"])


def test_a_wrapped_models_state_keeps_its_names() -> None:
    model = nn.DataParallel(seeded(lambda: nn.Linear(6, 5)))
    ticket = ticket_of(model)
    changed, _ = on_weights(model.state_dict(), ticket, "reinit:init=orthogonal", model=model)
    assert list(changed) == ["module.weight", "module.bias"]
    model.load_state_dict(changed)


def test_half_precision_stays() -> None:
    model = seeded(lambda: nn.Linear(60, 50)).bfloat16()
    for text in ("reinit:init=kaiming-normal", "permute-values", "sign-only"):
        assert on_weights(model.state_dict(), ticket_of(model), text)[0]["weight"].dtype == torch.bfloat16


def test_states_that_do_not_fit() -> None:
    ticket = Ticket({"weight": torch.ones(2, 3).bool()})
    with pytest.raises(DisbudError, match="the state has no weight, which the ticket masks"):
        on_weights({"w": torch.ones(2, 3)}, ticket, "sign-only")
    with pytest.raises(DisbudError, match=r"weight is \(3, 2\) in the state and \(2, 3\) in the ticket"):
        on_weights({"weight": torch.ones(3, 2)}, ticket, "sign-only")
    with pytest.raises(DisbudError, match=r"weight is of torch.int8 in the state"):
        on_weights({"weight": torch.ones(2, 3, dtype=torch.int8)}, ticket, "sign-only")
    with pytest.raises(DisbudError, match="weight is on the meta device"):
        on_weights({"weight": torch.ones(2, 3, device="meta")}, ticket, "sign-only")
