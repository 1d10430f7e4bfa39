"""Weights that stand in a state under several names change under all of them, also where each name has a copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import Ticket
from disbud.interventions import on_weights

CHANGES = ["permute-values", "sign-only", "reinit:init=kaiming-normal", "rescale"]


class Tied(nn.Module):
    """An embedding whose weight is the output layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.mid, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.mid(self.emb(tokens))))  # type: ignore[no-any-return]


def seeded(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind()


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("text", CHANGES)
def test_a_state_of_copies_changes_as_the_models_own_does(text: str, *, told: bool) -> None:
    model = seeded(Tied)
    ticket = disbud.prune(model, "random", sparsity=0.5)
    given = {"model": model} if told else {}
    whole, _ = on_weights(model.state_dict(), ticket, text, seed=1)
    found, _ = on_weights(copied(model), ticket, text, seed=1, **given)  # type: ignore[arg-type]
    assert list(found) == list(whole) == list(model.state_dict())
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert not torch.equal(found["emb.weight"], model.emb.weight)  # type: ignore[union-attr,arg-type]
    twin = seeded(Tied, 1)
    twin.load_state_dict(found)
    assert torch.equal(twin.head.weight, whole["emb.weight"])  # type: ignore[union-attr,arg-type]


class Stacked(nn.Module):
    """Layers that begin as copies of each other, as those of nn.TransformerEncoder, and are not one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))
        self.b.load_state_dict(self.a.state_dict())
        self.c.load_state_dict(self.a.state_dict())
        self.scale, self.shift = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        nn.init.ones_(self.scale.weight)
        nn.init.ones_(self.shift.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.c(self.b(self.a(x)))) + self.shift(x)  # type: ignore[no-any-return]


def test_the_model_says_what_is_no_copy() -> None:
    model = seeded(Stacked)
    ticket = disbud.prune(model, "random", sparsity=0.5, include="a.*")
    changed, _ = on_weights(copied(model), ticket, "permute-values", model=model)
    assert not torch.equal(changed["a.weight"], model.a.weight)  # type: ignore[arg-type,union-attr]
    for name in ("b.weight", "c.weight"):
        assert torch.equal(changed[name], model.state_dict()[name])


def test_what_equals_two_layers_of_the_ticket_or_a_constant_is_no_copy_of_either() -> None:
    model = seeded(Stacked)
    ticket = disbud.prune(model, "random", sparsity=0.5, include=["a.*", "b.*", "scale.*"])
    changed, _ = on_weights(copied(model), ticket, "reinit:init=orthogonal")
    state = model.state_dict()
    assert [name for name in state if not torch.equal(changed[name], state[name])] == [
        "a.weight",
        "b.weight",
        "scale.weight",
    ]


def test_what_is_not_changed_is_handed_on() -> None:
    state = copied(seeded(Tied))
    ticket = Ticket({"emb.weight": torch.rand(11, 8) < 0.5})
    changed, _ = on_weights(state, ticket, "permute-values")
    assert changed["mid.weight"] is state["mid.weight"]
    assert changed["emb.weight"] is changed["head.weight"] is not state["emb.weight"]
    assert torch.equal(state["emb.weight"], seeded(Tied).emb.weight)  # type: ignore[arg-type,union-attr]
