"""Exported C computes what torch does: whole networks, every kind of layer, and refusals of what has no C."""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import disbud
from compaction_oracle import at_random, lived_in
from disbud import DisbudError
from disbud.export import CSource, to_c
from disbud.models import build
from export_run import agrees, apart, expected, inputs_for, needs_compiler, run, run_sanitized, settle
from networks import NETWORKS

REFUSED = {
    "transposed": "conv_transpose2d",
    "conv3d": "conv3d",
    "tied": "one tensor of floating point",
    "transformer": "one tensor of floating point",
    "untraceable": "sum|gt|bool",
}


class Mobile(nn.Module):
    """Depthwise and grouped convolutions, a channel shuffle, a gate on channels, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=12, bias=False)
        self.depth_norm = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 8, 1, groups=4)
        self.gate = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.norm(self.stem(x)))
        y = functional.relu6(self.depth_norm(self.depthwise(x)))
        y = y.view(y.size(0), 4, 3, *y.shape[2:]).transpose(1, 2).reshape(x.shape)
        y = self.grouped(y)
        y = y * torch.sigmoid(self.gate(functional.adaptive_avg_pool2d(y, 1)))
        out: Tensor = self.head(torch.cat([x, y], 1).mean((2, 3)))
        return out


WHOLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "lenet-300-100": (lambda: build("lenet-300-100", input_shape=(1, 28, 28)), (1, 28, 28), 0.05),
    "lenet-5": (lambda: build("lenet-5", input_shape=(1, 28, 28)), (1, 28, 28), 0.05),
    "vgg": (lambda: build("vgg11-bn:width=0.125"), (3, 32, 32), 0.1),
    "resnet": (lambda: build("resnet20:width=0.25"), (3, 32, 32), 0.1),
    "resnet-identity": (lambda: build("resnet20:width=0.25,shortcut=identity"), (3, 32, 32), 0.1),
    "preactivation": (lambda: build("wideresnet:depth=10,factor=1,width=0.5"), (3, 16, 16), 0.2),
    "mobile": (Mobile, (3, 16, 16), 0.5),
    "concatenation": (NETWORKS["densely-connected"].build, (3, 6, 6), 0.5),
}


@needs_compiler
@pytest.mark.parametrize("name", WHOLE)
def test_whole_networks_agree_with_torch_on_a_thousand_inputs(name: str, tmp_path: Path) -> None:
    factory, shape, density = WHOLE[name]
    model, example = lived_in(factory()), torch.zeros(1, *shape)
    ticket = disbud.prune(model, "synflow", sparsity=1 - density, example=example.double())
    inputs = inputs_for(example, 1000)
    settle(model, ticket, inputs[:32])
    before = copy.deepcopy(model.state_dict())
    found = to_c(model, ticket, example=example)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    want = expected(model, ticket, inputs)
    assert want.std(0).median() > 1e-2 * want.abs().mean()  # the outputs follow the inputs
    assert apart(run(found, inputs, tmp_path, outputs=want.shape[1]), want) < 1e-5
    sane = run_sanitized({"net": (found, inputs[:3])}, tmp_path).view(3, -1)
    assert apart(sane, want[:3]) < 1e-5


@needs_compiler
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - REFUSED.keys()))
def test_small_networks_agree_with_torch(name: str, tmp_path: Path) -> None:
    agrees(lived_in(NETWORKS[name].build()), NETWORKS[name].example, tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_c_is_refused_by_name(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    with pytest.raises(DisbudError, match=REFUSED[name]):
        to_c(model, at_random(model, 0.5, 0), example=network.example)


@needs_compiler
@pytest.mark.parametrize("values", ["fp32", "fp16"])
def test_a_layer_that_keeps_nothing_leaves_its_bias(values: Literal["fp32", "fp16"], tmp_path: Path) -> None:
    model = NETWORKS["conv"].build()
    masks = {name: torch.ones(mask.shape) for name, mask in at_random(model, 1.0, 0).masks.items()}
    for name in ("0.weight", "7.weight"):
        masks[name].zero_()
        found = to_c(model, disbud.Ticket.from_masks(masks), example=torch.zeros(1, 3, 6, 6), values=values)
        inputs = inputs_for(torch.zeros(1, 3, 6, 6), 3)
        want = expected(model, disbud.Ticket.from_masks(masks), inputs)
        far = apart(run(found, inputs, tmp_path, outputs=3), want)
        assert far < (1e-5 if values == "fp32" else 1e-3)


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@needs_compiler
def test_an_output_that_is_the_input_is_copied(tmp_path: Path) -> None:
    agrees(Idle(), torch.zeros(1, 2, 3), tmp_path)


# Every kind of layer


class Applied(nn.Module):
    """A convolution, what is to be tested, and a linear layer for whatever comes out."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, channels: int = 4, size: int = 7) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Conv2d(2, channels, 3, padding=1)
        with torch.no_grad():
            width = function(torch.zeros(1, channels, size, size)).numel()
        self.last = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.function(self.first(x)).flatten(1))
        return out


