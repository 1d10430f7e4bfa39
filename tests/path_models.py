"""More networks for effective paths: what published models do between layers, each with its walk for the oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from path_oracle import NOTHING, Entries, Mask
from path_walk import Walk, adaptive_windows, heads, together, windows

CAUSAL = torch.ones(4, 4, dtype=torch.bool).tril()


class Inception(nn.Module):
    """Branches side by side, one of them with max pooling; the branches share what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 3, padding=1)
        self.pooled, self.head = nn.Conv2d(3, 2, 1), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(functional.max_pool2d(x, 3, 1, 1))
        x = torch.cat([functional.relu(self.one(x)), functional.relu(self.three(x)), pooled], dim=1)
        out: Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        pooled = walk(self.pooled, walk.graph.pool(x, [windows(6, 3, 1, 1, 1, ceil=False)] * 2))
        x = numpy.concatenate([walk(self.one, x), walk(self.three, x), pooled], 1)
        return walk(self.head, walk.graph.reduce(x, (2, 3)))


class SqueezeExcite(nn.Module):
    """Channels multiplied by a gate that sees all of them, and a strided shortcut around it."""

    def __init__(self, gate: Callable[[Tensor], Tensor] = torch.sigmoid) -> None:
        super().__init__()
        self.gate = gate
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x))
        s = self.gate(self.up(functional.relu(self.down(x.mean((2, 3))))))
        out: Tensor = self.head(x * s[:, :, None, None])
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        x = walk(self.conv, x)
        gate = walk(self.up, walk(self.down, walk.graph.reduce(x, (2, 3))))
        return walk(self.head, walk.graph.gated(x, gate[:, :, None, None]))


class GatedLinear(nn.Module):
    """Gates written in three ways: glu, the sigmoid before the signal, and the signal's own sigmoid (swish)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.second = nn.Linear(6, 10), nn.Linear(6, 5), nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.glu(self.first(x), dim=-1)
        y = self.gate(x).sigmoid() * y
        y = self.second(y)
        out: Tensor = self.head(y * torch.sigmoid(y))
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        first = walk(self.first, x)
        y = walk.graph.gated(first[..., :5], first[..., 5:])
        y = walk.graph.gated(y, walk(self.gate, x))
        y = walk(self.second, y)
        return walk(self.head, walk.graph.gated(y, y))


class Product(nn.Module):
    """Two signals multiplied, neither of them a gate (SwiGLU)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(functional.silu(self.first(x)) * self.second(x))
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        return walk(self.head, walk.graph.product(walk(self.first, x), walk(self.second, x)))


