"""What the bits of a result depend on besides the trial."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from contextvars import ContextVar

import numpy
import torch

from disbud.errors import DisbudError
from disbud.origin import Json, package_version

_ON_GPU: ContextVar[bool] = ContextVar("trains on a GPU", default=False)


@contextlib.contextmanager
def training_on_gpu() -> Iterator[None]:
    """Train the trials that are run inside on the GPU that this process was given."""
    token = _ON_GPU.set(True)
    try:
        yield
    finally:
        _ON_GPU.reset(token)


def training_device() -> str:
    """Where trials are trained here, as torch calls it.

    >>> from disbud.study.environments import training_device
    >>> training_device()
    'cpu'
    """
    if not _ON_GPU.get():
        return "cpu"
    if not torch.cuda.is_available():
        raise DisbudError(
            f"GPUs were asked for, and torch {torch.__version__} sees none on {platform.node()}; install a torch with "
            "CUDA there, or ask for none (leave gpus out)"
        )
    return "cuda"


def environment(device: str = "cpu") -> dict[str, Json]:
    """Versions, the processor's instructions, threads, the device trained on; and the host, on which no bit depends.

    >>> from disbud.study import environment
    >>> environment()["device"]
    'cpu'
    """
    return {
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "disbud": package_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "system": platform.system(),
        "device": device if device == "cpu" else f"{device}: {torch.cuda.get_device_name()}",
        "threads": torch.get_num_threads(),
        "host": platform.node(),
    }
