"""SynFlow against networks linearised by hand: scores, conservation, depth, rounds, and a model left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import disbud
from disbud.errors import DisbudError
from disbud.graph.flow import signals
from disbud.models import build
from linearised import CASES, IMAGE, P, assert_close, built, by_hand


@pytest.mark.parametrize("density", [1.0, 0.6, 0.1])
@pytest.mark.parametrize("name", CASES)
def test_scores_equal_those_of_the_network_linearised_by_hand(name: str, density: float) -> None:
    case = CASES[name]
    model = built(case)
    ticket = disbud.prune(model, "random", sparsity=1 - density, seed=4) if density < 1 else None
    masks = None if ticket is None else {k: mask.double() for k, mask in ticket.masks.items()}
    expected = by_hand(case, model, masks)
    if ticket is None:
        assert all(score.sum() > 0 for layer, score in expected.items() if layer != "unused.weight")
    found = disbud.scores(model, "synflow", example=case.example, ticket=ticket, dtype="float64")
    assert_close(found, expected, 1e-10)
    found = disbud.scores(model, "synflow", example=case.example, ticket=ticket)
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_l2_scores_are_those_of_squared_weights(name: str) -> None:
    case = CASES[name]
    model = built(case)
    found = disbud.scores(model, "synflow-l2", example=case.example, dtype="float64")
    assert_close(found, by_hand(case, model, power=2), 1e-10)


@pytest.mark.parametrize("name", CASES)
def test_carrying_exponents_changes_nothing_but_a_power_of_two(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_SETTLED", 0)  # every signal is rescaled after every operation
    case = CASES[name]
    model = built(case, seed=1)
    found = disbud.scores(model, "synflow", example=case.example, dtype="float64")
    expected = by_hand(case, model)
    assert_close(found, expected, 1e-10)
    ratio = sum(score.sum() for score in expected.values()) / sum(score.sum() for score in found.values())
    assert torch.log2(ratio).item() == pytest.approx(round(torch.log2(ratio).item()), abs=1e-9)


def as_released(model: nn.Module, x: Tensor) -> P:
    """The scores of Tanaka et al.'s released code: abs of the whole state, the model itself in eval mode, p * grad."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval().load_state_dict({name: value.abs() for name, value in state.items()})
    layers = {layer.name: model.get_parameter(layer.name) for layer in disbud.prunable(model)}
    model(x).sum().backward()
    found = {name: (p.grad * p).detach().clone() for name, p in layers.items() if p.grad is not None}
    model.load_state_dict(state)
    model.zero_grad(set_to_none=True)
    return found


def test_biases_abs_scores_as_the_released_code_does() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 9, 3),
        nn.BatchNorm2d(9), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4),
    ).double()  # fmt: skip
    for i in (1, 5):
        for tensor in (net[i].weight, net[i].bias, net[i].running_mean):
            nn.init.normal_(tensor, std=3)
        nn.init.uniform_(net[i].running_var, 0.5, 2)
    expected = as_released(net, torch.ones(1, 3, 8, 8).double())
    found = disbud.scores(net, "synflow", example=IMAGE.double(), biases="abs", dtype="float64")
    assert_close(found, expected, 1e-10)
    dropped = disbud.scores(net, "synflow", example=IMAGE.double(), dtype="float64")
    with pytest.raises(AssertionError):
        assert_close(dropped, expected, 0.01)


def test_without_biases_and_shifts_the_release_agrees_with_both_settings() -> None:
    model = build("resnet20:width=0.25").double()
    expected = as_released(model, torch.ones(1, 3, 32, 32).double())
    for biases in ("drop", "abs"):
        example = torch.zeros(1, 3, 32, 32).double()
        found = disbud.scores(model, "synflow", example=example, biases=biases, dtype="float64")
        assert_close(found, expected, 1e-10)


def test_flow_is_conserved_at_every_hidden_unit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 9), nn.Sigmoid(), nn.Linear(9, 4),
    )  # fmt: skip
    first, second, third, last = disbud.scores(model, "synflow", example=IMAGE, dtype="float64").values()
    for before, after in ((first, second), (second, third), (third, last)):
        into = before.flatten(1).sum(1)
        out_of = after.transpose(0, 1).flatten(1).sum(1)
        torch.testing.assert_close(into, out_of, rtol=1e-12, atol=0)


@pytest.mark.parametrize("biases", ["drop", "abs"])
def test_every_cut_carries_the_same_flow_where_nothing_is_added(biases: str) -> None:
    model = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(30, 30, bias=False), nn.SELU())])
    found = disbud.scores(model, "synflow", example=torch.zeros(1, 30), biases=biases)
    sums = torch.stack([score.double().sum() for score in found.values()])
    torch.testing.assert_close(sums, sums[:1].expand(20), rtol=1e-5, atol=0)


