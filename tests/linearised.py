"""Networks linearised by hand, function by function: what SynFlow's scores are checked against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import disbud

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