class Pooled(nn.Module):
    """Attention pooling: tokens weighed by a softmax over them."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.head = nn.Linear(5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((self.score(x).softmax(1) * x).sum(1))
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        gated = walk.graph.gated(x, walk(self.score, x))
        return walk(self.head, walk.graph.reduce(gated, (1,)))


class ShuffleNet(nn.Module):
    """Grouped layers with a channel shuffle by view and transpose; a maximum over positions by amax."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 1, groups=2)
        self.depthwise = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6)
        self.last, self.head = nn.Conv2d(6, 4, 1, groups=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        batch, channels, height, width = x.size()
        x = x.view(batch, 3, channels // 3, height, width).transpose(1, 2).contiguous()
        x = x.view(batch, -1, height, width)
        x = self.last(functional.relu(self.depthwise(x)))
        out: Tensor = self.head(x.amax((2, 3)))
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        x = walk(self.first, x)
        x = x.reshape(1, 3, 2, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
        return walk(self.head, walk.graph.reduce(walk(self.last, walk(self.depthwise, x)), (2, 3)))


class ByHand(nn.Module):
    """Attention written out, with a causal mask filled in, or by torch's one function for it; tokens as features."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.q, self.k = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        self.v, self.out = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            y.view(y.shape[0], y.shape[1], 2, -1).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x))
        )
        if self.how == "written out":
            scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
            y = functional.softmax(scores.masked_fill(~CAUSAL, -torch.inf), dim=-1) @ v
        elif self.how == "unmasked":
            y = torch.matmul(torch.softmax(torch.matmul(q, k.transpose(2, 3)) * 0.5, -1), v)
        elif self.how == "causal":
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=CAUSAL)
        out: Tensor = self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
        return out[:, 1:3]

    def walked(self, walk: Walk, x: Entries) -> Entries:
        q, k, v = (heads(walk(layer, x), 2) for layer in (self.q, self.k, self.v))
        allowed = None if self.how == "unmasked" else CAUSAL.numpy()
        return walk(self.out, together(walk.graph.attention(q, k, v, allowed)))[:, 1:3]


class Attention(nn.Module):
    """torch's own attention, on itself or on another sequence, with masks of each kind."""

    def __init__(self, mask: str = "none", *, batch_first: bool = True, need_weights: bool = False) -> None:
        super().__init__()
        self.mask, self.need_weights = mask, need_weights
        self.attend = nn.MultiheadAttention(6, 2, batch_first=batch_first)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        masks: dict[str, dict[str, Tensor]] = {
            "none": {},
            "bool": {"attn_mask": ~CAUSAL},
            "float": {"attn_mask": torch.zeros(4, 4).masked_fill(~CAUSAL, -torch.inf)},
            "padding": {"key_padding_mask": torch.tensor([[False, False, True, True]])},
        }
        y = self.attend(x, x, x, need_weights=self.need_weights, **masks[self.mask])[0]
        out: Tensor = self.head(y)
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        allowed: dict[str, Mask | None] = {
            "none": None,
            "bool": CAUSAL.numpy(),
            "float": CAUSAL.numpy(),
            "padding": numpy.array([True, True, False, False]),
        }
        return walk(self.head, walk.multihead(self.attend, x, x, x, allowed[self.mask]))


class Across(nn.Module):
    """One sequence looks at another, whose keys and values have sizes of their own."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        self.k, self.v = nn.Linear(5, 3 if apart else 6), nn.Linear(5, 5 if apart else 6)
        self.attend = nn.MultiheadAttention(
            6, 3, batch_first=True, **({"kdim": 3, "vdim": 5} if apart else {})
        )  # type: ignore[arg-type]

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        out: Tensor = self.attend(x, self.k(memory), self.v(memory))[0]
        return out

    def walked(self, walk: Walk, x: Entries, memory: Entries) -> Entries:
        return walk.multihead(self.attend, x, walk(self.k, memory), walk(self.v, memory))


class Decoder(nn.Module):
    """A decoder layer: causal attention on itself, then on the encoder's positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(6, 2, 7, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        out: Tensor = self.layer(x, memory, tgt_mask=~CAUSAL)
        return out

    def walked(self, walk: Walk, x: Entries, memory: Entries) -> Entries:
        layer, add = self.layer, walk.graph.add
        x = add(x, walk.multihead(layer.self_attn, x, x, x, CAUSAL.numpy()))
        x = add(x, walk.multihead(layer.multihead_attn, x, memory, memory))
        return add(x, walk(layer.linear2, walk(layer.linear1, x)))


class VisionTransformer(nn.Module):
    """Patches by a convolution, a class token, learned positions, two encoder layers; it reads the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 3, 3)
        self.token, self.positions = nn.Parameter(torch.ones(1, 1, 6)), nn.Parameter(torch.ones(1, 5, 6))
        self.first = nn.TransformerEncoderLayer(6, 2, 7, batch_first=True, norm_first=True, activation="gelu")
        self.second = nn.TransformerEncoderLayer(6, 2, 7, batch_first=True)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        out: Tensor = self.head(self.norm(self.second(self.first(x)))[:, 0])
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        x = walk(self.patches, x).reshape(1, 6, -1).swapaxes(1, 2)
        x = numpy.concatenate([numpy.full((1, 1, 6), NOTHING), x], 1)
        return walk(self.head, walk.encoder(self.second, walk.encoder(self.first, x))[:, 0])


class Joins(nn.Module):
    """Differences, maxima, constants, stacks, splits, and sums in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(2, 4)
        self.scale = nn.Parameter(torch.zeros(4))  # a layer scale that starts at zero
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        y = torch.maximum(a, b) - a * 0.5
        left, right = y.chunk(2, dim=1)
        y = y + self.scale * self.c(torch.stack([left, 1 - right]).sum(0))
        y += b
        functional.relu_(y)
        out: Tensor = self.head(y / 3)
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        a, b = walk(self.a, x), walk(self.b, x)
        y = walk.graph.add(walk.graph.add(a, b), a)
        y = walk.graph.add(y, walk(self.c, walk.graph.add(y[:, :2], y[:, 2:])))
        return walk(self.head, walk.graph.add(y, b))


class Mixer(nn.Module):
    """Linear layers along positions and along features in turn (MLP-Mixer); every second position is read."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.features, self.head = nn.Linear(4, 4), nn.Linear(5, 5), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions(x.transpose(1, 2)).permute(0, 2, 1)
        x = x + functional.gelu(self.features(x))
        out: Tensor = self.head(x[:, ::2].reshape(x.size(0), -1))
        return out

    def walked(self, walk: Walk, x: Entries) -> Entries:
        x = walk.graph.add(x, walk(self.positions, x.swapaxes(1, 2)).swapaxes(1, 2))
        x = walk.graph.add(x, walk(self.features, x))
        return walk(self.head, x[:, ::2].reshape(1, -1))


class ManyWays(nn.Module):
    """Layers and poolings as plain functions; padding by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (2, 0, 1, 0))
        x = functional.conv2d(x, self.first.weight, self.first.bias, stride=(2, 1), dilation=(1, 2))
        x = functional.avg_pool2d(x, (2, 1), stride=1, padding=(1, 0))
        x = functional.adaptive_max_pool2d(x, (2, 3))
        return functional.linear(torch.flatten(x, 1), self.head.weight)

    def walked(self, walk: Walk, x: Entries) -> Entries:
        x = numpy.pad(x, [(0, 0), (0, 0), (1, 0), (2, 0)], constant_values=NOTHING)
        name = walk.name_of[id(self.first.weight)]
        x = walk.graph.convolution(
            x, name, stride=(2, 1), padding=(0, 0), dilation=(1, 2), groups=1, size=(3, 4)
        )
        x = walk.graph.pool(x, [windows(3, 2, 1, 1, 1, ceil=False), [[i] for i in range(4)]])
        x = walk.graph.pool(x, [adaptive_windows(4, 2), adaptive_windows(4, 3)])
        return walk(self.head, x.reshape(1, -1))


class TwoHeads(nn.Module):
    """Two inputs and two outputs, one of them early."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)
        self.early, self.late = nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        x = torch.tanh(self.a(x))
        return {"early": self.early(x), "late": self.late(x + self.b(y))}

    def walked(self, walk: Walk, x: Entries, y: Entries) -> tuple[Entries, ...]:
        x = walk(self.a, x)
        return walk(self.early, x), walk(self.late, walk.graph.add(x, walk(self.b, y)))


IMAGE = torch.zeros(1, 3, 6, 6)
SEQUENCE = torch.zeros(1, 4, 6)
CUSTOM: dict[str, tuple[Callable[[], nn.Module], Tensor | tuple[Tensor, ...]]] = {
    "inception": (Inception, IMAGE),
    "squeeze-excite": (SqueezeExcite, torch.zeros(1, 3, 4, 4)),
    "squeeze-excite, hard": (lambda: SqueezeExcite(functional.hardsigmoid), torch.zeros(1, 3, 3, 3)),
    "gated linear": (GatedLinear, torch.zeros(1, 6)),
    "product": (Product, torch.zeros(1, 6)),
    "attention pooling": (Pooled, torch.zeros(1, 3, 5)),
    "shuffle": (ShuffleNet, torch.zeros(1, 4, 5, 5)),
    "attention written out": (lambda: ByHand("written out"), SEQUENCE),
    "attention unmasked": (lambda: ByHand("unmasked"), SEQUENCE),
    "attention causal": (lambda: ByHand("causal"), SEQUENCE),
    "attention masked": (lambda: ByHand("masked"), SEQUENCE),
    "multihead": (Attention, SEQUENCE),
    "multihead, weights": (lambda: Attention(need_weights=True), SEQUENCE),
    "multihead, bool mask": (lambda: Attention("bool"), SEQUENCE),
    "multihead, float mask": (lambda: Attention("float"), SEQUENCE),
    "multihead, padding": (lambda: Attention("padding"), SEQUENCE),
    "multihead, positions first": (lambda: Attention(batch_first=False), torch.zeros(4, 1, 6)),
    "across": (lambda: Across(apart=False), (SEQUENCE, torch.zeros(1, 3, 5))),
    "across, apart": (lambda: Across(apart=True), (SEQUENCE, torch.zeros(1, 3, 5))),
    "decoder": (Decoder, (SEQUENCE, torch.zeros(1, 3, 6))),
    "vision transformer": (VisionTransformer, IMAGE),
    "joins": (Joins, torch.zeros(1, 6)),
    "mixer": (Mixer, torch.zeros(1, 4, 5)),
    "functions": (ManyWays, IMAGE),
    "two heads": (TwoHeads, (torch.zeros(1, 3), torch.zeros(1, 2))),
}