@pytest.mark.parametrize("breaks", [False, True])
def test_the_model_is_left_as_it_was(breaks: object) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 3)
    )
    if breaks:
        model.append(nn.Linear(5, 2))  # does not fit: forward raises half-way
    model.train()
    model[3].eval()
    model(torch.randn(4, 3, 8, 8)).sum().backward() if not breaks else None
    state = {name: value.clone() for name, value in model.state_dict(keep_vars=True).items()}
    kept = {name: value.data_ptr() for name, value in model.state_dict(keep_vars=True).items()}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    random = torch.random.get_rng_state()
    for biases in ("drop", "abs"):
        if breaks:
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                disbud.prune(model, "synflow", sparsity=0.5, example=IMAGE, biases=biases, rounds=3)
        else:
            disbud.prune(model, "synflow", sparsity=0.5, example=IMAGE, biases=biases, rounds=3)
    after = model.state_dict(keep_vars=True)
    assert all(
        torch.equal(after[name], value) and after[name].data_ptr() == kept[name]
        for name, value in state.items()
    )
    assert all(type(p) is nn.Parameter and p.requires_grad for p in model.parameters())
    for before, parameter in zip(grads, model.parameters(), strict=True):
        assert (before is None) == (parameter.grad is None)
        assert before is None or torch.equal(before, parameter.grad)
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(random, torch.random.get_rng_state())


def test_the_examples_numbers_and_batch_do_not_matter() -> None:
    model = built(CASES["conv-bn"])
    zeros = disbud.scores(model, "synflow", example=IMAGE)
    noise = disbud.scores(model, "synflow", example=torch.randn(7, 3, 8, 8) * 1e9)
    assert all(torch.equal(zeros[name], noise[name]) for name in zeros)


def test_masked_positions_take_no_part_in_attention() -> None:
    layer = built(CASES["transformer"])
    padding = torch.tensor([[False, False, True, True, True]])
    mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -1e9)
    for given in ({"src_key_padding_mask": padding}, {"src_mask": mask}, {"src_mask": mask.bool()}):
        found = disbud.scores(
            layer, "synflow", example={"src": torch.zeros(1, 5, 8), **given}, dtype="float64"
        )
        everywhere = disbud.scores(layer, "synflow", example=torch.zeros(1, 5, 8), dtype="float64")
        # Ones in, so each position's mean over what it may look at is that over all.
        assert_close(found, {name: score for name, score in everywhere.items()}, 1e-12)
        assert not found["self_attn.in_proj_weight"][:16].any()


class Written(nn.Module):
    """Attention with a causal mask written out over token ids, where the positions differ."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.tokens, self.q, self.v, self.fill = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4), fill

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        scores = torch.einsum("bqd,bkd->bqk", self.q(x), x)
        hidden = torch.ones(scores.shape[1:]).triu(1).bool()
        if self.fill == 0:
            return F.scaled_dot_product_attention(x, x, self.v(x), ~hidden)
        scores = scores.masked_fill(hidden, self.fill) if self.fill < -1e8 else scores + hidden * self.fill
        return torch.einsum("bqk,bkd->bqd", torch.softmax(scores, -1), self.v(x))


def test_masks_work_however_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_SETTLED", 0)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    found = []
    for fill in (0, -1e9, float("-inf"), -1e4):
        torch.manual_seed(0)
        model = Written(fill)
        found.append(disbud.scores(model, "synflow", example=ids, dtype="float64"))
    p = {name: value.detach().double().abs() for name, value in model.named_parameters()}
    x = p["tokens.weight"][ids[0]]
    mix = torch.ones(5, 5).double().tril()
    mixed = (mix / mix.sum(1, keepdim=True)) @ x
    expected = {"q.weight": torch.zeros(4, 4).double(), "v.weight": p["v.weight"] * mixed.sum(0)}
    for one in found:
        assert_close(one, expected, 1e-12)


def test_recurrent_cells_let_the_signal_through() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.cell, self.head = nn.Linear(3, 4), nn.LSTM(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(self.lift(x))[0])

    torch.manual_seed(0)
    for score in disbud.scores(Recurrent(), "synflow", example=torch.zeros(6, 1, 3)).values():
        assert (score > 0).all()


def test_errors_say_what_would_work() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(DisbudError, match=r"give example=\.\.\., such as torch\.zeros\(1, 3, 32, 32\)"):
        disbud.prune(model, "synflow", sparsity=0.5)
    with pytest.raises(DisbudError, match="did you mean 'drop'"):
        disbud.prune(model, "synflow", sparsity=0.5, example=torch.zeros(1, 3), biases="drops")
    with pytest.raises(DisbudError, match="did you mean 'float64' or 'float32'"):
        disbud.prune(model, "synflow", sparsity=0.5, example=torch.zeros(1, 3), dtype="float46")

    class Cut(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.ones(3)) + 0 * torch.ones_like(x)[..., :2]

    with pytest.raises(DisbudError, match="reaches the model's outputs through no prunable weight"):
        disbud.prune(Cut(3, 2), "synflow", sparsity=0.5, example=torch.zeros(1, 3))
