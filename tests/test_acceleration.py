"""An accelerated model computes, differentiates and trains as the dense model on its ticket does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import disbud
from acceleration_networks import NETWORKS, apart, furthest, gradients, made, planned
from disbud.acceleration import Accelerated, accelerate
from disbud.kernels import library

# Of the dense model, for windows of even size.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
KERNELS = ("sparse", "dense", "mixed")
# float32 against float32, through up to 20 layers with BatchNorm over few numbers.
CLOSE, CLOSE_GRADIENT = 1e-4, 2e-3


def check_gradients(fast: Accelerated, model: nn.Module, ticket: disbud.Ticket) -> None:
    """Those of the dense model at the kept places; a parameter before BatchNorm may have none but rounding."""
    wanted = dict(gradients(model, ticket))
    got = {name.removeprefix("module."): p.grad for name, p in fast.named_parameters()}
    largest = max(float(gradient.norm()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert got[name].shape == gradient.shape
        off = float((got[name] - gradient).norm())
        assert off < CLOSE_GRADIENT * (float(gradient.norm()) + 3e-2 * largest), name


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("network", NETWORKS)
def test_computes_and_differentiates_as_the_dense_model(network: str, kernel: str, mode: str) -> None:
    model, ticket, x = made(network)
    fast = planned(model, ticket, x, kernel)
    for images in (1, 3, 17):
        if images == 1 and mode == "training" and network in ("vgg", "sequence"):
            continue  # one value a channel has no variance, as torch says too
        x = torch.randn(images, *x.shape[1:])
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = []
        for net, given in zip((model, fast), inputs, strict=True):
            net.train(mode == "training").zero_grad()
            out = net(given)
            (out.square() * torch.arange(1.0, 5)).sum().backward()
            outputs.append(out)
        assert apart(outputs[1], outputs[0]) < CLOSE
        assert apart(inputs[1].grad, inputs[0].grad) < CLOSE_GRADIENT
        check_gradients(fast, model, ticket)
        buffers = dict(model.named_buffers())
        assert not buffers or furthest(dict(fast.module.named_buffers()), buffers) < CLOSE


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-2),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3, weight_decay=1e-2, eps=1e-4),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", ["vgg", "residual", "joined", "depthwise"])
def test_trains_as_the_dense_model_on_its_ticket(network: str, optimizer: str) -> None:
    model, ticket, _ = made(network)
    x, y = torch.randn(17, *NETWORKS[network][1]), torch.arange(17) % 4
    fast = planned(model, ticket, x, "sparse")
    losses: dict[str, list[float]] = {"dense": [], "fast": []}
    model.train()
    steps = OPTIMIZERS[optimizer](model.parameters())
    with disbud.sparse(model, ticket, steps):
        for _ in range(5):
            steps.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            steps.step()
            losses["dense"].append(float(loss.detach()))
    steps = OPTIMIZERS[optimizer](fast.parameters())
    for _ in range(5):
        steps.zero_grad()
        loss = functional.cross_entropy(fast(x), y)
        loss.backward()
        steps.step()
        losses["fast"].append(float(loss.detach()))
    assert losses["fast"] == pytest.approx(losses["dense"], rel=1e-4)
    assert losses["dense"][-1] != pytest.approx(losses["dense"][0], rel=1e-2)
    got, wanted = fast.dense_state(), model.state_dict()
    for name, value in wanted.items():
        assert apart(got[name].double(), value.double()) < 1e-4, name
        if name in ticket.masks:
            assert not got[name][~ticket.masks[name]].any()


def test_parameters_and_optimiser_state_are_those_kept() -> None:
    model, ticket, x = made("vgg", sparsity=0.9)
    fast = planned(model, ticket, x, "sparse")
    others = sum(p.numel() for name, p in model.named_parameters() if name not in ticket.masks)
    assert sum(p.numel() for p in fast.parameters()) == ticket.kept + others
    optimizer = torch.optim.Adam(fast.parameters())
    fast(x).sum().backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert sum(value.numel() for value in states) == 2 * (ticket.kept + others)


def test_gradients_accumulate_and_frozen_weights_stay() -> None:
    model, ticket, x = made("vgg")
    model[0].weight.requires_grad_(False)
    fast = planned(model, ticket, x, "sparse").eval()
    assert not fast.module[0].weight.requires_grad
    fast(x).sum().backward()
    once = fast.module[4].weight.grad.clone()
    fast(x).sum().backward()
    assert apart(fast.module[4].weight.grad, 2 * once) < 1e-5
    assert fast.module[0].weight.grad is None


def test_dropout_draws_as_the_dense_model_does() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Dropout2d(0.5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(128, 3),
    )
    ticket = disbud.prune(model, "random", sparsity=0.5)
    ticket.apply_(model)
    x = torch.randn(5, 3, 4, 4)
    fast = planned(model, ticket, x, "sparse")
    found = []
    for net in (model, fast):
        torch.manual_seed(7)
        found.append(net(x))
    assert apart(found[1], found[0]) < CLOSE
    assert apart(fast.eval()(x), found[0]) > 0.1


def test_functions_that_leave_torch_behind_are_the_dense_models() -> None:
    model, ticket, x = made("vgg")
    fast = planned(model, ticket, x, "mixed").eval()
    model.eval()
    with torch.no_grad():
        assert apart(fast(x), model(x)) < CLOSE
    with torch.inference_mode():
        assert apart(fast(x), model(x)) < CLOSE
    with torch.autocast("cpu", torch.bfloat16):
        low = fast(x)
    assert apart(low.float(), model(x)) < 3e-2
    assert fast(x.to(memory_format=torch.channels_last)).shape == (3, 4)
    assert fast(x[:0]).shape == (0, 4)


def test_submodules_are_accelerated_where_the_whole_cannot_be_followed() -> None:
    model, ticket, x = made("choosing")
    fast = accelerate(model, ticket, example=x, plan="model")
    assert list(fast.plan) == ["before.0.weight", "choice.inner.0.weight", "after.0.weight", "head.weight"]
    assert "torch.fx cannot follow" in str(fast.explain())
    assert list(fast.explain().refused) == ["choice"]


class Drawing(nn.Module):
    """Skips a layer by a number it draws itself, which a trace would fix for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.training and float(torch.rand(())) < 0.5:
            return x
        out: torch.Tensor = self.second(x)
        return out


