"""SynFlow against networks linearised by hand: scores, conservation, depth, rounds, and a model left as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import disbud
from disbud.errors import DisbudError
from disbud.graph.flow import signals
from disbud.models import build

torch.set_num_threads(1)

P = dict[str, Tensor]
Linearised = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """A network, an input, and by hand what is left of it: a function of absolute weights and ones."""

    model: Callable[[], nn.Module]
    example: object
    by_hand: Linearised


def norm(p: P, name: str, x: Tensor) -> Tensor:
    """The scale of a normalisation over channels, in eval mode."""
    scale = p[f"{name}.weight"]
    if f"{name}.running_var" in p:
        scale = scale / (p[f"{name}.running_var"] + 1e-5).sqrt()
    return x * scale.view(-1, *[1] * (x.dim() - 2))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.Tanh(),
        nn.Linear(8, 7),
        nn.ReLU6(),
        nn.Dropout(0.5),
        nn.Linear(7, 3),
        nn.Softmax(1),
    )


def mlp_by_hand(p: P, x: Tensor) -> Tensor:
    return x @ p["0.weight"].T @ p["2.weight"].T @ p["5.weight"].T


def conv_bn() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, stride=2, bias=False), nn.BatchNorm2d(5, affine=False), nn.Hardswish(),
        nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    for i in (1, 5):
        nn.init.uniform_(net[i].running_var, 0.5, 2)
        nn.init.normal_(net[i].running_mean)
    nn.init.normal_(net[1].weight)
    nn.init.normal_(net[1].bias)
    return net


def conv_bn_by_hand(p: P, x: Tensor) -> Tensor:
    x = F.max_pool2d(norm(p, "1", F.conv2d(x, p["0.weight"], padding=1)), 2)
    x = F.conv2d(x, p["4.weight"], stride=2) / (p["5.running_var"] + 1e-5).sqrt().view(-1, 1, 1)
    return x.flatten(1) @ p["8.weight"].T


def strided() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, dilation=2, padding=(1, 2)), nn.Hardtanh(),
        nn.Conv2d(4, 6, (1, 3), padding="same"), nn.GELU(), nn.InstanceNorm2d(6, affine=True),
        nn.ConvTranspose2d(6, 4, 3, stride=2), nn.Softplus(), nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"),
    )  # fmt: skip


def strided_by_hand(p: P, x: Tensor) -> Tensor:
    x = F.conv2d(x, p["0.weight"], stride=2, dilation=2, padding=(1, 2))
    x = F.conv2d(x, p["2.weight"], padding="same")
    x = F.conv_transpose2d(norm(p, "4", x), p["5.weight"], stride=2)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), p["7.weight"])


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=4), nn.Sigmoid(), nn.Conv2d(8, 6, 1, groups=2), nn.GroupNorm(2, 6), nn.SiLU(),
        nn.AvgPool2d(2), nn.Flatten(2), nn.Conv1d(6, 4, 3), nn.ELU(inplace=True), nn.Unflatten(2, (1, 1, -1)),
        nn.Conv3d(4, 3, 1),
    )  # fmt: skip


def grouped_by_hand(p: P, x: Tensor) -> Tensor:
    x = F.conv2d(F.conv2d(x, p["0.weight"], groups=4), p["2.weight"], groups=2)
    x = F.conv1d(F.avg_pool2d(norm(p, "3", x), 2).flatten(2), p["7.weight"])
    return F.conv3d(x.unflatten(2, (1, 1, -1)), p["10.weight"])


class Residual(nn.Module):
    """Sums in place, a difference, a branch scaled by a negative number, a dense connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 1),
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        y = x.clone()
        y += torch.clamp(self.first(x), max=0.1)
        z = y - self.second(y).mul_(-0.5)
        return self.head(torch.cat([z, y], 1).mean((2, 3)))


def residual_by_hand(p: P, x: Tensor) -> Tensor:
    x = F.conv2d(x, p["stem.weight"], padding=1)
    y = x + F.conv2d(x, p["first.weight"])
    z = y + 0.5 * F.conv2d(y, p["second.weight"])
    return torch.cat([z, y], 1).mean((2, 3)) @ p["head.weight"].T


