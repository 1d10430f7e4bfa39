"""A pruned network as ONNX, without its dead channels."""

from __future__ import annotations

import os

from torch import nn

from disbud import compaction
from disbud.export.pruned import pruned
from disbud.isolation import Example
from disbud.ticket import Ticket


def to_onnx(model: nn.Module, ticket: Ticket, path: str | os.PathLike[str], *, example: Example) -> None:
    """Write the compacted network in evaluation as one ONNX file, for any number of rows; whole or not at all.

    ONNX stores tensors whole: zeros that are left inside the channels take their place. torch's exporter needs the
    packages onnx and onnxscript.

    >>> import disbud, importlib.util, pathlib, tempfile, torch
    >>> from disbud.export import to_onnx
    >>> there = importlib.util.find_spec("onnxscript") is not None
    >>> ticket = disbud.Ticket.from_masks({"weight": torch.tensor([[1, 0]])})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "linear.onnx")
    ...     if there:
    ...         to_onnx(torch.nn.Linear(2, 1), ticket, path, example=torch.zeros(1, 2))
    ...     path.exists() == there
    True
    """
    small, _ = pruned(model, ticket, example)
    compaction.to_onnx(small, path, example=example)