def test_what_is_drawn_in_python_is_drawn_anew_each_time() -> None:
    torch.manual_seed(0)
    model = Drawing()
    ticket = disbud.prune(model, "random", sparsity=0.5)
    ticket.apply_(model)
    x = torch.randn(4, 6)
    fast = planned(model, ticket, x, "sparse")
    for seed in range(6):
        found = []
        for net in (model, fast):
            torch.manual_seed(seed)
            found.append(net(x))
        assert apart(found[1], found[0]) < CLOSE


def test_hooks_on_a_layer_are_called() -> None:
    model, ticket, x = made("vgg")
    seen: list[tuple[int, ...]] = []
    model[4].register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape)))
    fast = accelerate(model, ticket, example=x, plan="model").eval()
    seen.clear()
    assert apart(fast(x), model.eval()(x)) < CLOSE
    assert seen == [(3, 12, 4, 4)] * 2
    assert "4.weight" not in fast.plan


def test_hooks_on_a_container_are_called_and_what_is_in_it_is_accelerated() -> None:
    model, ticket, x = made("choosing")
    model.before.register_forward_hook(lambda module, given, out: 2 * out)
    fast = planned(model, ticket, x, "sparse").eval()
    assert "before.0.weight" in fast.plan
    assert apart(fast(x), model.eval()(x)) < CLOSE


def test_hooks_on_a_container_without_layers_are_called() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.ReLU()), nn.Linear(6, 4))
    ticket = disbud.prune(model, "random", sparsity=0.5)
    ticket.apply_(model)
    seen: list[object] = []
    model[1].register_forward_hook(lambda module, given, out: seen.append(type(out)))
    x = torch.randn(3, 6)
    fast = planned(model, ticket, x, "sparse")
    seen.clear()
    assert list(fast.plan) == ["0.weight", "2.weight"]
    assert apart(fast(x), model(x)) < CLOSE
    assert seen == [torch.Tensor] * 2


def test_weights_off_the_ticket_do_not_count() -> None:
    model, ticket, x = made("vgg")
    with torch.no_grad():
        model[4].weight.add_(1)
    fast = planned(model, ticket, x, "sparse").eval()
    ticket.apply_(model)
    assert apart(fast(x), model.eval()(x)) < CLOSE


def test_arguments_with_defaults_are_those_of_the_example() -> None:
    model, ticket, x = made("sequence")
    mask = torch.zeros(10, 10)
    mask[:, 5:] = float("-inf")
    fast = accelerate(model, ticket, example={"x": x, "mask": mask}, plan="model").eval()
    assert apart(fast(x, mask=mask), model.eval()(x, mask)) < CLOSE
    assert apart(fast(x, mask), fast(x, torch.zeros(10, 10))) > 3 * CLOSE


@pytest.mark.parametrize("network", ["vgg", "residual", "depthwise", "joined"])
def test_without_kernels_it_is_the_same_model(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISBUD_KERNELS", "torch")
    assert library() is None
    model, ticket, x = made(network)
    for kernel in ("sparse", "mixed"):
        fast = planned(model, ticket, x, kernel)
        pair = [copy.deepcopy(model).train(), fast]
        for net in pair:
            net(x).square().sum().backward()
        assert apart(pair[1](x), pair[0](x)) < CLOSE
        check_gradients(fast, pair[0], ticket)
