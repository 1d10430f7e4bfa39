"""Inputs out of the ordinary: written over, of whole numbers, several of them that have to fit each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from disbud.graph import effective, log10_paths
from networks import IMAGE
from test_odd_forwards import COUNTING, seeded
from test_pruning import prune


class Shifted(nn.Module):
    """Its forward begins by writing over its own input."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.first, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            x -= 0.5
            x[:, 0] = 0
        else:
            x = torch.where(torch.arange(3).view(1, 3, 1, 1) == 0, torch.zeros(()), x - 0.5)
        out: Tensor = self.head(torch.tanh(self.first(x)).mean((2, 3)))
        return out


@pytest.mark.parametrize("method", COUNTING)
def test_an_input_written_over_is_one_network(method: str) -> None:
    example = torch.ones(1, 3, 6, 6)
    tickets = [
        prune(
            seeded(lambda way=way: Shifted(in_place=way)),
            method,
            sparsity=0.5,
            example=example,
            **COUNTING[method],
        )
        for way in (True, False)
    ]
    assert tickets[0] == tickets[1]
    assert bool((example == 1).all())
    found = effective(Shifted(in_place=True), None, example=example)
    assert found.layers[0].kept == 2 * 8 * 9  # a channel of three is cleared


class Pixels(nn.Module):
    """Takes images as bytes, and casts them itself."""

    def __init__(self, cast: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.cast = cast
        self.first, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.first(self.cast(x))).mean((2, 3)))
        return out


CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda x: x.float() / 255 - 0.5,
    "to": lambda x: x.to(torch.float32) / 255,
    "type": lambda x: x.type(torch.float32),
    "half": lambda x: x.half().float(),
    "as another": lambda x: x.type_as(torch.ones(1)),
    "divided": lambda x: x / 255,
    "scaled": lambda x: x * (1 / 255) - 0.5,
    "normalised": lambda x: (x - torch.full((3, 1, 1), 9.0)) / torch.full((3, 1, 1), 2.0),
}


@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("method", COUNTING)
def test_bytes_that_become_numbers_are_numbers(method: str, name: str) -> None:
    model = seeded(lambda: Pixels(CASTS[name]))
    more = COUNTING[method]
    wanted = prune(model, method, sparsity=0.5, example=IMAGE, **more)
    assert prune(model, method, sparsity=0.5, example=IMAGE.to(torch.uint8), **more) == wanted


class Looking(nn.Module):
    """Token ids, of which embeddings are looked up in one of several ways."""

    def __init__(self, look: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.look = look
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.look(ids + 0, self.embed.weight).mean(1)))
        return out


def _scattered(ids: Tensor, table: Tensor) -> Tensor:
    return torch.zeros(*ids.shape, 11, dtype=table.dtype).scatter_(2, ids.unsqueeze(2), 1.0) @ table


LOOKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "one-hot": lambda ids, table: functional.one_hot(ids, 11).float() @ table,
    "indexed": lambda ids, table: table[ids],
    "selected": lambda ids, table: table.index_select(0, ids.flatten()).view(*ids.shape, 8),
    "written over": lambda ids, table: functional.embedding(ids, table).mul_(2.0),
    "scattered": _scattered,
}


@pytest.mark.parametrize("name", LOOKS)
def test_what_ids_look_up_is_an_input(name: str) -> None:
    ids = torch.tensor([[0, 3, 3, 10]])
    plain, other = (seeded(lambda look=look: Looking(look)) for look in (functional.embedding, LOOKS[name]))
    assert log10_paths(other, None, example=ids) == log10_paths(plain, None, example=ids)
    for method in ("synflow", "npb"):
        tickets = [
            prune(model, method, sparsity=0.5, example=ids, exclude="embed.*") for model in (plain, other)
        ]
        assert tickets[0] == tickets[1]


class Pairs(nn.Module):
    """An image and a sequence, joined along their batch."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.row, self.head = nn.Conv2d(3, 4, 3), nn.Linear(6, 4), nn.Linear(8, 2)

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        seen = [torch.relu(self.image(image)).mean((2, 3)), torch.relu(self.row(row)).mean(1)]
        out: Tensor = self.head(torch.cat(seen, 1))
        return out


class Neighbours(nn.Module):
    """A graph network: an adjacency matrix multiplies the features of its nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        out: Tensor = self.head(adjacency @ torch.relu(self.first(adjacency @ x)))
        return out


SEVERAL: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, Tensor]]] = {
    "image and sequence": (Pairs, (torch.zeros(4, 3, 6, 6), torch.zeros(4, 5, 6))),
    "features and neighbours": (Neighbours, (torch.zeros(5, 6), torch.eye(5))),
}


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("image and sequence", "npb"),
        ("image and sequence", "dpai"),
        ("image and sequence", "synflow"),
        ("image and sequence", "magnitude"),
        ("features and neighbours", "phew"),
        ("features and neighbours", "synflow"),
    ],
)
def test_several_inputs_keep_the_sizes_that_fit_each_other(name: str, method: str) -> None:
    make, example = SEVERAL[name]
    ticket = prune(seeded(make), method, sparsity=0.5, example=example, **COUNTING[method])
    assert 0 < ticket.kept <= ticket.total // 2 + 1
    assert all(row.kept for row in ticket.layers)
