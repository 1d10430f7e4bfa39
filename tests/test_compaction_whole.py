"""What stays whole because it cannot shrink exactly, what is refused, and what has to be given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compaction_oracle import Added, check_exact, keeping, lived_in, rows, seeded
from disbud import DisbudError
from disbud.compaction import Compacted, compact

# What stays whole


@pytest.mark.parametrize(
    ("norm", "said"),
    [(lambda: nn.GroupNorm(2, 4), "GroupNorm"), (lambda: nn.LayerNorm([4, 4, 4]), "LayerNorm")],
)
def test_statistics_over_channels_keep_them(norm: object, said: str) -> None:
    # The channel that nothing feeds changes with the input once it is normalised; and so does one that leads nowhere.
    model = lived_in(seeded(lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), norm(), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1),
        nn.Flatten(), nn.Linear(32, 3),
    )))  # type: ignore[operator] # fmt: skip
    found = check_exact(model, keeping(model, _0=0, _3=(slice(None), 1), _5=(slice(None), 2)), *rows(3, 4, 4))
    assert found.model[0].out_channels == 4
    assert found.model[3].out_channels == 3
    assert said in str(found)


class Odd(nn.Module):
    """Between two convolutions something that tells channels by their place, or their number."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(32, 3)
        self.aux = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if self.how == "chunk":
            a, b = x.chunk(2, 1)
            x = torch.cat([a * torch.sigmoid(b), b], 1)
        elif self.how == "slice":
            x = torch.cat([x[:, :3] * 2, x[:, 3:]], 1)
        elif self.how == "shuffle":
            x = x.view(len(x), 2, 4, 2, 2).transpose(1, 2).reshape(len(x), 8, 2, 2)
        elif self.how == "flip":
            x = x.flip(1)[:, :, :, ::1]
        elif self.how == "count":
            x = x / x.shape[1] ** 0.5
        elif self.how == "max":
            x = x * x.amax(1, keepdim=True)
        elif self.how == "constant":
            x = x + torch.arange(8.0, dtype=x.dtype).view(8, 1, 1)
        elif self.how == "computed":
            x = functional.conv2d(x, self.second.weight - self.second.weight.mean())
        x = torch.tanh(self.second(x))
        if self.training and self.how == "auxiliary":
            return self.last(x.flatten(1)) + self.aux(x.mean((2, 3)))  # type: ignore[no-any-return]
        if self.how == "literal":
            return self.last(x.view(-1, 32))  # type: ignore[no-any-return]
        return self.last(x.reshape(x.size(0), x.size(1) * 4))  # type: ignore[no-any-return]


CUT_FIRST = {"second": (slice(None), 2)}  # the third channel of the first convolution leads nowhere
CUT_SECOND = {"last": (slice(None), slice(8, 12))}  # the third of the second


@pytest.mark.parametrize(
    ("how", "cut", "first", "second"),
    [
        ("plain", CUT_FIRST, 7, 8), ("plain", CUT_SECOND, 8, 7), ("flip", CUT_FIRST, 7, 8),
        ("chunk", CUT_FIRST, 8, 8), ("slice", CUT_FIRST, 8, 8), ("shuffle", CUT_FIRST, 8, 8),
        ("max", CUT_FIRST, 8, 8), ("constant", CUT_FIRST, 8, 8), ("literal", CUT_SECOND, 8, 8),
        ("literal", CUT_FIRST, 7, 8), ("auxiliary", CUT_SECOND, 8, 8), ("computed", CUT_FIRST, 8, 8),
    ],
)  # fmt: skip
def test_what_goes_by_places_stays_whole(how: str, cut: dict[str, object], first: int, second: int) -> None:
    model = seeded(lambda: Odd(how))
    found = check_exact(model, keeping(model, **cut), *rows(3, 2, 2))
    assert (found.model.first.out_channels, found.model.second.out_channels) == (first, second)


