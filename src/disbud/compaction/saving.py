"""Compacted networks on disk: safetensors with the small tensors, the places kept and the ticket; no classes, no code.

The small model is rebuilt from the full model's factory and the places. Every byte of a file may be hostile: whatever
is not exactly what was saved is one error with the file and what is wrong in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from disbud.compaction.account import Account, LayerAccount
from disbud.compaction.compacted import Compacted
from disbud.compaction.kept import Kept
from disbud.compaction.shrinking import bare_norms, every_name, shrunk, small_ticket
from disbud.errors import DisbudError, TicketError
from disbud.files import write_atomically
from disbud.isolation import bare
from disbud.origin import checked
from disbud.parameters import canonical
from disbud.ticket import Ticket
from disbud.ticket_file import encoded, read_ticket

FORMAT_VERSION = 1
_DESCRIPTION, _CHECKSUM = "disbud.compacted", "disbud.sha256"


def save(compacted: Compacted, path: Path) -> None:
    """Write the file whole or not at all."""
    tensors = {"ticket": _as_bytes(encoded(replace(compacted.full_ticket, start=None)))}
    for name, value in _distinct(compacted.model):
        if name in compacted.full:
            tensors[f"small/{name}"] = value.detach().cpu().contiguous()
            full = compacted.full[name].detach().cpu().reshape(-1).clone()
            full[compacted.kept[name].positions().reshape(-1)] = 0
            left = full.nonzero().reshape(-1)
            if len(left):
                tensors[f"left-at/{name}"], tensors[f"left/{name}"] = left, full[left]
        for axis, places in enumerate(compacted.kept[name].axes):
            if places is not None:
                tensors[f"places/{axis}/{name}"] = places
    described = {
        "format_version": FORMAT_VERSION,
        "shapes": {name: list(compacted.kept[name].shape) for name, _ in _distinct(compacted.model)},
        "features": {name: norm.num_features for name, norm in bare_norms(compacted.model)},
        "layers": [asdict(layer) for layer in compacted.account.layers],
        "parameters": list(compacted.account.parameters),
    }
    description = json.dumps(described)
    metadata = {_DESCRIPTION: description, _CHECKSUM: _checksum(description, tensors)}
    try:
        write_atomically(path, to_safetensors(tensors, metadata))
    except OSError as error:
        raise DisbudError(
            f"{path}: the compacted network cannot be written: {error.strerror or error}"
        ) from error


def load(path: str | os.PathLike[str], model: nn.Module | Callable[[], nn.Module]) -> Compacted:
    """Read what `Compacted.save` wrote; `model` is the full model or what makes it, for its classes, not its weights.

    >>> import disbud, tempfile, torch
    >>> from disbud.compaction import compact, load
    >>> full = lambda: torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> masks = {"0.weight": torch.ones(3, 2), "2.weight": torch.tensor([[1, 0, 1]])}
    >>> found = compact(full(), disbud.Ticket.from_masks(masks))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found.save(f"{folder}/small.safetensors")
    ...     again = load(f"{folder}/small.safetensors", full)
    >>> torch.equal(again.model[0].weight, found.model[0].weight)
    True
    """
    path = Path(path)
    if not path.exists():
        raise DisbudError(f"{path}: there is no such file")
    full = bare(model if isinstance(model, nn.Module) else model())
    if not isinstance(full, nn.Module):
        raise DisbudError(f"the factory returned a {type(full).__name__}, not a torch.nn.Module")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _DESCRIPTION not in metadata:
                raise DisbudError("this safetensors file is not a compacted network")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _rebuilt(metadata, tensors, full)
    except SafetensorError as error:
        raise DisbudError(f"{path}: this is not a whole safetensors file: {error}") from None
    except OSError as error:
        raise DisbudError(f"{path}: the file cannot be read: {error.strerror or error}") from None
    except DisbudError as error:
        raise type(error)(f"{path}: {error}") from None


def _rebuilt(metadata: Mapping[str, str], tensors: dict[str, Tensor], full: nn.Module) -> Compacted:
    if metadata.get(_CHECKSUM) != _checksum(metadata[_DESCRIPTION], tensors):
        raise DisbudError(f"{_CHECKSUM}: the content is not what was saved; the file was edited or damaged")
    shapes, features, account = _described(metadata[_DESCRIPTION])
    kept = {name: _kept(name, shape, tensors) for name, shape in shapes.items()}
    owned = dict(_distinct(full))
    odd = sorted(owned.keys() ^ kept.keys())
    odd += [name for name in kept if name in owned and kept[name].shape != tuple(owned[name].shape)]
    if odd:
        raise DisbudError(f"this is a network of another kind than the model given: they differ in {odd[:3]}")
    kept |= {name: _counted(name, norm.num_features, features) for name, norm in bare_norms(full)}
    if "ticket" not in tensors:
        raise DisbudError("ticket: is not in the file")
    ticket = _ticket(tensors["ticket"])
    ticket.check(full)
    small = shrunk(full, kept)
    state: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, value in _distinct(small):
            saved = tensors.get(f"small/{name}")
            if saved is None:
                continue  # a buffer that belongs to no state
            if saved.shape != value.shape:
                raise DisbudError(f"small/{name}: is {tuple(saved.shape)}, {tuple(value.shape)} is kept")
            value.data = saved.to(value.device)
            state[name] = _full(name, kept[name], saved, tensors)
    every = every_name(full, kept)
    names = {canonical(name) for name in full.state_dict()}
    primary = {id(one): name for name, one in kept.items()}
    missing = sorted(name for name in names if name in every and primary[id(every[name])] not in state)
    if missing:
        raise DisbudError(f"small/{missing[0]}: is not in the file")
    values = {name: state[primary[id(every[name])]] for name in names if name in every}
    return Compacted(small, small_ticket(ticket, kept, small), every, account, values, ticket)


def _distinct(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by canonical name, a shared one once."""
    for name, parameter in model.named_parameters():
        yield canonical(name), parameter
    for name, buffer in model.named_buffers():
        yield canonical(name), buffer


