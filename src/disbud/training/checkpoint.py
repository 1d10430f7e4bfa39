"""Checkpoints of a training run: written whole or not at all, and read only by the run that wrote them."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch

from disbud.errors import DisbudError
from disbud.files import replacing
from disbud.origin import Json
from disbud.parameters import canonical, fingerprint
from disbud.training.surroundings import Streams, set_others

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from disbud.data import Dataset
    from disbud.ticket import Ticket
    from disbud.training.recipes import Recipe

_FORMAT, _VERSION = "disbud.checkpoint", 1
# What zipfile and torch.load raise on bytes that are not theirs.
_UNREADABLE = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass
class Position:
    """Where a run is: whole epochs done, steps and losses of the one under way, the curve, the time spent.

    `streams` are those of numpy and Python within an epoch; the others follow from epoch and step.
    """

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    curve: list[tuple[int, float, float, float, float]] = field(default_factory=list)
    seconds: float = 0.0
    training_seconds: float = 0.0
    images: int = 0
    streams: Streams | None = None


def identity(
    model: nn.Module, dataset: Dataset, *, ticket: Ticket | None, recipe: Recipe, seed: int
) -> dict[str, Json]:
    """What makes a run that run: with other settings, seed, data, ticket or weights it is another one."""
    return {
        "recipe": recipe.to_json(),
        "seed": seed,
        "dataset": dataset.fingerprint,
        "ticket": None if ticket is None else _ticket_hash(ticket),
        "model": fingerprint(model),
        "starting weights": _hash_of(tensors(model)),
    }


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by canonical name, those that state_dict leaves out too."""
    return {
        canonical(name): tensor
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())
    }


class Checkpoint:
    """The file a run is kept in."""

    def __init__(self, path: str | os.PathLike[str], whose: dict[str, Json]) -> None:
        self._path = Path(path)
        self._whose = whose
        if not self._path.parent.is_dir():
            raise DisbudError(
                f"{path}: a checkpoint cannot be written there: there is no folder {self._path.parent}"
            )

    def write(self, model: nn.Module, optimizer: Optimizer, position: Position) -> None:
        """Replace the file by the run as it is now."""
        content = {
            _FORMAT: _VERSION,
            "identity": json.dumps(self._whose, sort_keys=True),
            "model": {name: tensor.detach() for name, tensor in tensors(model).items()},
            "optimizer": optimizer.state_dict(),
            "position": dict(vars(position)),
        }
        try:
            with replacing(self._path) as part:
                torch.save(content, part)
        except OSError as error:
            raise DisbudError(
                f"{self._path}: the checkpoint cannot be written: {error.strerror or error}"
            ) from error

    def restore(self, model: nn.Module, optimizer: Optimizer) -> Position | None:
        """Put model and optimizer where the file left them; None where there is no file."""
        if not self._path.exists():
            return None
        try:
            content = _read(self._path)
            self._check_identity(content)
            position = _position(content["position"])
            _load(model, content["model"])
            _load_optimizer(optimizer, content["optimizer"])
            if position.streams is not None:
                _load_streams(position.streams)
        except DisbudError as error:
            raise DisbudError(f"{self._path}: {error}") from None
        return position

    def _check_identity(self, content: Mapping[str, object]) -> None:
        try:
            theirs = json.loads(str(content["identity"]))
        except ValueError:
            theirs = None
        if not isinstance(theirs, dict):
            raise DisbudError("identity: is not what disbud writes")
        there, here = _flat(theirs), _flat(self._whose)
        for key in here:
            if there.get(key) != here[key]:
                shown = not isinstance(here[key], str) or key.startswith("recipe.")
                values = f" ({there.get(key)!r} there, {here[key]!r} here)" if shown else ""
                raise DisbudError(
                    f"{key}: the checkpoint is of another run, and differs in its {key}{values}; "
                    "start this run as that one was started, or give it another file"
                )


def _read(path: Path) -> dict[str, object]:
    """The content of a checkpoint; torch does not check the sums in its files, zipfile does."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise DisbudError(f"{damaged}: the file is damaged")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DisbudError:
        raise
    except _UNREADABLE as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise DisbudError(f"this is not a whole checkpoint: {said[0]}") from error
    if not isinstance(content, dict) or _FORMAT not in content:
        raise DisbudError(f"this is not a checkpoint of disbud: it has no field {_FORMAT!r}")
    if content[_FORMAT] != _VERSION:
        raise DisbudError(f"{_FORMAT}: version {content[_FORMAT]!r} cannot be read, only {_VERSION}")
    for key in ("identity", "model", "optimizer", "position"):
        if key not in content:
            raise DisbudError(f"{key}: the field is missing")
    return content


def _position(value: object) -> Position:
    """The position that was written, if every part of it is of the kind that is written."""
    wrong = DisbudError("position: is not what disbud writes")
    if not isinstance(value, dict) or value.keys() != vars(Position()).keys():
        raise wrong
    position = Position(**value)
    try:
        counts = [position.epoch, position.step, position.images]
        widths = [len(row) for row in position.curve]
        numbers = [
            position.seconds,
            position.training_seconds,
            *position.losses,
            *itertools.chain(*position.curve),
        ]
    except TypeError:
        raise wrong from None
    fits = (
        all(type(count) is int and count >= 0 for count in counts)
        and all(type(number) in (int, float) for number in numbers)
        and widths == [5] * position.epoch
        and len(position.losses) == position.step
    )
    if not fits:
        raise wrong
    return position


def _load(model: nn.Module, saved: object) -> None:
    own = tensors(model)
    if not isinstance(saved, dict) or saved.keys() != own.keys():
        raise DisbudError("model: the names of its tensors are not those of the model")
    for name, tensor in own.items():
        if not isinstance(saved[name], torch.Tensor) or saved[name].shape != tensor.shape:
            raise DisbudError(f"model.{name}: is no tensor of shape {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _load_optimizer(optimizer: Optimizer, saved: object) -> None:
    try:
        optimizer.load_state_dict(saved)  # type: ignore[arg-type]
    except _UNREADABLE as error:
        raise DisbudError(f"optimizer: is not the state of this optimizer: {error}") from error


def _load_streams(streams: Streams) -> None:
    try:
        set_others(streams)
    except _UNREADABLE as error:
        raise DisbudError(f"position: its random streams are not what disbud writes: {error}") from error


def _ticket_hash(ticket: Ticket) -> str:
    digest = hashlib.sha256()
    for name in sorted(ticket.masks):
        mask = ticket.masks[name]
        digest.update(json.dumps([name, list(mask.shape)]).encode())
        digest.update(numpy.packbits(mask.numpy()).tobytes())
    return digest.hexdigest()


def _hash_of(named: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(named):
        tensor = named[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _flat(fields: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    flat: dict[str, Json] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
