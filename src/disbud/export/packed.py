"""A pruned network's state as one small safetensors file: the kept weights, and where they lie.

Every byte of a file may be hostile: the header is held to the model before anything is read, sizes before anything is
unpacked, and whatever is not what was saved is one TicketError with the file and what is wrong in it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from disbud.errors import DisbudError, TicketError, unknown_name
from disbud.export.packed_weight import FORMS, Packed, packed, unpacked
from disbud.export.pruned import dense_bytes
from disbud.export.sizes import LayerSize, SizeReport
from disbud.files import write_atomically
from disbud.isolation import bare
from disbud.origin import Origin, checked
from disbud.parameters import canonical, parameters
from disbud.ticket import Ticket

FORMAT_VERSION = 1
_DESCRIPTION, _CHECKSUM = "disbud.packed", "disbud.sha256"
_TYPES = {"fp32": torch.float32, "fp16": torch.float16}

Values: TypeAlias = Literal["fp32", "fp16"]


def to_safetensors(
    model: nn.Module, ticket: Ticket, path: str | os.PathLike[str], *, values: Values = "fp32"
) -> SizeReport:
    """Write the model's present state on the ticket: of each pruned weight the kept values alone and their places.

    Places are one bit a weight, or a byte for each kept one where that is smaller (fewer than 1 in 8 kept). Parameters
    without a mask and buffers are written as they are. With values="fp32" every kept number comes back to the bit;
    "fp16" rounds the kept weights, and them alone. The file is written whole or not at all.

    >>> import disbud, tempfile, torch
    >>> from disbud.export import from_safetensors, to_safetensors
    >>> model, again = torch.nn.Linear(64, 32), torch.nn.Linear(64, 32)
    >>> ticket = disbud.prune(model, "magnitude", sparsity=0.95)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = to_safetensors(model, ticket, f"{folder}/small.safetensors")
    ...     found = from_safetensors(f"{folder}/small.safetensors", again)
    >>> ticket.apply_(model)
    >>> found == ticket, torch.equal(again.weight, model.weight)
    (True, True)
    """
    if values not in _TYPES:
        raise unknown_name("type of values called", values, _TYPES)
    model = bare(model)
    ticket.check(model)
    tensors: dict[str, Tensor] = {}
    weights: list[list[object]] = []
    rows = []
    for name, tensor in _state(model).items():
        mask = ticket.masks.get(name)
        if mask is None:
            tensors[name] = tensor.detach().cpu().contiguous()
            rows.append(LayerSize(name, "whole", other_bytes=tensor.nbytes))
            continue
        _check_single(name, tensor)
        one = packed(name, tensor.detach().cpu(), mask, _TYPES[values])
        tensors[f"values/{name}"] = one.values
        if one.mask is not None:
            tensors[f"mask/{name}"] = one.mask
        weights.append([name, list(mask.shape), one.form])
        size = 0 if one.mask is None else one.mask.nbytes
        rows.append(LayerSize(name, "pruned", one.form, one.values.numel(), one.values.nbytes, size))
    described = {"format_version": FORMAT_VERSION, "weights": weights, "origin": ticket.origin.to_json()}
    description = json.dumps(described, separators=(",", ":"), allow_nan=False)
    content = save(tensors, {_DESCRIPTION: description, _CHECKSUM: _checksum(description, tensors)})
    try:
        write_atomically(path, content)
    except OSError as error:
        raise DisbudError(f"{path}: the weights cannot be written: {error.strerror or error}") from error
    head = len(content) - sum(tensor.nbytes for tensor in tensors.values())
    return SizeReport((*rows, LayerSize("", "header", other_bytes=head)), dense_bytes(model))


def from_safetensors(path: str | os.PathLike[str], model: nn.Module) -> Ticket:
    """Put the state that `to_safetensors` wrote into the model, zeros off the ticket; gives the ticket.

    A file that is not exactly such a state of such a model is a TicketError, and the model stays as it was.

    >>> import torch
    >>> from disbud.export import from_safetensors
    >>> from_safetensors("nowhere.safetensors", torch.nn.Linear(2, 1))
    Traceback (most recent call last):
    disbud.errors.TicketError: nowhere.safetensors: there is no such file
    """
    if not Path(path).exists():
        raise TicketError(f"{path}: there is no such file")
    own = _state(bare(model))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            masked, origin = _described(metadata)
            _check_names(masked, own, set(file.keys()))
            layout = {name: _layout(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118
            _check_sizes(masked, own, layout)
            tensors = {name: file.get_tensor(name) for name in layout}
        if metadata.get(_CHECKSUM) != _checksum(metadata[_DESCRIPTION], tensors):
            raise TicketError(
                f"{_CHECKSUM}: the content is not what was saved; the file was edited or damaged"
            )
        state, masks = _unpacked(masked, own, tensors)
        ticket = Ticket(masks, origin)
    except SafetensorError as error:
        raise TicketError(f"{path}: this is not a whole safetensors file: {error}") from None
    except OSError as error:
        raise TicketError(f"{path}: the file cannot be read: {error.strerror or error}") from None
    except DisbudError as error:
        raise TicketError(f"{path}: {error}") from None
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
    return ticket


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and the buffers that belong to the state, by canonical name; a shared parameter comes once."""
    saved = {canonical(name) for name in model.state_dict()}
    found: dict[str, Tensor] = dict(parameters(model))
    found |= {canonical(name): buffer for name, buffer in model.named_buffers() if canonical(name) in saved}
    return found