class Tied(nn.Module):
    """One weight used three times, once transposed; a layer that nothing comes from; outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, object]:
        y = self.b(torch.tanh(self.a(x))) * scale
        return {
            "decoded": (F.linear(y, self.a.weight.t()), y.detach()),
            "unused": self.unused(torch.ones(6).to(x)),
        }


def tied_by_hand(p: P, x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    y = x @ p["a.weight"].T @ p["a.weight"].T
    return y @ p["a.weight"], y.detach()


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, norm_first=False, batch_first=True)
    for part in (layer.norm1, layer.norm2):
        nn.init.normal_(part.weight)
    return layer


def encoder_by_hand(p: P, x: Tensor) -> Tensor:
    mixed = (x @ p["self_attn.in_proj_weight"][16:].T).mean(1, keepdim=True).expand_as(x)
    x = (x + mixed @ p["self_attn.out_proj.weight"].T) * p["norm1.weight"]
    return (x + x @ p["linear1.weight"].T @ p["linear2.weight"].T) * p["norm2.weight"]


class Vision(nn.Module):
    """Patches, class token, positions, attention written out, a learned scale, a normalisation written out."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv, self.out = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(5, 8))
        self.gain, self.head = nn.Parameter(torch.randn(8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        shares = F.dropout((q @ k.transpose(-2, -1) * 4**-0.5).softmax(-1), 0.1, self.training)
        x = x + self.gain * self.out((shares @ v).transpose(1, 2).flatten(2))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.head(x[:, 0]).log_softmax(-1)


def vision_by_hand(p: P, x: Tensor) -> Tensor:
    x = F.conv2d(x, p["patch.weight"], stride=4).flatten(2).transpose(1, 2)
    x = F.pad(x, (0, 0, 1, 0))
    x = x + p["gain"] * ((x @ p["qkv.weight"][16:].T).mean(1, keepdim=True) @ p["out.weight"].T)
    return x[:, 0] @ p["head.weight"].T


class Language(nn.Module):
    """Token ids, positions looked up, causal attention, gated units, output weights tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Embedding(7, 8)
        self.value, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 24), nn.Linear(12, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.norm.weight)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        x = x + F.scaled_dot_product_attention(x, x, self.value(x), is_causal=True)
        x = x + self.down(F.glu(self.up(x)))
        return self.head(self.norm(x))


def language_by_hand(p: P, ids: Tensor) -> Tensor:
    x = F.embedding(ids, p["tokens.weight"])
    mix = torch.ones(ids.shape[1], ids.shape[1], dtype=x.dtype).tril()
    x = x + mix / mix.sum(1, keepdim=True) @ (x @ p["value.weight"].T)
    a, b = (x @ p["up.weight"].T).chunk(2, -1)
    x = x + (a * b) @ p["down.weight"].T
    return (x * p["norm.weight"]) @ p["tokens.weight"].T


class Gated(nn.Module):
    """Squeeze and excitation: one signal multiplies another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv(x))
        return x * torch.sigmoid(self.excite(F.mish(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))


def gated_by_hand(p: P, x: Tensor) -> Tensor:
    x = F.conv2d(x, p["conv.weight"])
    return x * F.conv2d(F.conv2d(x.mean((2, 3), keepdim=True), p["squeeze.weight"]), p["excite.weight"])


def wide() -> nn.Module:
    """Weights of several blocks on maps of few positions, where matrix products take over."""
    return nn.Sequential(
        nn.Conv2d(2, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(128, 160, 3, padding=1), nn.ReLU(),
        nn.Conv2d(160, 8, (3, 1), padding=(2, 0), stride=(1, 2)), nn.Flatten(), nn.Linear(32, 700), nn.Linear(700, 300),
    )  # fmt: skip


def wide_by_hand(p: P, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.conv2d(x, p["0.weight"], padding=1), 2)
    x = F.conv2d(F.conv2d(x, p["3.weight"], padding=1), p["5.weight"], padding=(2, 0), stride=(1, 2))
    return x.flatten(1) @ p["7.weight"].T @ p["8.weight"].T


IMAGE = torch.zeros(2, 3, 8, 8)
CASES = {
    "mlp": Case(mlp, torch.zeros(5, 6), mlp_by_hand),
    "conv-bn": Case(conv_bn, IMAGE, conv_bn_by_hand),
    "strided": Case(strided, IMAGE, strided_by_hand),
    "grouped": Case(grouped, torch.zeros(1, 4, 8, 8), grouped_by_hand),
    "residual": Case(Residual, IMAGE, residual_by_hand),
    "tied": Case(Tied, {"x": torch.zeros(1, 6), "scale": torch.zeros(1, 6)}, tied_by_hand),
    "transformer": Case(encoder, torch.zeros(1, 5, 8), encoder_by_hand),
    "vision": Case(Vision, IMAGE, vision_by_hand),
    "language": Case(Language, torch.tensor([[3, 1, 4, 1, 5]]), language_by_hand),
    "gated": Case(Gated, IMAGE, gated_by_hand),
    "wide": Case(wide, torch.zeros(1, 2, 4, 4), wide_by_hand),
}


def by_hand(case: Case, model: nn.Module, masks: P | None = None, power: int = 1) -> P:
    """theta * dR/dtheta by autograd through the network linearised by hand, in float64."""
    layers = [layer.name for layer in disbud.prunable(model)]
    p = {name: value.detach().double().abs() ** power for name, value in model.named_parameters()}
    p |= {name: value.double() for name, value in model.named_buffers()}
    for name in layers:
        p[name] = (p[name] if masks is None else p[name] * masks[name]).requires_grad_()
    given = case.example if isinstance(case.example, dict) else {"": case.example}
    inputs = [torch.ones(1, *x.shape[1:]).double() if x.is_floating_point() else x for x in given.values()]
    out = case.by_hand(p, *inputs)
    total = sum(part.sum() for part in (out if isinstance(out, tuple) else (out,)))
    grads = torch.autograd.grad(total, [p[name] for name in layers], allow_unused=True)
    return {
        name: torch.zeros_like(p[name].detach()) if g is None else p[name].detach() * g
        for name, g in zip(layers, grads, strict=True)
    }


def built(case: Case, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return case.model()


def assert_close(found: P, expected: P, tolerance: float) -> None:
    """Equal up to one factor for all layers."""
    assert found.keys() == expected.keys()
    size = sum(float(score.double().sum()) for score in found.values())
    factor = sum(float(score.sum()) for score in expected.values()) / size if size else 1.0
    for name, score in expected.items():
        torch.testing.assert_close(
            found[name].double() * factor, score, rtol=tolerance, atol=tolerance * float(score.max())
        )


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


class Deep(nn.Module):
    """A chain, or with skips a residual network."""

    def __init__(self, depth: int, width: int, gain: float, skips: object) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.skips = skips
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=gain)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu() + (x if self.skips else 0)
        return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("gain", "skips"), [(1.0, False), (1e-5, False), (1.0, True)])
def test_depth_300_neither_overflows_nor_underflows(gain: float, skips: object, dtype: str) -> None:
    torch.manual_seed(0)
    model = Deep(300, 100, gain, skips)
    x = torch.ones(1, 100).double()
    for layer in model.layers:
        x = x @ layer.weight.double().abs().T + (x if skips else 0)
    assert not (torch.isfinite(x).all() and x.min() > 1e-300)  # float64 alone does not do
    found = torch.stack(
        list(disbud.scores(model, "synflow", example=torch.zeros(1, 100), dtype=dtype).values())
    )
    assert torch.isfinite(found).all()
    assert torch.equal(found > 0, torch.stack([layer.weight != 0 for layer in model.layers]))
    if not skips:
        into, out_of = found.sum(2)[:-1], found.sum(1)[1:]
        torch.testing.assert_close(into, out_of, rtol=1e-4 if dtype == "float32" else 1e-12, atol=0)


def test_a_deep_residual_network_scores_as_in_exact_numbers() -> None:
    """Python's fractions have no largest number: a network of whole weights, 40 blocks, R about 10^80."""
    model = Deep(40, 3, 1.0, True)
    torch.manual_seed(2)
    for layer in model.layers:
        layer.weight.data = torch.randint(-99, 100, (3, 3)).float()
    weights = [[[abs(int(w)) for w in row] for row in layer.weight.tolist()] for layer in model.layers]
    forward = [[1, 1, 1]]
    for w in weights:
        x = forward[-1]
        forward.append([x[i] + sum(w[i][j] * x[j] for j in range(3)) for i in range(3)])
    backward = [[1, 1, 1]]
    for w in reversed(weights):
        g = backward[-1]
        backward.append([g[j] + sum(g[i] * w[i][j] for i in range(3)) for j in range(3)])
    total = sum(forward[-1])
    assert total > 1e38  # beyond float32
    expected = torch.tensor([
        [[backward[39 - k][i] * weights[k][i][j] * forward[k][j] / total for j in range(3)] for i in range(3)]
        for k in range(40)
    ])  # fmt: skip
    found = torch.stack(list(disbud.scores(model, "synflow", example=torch.zeros(1, 3)).values()))
    torch.testing.assert_close(found / found.sum() * expected.sum(), expected, rtol=1e-4, atol=0)


def plain_rounds(model: nn.Module, shape: tuple[int, ...], sparsity: float, rounds: int) -> P:
    """Tanaka et al.'s algorithm 1, line by line, in float64, for networks without shifts."""
    layers = {layer.name: model.get_parameter(layer.name) for layer in disbud.prunable(model)}
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in layers.items()}
    total = sum(mask.numel() for mask in masks.values())
    model.eval()
    for parameter in model.parameters():
        parameter.data.abs_()
    for k in range(1, rounds + 1):
        for name, p in layers.items():
            p.data *= masks[name]
        model.zero_grad()
        model(torch.ones(1, *shape).double()).sum().backward()
        flat = torch.cat([(p * p.grad).detach().flatten() for p in layers.values()])
        kept = disbud.selection.kept_count(
            1 - (1 - sparsity) ** (k / rounds) if k < rounds else sparsity, total
        )
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[flat.sort(descending=True, stable=True).indices[:kept]] = True
        for (name, mask), part in zip(
            masks.items(), chosen.split([m.numel() for m in masks.values()]), strict=True
        ):
            masks[name] = part.view_as(mask)
    return masks


@pytest.mark.parametrize("spec", ["vgg11:width=0.125", "vgg11-bn:width=0.125"])
def test_a_hundred_rounds_give_the_plain_algorithms_ticket(spec: str) -> None:
    shape, sparsity = (3, 32, 32), 0.97
    expected = plain_rounds(build(spec).double(), shape, sparsity, 100)
    ticket = disbud.prune(
        build(spec), "synflow", sparsity=sparsity, example=torch.zeros(1, *shape), dtype="float64"
    )
    assert sum(int(mask.sum()) for mask in expected.values()) == ticket.kept
    for name, mask in expected.items():
        assert torch.equal(ticket.masks[name], mask), name


def test_a_few_rounds_in_float32_and_float64_agree() -> None:
    """More rounds need not: a weight swapped by rounding moves later scores, and the difference grows by the round."""
    kept = [
        disbud.prune(
            build("vgg11:width=0.25"), "synflow", sparsity=0.9, rounds=5, example=torch.zeros(1, 3, 32, 32), dtype=dtype
        )
        for dtype in ("float32", "float64")
    ]  # fmt: skip
    same = sum(
        int((a & b).sum()) for a, b in zip(kept[0].masks.values(), kept[1].masks.values(), strict=True)
    )
    assert same >= 0.999 * kept[0].kept


def test_many_rounds_avoid_the_layer_collapse_of_one() -> None:
    model, example = build("vgg11:width=0.125"), torch.zeros(1, 3, 32, 32)
    once = disbud.prune(model, "synflow", sparsity=0.995, example=example, rounds=1)
    often = disbud.prune(model, "synflow", sparsity=0.995, example=example)
    assert min(once.densities().values()) == 0
    assert min(often.densities().values()) > 0
    assert once.kept == often.kept


def test_pruned_weights_never_return_and_dead_ones_leave_first() -> None:
    model = build("vgg11:width=0.125")
    example = torch.zeros(1, 3, 32, 32)
    ticket = disbud.prune(model, "synflow", sparsity=0.9, example=example, rounds=20)
    again = disbud.scores(model, "synflow", example=example, ticket=ticket)
    for name, score in again.items():
        assert not score[~ticket.masks[name]].any()
    alive = sum(int((score > 0).sum()) for score in again.values())
    assert alive >= 0.99 * ticket.kept


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
