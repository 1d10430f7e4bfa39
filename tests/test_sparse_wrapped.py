"""The guard inside torch.compile and DistributedDataParallel, given the wrapper or the bare model."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import disbud
from disbud import Ticket
from disbud.seeds import generator, global_streams

PROCESSES = 2


def network() -> nn.Sequential:
    with global_streams(0, "init"):
        return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5))


def a_ticket() -> Ticket:
    draws = generator(0, "mask")
    masks = {
        f"{i}.weight": torch.rand(shape, generator=draws) < 0.2 for i, shape in ((0, (20, 12)), (2, (5, 20)))
    }
    return Ticket.from_masks(masks, model=network())


def examples(step: int) -> torch.Tensor:
    return torch.randn(8, 12, generator=generator(step, "test inputs"))


def off(bare: nn.Module, ticket: Ticket, *, gradients: bool = False) -> torch.Tensor:
    found = {name: parameter.grad if gradients else parameter for name, parameter in bare.named_parameters()}
    return torch.cat([found[name].detach()[~mask] for name, mask in ticket.masks.items()])


def steps(
    model: nn.Module, bare: nn.Module, ticket: Ticket, *, optimizer: torch.optim.Optimizer, rank: int | None
) -> None:
    """Three clipped steps; each rank sees its half of the batch, None all of it."""
    share = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
    for step in range(3):
        optimizer.zero_grad()
        model(examples(step)[share]).square().mean().backward()
        assert not off(bare, ticket, gradients=True).any()
        assert bare[0].weight.grad.any()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        values = off(bare, ticket)
        assert torch.equal(values, torch.zeros_like(values))
        assert not torch.signbit(values).any()


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    ticket = a_ticket()
    for form in ("wrapped", "bare", "bare, wrapped inside"):
        bare = network()
        parallel = DistributedDataParallel(bare) if form != "bare, wrapped inside" else bare
        optimizer = torch.optim.AdamW(bare.parameters(), lr=0.05, weight_decay=0.1)
        with disbud.sparse(parallel if form == "wrapped" else bare, ticket, optimizer):
            if form == "bare, wrapped inside":
                parallel = DistributedDataParallel(bare)
            steps(parallel, bare, ticket, optimizer=optimizer, rank=rank)
        torch.save(bare.state_dict(), f"{folder}/{form}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_the_same_model_on_the_ticket(tmp_path: Path) -> None:
    single, ticket = network(), a_ticket()
    optimizer = torch.optim.AdamW(single.parameters(), lr=0.05, weight_decay=0.1)
    with disbud.sparse(single, ticket, optimizer):
        steps(single, single, ticket, optimizer=optimizer, rank=None)
    multiprocessing.spawn(one_of_two, args=(str(tmp_path),), nprocs=PROCESSES)
    for form in ("wrapped", "bare", "bare, wrapped inside"):
        first, second = (
            torch.load(tmp_path / f"{form}-{rank}.pt", weights_only=True) for rank in range(PROCESSES)
        )
        for name, value in single.state_dict().items():
            assert torch.equal(first[name], second[name]), (form, name)
            torch.testing.assert_close(first[name], value)


@pytest.mark.parametrize("compiled", ["before, given to the context", "before", "inside"])
def test_a_compiled_model_stays_on_the_ticket_and_is_plain_after_it(compiled: str) -> None:
    bare, ticket = network(), a_ticket()
    optimizer = torch.optim.AdamW(bare.parameters(), lr=0.05)
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler warns of its own deprecations
        fast = torch.compile(bare) if compiled.startswith("before") else bare
        if compiled.startswith("before"):
            fast(examples(0)).sum().backward()  # compiled for good, without a guard in sight
        with disbud.sparse(fast if compiled == "before, given to the context" else bare, ticket, optimizer):
            if compiled == "inside":
                fast = torch.compile(bare)
            steps(fast, bare, ticket, optimizer=optimizer, rank=None)
        optimizer.zero_grad()
        fast(examples(0)).sum().backward()
    assert off(bare, ticket, gradients=True).any()
    assert isinstance(fast, torch._dynamo.OptimizedModule)
    assert list(bare.state_dict()) == list(network().state_dict())