def _described(description: str) -> tuple[dict[str, tuple[int, ...]], dict[str, int], Account]:
    """The shapes of the full tensors, the channels left of each normalisation without tensors, and the account."""
    try:
        fields = checked(json.loads(description), dict, _DESCRIPTION)
        version = checked(fields.get("format_version"), int, "format_version")
        if version != FORMAT_VERSION:
            raise DisbudError(
                f"format_version: {version} is not known to this disbud, which reads {FORMAT_VERSION}"
            )
        shapes = {
            checked(name, str, "shapes"): tuple(checked(size, int, f"shapes.{name}") for size in shape)
            for name, shape in checked(fields["shapes"], dict, "shapes").items()
        }
        features = {
            checked(name, str, "features"): checked(count, int, f"features.{name}")
            for name, count in checked(fields.get("features", {}), dict, "features").items()
        }
        layers = [_layer(checked(row, dict, "layers")) for row in checked(fields["layers"], list, "layers")]
        return shapes, features, Account(tuple(layers), _two(fields["parameters"], "parameters"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, DisbudError):
            raise
        raise DisbudError(f"{_DESCRIPTION}: is not what was saved: {error}") from None


def _layer(row: dict[str, object]) -> LayerAccount:
    dead = checked(row["dead_but_kept"], dict, "layers.dead_but_kept")
    read, made, weights, costs = (
        _two(row[key], f"layers.{key}") for key in ("inputs", "outputs", "weights", "multiply_adds")
    )
    counts = {checked(reason, str, "reason"): checked(count, int, "count") for reason, count in dead.items()}
    return LayerAccount(checked(row["name"], str, "layers.name"), read, made, weights, costs, counts)


def _two(value: object, where: str) -> tuple[int, int]:
    before, after = (checked(size, int, where) for size in checked(value, list, where))
    return before, after


def _kept(name: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> Kept:
    axes = [tensors.get(f"places/{axis}/{name}") for axis in range(len(shape))]
    for axis, places in enumerate(axes):
        if places is None:
            continue
        where = f"places/{axis}/{name}"
        if places.dtype != torch.int64 or places.dim() not in (1, 2) or not places.numel():
            raise DisbudError(
                f"{where}: should be places along an axis, in rows only for the groups of a convolution"
            )
        if places.dim() == 2 and (axis != 1 or axes[0] is None or axes[0].shape[-1] % len(places)):
            raise DisbudError(f"{where}: its rows are no groups of what is kept along the first axis")
        rising = places.diff(dim=-1).gt(0).all() if places.shape[-1] > 1 else True
        if not rising or int(places.min()) < 0 or int(places.max()) >= shape[axis]:
            raise DisbudError(f"{where}: should be rising places from 0 to {shape[axis] - 1}")
    return Kept(shape, tuple(axes))


def _counted(name: str, count: int, features: Mapping[str, int]) -> Kept:
    """What is left of a number of channels that no tensor shows."""
    left = features.get(name, count)
    if not 1 <= left <= count:
        raise DisbudError(f"features.{name}: should be a number from 1 to {count}, not {left}")
    return Kept((count,), (torch.arange(left),))


def _full(name: str, kept: Kept, small: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The full tensor: what is kept, what was removed without being zero, and zeros."""
    full = torch.zeros(kept.shape, dtype=small.dtype)
    at, left = tensors.get(f"left-at/{name}"), tensors.get(f"left/{name}")
    if at is not None and left is not None and len(at):
        fits = (
            at.dtype == torch.int64 and at.dim() == 1 and at.shape == left.shape and left.dtype == small.dtype
        )
        if not fits or int(at.min()) < 0 or int(at.max()) >= full.numel():
            raise DisbudError(f"left/{name}: does not fit {kept.shape}")
        full.view(-1)[at] = left
    return kept.put(small, into=full)


def _as_bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _ticket(content: Tensor) -> Ticket:
    if content.dtype != torch.uint8:
        raise TicketError("ticket: should be the bytes of a ticket's file")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ticket"
        path.write_bytes(content.numpy().tobytes())
        return read_ticket(path)


def _checksum(description: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
