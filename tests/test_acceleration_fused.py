"""Residual blocks and BatchNorm in few passes: what is fused, to the same numbers, and that it follows changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import disbud
from acceleration_networks import apart, gradients, made, planned
from disbud.acceleration import Accelerated
from disbud.acceleration.program import Step, observing

CLOSE, CLOSE_GRADIENT = 1e-4, 2e-3
# Each way to write the end of a residual block, and how often its two sums are made in BatchNorm's pass.
Join = Callable[[Tensor, Tensor], Tensor]


class Blocks(nn.Module):
    """Two residual blocks as torchvision has them, the second with a convolution and BatchNorm as its shortcut."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1)
        self.conv3, self.conv4 = nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (6, 6, 6, 8, 8))
        self.side, self.side_norm = nn.Conv2d(6, 8, 1, 2, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 4)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norms[0](self.stem(x)))
        out = self.norms[2](self.conv2(self.relu(self.norms[1](self.conv1(x)))))
        x = self.join(out, x)
        out = self.norms[4](self.conv4(self.relu(self.norms[3](self.conv3(x)))))
        x = self.join(out, self.side_norm(self.side(x)))
        logits: Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def in_place(out: Tensor, shortcut: Tensor) -> Tensor:
    out += shortcut
    return functional.relu(out, inplace=True)


def onto_the_shortcut(out: Tensor, shortcut: Tensor) -> Tensor:
    shortcut = 1.0 * shortcut
    shortcut += out
    return shortcut.relu_()


def read_again(out: Tensor, shortcut: Tensor) -> Tensor:
    return (out + shortcut).relu() + 0.1 * out


def changed_before_the_sum(out: Tensor, shortcut: Tensor) -> Tensor:
    return out.relu_() + shortcut


JOINS: dict[str, tuple[Join, int]] = {
    "sum": (lambda out, shortcut: (out + shortcut).relu(), 2),
    "sum turned": (lambda out, shortcut: functional.relu(shortcut + out), 2),
    "no activation": (lambda out, shortcut: shortcut + out, 2),
    "in place": (in_place, 2),
    # Whoever holds the shortcut must see the sum.
    "onto the shortcut": (onto_the_shortcut, 0),
    # The shortcut's BatchNorm still has a sum of its own.
    "read again": (read_again, 1),
    "activation before": (lambda out, shortcut: out.relu() + shortcut, 1),
    # A pass that waits would read what has been changed meanwhile.
    "changed before": (changed_before_the_sum, 0),
}


def network(join: str) -> tuple[nn.Module, disbud.Ticket, Tensor]:
    torch.manual_seed(1)
    model = Blocks(JOINS[join][0])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    ticket = disbud.prune(model, "random", sparsity=0.5, seed=2)
    ticket.apply_(model)
    return model, ticket, torch.randn(17, 3, 8, 7)


