"""A network as ONNX, for runtimes other than torch."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.files import write_atomically
from disbud.isolation import Example, bare


def to_onnx(model: nn.Module, path: str | os.PathLike[str], *, example: Example) -> None:
    """Write the model in evaluation mode as one ONNX file, for any number of rows; whole or not at all.

    It takes `input`, gives `output`. torch's exporter needs the packages onnx and onnxscript.

    >>> import importlib.util, pathlib, tempfile, torch
    >>> from disbud.compaction import to_onnx
    >>> there = importlib.util.find_spec("onnxscript") is not None
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "linear.onnx")
    ...     if there:
    ...         to_onnx(torch.nn.Linear(4, 3), path, example=torch.zeros(1, 4))
    ...     path.exists() == there
    True
    """
    check_onnx()
    if not isinstance(example, Tensor):
        raise DisbudError(
            f"to_onnx writes networks that read one tensor, such as torch.zeros(1, 3, 32, 32); the example is a "
            f"{type(example).__name__}: give the network a forward of one tensor, or use torch.onnx.export itself"
        )
    model = bare(model)
    training = {module: module.training for module in model.modules()}
    rows = torch.zeros(2, *example.shape[1:], dtype=example.dtype)  # one row would be taken for a constant
    with tempfile.TemporaryDirectory() as folder, _quiet():
        written = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(
                model.eval(),
                (rows,),
                str(written),
                input_names=["input"],
                output_names=["output"],
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("rows", min=1)},),
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise DisbudError(
                f"torch cannot write this network as ONNX: {str(error).splitlines()[0]}"
            ) from error
        finally:
            for module, mode in training.items():
                module.training = mode
        write_atomically(path, written.read_bytes())


def check_onnx() -> None:
    """Raise where a package that writes ONNX is missing."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise DisbudError(f"writing ONNX needs {' and '.join(missing)}: pip install 'disbud[onnx]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter has to say of its own parts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
