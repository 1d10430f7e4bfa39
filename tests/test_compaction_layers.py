"""What goes, what stays and why, on networks small enough to tell by hand; each is held to brute force as well."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compaction_oracle import Added, check_exact, keeping, lived_in, rows, seeded
from disbud import Ticket
from disbud.seeds import generator

# Channels that nothing feeds


@pytest.mark.parametrize(
    ("activation", "bias", "goes"),
    [
        (nn.ReLU(), -0.5, True), (nn.ReLU(), 0.0, True), (nn.ReLU(), 0.5, False), (nn.ReLU6(), -0.5, True),
        (nn.Tanh(), 0.0, False), (nn.Tanh(), None, True), (nn.Sigmoid(), None, False), (nn.GELU(), 0.0, False),
        (nn.LeakyReLU(), 0.0, False), (nn.LeakyReLU(), None, True), (nn.Identity(), 0.0, False),
    ],
)  # fmt: skip
def test_a_channel_that_nothing_feeds_goes_where_it_says_nothing(
    activation: nn.Module, bias: float | None, goes: bool
) -> None:
    # Tanh of a bias of zero is zero, but its derivative is not: training would have it speak.
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 5, bias=bias is not None), activation, nn.Linear(5, 3)))
    if bias is not None:
        model[0].bias.data[2] = bias
    found = check_exact(model, keeping(model, _0=2), *rows(4))
    assert found.model[0].out_features == (4 if goes else 5)
    assert bool(found.account.dead_but_kept) is not goes
    if not goes:
        assert re.search(r"0.weight: 1 - .* speaks through its bias", str(found))


@pytest.mark.parametrize(
    ("bias", "shift", "mean", "goes"),
    [
        (None, 0.0, 0.0, True), (None, -0.5, 0.0, True), (None, 0.5, 0.0, False),
        (None, -0.5, -3.0, False),  # in evaluation the old running mean lifts it above zero
        (None, -0.5, 3.0, True),
        (0.5, 0.0, 0.5, False),  # in training the bias less its mean is rounding, whose sign decides
        (0.5, -0.1, 0.5, True),
    ],
)  # fmt: skip
def test_a_batch_norm_speaks_by_its_shift(bias: float | None, shift: float, mean: float, goes: bool) -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=bias is not None), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 5, 3, padding=1), nn.Flatten(), nn.Linear(80, 3),
        )
    )  # fmt: skip
    with torch.no_grad():
        if bias is not None:
            model[0].bias.fill_(bias)
        model[1].bias[1], model[1].running_mean[1] = shift, mean
    found = check_exact(model, keeping(model, _0=1), *rows(3, 4, 4))
    assert found.model[0].out_channels == found.model[1].num_features == (3 if goes else 4)


def test_a_constant_that_feeds_another_keeps_it() -> None:
    # The second layer's unit is fed by nothing but the bias of the first's; what it says can change with that bias.
    model = seeded(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    )
    model[0].bias.data[1], model[2].bias.data[1] = 0.5, -9.0
    ticket = keeping(model, _0=1, _2=(1, [0, 2]))
    found = check_exact(model, ticket, *rows(4))
    assert (found.model[0].out_features, found.model[2].out_features) == (3, 3)
    model[0].bias.data[1] = -0.5
    found = check_exact(model, ticket, *rows(4))
    assert (found.model[0].out_features, found.model[2].out_features) == (2, 2)


def test_a_channel_that_leads_nowhere_goes_whatever_it_says() -> None:
    model = lived_in(seeded(lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(8, 3)
    )))  # fmt: skip
    found = check_exact(model, keeping(model, _3=(slice(None), 2)), *rows(3, 6, 6))
    assert found.model[0].out_channels == found.model[3].in_channels == 3
    assert found.kept["1.running_var"].axes[0].tolist() == [0, 1, 3]


def test_taps_that_meet_only_padding_lead_nowhere() -> None:
    model = lived_in(seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1),
                                                  nn.Flatten(), nn.Linear(5, 3))))  # fmt: skip
    found = check_exact(model, keeping(model, _2=(slice(None), 0, 1, 1)), *rows(3, 2, 2))
    assert found.model[0].out_channels == 3


# Channels that go together


def test_added_channels_go_where_both_are_dead() -> None:
    model = seeded(Added)
    one = check_exact(model, keeping(model, branch=0), *rows(3, 4, 4))
    assert one.model.branch.out_channels == 4
    assert one.account.dead_but_kept == {"is dead in this layer, but what it is added to is alive": 1}
    both = check_exact(model, keeping(model, branch=0, stem=0), *rows(3, 4, 4))
    assert both.model.branch.weight.shape == (3, 3, 3, 3)
    assert both.model.norm.num_features == both.model.head.in_features == 3


class OneNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([torch.tanh(self.norm(self.left(x))), torch.tanh(self.norm(self.right(x)))], 1)
        out: Tensor = self.head(both.mean((2, 3)))
        return out


def test_channels_that_share_a_norm_go_together() -> None:
    model = seeded(OneNorm)
    one = check_exact(model, keeping(model, head=(slice(None), 2)), *rows(3, 4, 4))
    assert (one.model.left.out_channels, one.model.right.out_channels) == (4, 4)
    both = check_exact(model, keeping(model, head=(slice(None), [2, 6])), *rows(3, 4, 4))
    assert (both.model.left.out_channels, both.model.right.out_channels, both.model.norm.num_features) == (
        3,
        3,
        3,
    )


def test_depthwise_channels_go_with_what_they_read() -> None:
    model = lived_in(seeded(lambda: nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(64, 3),
    )))  # fmt: skip
    found = check_exact(model, keeping(model, _6=(slice(None), [1, 4])), *rows(3, 4, 4))
    depthwise = found.model[3]
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (4, 4, 4)
    assert found.model[0].out_channels == 4
    assert found.kept["3.weight"].groups == 4


def test_groups_stay_equal() -> None:
    model = lived_in(seeded(lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 8, 3, groups=2), nn.Tanh(), nn.Conv2d(8, 2, 1), nn.Flatten(),
        nn.Linear(8, 3),
    )))  # fmt: skip
    # Three of the first group's outputs and one of the second's lead nowhere: one of each goes, not always the same.
    found = check_exact(model, keeping(model, _4=(slice(None), [0, 1, 3, 6])), *rows(3, 4, 4))
    assert found.model[2].weight.shape == (6, 4, 3, 3)
    assert found.account.dead_but_kept == {
        "is dead, but the groups of a grouped convolution have to stay equal": 2
    }
    # Inputs of a group by places of its own: the first reads 1 and 3, the second 4 and 5.
    found = check_exact(
        model, keeping(model, _2=([0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 2, 2, 2, 2])), *rows(3, 4, 4)
    )
    assert found.model[2].weight.shape == (8, 3, 3, 3)
    assert found.kept["2.weight"].axes[1].tolist() == [[1, 2, 3], [0, 1, 3]]


def test_a_whole_group_goes() -> None:
    model = lived_in(seeded(lambda: nn.Sequential(
        nn.Conv2d(3, 9, 1), nn.Tanh(), nn.ConvTranspose2d(9, 6, 2, groups=3), nn.Tanh(), nn.Flatten(),
        nn.Linear(150, 3),
    )))  # fmt: skip
    found = check_exact(model, keeping(model, _5=(slice(None), slice(50, 100))), *rows(3, 4, 4))
    assert (found.model[2].groups, found.model[2].in_channels, found.model[2].out_channels) == (2, 6, 4)
    assert found.model[0].out_channels == 6


class Gated(nn.Module):
    """Squeeze and excitation, a scale of its own for each channel, and an offset for each channel and column."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3)
        self.squeeze, self.excite = nn.Conv2d(5, 4, 1), nn.Conv2d(4, 5, 1)
        self.scale = nn.Parameter(torch.rand(5, 1, 1))
        self.offset = nn.Parameter(torch.rand(1, 5, 1, 4))
        self.head = nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x)) * self.scale + self.offset
        gate = torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(x * gate).flatten(2).sum(-1)  # type: ignore[no-any-return]