def steps_of(fast: Accelerated, x: Tensor) -> list[Step]:
    seen: list[Step] = []

    def observer(step: Step, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        seen.append(step)
        return step.call(step.wish, *args, **kwargs)

    with observing(observer):
        fast(x)
    return seen


def kinds(fast: Accelerated, x: Tensor) -> list[str]:
    return [type(step.call).__name__ for step in steps_of(fast, x)]


@pytest.mark.parametrize("kernel", ["sparse", "dense", "mixed"])
@pytest.mark.parametrize("join", JOINS)
def test_residual_blocks_are_the_dense_models_however_they_are_written(join: str, kernel: str) -> None:
    model, ticket, x = network(join)
    fast = planned(model, ticket, x, kernel)
    for mode in (True, False):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        for net, given in zip((model, fast), inputs, strict=True):
            net.train(mode).zero_grad()
            (net(given).square() * torch.arange(1.0, 5)).sum().backward()
        assert apart(inputs[1].grad, inputs[0].grad) < CLOSE_GRADIENT
        got = {name.removeprefix("module."): p.grad for name, p in fast.named_parameters()}
        largest = max(float(gradient.norm()) for _, gradient in gradients(model, ticket))
        for name, wanted in gradients(model, ticket):
            off = float((got[name] - wanted).norm())
            assert off < CLOSE_GRADIENT * (float(wanted.norm()) + 3e-2 * largest), name
        with torch.no_grad():
            assert apart(fast(x), model(x)) < CLOSE


@pytest.mark.parametrize("join", JOINS)
def test_sums_are_made_in_the_pass_of_one_batch_norm(join: str) -> None:
    model, ticket, x = network(join)
    fast = planned(model, ticket, x, "sparse")
    norms = [step for step in steps_of(fast, x) if type(step.call).__name__ == "RunNorm"]
    assert len(norms) == 6
    assert sum(len(step.args) == 2 for step in norms) == JOINS[join][1]


def test_in_inference_no_pass_is_left_but_those_of_the_layers() -> None:
    model, ticket, x = network("in place")
    fast = planned(model, ticket, x, "sparse").eval()
    with torch.inference_mode():
        assert kinds(fast, x) == ["RunFolded"] * 6 + ["RunRule"] * 2 + ["RunLayer"]
    assert "RunFolded" not in kinds(fast, x)  # gradients are asked for
    model, ticket, x = made("vgg")
    fast = planned(model, ticket, x, "sparse").eval()
    with torch.no_grad():
        assert kinds(fast, x).count("RunFolded") == 2
        assert kinds(fast, x).count("RunNorm") == 1


Change = Callable[[Accelerated, Tensor], object]


def trained(fast: Accelerated, x: Tensor) -> None:
    fast.train()
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)
    fast(x).square().sum().backward()
    optimizer.step()
    fast.eval()


def changed_in_place(fast: Accelerated, x: Tensor) -> None:
    fast.module.conv2.weight.data.mul_(2)
    fast.module.conv2.bias.data.add_(0.3)
    fast.module.norms[2].running_var.mul_(3)
    fast.module.norms[1].weight.data.neg_()


def loaded(fast: Accelerated, x: Tensor) -> None:
    state = fast.state_dict()
    fast.load_state_dict({k: 1.5 * v if v.is_floating_point() else v for k, v in state.items()})


CHANGES: dict[str, Change] = {"training": trained, "in place": changed_in_place, "a state": loaded}


@pytest.mark.parametrize("change", CHANGES)
def test_inference_follows_what_is_done_to_weights_and_statistics(change: str) -> None:
    model, ticket, x = network("sum")
    fast = planned(model, ticket, x, "sparse").eval()
    with torch.no_grad():
        before = fast(x)
    CHANGES[change](fast, x)
    dense = fast.finish().eval()
    with torch.no_grad():
        after = fast(x)
    assert apart(after, dense(x)) < CLOSE
    assert apart(after, before) > 10 * CLOSE


def test_a_batch_norm_in_training_is_not_folded() -> None:
    model, ticket, x = network("sum")
    fast = planned(model, ticket, x, "sparse").eval()
    model.eval()
    with torch.no_grad():
        before = fast(x)
        for norms in (model.norms, fast.module.norms):
            norms[2].train()
        found = fast(x)
        assert apart(found, model(x)) < CLOSE
    assert apart(found, before) > 10 * CLOSE
    assert apart(fast.module.norms[2].running_mean, model.norms[2].running_mean) < CLOSE


@pytest.mark.parametrize("kernels", ["plain", "torch"])
def test_other_kernels_fuse_to_the_same(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISBUD_KERNELS", kernels)
    model, ticket, x = network("in place")
    fast = planned(model, ticket, x, "sparse")
    assert apart(fast(x), model(x)) < CLOSE
    with torch.no_grad():
        assert apart(fast.eval()(x), model.eval()(x)) < CLOSE


def test_the_gradients_of_a_fork_are_added_without_a_pass_of_autograds() -> None:
    model, ticket, x = network("sum")
    fast = planned(model, ticket, x, "sparse")
    with torch.profiler.profile(record_shapes=True) as profile:
        fast(x).sum().backward()
    added = [event.input_shapes[0] for event in profile.events() if event.name in ("aten::add", "aten::add_")]
    assert added  # BatchNorms count their batches
    assert not [shape for shape in added if len(shape) == 3]
