"""Tickets on disk: safetensors, one bit a weight, with the origin and a checksum in the metadata.

Every byte of a file may be hostile: nothing is allocated before its size is known to fit the file, nothing is
executed, and whatever does not read back as exactly what was written is one TicketError with the file and the field.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as weights_to_safetensors

from disbud.errors import TicketError
from disbud.files import write_atomically
from disbud.origin import Json, Origin, Start, checked
from disbud.parameters import canonical, parameters
from disbud.ticket import Ticket

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

FORMAT_VERSION = 1
_DESCRIPTION, _CHECKSUM = "disbud.ticket", "disbud.sha256"


def write_ticket(ticket: Ticket, path: Path) -> None:
    """Write the ticket whole or not at all; the weights it starts from come first, into a file beside it."""
    try:
        if ticket.start is not None:
            _write_start(ticket.start, path.parent)
        write_atomically(path, encoded(ticket))
    except TicketError as error:
        raise TicketError(f"{path}: {error}") from error
    except OSError as error:
        raise TicketError(f"{path}: the ticket cannot be written: {error.strerror or error}") from error


def encoded(ticket: Ticket) -> bytes:
    """The ticket as the bytes of its file."""
    packed = {name: _pack(mask) for name, mask in ticket.masks.items()}
    described: dict[str, Json] = {
        "format_version": FORMAT_VERSION,
        "masks": [[name, list(mask.shape)] for name, mask in ticket.masks.items()],
        "origin": ticket.origin.to_json(),
        "start": ticket.start.to_json() if ticket.start else None,
    }
    try:
        description = json.dumps(described, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TicketError(f"the ticket's origin cannot be written as JSON: {error}") from error
    return to_safetensors(packed, {_DESCRIPTION: description, _CHECKSUM: _checksum(description, packed)})


def read_ticket(path: Path) -> Ticket:
    """Read what `write_ticket` wrote, and nothing else."""
    if not path.exists():
        raise TicketError(f"{path}: there is no such file")
    try:
        return _read(path)
    except TicketError as error:
        raise TicketError(f"{path}: {error}") from None
    except RecursionError:
        raise TicketError(f"{path}: {_DESCRIPTION}: is nested too deep") from None
    except SafetensorError as error:
        raise TicketError(f"{path}: this is not a whole safetensors file: {error}") from None
    except OSError as error:
        raise TicketError(f"{path}: the file cannot be read: {error.strerror or error}") from None


def _read(path: Path) -> Ticket:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if _DESCRIPTION not in metadata:
            raise TicketError(f"this safetensors file is not a ticket: its metadata has no {_DESCRIPTION!r}")
        described = _parse(metadata[_DESCRIPTION])
        shapes = _shapes(described["masks"])
        if set(file.keys()) != shapes.keys():
            odd = sorted(set(file.keys()) ^ shapes.keys())
            raise TicketError(f"masks: the description and the tensors of the file differ in {odd[:3]}")
        packed = {}
        for name, shape in shapes.items():
            stored, size = file.get_slice(name), (math.prod(shape) + 7) // 8
            if stored.get_dtype() != "U8" or stored.get_shape() != [size]:
                raise TicketError(
                    f"masks.{name}: {shape} needs {size} bytes of type U8, "
                    f"the file has {stored.get_shape()} of type {stored.get_dtype()}"
                )
            packed[name] = file.get_tensor(name)
    if metadata.get(_CHECKSUM) != _checksum(metadata[_DESCRIPTION], packed):
        raise TicketError(f"{_CHECKSUM}: the content is not what was saved; the file was edited or damaged")
    masks = {name: _unpack(packed[name], shape) for name, shape in shapes.items()}
    start = described["start"]
    return Ticket(
        masks,
        Origin.from_json(described["origin"]),
        None if start is None else Start.from_json(start, str(path.parent)),
    )


def _parse(description: str) -> dict[str, object]:
    def refuse(constant: str) -> object:
        raise TicketError(f"{_DESCRIPTION}: holds {constant}, which is not a finite number")

    try:
        described: object = json.loads(description, parse_constant=refuse)
        json.dumps(described, ensure_ascii=False).encode()  # lone surrogates would crash whoever prints them
    except (ValueError, RecursionError) as error:
        if isinstance(error, TicketError):
            raise
        raise TicketError(f"{_DESCRIPTION}: cannot be read as JSON: {error}") from None
    fields = checked(described, dict, _DESCRIPTION)
    version = checked(fields.get("format_version"), int, "format_version")
    if version != FORMAT_VERSION:
        raise TicketError(
            f"format_version: {version} is not known to this disbud, which reads {FORMAT_VERSION}"
        )
    if fields.keys() != {"format_version", "masks", "origin", "start"}:
        raise TicketError(f"{_DESCRIPTION}: unexpected fields {sorted(fields)}")
    return fields


def _shapes(value: object) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, pair in enumerate(checked(value, list, "masks")):
        name_and_shape = checked(pair, list, f"masks[{i}]")
        if len(name_and_shape) != 2:
            raise TicketError(f"masks[{i}]: should be a name and a shape")
        name = checked(name_and_shape[0], str, f"masks[{i}]")
        shape = tuple(
            checked(size, int, f"masks.{name}") for size in checked(name_and_shape[1], list, f"masks.{name}")
        )
        if name in shapes or any(size < 0 for size in shape):
            raise TicketError(f"masks.{name}: comes twice, or has a negative size in {shape}")
        shapes[name] = shape
    return shapes


def _pack(mask: Tensor) -> NDArray[numpy.uint8]:
    return numpy.packbits(mask.numpy().reshape(-1), bitorder="little")


def _unpack(packed: NDArray[numpy.uint8], shape: tuple[int, ...]) -> Tensor:
    bits = numpy.unpackbits(packed, count=math.prod(shape), bitorder="little")
    return torch.from_numpy(bits).bool().reshape(shape)


def _checksum(description: str, packed: dict[str, NDArray[numpy.uint8]]) -> str:
    digest = hashlib.sha256(description.encode())
    for name in packed:
        digest.update(packed[name].tobytes())
    return digest.hexdigest()


def start_of(weights: Mapping[str, Tensor]) -> Start:
    """The start that these parameters and buffers are, held in memory until a ticket with it is saved."""
    return Start.of(weights_to_safetensors({name: weights[name].contiguous() for name in sorted(weights)}))


def _write_start(start: Start, folder: Path) -> None:
    """Have the weights lie beside the ticket, from memory or from where the ticket was read."""
    target = folder / start.file
    there = target.exists()
    if there and _sha256(target.read_bytes()) == start.sha256:
        return
    if there and not start.named_by_content:
        raise TicketError(
            f"{target} is not the file of weights that the ticket starts from, though it has its name; "
            "save the ticket into another folder"
        )
    content = _content(start)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)


def _content(start: Start) -> bytes:
    """The file of weights, from memory or from the disk, once its hash is checked."""
    path = Path(start.folder) / start.file
    try:
        content = path.read_bytes() if start.content is None else start.content
    except OSError as error:
        raise TicketError(
            f"{path}: the weights this ticket starts from cannot be read: {error.strerror}"
        ) from None
    if _sha256(content) != start.sha256:
        raise TicketError(
            f"{path}: these are not the weights the ticket was saved with (start.sha256 differs)"
        )
    return content


def load_start(start: Start, model: nn.Module) -> None:
    """Load the weights a ticket starts from into the model, once their content hash is checked."""
    path = Path(start.folder) / start.file
    try:
        weights = from_safetensors(_content(start))
    except SafetensorError as error:
        raise TicketError(f"{path}: this is not a whole safetensors file: {error}") from None
    own: dict[str, Tensor] = {canonical(name): buffer for name, buffer in model.named_buffers()}
    own |= parameters(model)
    odd = sorted(name for name in weights if name not in own or own[name].shape != weights[name].shape)
    missing = sorted(name for name in parameters(model) if name not in weights)
    if odd or missing:
        raise TicketError(f"{path}: the weights do not fit the model in {(odd or missing)[:3]}")
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