def test_gates_and_scales_go_with_their_channels() -> None:
    model = seeded(Gated)
    found = check_exact(
        model,
        keeping(model, head=(slice(None), 2), squeeze=([0, 0, 1, 2, 3], [2, 1, 2, 2, 2])),
        *rows(3, 6, 6),
    )
    assert found.model.stem.out_channels == found.model.excite.out_channels == 4
    assert (found.model.scale.shape, found.model.offset.shape) == ((4, 1, 1), (1, 4, 1, 4))


class Looked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.head = nn.Embedding(7, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.hidden(self.table(tokens))).mean(1))
        return out


def test_columns_of_an_embedding_go() -> None:
    model = seeded(Looked)
    tokens = torch.randint(7, (4, 3), generator=generator(0, "tokens"))
    found = check_exact(model, keeping(model, hidden=(slice(None), [1, 5])), tokens, torch.arange(4) % 3)
    assert (found.model.table.weight.shape, found.model.table.embedding_dim) == ((7, 4), 4)


class Raised(nn.Module):
    """A parameter with more axes than the signal it is added to, and what is done with the axes it brings."""

    def __init__(self, shape: tuple[int, ...], then: Callable[[Tensor], Tensor], *, product: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.LazyLinear(3)
        self.p = nn.Parameter(torch.rand(shape))
        self.then, self.product = then, product

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = self.p * h if self.product else h + self.p
        return self.b(self.then(h))  # type: ignore[no-any-return]


RAISED: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor], bool]] = {
    "mean over what it brings": ((5, 1, 6), lambda h: h.mean(0), True),
    "mean over rows": ((4, 1, 6), lambda h: h.mean(1), True),
    "mean over units": ((4, 1, 6), lambda h: h.mean(-1).t(), False),
    "mean over units, as many": ((6, 1, 6), lambda h: h.mean(2).t(), False),
    "two axes more": ((2, 5, 1, 6), lambda h: h.sum((0, 1)), True),
    "merged with places": ((5, 1, 6), lambda h: h.transpose(0, 1).flatten(1), True),
    "merged with rows": ((1, 1, 6), lambda h: h.reshape(-1, h.shape[-1]), True),
    "one for all": ((5, 1, 1), lambda h: h.amax(0), True),
    "viewed by places": ((5, 1, 6), lambda h: h.view(5, 4, -1).sum(0), True),
}


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("how", sorted(RAISED))
def test_a_parameter_with_more_axes_than_the_signal(how: str, product: bool) -> None:
    shape, then, goes = RAISED[how]
    model = seeded(lambda: Raised(shape, then, product=product))
    inputs, labels = rows(4)
    model(inputs)  # the second layer takes the size that comes
    masks = dict(keeping(model).masks)
    if goes:  # the second unit leads nowhere, from none of the places that it is read at
        masks["b.weight"].view(3, -1, 6)[:, :, 1] = False
    ticket = Ticket(masks)
    found = check_exact(model, ticket, inputs, labels)
    assert found.model.a.out_features == (5 if goes else 6)
    if shape[-1] == 6:
        assert found.model.p.shape[-1] == found.model.a.out_features