def _in_place(x: Tensor) -> Tensor:
    y = x * 2
    y += x
    y.mul_(0.5).clamp_(-1, 1)
    return functional.relu(y, inplace=True) - x


F = functional
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "leaky": lambda x: F.leaky_relu(x, 0.2), "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "silu": F.silu, "gelu": F.gelu, "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"), "elu": F.elu,
    "selu": F.selu, "relu6": lambda x: F.relu6(4 * x), "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.7),
    "hardsigmoid": lambda x: F.hardsigmoid(4 * x), "hardswish": lambda x: F.hardswish(4 * x),
    "softplus": lambda x: F.softplus(9 * x, beta=2.0, threshold=15.0), "mish": lambda x: F.mish(9 * x),
    "prelu": nn.PReLU(), "clamp": lambda x: x.clamp(min=-0.2), "clamp-max": lambda x: torch.clamp(x, max=0.2),
    "clamp-min-only": lambda x: torch.clamp_min(x, min=0.1), "clamp-max-only": lambda x: torch.clamp_max(x, max=0.2),
    "clamp-max-in-place": lambda x: (x * 2).clamp_max_(0.2) + x.clone().clip_(-0.1, 0.3),
    "clamp-crossed": lambda x: x + x.clamp(0.5, 0.2),
    "exp": torch.exp, "abs-sqrt": lambda x: x.abs().sqrt(), "square": lambda x: -x.square(),
    "max": lambda x: F.max_pool2d(x, 2), "max-ceil": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max-ceil-edge": lambda x: F.max_pool2d(x, 2, ceil_mode=True), "max-dilated": lambda x: F.max_pool2d(x, 3, 1, 1, 2),
    "max-uneven": lambda x: F.max_pool2d(x, (3, 2), (1, 3), (1, 0)),
    "max-1d": lambda x: F.max_pool1d(x.flatten(2), 5, 3, 2),
    "average": lambda x: F.avg_pool2d(x, 3, 2, 1), "average-ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average-inside": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average-divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "average-1d": lambda x: F.avg_pool1d(x.flatten(2), 4, 3, 1, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 5)), "adaptive-one": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive-max": lambda x: F.adaptive_max_pool2d(x, (2, 3)),
    "adaptive-1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 4),
    "mean": lambda x: x.mean((2, 3)), "mean-channels": lambda x: x.mean(1), "sum": lambda x: x.sum(dim=-1),
    "softmax": lambda x: F.softmax(x, 1), "log-softmax": lambda x: F.log_softmax(x, -1),
    "batch-norm": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)), "alone": lambda x: x,
    "same": nn.Conv2d(4, 3, (2, 5), padding="same", dilation=(3, 1)), "valid": nn.Conv2d(4, 3, 3, padding="valid"),
    "wide-kernel": nn.Conv2d(4, 3, (1, 5), padding=(0, 4), stride=(2, 1), bias=False),
    "far-padding": nn.Conv2d(4, 3, 2, padding=3, stride=4), "dilated": nn.Conv2d(4, 6, 3, dilation=3, groups=2),
    "bigger-than-the-image": nn.Conv2d(4, 2, 9, padding=1),
    "conv-1d": lambda x: F.conv1d(x.flatten(2), torch.ones(2, 2, 5), stride=3, padding=2, groups=2),
    "rows": lambda x: F.linear(x, torch.linspace(-1, 1, 21).view(3, 7), torch.ones(3)),
    "permuted": lambda x: x.permute(0, 2, 3, 1), "sliced": lambda x: x[:, 1:4:2, ::3, -3:],
    "picked": lambda x: x[0, 2][None],
    "chunked": lambda x: x.chunk(2, 1)[1] * x.chunk(2, 1)[0], "flipped": lambda x: x.flip(3),
    "shuffled": lambda x: F.pixel_shuffle(x, 2), "padded": lambda x: F.pad(x, (1, 2, 0, 1), value=0.5),
    "cropped": lambda x: F.pad(x, (-1, 2)), "cat": lambda x: torch.cat([x, torch.tanh(x), x], 2),
    "stack": lambda x: torch.stack([x, -x], -1), "reversed": lambda x: 1 - 2 / (x.abs() + 1),
    "constant": lambda x: x * torch.linspace(0, 1, 7) + torch.linspace(1, 2, 4).view(4, 1, 1) - 3,
    "broadcast": lambda x: x * x.mean((2, 3), keepdim=True) + x[:, :1],
    "outer": lambda x: x[..., :1] / (2 + x[..., :1, :].abs()),
    "extremes": lambda x: torch.maximum(x, 0 * x) + torch.minimum(x, x * x), "in-place": _in_place,
    "other-type": lambda x: x.double().to(torch.float32).contiguous().clone(),
    "constant-of-its-type": lambda x: x * torch.arange(7).type_as(x),
    "dropout": lambda x: F.dropout(x, training=False),
    "twice": lambda x: (y := F.relu(x)) + F.avg_pool2d(y, 3, 1, 1) * y,
}  # fmt: skip


