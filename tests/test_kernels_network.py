"""Whole networks on blocked activations follow torch's training, and their memory is used again."""

from __future__ import annotations

import gc
import os

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from disbud.kernels import (
    Blocked,
    Pattern,
    Statistics,
    adaptive_windows,
    add,
    average_pool,
    batch_norm,
    concatenate,
    elementwise,
    max_pool,
    pack,
    sliding_windows,
    sparse_layer,
    unpack_features,
)
from disbud.kernels.memory import LEAST, LEEWAY, Recycler
from test_kernels import EVERY_PATH


class Torchs(nn.Module):
    """Residual sum, concatenation, strides, groups, both poolings, a gelu and a head, in torch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.side = nn.Conv2d(8, 4, 5, stride=2, padding=2, bias=False)
        self.wide = nn.Linear(12 * 2 * 2, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.norm(self.stem(x)).relu(), 2)
        x = functional.gelu(self.deep(x)) + x
        x = torch.cat([self.side(x), functional.max_pool2d(x, 3, 2, 1)], 1)
        x = functional.adaptive_avg_pool2d(x, 2)
        logits: Tensor = self.head(self.wide(x.flatten(1)).relu())
        return logits


class Ours(nn.Module):
    """The same network on blocked activations; its parameters are the kept weights."""

    def __init__(self, model: Torchs, masks: dict[str, Tensor]) -> None:
        super().__init__()
        self.patterns = {name: self.pattern(model.get_submodule(name), mask) for name, mask in masks.items()}
        weights = {name: model.get_submodule(name).weight.detach() for name in masks}
        self.values = nn.ParameterDict(
            {name: pattern.gather(weights[name]) for name, pattern in self.patterns.items()}
        )
        biases = {name: model.get_submodule(name).bias for name in masks}
        self.biases = nn.ParameterDict(
            {name: bias.detach().clone() for name, bias in biases.items() if bias is not None}
        )
        self.gamma, self.beta = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.running = Statistics(torch.zeros(8), torch.ones(8))

    @staticmethod
    def pattern(layer: nn.Module, mask: Tensor) -> Pattern:
        if isinstance(layer, nn.Linear):
            return Pattern.of_linear(mask)
        assert isinstance(layer, nn.Conv2d)
        window = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        return Pattern.of_convolution(mask, **window)

    def layer(self, name: str, x: Blocked, *, halo: int = 0) -> Blocked:
        bias = self.biases.get(name)
        return sparse_layer(x, self.values[name], self.patterns[name], bias=bias, halo=halo)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer("stem", pack(images, halo=1))
        x = batch_norm(x, self.gamma, self.beta, statistics=self.running, slope=0.0, pool=2, halo=2)
        x = add(elementwise(self.layer("deep", x), functional.gelu), x)
        small = max_pool(x, (sliding_windows(6, 3, stride=2, padding=1),) * 2)
        x = average_pool(concatenate([self.layer("side", x), small]), (adaptive_windows(3, 2),) * 2)
        x = elementwise(self.layer("wide", x), torch.relu)
        return unpack_features(self.layer("head", x))


@pytest.mark.parametrize("path", EVERY_PATH)
@pytest.mark.parametrize("images", [37, 16])
def test_training_takes_the_same_steps_as_torch(
    path: str, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISBUD_KERNELS", path)
    model = Torchs()
    masks = {
        name: torch.rand(layer.weight.shape) < 0.4
        for name, layer in model.named_children()
        if not isinstance(layer, nn.BatchNorm2d)
    }
    masks["stem"].fill_(True)
    ours = Ours(model, masks)
    model.double()
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_submodule(name).weight.mul_(mask)
    settings = {"lr": 0.05, "momentum": 0.9}
    optimizers = [torch.optim.SGD(m.parameters(), **settings) for m in (model, ours)]
    x, y = torch.randn(images, 3, 12, 12), torch.randint(0, 5, (images,))
    for _ in range(5):
        for optimizer, network, batch in zip(optimizers, (model, ours), (x.double(), x), strict=True):
            optimizer.zero_grad()
            functional.cross_entropy(network(batch), y).backward()
            if network is model:
                for name, mask in masks.items():
                    model.get_submodule(name).weight.grad.mul_(mask)
            optimizer.step()
    for name, mask in masks.items():
        wanted = model.get_submodule(name).weight.detach()[mask].float()
        torch.testing.assert_close(ours.values[name].detach(), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.running.mean, model.norm.running_mean.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.running.variance, model.norm.running_var.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.gamma.detach(), model.norm.weight.detach().float(), rtol=1e-4, atol=1e-5)


def test_inference_can_come_before_training() -> None:
    pattern = Pattern.of_linear(torch.ones(4, 3, dtype=torch.bool))
    values = torch.randn(12, requires_grad=True)
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            y = elementwise(sparse_layer(pack(torch.ones(3, 3)), values, pattern), torch.sigmoid)
    unpack_features(y).sum().backward()
    assert values.grad is not None


def test_memory_serves_again_when_its_last_tensor_is_gone() -> None:
    recycler = Recycler()
    first = recycler.empty((LEAST,)).fill_(1.0)
    address, part = first.data_ptr(), first[-5:]
    del first
    other = recycler.empty((LEAST,)).fill_(2.0)
    assert other.data_ptr() != address  # a part of the first is still looked at
    assert torch.equal(part, torch.ones(5))
    del part
    gc.collect()
    assert recycler.empty((LEAST * 3 // 4,)).data_ptr() == address
    assert recycler.mapped == 2 * 4 * LEAST


def test_memory_that_fits_nothing_is_given_back() -> None:
    recycler = Recycler()
    for size in range(1, 30):
        tensors = [recycler.empty((size * LEAST,)) for _ in range(2)]
        del tensors
    assert recycler.mapped <= LEEWAY * 2 * 4 * 29 * LEAST


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_writes_to_memory_of_its_own() -> None:
    tensor = Recycler().empty((LEAST,)).fill_(1.0)
    child = os.fork()
    if child == 0:
        tensor[0] = 2.0
        os._exit(0)
    os.waitpid(child, 0)
    assert tensor[0] == 1.0
