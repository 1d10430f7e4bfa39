"""Checkpoints of a training run: written whole or not at all, and read only by the run that wrote them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import nn

from disbud.errors import DisbudError
from disbud.files import replacing
from disbud.isolation import bare
from disbud.origin import Json
from disbud.parameters import canonical, fingerprint, parameters
from disbud.training.behaviour import difference, signature
from disbud.training.surroundings import Streams, set_others

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from disbud.data import Dataset
    from disbud.ticket import Ticket
    from disbud.training.recipes import Recipe

_FORMAT, _VERSION = "disbud.checkpoint", 2
_FIELDS = ("identity", "behaviour", "by kernels", "model", "extra state", "optimizer", "position")
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
    """What makes a run that run: with other settings, seed, data, ticket, weights or frozen ones it is another one."""
    frozen = sorted(name for name, parameter in parameters(model).items() if not parameter.requires_grad)
    return {
        "recipe": recipe.to_json(),
        "seed": seed,
        "dataset": dataset.fingerprint,
        "ticket": None if ticket is None else _ticket_hash(ticket),
        "model": fingerprint(model),
        "starting weights": _hash_of(tensors(model)),
        "frozen": [*frozen],
    }


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by canonical name, those that state_dict leaves out too."""
    return {
        canonical(name): tensor
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())
    }


def extra_state(model: nn.Module) -> dict[str, object]:
    """The extra state of each module that has one, by canonical name; raises where it could not be read back."""
    found = {}
    for name, module in _with_extra_state(model).items():
        found[name] = module.get_extra_state()
        file = io.BytesIO()
        try:
            torch.save(found[name], file)
            file.seek(0)
            torch.load(file, weights_only=True)
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise DisbudError(
                f"the extra state of {name!r} ({type(module).__name__}) cannot be kept in a checkpoint: {said}; let "
                "get_extra_state return tensors, numbers, text, and lists, tuples or dicts of them"
            ) from error
    return found


class Checkpoint:
    """The file a run is kept in. What it holds is read at once: a file of another run is refused before any training.

    A run is another one too where its network computes something else from the same weights.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: nn.Module,
        dataset: Dataset,
        *,
        ticket: Ticket | None,
        recipe: Recipe,
        seed: int,
    ) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise DisbudError(
                f"{path}: a checkpoint cannot be written there: there is no folder {self.path.parent}"
            )
        extra_state(model)
        self._whose = identity(model, dataset, ticket=ticket, recipe=recipe, seed=seed)
        self._signature = signature(model, dataset)
        self._found = self._read()
        self.by_kernels = None if self._found is None else bool(self._found["by kernels"])

    def write(
        self, model: nn.Module, optimizer: Optimizer, position: Position, *, by_kernels: bool = False
    ) -> None:
        """Replace the file by the run as it is now."""
        content = {
            _FORMAT: _VERSION,
            "identity": json.dumps(self._whose, sort_keys=True),
            "behaviour": self._signature,
            "by kernels": by_kernels,
            "model": {name: tensor.detach() for name, tensor in tensors(model).items()},
            "extra state": extra_state(model),
            "optimizer": optimizer.state_dict(),
            "position": dict(vars(position)),
        }
        try:
            with replacing(self.path) as part:
                torch.save(content, part)
        except OSError as error:
            raise DisbudError(
                f"{self.path}: the checkpoint cannot be written: {error.strerror or error}"
            ) from error

    def restore(self, model: nn.Module, optimizer: Optimizer) -> Position | None:
        """Put model and optimizer where the file left them; None where there was no file."""
        content, self._found = self._found, None
        if content is None:
            return None
        with self._named():
            position = _position(content["position"])
            _load(model, content["model"])
            _load_extra(model, content["extra state"])
            _load_optimizer(optimizer, content["optimizer"])
            if position.streams is not None:
                _load_streams(position.streams)
        return position

    def _read(self) -> dict[str, object] | None:
        if not self.path.exists():
            return None
        with self._named():
            content = _read(self.path)
            self._check_identity(content)
            self._check_behaviour(content["behaviour"])
        return content

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Errors within begin with the name of the file."""
        try:
            yield
        except DisbudError as error:
            raise DisbudError(f"{self.path}: {error}") from None

    def _check_identity(self, content: Mapping[str, object]) -> None:
        try:
            theirs = json.loads(str(content["identity"]))
        except ValueError:
            theirs = None
        if not isinstance(theirs, dict):
            raise DisbudError("identity: is not what disbud writes")
        there, here = _flat(theirs), _flat(self._whose)
        for key in here | there:
            if there.get(key) != here.get(key):
                shown = not isinstance(here.get(key), str) or key.startswith("recipe.")
                said = [repr(side[key]) if key in side else "not set" for side in (there, here)]
                values = f" ({said[0]} there, {said[1]} here)" if shown else ""
                raise DisbudError(
                    f"{key}: the checkpoint is of another run, and differs in its {key}{values}; "
                    "start this run as that one was started, or give it another file"
                )

    def _check_behaviour(self, theirs: object) -> None:
        if not isinstance(theirs, dict) or not all(
            isinstance(seen, torch.Tensor) for seen in theirs.values()
        ):
            raise DisbudError("behaviour: is not what disbud writes")
        what = difference(self._signature, theirs)
        if what is not None:
            raise DisbudError(
                f"the network computes other {what} than the one of the checkpoint did from the same weights; go on "
                "with the network of that run, on the same kind of device, or give this one another file"
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
    for key in _FIELDS:
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


def _with_extra_state(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that keep more than parameters and buffers, by canonical name."""
    return {
        canonical(name): module
        for name, module in bare(model).named_modules()
        if type(module).get_extra_state is not nn.Module.get_extra_state
    }


def _load_extra(model: nn.Module, saved: object) -> None:
    modules = _with_extra_state(model)
    if not isinstance(saved, dict) or saved.keys() != modules.keys():
        raise DisbudError("extra state: is not that of the modules of the model")
    for name, module in modules.items():
        module.set_extra_state(saved[name])


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