class Spread(nn.Module):
    """Something of one channel, or of none, that acts on all of them."""

    def __init__(self, *, by_place: bool) -> None:
        super().__init__()
        self.by_place = by_place
        self.stem, self.place = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(3, 1, 1)
        self.shift, self.head = nn.Parameter(torch.zeros(())), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.by_place:
            return self.head(functional.relu(self.stem(x) + self.place(x))).mean((2, 3))  # type: ignore[no-any-return]
        return self.head(torch.tanh(self.stem(x) + self.shift)).mean((2, 3))  # type: ignore[no-any-return]


@pytest.mark.parametrize("by_place", [True, False])
def test_what_one_value_says_to_all_channels_is_no_silence(by_place: bool) -> None:
    # Zero on these inputs, and yet not on others; or zero now, and yet not once the one shift has learned.
    model = seeded(lambda: Spread(by_place=by_place))
    model.place.bias.data.fill_(-50.0)
    found = check_exact(model, keeping(model, stem=0), *rows(3, 4, 4))
    assert found.model.stem.out_channels == 4
    assert (
        check_exact(model, keeping(model, head=(slice(None), 0)), *rows(3, 4, 4)).model.stem.out_channels == 3
    )


def test_what_cannot_be_exact_is_refused() -> None:
    model = seeded(lambda: Odd("count"))
    with pytest.raises(DisbudError, match=r"cannot be compacted exactly .* number of channels"):
        compact(model, keeping(model, **CUT_FIRST), example=rows(3, 2, 2)[0])


def test_a_layer_used_twice_goes_by_both_uses() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.shared(torch.tanh(self.stem(x))))
            out: Tensor = self.head(torch.tanh(self.shared(x)))
            return out

    model = seeded(Twice)
    one = check_exact(model, keeping(model, head=(slice(None), 1)), *rows(4))
    assert one.model.shared.weight.shape == (6, 6)
    both = check_exact(model, keeping(model, head=(slice(None), 1), shared=(slice(None), 1)), *rows(4))
    assert both.model.shared.weight.shape == (5, 5)


def test_the_transformer_keeps_its_width_and_loses_hidden_units() -> None:
    layer = nn.TransformerEncoderLayer
    model = seeded(
        lambda: nn.Sequential(layer(8, 2, 12, 0.0, batch_first=True), nn.Flatten(), nn.Linear(24, 3))
    )
    found = check_exact(model, keeping(model, _0_linear2=(slice(None), [0, 5])), *rows(3, 8))
    block = found.model[0]
    assert (block.linear1.out_features, block.linear2.in_features, block.norm1.normalized_shape) == (
        10,
        10,
        (8,),
    )
    names = [layer.name for layer in found.account.layers]
    assert names.index("0.self_attn.in_proj_weight") >= 0


def test_in_another_layout_and_type_the_small_model_is_in_it_too() -> None:
    model = seeded(Added).to(torch.bfloat16).to(memory_format=torch.channels_last)
    model.branch.weight.requires_grad_(False)
    found: Compacted = compact(model, keeping(model, branch=0, stem=0), example=torch.zeros(1, 3, 4, 4))
    weight = found.model.branch.weight
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.requires_grad
    assert found.model.stem.weight.requires_grad


# What is asked


def test_an_example_is_needed_where_the_first_layer_does_not_say_the_size() -> None:
    chain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    assert compact(chain, keeping(chain, _2=(slice(None), 0))).model[0].out_features == 4
    model = seeded(Added)
    with pytest.raises(DisbudError, match=r"give example=\.\.\., such as torch.zeros\(1, 3, 32, 32\)"):
        compact(model, keeping(model))


def test_scripted_and_weightless_models_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    ticket = keeping(model)
    with pytest.raises(DisbudError, match="scripted"):
        compact(torch.jit.script(model), ticket, example=torch.zeros(1, 4))
    with pytest.raises(DisbudError, match="meta device"), torch.device("meta"):
        compact(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), ticket, example=torch.zeros(1, 4))
    with pytest.raises(DisbudError, match="does not fit"):
        compact(nn.Sequential(nn.Linear(4, 6)), ticket)
    with pytest.raises(DisbudError, match="a model is a"):
        compact(3, ticket)  # type: ignore[arg-type]