def exported(name: str) -> tuple[CSource, Tensor, Tensor]:
    """The network around a function as C of a name of its own, some inputs, and what torch makes of them."""
    model = lived_in(Applied(FUNCTIONS[name])).float()
    ticket = at_random(model, 0.7, 0)
    example = torch.zeros(1, 2, 7, 7)
    found = to_c(model, ticket, example=example, name=_in_c(name))
    inputs = 2 * inputs_for(example, 20)
    return found, inputs, expected(model, ticket, inputs)


def _in_c(name: str) -> str:
    return f"a_{name.replace('-', '_')}"


@needs_compiler
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_every_kind_of_operation_agrees_with_torch(tmp_path: Path) -> None:
    """All in one program, which stops at a read or write outside of its arrays and at undefined behaviour."""
    cases = {name: exported(name) for name in FUNCTIONS}
    given = {_in_c(name): (source, inputs) for name, (source, inputs, _) in cases.items()}
    found = run_sanitized(given, tmp_path).view(len(FUNCTIONS), 20, 6)
    far = {name: apart(one, cases[name][2]) for name, one in zip(cases, found, strict=True)}
    assert not {name: distance for name, distance in far.items() if not distance < 1e-5}


@needs_compiler
@pytest.mark.parametrize("name", ["max", "relu", "average", "softmax", "clamp", "larger", "smaller"])
def test_nan_is_not_hidden(name: str, tmp_path: Path) -> None:
    zero = torch.zeros(7)
    beside = {"larger": lambda x: torch.maximum(zero, x), "smaller": lambda x: torch.minimum(zero, x)}
    model = Applied((FUNCTIONS | beside)[name])
    masks = {layer.name: torch.ones(layer.shape) for layer in disbud.prunable(model)}
    found = to_c(model, disbud.Ticket.from_masks(masks), example=torch.zeros(1, 2, 7, 7))
    inputs = inputs_for(torch.zeros(1, 2, 7, 7), 1)
    inputs[0, 0, 0, 0] = float("nan")
    assert run(found, inputs, tmp_path, outputs=6).isnan().all()


def _overwritten(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    flat.relu_()
    return x * 2


HAS_NO_C: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "random": (lambda x: F.dropout(x, training=True), "dropout cannot be written as C: it draws"),
    "reflection": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "pad with mode 'reflect'"),
    "layer norm": (lambda x: F.layer_norm(x, (7,)), "layer_norm cannot"),
    "interpolation": (lambda x: F.interpolate(x, scale_factor=2), "interpolate cannot"),
    "values": (lambda x: x * float(x.max()), "max cannot"),
    "half": (lambda x: x.half().float(), "half cannot"),
    "whole numbers": (lambda x: x.to(torch.int32) + 0.0, "makes torch.int32"),
    "overwritten": (_overwritten, "shares its memory with one changed in place by relu_"),
    "slopes": (nn.PReLU(4), "a slope for each channel"),
    "sorted": (lambda x: x.sort().values, "sort cannot"),
    "rounded": (lambda x: torch.div(x, 2, rounding_mode="floor"), "div cannot"),
    "axes apart": (lambda x: x.mean((1, 3)), r"goes along axes \[1, 3\]"),
    "assignment": (lambda x: _assigned(x), "setitem cannot"),
    "sum in whole numbers": (
        lambda x: x.sum((2, 3), dtype=torch.int64) * 1.0,
        "sum cannot .* makes torch.int64",
    ),
    "bits": (lambda x: x.view(torch.int32).float(), "view cannot .* the bits of numbers as another type"),
    "wider bits": (
        lambda x: x[..., :6].contiguous().view(torch.float64).float(),
        "view cannot .* the bits of numbers",
    ),
    "shape in place": (
        lambda x: x.clone().unsqueeze_(0),
        "unsqueeze_ cannot be written as C: it has no rule",
    ),
    "bounds": (lambda x: x.clamp(torch.zeros(7)), "clamp cannot .* bounds that are tensors"),
    "picked by a list": (lambda x: x[:, [0, 3, 1]], "no.* regular block"),
}


