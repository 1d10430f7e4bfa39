"""A method of one's own as a plain function: what it leaves on the model is put back, what it changes is an error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import disbud
from disbud import DisbudError
from disbud.pruning import own_ticket

X, Y = torch.randn(16, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 4


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4))


def careless_snip(model: nn.Module, batches: object) -> dict[str, Tensor]:
    """abs(w dL/dw) by backward, in eval mode, and every parameter frozen in the end."""
    model.eval()
    for x, y in batches:  # type: ignore[attr-defined]
        functional.cross_entropy(model(x), y).backward()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return {n: (p * p.grad).abs() for n, p in model.named_parameters() if p.dim() > 1 and p.grad is not None}


def fails(model: nn.Module, batches: object) -> dict[str, Tensor]:
    careless_snip(model, batches)
    raise RuntimeError("half way")


def state_of(model: nn.Module) -> list[object]:
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    return [parameters, [module.training for module in model.modules()]]


def lived_in() -> nn.Sequential:
    """A model with a gradient, a frozen parameter and modules in different modes."""
    model = model_of()
    model[0].weight.grad = torch.full_like(model[0].weight, 3.0)
    model[3].bias.requires_grad_(False)
    model[1].eval()
    return model


@pytest.mark.parametrize("wrapped", [False, True])
def test_gradients_modes_and_what_is_frozen_are_put_back(*, wrapped: bool) -> None:
    model = lived_in()
    before = state_of(model)
    ticket = own_ticket(careless_snip, nn.DataParallel(model) if wrapped else model, [(X, Y)], sparsity=0.5)
    after = state_of(model)
    assert [module.training for module in model.modules()] == before[1]
    for (p, wanted, gradient), (q, left, found) in zip(before[0], after[0], strict=True):  # type: ignore[call-overload]
        assert (p is q, wanted == left, gradient is found) == (True, True, True)
    assert bool((model[0].weight.grad == 3).all())
    model[0].weight.grad = None
    plain = disbud.prune(model, "snip", sparsity=0.5, batches=[(X, Y)], examples_per_class=None)
    # The gradient that was there has been added to, as backward does, so that the last layer alone is ranked as snip's.
    assert ticket.kept == plain.kept


def test_they_are_put_back_after_a_failure_too() -> None:
    model = lived_in()
    with pytest.raises(RuntimeError, match="half way"):
        own_ticket(fails, model, [(X, Y)], sparsity=0.5)
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert [p.grad is None for p in model.parameters()] == [False, True, True, True]
    assert bool((model[0].weight.grad == 3).all())


def test_scores_by_backward_are_snips() -> None:
    ticket = own_ticket(careless_snip, model_of(), [(X, Y)], sparsity=0.5)
    assert ticket == disbud.prune(model_of(), "snip", sparsity=0.5, batches=[(X, Y)], examples_per_class=None)


def test_a_score_may_be_the_gradient_itself() -> None:
    def gradients(model: nn.Module, batches: object) -> dict[str, Tensor]:
        careless_snip(model, batches)
        return {n: p.grad for n, p in model.named_parameters() if p.dim() > 1 and p.grad is not None}

    model = model_of()
    model[3].weight.grad = torch.zeros_like(model[3].weight)
    ticket = own_ticket(gradients, model, [(X, Y)], sparsity=0.5)
    assert ticket == own_ticket(gradients, model_of(), [(X, Y)], sparsity=0.5)
    assert not model[3].weight.grad.any()


def test_buffers_that_no_state_dict_holds_count_too() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model_of()
            self.register_buffer("calls", torch.zeros(()), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.net(x)  # type: ignore[no-any-return]

    assert own_ticket(
        lambda model, batches: {"net.0.weight": model.net[0].weight.abs()}, Counting(), [], sparsity=0.5
    )
    with pytest.raises(DisbudError, match=r"changed the model \(calls\)"):
        own_ticket(careless_snip, Counting(), [(X, Y)], sparsity=0.5)