def _check_single(name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.float32:
        raise DisbudError(
            f"{name} is of {tensor.dtype}; pruned weights are packed from float32: model.float()"
        )


def _described(metadata: Mapping[str, str]) -> tuple[dict[str, tuple[tuple[int, ...], str]], Origin]:
    """Shape and form of each pruned weight, and the ticket's origin."""
    if _DESCRIPTION not in metadata:
        raise TicketError(f"this safetensors file is no packed network: its metadata has no {_DESCRIPTION!r}")
    try:
        described: object = json.loads(metadata[_DESCRIPTION], parse_constant=_refuse_constant)
        json.dumps(described, ensure_ascii=False).encode()  # lone surrogates would crash whoever prints them
    except (ValueError, RecursionError) as error:
        raise TicketError(f"{_DESCRIPTION}: cannot be read as JSON: {error}") from None
    fields = checked(described, dict, _DESCRIPTION)
    version = checked(fields.get("format_version"), int, "format_version")
    if version != FORMAT_VERSION:
        raise TicketError(
            f"format_version: {version} is not known to this disbud, which reads {FORMAT_VERSION}"
        )
    if fields.keys() != {"format_version", "weights", "origin"}:
        raise TicketError(f"{_DESCRIPTION}: unexpected fields {sorted(fields)}")
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for i, row in enumerate(checked(fields["weights"], list, "weights")):
        cells = checked(row, list, f"weights[{i}]")
        if len(cells) != 3:
            raise TicketError(f"weights[{i}]: should be a name, a shape and a form")
        name, form = checked(cells[0], str, f"weights[{i}]"), checked(cells[2], str, f"weights[{i}]")
        sizes = checked(cells[1], list, f"weights.{name}")
        if name in found or form not in FORMS:
            raise TicketError(
                f"weights.{name}: comes twice, or its form {form!r} is none of {', '.join(FORMS)}"
            )
        found[name] = tuple(checked(size, int, f"weights.{name}") for size in sizes), form
    try:
        return found, Origin.from_json(fields["origin"])
    except RecursionError:
        raise TicketError("origin: is nested too deep") from None


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not a finite number")


def _check_names(
    masked: Mapping[str, tuple[tuple[int, ...], str]], own: Mapping[str, Tensor], there: set[str]
) -> None:
    """The weights described have to be the model's, and the tensors just those that this makes necessary."""
    for name, (shape, _) in masked.items():
        if name not in own or tuple(own[name].shape) != shape or own[name].dtype != torch.float32:
            has = f"{tuple(own[name].shape)} of {own[name].dtype}" if name in own else "not there"
            raise TicketError(f"{name}: is {shape} of torch.float32 in the file, and {has} in the model")
    needed = {name for name in own if name not in masked} | {f"values/{name}" for name in masked}
    needed |= {f"mask/{name}" for name, (_, form) in masked.items() if form != "all"}
    if there != needed:
        what = [f"lacks {sorted(needed - there)[:3]}"] if needed - there else []
        what += [f"has {sorted(there - needed)[:3]} besides"] if there - needed else []
        raise TicketError(f"the file does not fit the model: it {' and '.join(what)}")


def _layout(slice_: object) -> tuple[str, tuple[int, ...]]:
    return slice_.get_dtype(), tuple(slice_.get_shape())  # type: ignore[attr-defined]


def _check_sizes(
    masked: Mapping[str, tuple[tuple[int, ...], str]],
    own: Mapping[str, Tensor],
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
) -> None:
    """What the header says, held to the model, before any tensor is read."""
    for name, (dtype, shape) in layout.items():
        kind, _, weight = name.partition("/")
        if name in own:
            if shape != tuple(own[name].shape):
                raise TicketError(f"{name}: is {shape} in the file and {tuple(own[name].shape)} in the model")
        elif kind == "values":
            if dtype not in ("F32", "F16") or len(shape) != 1 or shape[0] > own[weight].numel():
                raise TicketError(
                    f"{name}: should be up to {own[weight].numel()} numbers of F32 or F16, not {shape} of {dtype}"
                )
        elif dtype != "U8" or len(shape) != 1:
            raise TicketError(f"{name}: should be a row of bytes of type U8, not {shape} of {dtype}")


def _unpacked(
    masked: Mapping[str, tuple[tuple[int, ...], str]],
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state and the masks."""
    state, masks = {}, {}
    for name, tensor in own.items():
        if name in masked:
            shape, form = masked[name]
            one = Packed(form, tensors[f"values/{name}"], tensors.get(f"mask/{name}"))
            state[name], masks[name] = unpacked(name, one, shape)
        else:
            state[name] = tensors[name]
            if state[name].dtype != tensor.dtype:
                raise TicketError(
                    f"{name}: is {state[name].dtype} in the file and {tensor.dtype} in the model"
                )
    return state, masks


def _checksum(description: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        content = tensors[name].contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(content).tobytes())
    return digest.hexdigest()