def _assigned(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = 0
    return x


@pytest.mark.parametrize("name", HAS_NO_C)
def test_what_cannot_be_written_is_named(name: str) -> None:
    function, message = HAS_NO_C[name]
    model = Applied(function)
    with pytest.raises(DisbudError, match=message):
        to_c(model, at_random(model, 0.9, 0), example=torch.zeros(1, 2, 7, 7))


def test_a_computation_that_torch_does_not_show_is_found_out() -> None:
    @torch.jit.ignore
    def hidden(x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return x.detach() * 2

    model = Applied(lambda x: x + hidden(x))
    with pytest.raises(DisbudError, match="otherwise for another input"):
        to_c(model, at_random(model, 0.9, 0), example=torch.zeros(1, 2, 7, 7))


def test_what_is_asked_wrongly_is_said() -> None:
    model = nn.Linear(3, 2)
    ticket = at_random(model, 0.5, 0)
    with pytest.raises(DisbudError, match="a name in C"):
        to_c(model, ticket, example=torch.zeros(1, 3), name="2nd net")
    with pytest.raises(DisbudError, match="did you mean 'fp16'"):
        to_c(model, ticket, example=torch.zeros(1, 3), values="fp61")  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match="the model has no parameter"):
        to_c(nn.Sequential(model), ticket, example=torch.zeros(1, 3))
    with pytest.raises(DisbudError, match="return"):
        to_c(Two(), at_random(Two(), 0.5, 0), example=torch.zeros(1, 3))
    with torch.no_grad():
        model.weight.fill_(1e6)
    with pytest.raises(DisbudError, match="fp16 cannot hold; use values='fp32'"):
        to_c(model, ticket, example=torch.zeros(1, 3), values="fp16")
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(DisbudError, match="not finite"):
        to_c(model, ticket, example=torch.zeros(1, 3))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), x


def _hashed() -> str:
    model, example = build("resnet20:width=0.25"), torch.zeros(1, 3, 8, 8)
    ticket = disbud.prune(model, "magnitude", sparsity=0.9, example=example)
    return hashlib.sha256(to_c(model, ticket, example=example, values="fp16").text.encode()).hexdigest()


def test_the_same_bytes_whatever_the_hash_seed_and_locale() -> None:
    env = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "LC_ALL": "de_DE.UTF-8",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    script = "import torch, test_export; torch.set_num_threads(1); print(test_export._hashed())"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True)
    assert done.stdout.decode().strip() == _hashed()


def _in_single_precision(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise RuntimeError(f"numbers of torch.float32 are read here, not of {x.dtype}")
    return F.linear(x, torch.eye(7))


def test_where_compaction_is_refused_the_network_is_exported_whole() -> None:
    mask = torch.ones(4, 2, 3, 3)
    mask[2] = 0
    ticket = disbud.Ticket.from_masks({"first.weight": mask, "last.weight": torch.ones(6, 196)})
    reports = []
    for function in (_in_single_precision, F.relu):  # compaction computes in double precision
        model = Applied(function)
        with torch.no_grad():
            model.first.bias.zero_()
        reports.append(to_c(model, ticket, example=torch.zeros(1, 2, 7, 7)).report)
    assert reports[0].note.startswith("dead channels were left in: ")
    assert reports[1].note == ""
    assert reports[0].layers[0].kept == reports[1].layers[0].kept == 3 * 2 * 9
    assert reports[0].ram_bytes == 2 * 4 * 4 * 49
    assert reports[1].ram_bytes == 4 * 3 * 49
