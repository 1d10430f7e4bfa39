"""Weights stay on the ticket under every optimizer and in every loop, and the model stays an ordinary one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizers

import disbud
from disbud import Ticket
from disbud.parameters import parameters
from disbud.seeds import generator, global_streams

Optimizers = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Optimizers] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "negative-decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
}


def network(seed: int = 0) -> nn.Sequential:
    with global_streams(seed, "init"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 6),
        )


def a_ticket(model: nn.Module, density: float = 0.2, seed: int = 0) -> Ticket:
    draws = generator(seed, "mask")
    masks = {
        name: torch.rand(parameter.shape, generator=draws) < density
        for name, parameter in parameters(model).items()
        if parameter.dim() > 1
    }
    return Ticket.from_masks(masks, model=model)


def inputs(seed: int = 0, count: int = 8) -> tuple[Tensor, Tensor]:
    draws = generator(seed, "test inputs")
    return torch.randn(count, 1, 4, 4, generator=draws), torch.randint(6, (count,), generator=draws)


def backward(model: nn.Module, seed: int = 0, scale: float = 1.0) -> None:
    x, y = inputs(seed)
    (nn.functional.cross_entropy(model(x), y) * scale).backward()


def off(model: nn.Module, ticket: Ticket) -> Tensor:
    """All weights off the ticket, in one row."""
    found = parameters(model)
    return torch.cat([found[name].detach()[~mask] for name, mask in ticket.masks.items()])


def gradients_off(model: nn.Module, ticket: Ticket) -> Tensor:
    found = parameters(model)
    return torch.cat([found[name].grad[~mask] for name, mask in ticket.masks.items()])  # type: ignore[index]


def assert_on_ticket(model: nn.Module, ticket: Ticket) -> None:
    """Exactly zero: no NaN, and no -0 either."""
    values = off(model, ticket)
    assert len(values) > 100
    assert torch.equal(values, torch.zeros_like(values))
    assert not torch.signbit(values).any()


def assert_plain(model: nn.Module) -> None:
    """No hook of any kind is on the model."""
    for parameter in model.parameters():
        assert not parameter._post_accumulate_grad_hooks  # type: ignore[attr-defined]
        assert not parameter._backward_hooks
    for module in model.modules():
        assert not any(value for name, value in vars(module).items() if name.endswith("_hooks"))


@pytest.fixture(autouse=True)
def _no_hook_is_left_on_optimizers() -> Iterator[None]:
    yield
    assert not torch_optimizers._global_optimizer_post_hooks


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_exactly_zero_after_every_step(name: str) -> None:
    model = network()
    ticket = a_ticket(model)
    optimizer = OPTIMIZERS[name](model.parameters())
    for step in range(2):  # so that momentum is stale off the ticket
        backward(model, step)
        optimizer.step()
    with disbud.sparse(model, ticket, optimizer) as guard:
        assert_on_ticket(model, ticket)
        for step in range(5):
            before = off(model, ~ticket)
            optimizer.zero_grad()
            backward(model, step)
            optimizer.step()
            assert_on_ticket(model, ticket)
            assert (off(model, ~ticket) != before).any()
        assert guard.steps == 5
    assert_on_ticket(model, ticket)
    assert_plain(model)


@pytest.mark.parametrize("optimizer", ["given", "found"])
def test_without_the_guard_weights_leave_the_ticket(optimizer: str) -> None:
    model = network()
    ticket = a_ticket(model)
    steps = OPTIMIZERS["momentum"](model.parameters())
    with disbud.sparse(model, ticket, steps if optimizer == "given" else None):
        backward(model)
        steps.step()
        assert_on_ticket(model, ticket)
    backward(model)
    steps.step()
    assert (off(model, ticket) != 0).any()


def test_every_optimizer_on_the_model_is_followed_and_no_other() -> None:
    model, other = network(), network()
    ticket = a_ticket(model)
    first, second = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.AdamW(model[4].parameters())
    elsewhere = torch.optim.SGD(other.parameters(), lr=0.1)
    with disbud.sparse(model, ticket, first) as guard:
        with torch.no_grad():
            model[4].weight.fill_(1)
        backward(other)
        elsewhere.step()
        assert guard.steps == 0
        backward(model)
        second.step()
        assert_on_ticket(model, ticket)
    assert (off(other, ticket) != 0).all()


def test_the_trajectory_is_that_of_masked_gradients_written_by_hand() -> None:
    guarded, by_hand = network(), network()
    ticket = a_ticket(guarded)
    ticket.apply_(by_hand)
    runs = []
    for model in (guarded, by_hand):
        optimizer = OPTIMIZERS["nesterov"](model.parameters())
        context = disbud.sparse(guarded, ticket, optimizer) if model is guarded else None
        if context is not None:
            context.__enter__()
        for step in range(4):
            optimizer.zero_grad()
            backward(model, step)
            if model is by_hand:
                for name, mask in ticket.masks.items():
                    model.get_parameter(name).grad *= mask  # type: ignore[operator]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        if context is not None:
            context.__exit__(None, None, None)
        runs.append(model.state_dict())
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name


def test_clipping_sees_the_kept_gradients_only() -> None:
    model = network()
    ticket = a_ticket(model, density=0.1)
    ticket.apply_(model)
    backward(model)
    dense_norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    kept = [model.get_parameter(name).grad[mask] for name, mask in ticket.masks.items()]  # type: ignore[index]
    rest = [p.grad for name, p in model.named_parameters() if name not in ticket.masks]
    expected = torch.nn.utils.get_total_norm([*kept, *rest])
    assert expected < 0.5 * dense_norm
    model.zero_grad()
    with disbud.sparse(model, ticket):
        backward(model)
        assert not gradients_off(model, ticket).any()
        torch.testing.assert_close(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0), expected)


def test_gradients_from_before_the_block_are_cleaned_too() -> None:
    model = network()
    ticket = a_ticket(model)
    backward(model)
    with disbud.sparse(model, ticket):
        assert not gradients_off(model, ticket).any()


def test_gradients_accumulate_on_the_ticket() -> None:
    model = network().eval()  # so that BatchNorm does not move between the two ways
    ticket = a_ticket(model)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    with disbud.sparse(model, ticket, optimizer):
        backward(model, 0)
        first = model[4].weight.grad.clone()
        model.zero_grad()
        backward(model, 1)
        second = model[4].weight.grad.clone()
        model.zero_grad()
        for step in range(2):
            backward(model, step)
            assert not gradients_off(model, ticket).any()
        torch.testing.assert_close(model[4].weight.grad, first + second)
        optimizer.step()
        assert_on_ticket(model, ticket)


def test_infinite_gradients_off_the_ticket_do_not_reach_scaler_or_weights() -> None:
    model = network()
    ticket = a_ticket(model)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    removed = ~ticket.masks["4.weight"]

    def infinite(gradient: Tensor) -> Tensor:
        return gradient.masked_fill(removed, float("inf"))

    handle = model[4].weight.register_hook(infinite)
    with disbud.sparse(model, ticket, optimizer):
        for step in range(3):
            before = off(model, ~ticket)
            optimizer.zero_grad()
            x, y = inputs(step)
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) < 100
            scaler.step(optimizer)
            scaler.update()
            assert_on_ticket(model, ticket)
            assert (off(model, ~ticket) != before).any(), "the scaler skipped a good step"
    handle.remove()
    assert scaler.get_scale() == 2.0**16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 3.0])
def test_whatever_is_written_off_the_ticket_is_cleared(value: float) -> None:
    model = network()
    ticket = a_ticket(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def spoil() -> None:
        with torch.no_grad():
            for name, mask in ticket.masks.items():
                model.get_parameter(name)[~mask] = value

    spoil()
    with disbud.sparse(model, ticket, optimizer) as guard:
        assert_on_ticket(model, ticket)
        backward(model)
        spoil()
        optimizer.step()
        assert_on_ticket(model, ticket)
        spoil()
        guard.apply_()
        assert_on_ticket(model, ticket)
        spoil()
    assert_on_ticket(model, ticket)


def test_frozen_parameters_are_kept_at_zero_and_followed_once_thawed() -> None:
    model = network()
    ticket = a_ticket(model)
    model[4].weight.requires_grad_(False)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    with disbud.sparse(model, ticket, optimizer):
        assert not model[4].weight.requires_grad
        backward(model)
        optimizer.step()
        assert_on_ticket(model, ticket)
        model[4].weight.requires_grad_(True)
        backward(model)
        assert not gradients_off(model, ticket).any()
        optimizer.step()
        assert_on_ticket(model, ticket)
    assert_plain(model)


def test_a_wholly_frozen_model_needs_no_place_in_the_optimizer() -> None:
    model, head = network().requires_grad_(False), nn.Linear(6, 2)
    ticket = a_ticket(model)
    with disbud.sparse(model, ticket, torch.optim.SGD(head.parameters(), lr=0.1)):
        assert_on_ticket(model, ticket)


def test_an_optimizer_that_steps_inside_backward_is_followed() -> None:
    model = network()
    ticket = a_ticket(model)
    optimizers = {parameter: torch.optim.AdamW([parameter], lr=0.1) for parameter in model.parameters()}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(step) for parameter in model.parameters()]
    with disbud.sparse(model, ticket) as guard:
        backward(model)
        assert_on_ticket(model, ticket)
        assert guard.steps == len(ticket.masks)
    for handle in handles:
        handle.remove()


def test_sparse_gradients_of_embeddings() -> None:
    model = nn.Sequential(nn.Embedding(50, 8, sparse=True), nn.Flatten(), nn.Linear(16, 6, bias=False))
    ticket = a_ticket(model)
    with disbud.sparse(model, ticket):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.tensor([[3, 3], [7, 1]])).sum().backward()
        gradient = model[0].weight.grad
        assert gradient.is_sparse
        assert not gradient.to_dense()[~ticket.masks["0.weight"]].any()
        assert gradient.to_dense()[ticket.masks["0.weight"]].any()
        optimizer.step()
        assert_on_ticket(model, ticket)


def test_shared_weights_are_guarded_once() -> None:
    model = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12))
    model[2].weight = model[0].weight
    ticket = a_ticket(model)
    assert set(ticket.masks) == {"0.weight"}
    optimizer = OPTIMIZERS["nesterov"](model.parameters())
    with disbud.sparse(model, ticket, optimizer):
        model(torch.ones(2, 12)).square().sum().backward()
        assert not gradients_off(model, ticket).any()
        optimizer.step()
        assert_on_ticket(model, ticket)
        assert model[2].weight is model[0].weight
