"""Where a ticket came from: the method, its resolved settings, and the tickets it was made of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import PurePosixPath
from typing import TypeVar

from disbud.errors import TicketError

T = TypeVar("T")
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
# The interventions on a ticket's masks and weights. Their seed is of what they draw, not of the model's weights.
_CHANGES = frozenset(
    {
        "shuffle", "shuffle-rows", "shuffle-columns", "shuffle-degrees", "shuffle-kernels", "shuffle-global", "like",
        "effective", "reinit", "permute-values", "sign-only", "rescale",
    }
)  # fmt: skip


def package_version() -> str:
    """The version of disbud that runs."""
    try:
        return metadata.version("disbud")
    except metadata.PackageNotFoundError:  # a source tree that was never installed
        return "0+source"


@dataclass(frozen=True)
class Origin:
    """Where a ticket came from.

    `settings` holds every setting as it was resolved; `evidence` the count and the content hash of the batches read;
    `fingerprint` the hash of the model's parameter names and shapes; `parents` the origins of the tickets combined.

    >>> import disbud, torch
    >>> ticket = disbud.prune(torch.nn.Linear(8, 4), "magnitude", sparsity=0.5)
    >>> ticket.origin.method, ticket.origin.sparsity
    ('magnitude', 0.5)
    """

    method: str
    settings: Mapping[str, Json] = field(default_factory=dict)
    sparsity: float | None = None
    seed: int | None = None
    evidence: Mapping[str, Json] | None = None
    fingerprint: str | None = None
    parents: tuple[Origin, ...] = ()
    version: str = field(default_factory=package_version)

    def model_seed(self) -> int | None:
        """The seed of the weights the ticket is for: of the pruning, whatever was done to its masks afterwards.

        None where nothing says it, as for masks of one's own. Of tickets that were combined the first that has one
        counts.

        >>> import disbud, torch
        >>> ticket = disbud.prune(torch.nn.Linear(8, 4), "magnitude", sparsity=0.5, seed=3)
        >>> shuffled = disbud.interventions.on_mask(ticket, "shuffle", seed=7)
        >>> shuffled.origin.seed, shuffled.origin.model_seed(), (~ticket).origin.model_seed()
        (7, 3, 3)
        """
        if self.seed is not None and self.method not in _CHANGES:
            return self.seed
        of_parents = (parent.model_seed() for parent in self.parents)
        return next((seed for seed in of_parents if seed is not None), None)

    def to_json(self) -> dict[str, Json]:
        """The origin as plain JSON values."""
        return {
            "method": self.method,
            "settings": dict(self.settings),
            "sparsity": self.sparsity,
            "seed": self.seed,
            "evidence": None if self.evidence is None else dict(self.evidence),
            "fingerprint": self.fingerprint,
            "parents": [parent.to_json() for parent in self.parents],
            "version": self.version,
        }

    @staticmethod
    def from_json(value: object, where: str = "origin") -> Origin:
        """Read an origin back; anything but what `to_json` writes is a TicketError that names the field."""
        fields = checked(value, dict, where)
        known = {"method", "settings", "sparsity", "seed", "evidence", "fingerprint", "parents", "version"}
        if fields.keys() != known:
            raise TicketError(f"{where}: the fields should be {sorted(known)}, not {sorted(fields)}")
        sparsity, seed = fields["sparsity"], fields["seed"]
        evidence, print_ = fields["evidence"], fields["fingerprint"]
        return Origin(
            method=checked(fields["method"], str, f"{where}.method"),
            settings=_finite(checked(fields["settings"], dict, f"{where}.settings"), f"{where}.settings"),
            sparsity=None if sparsity is None else _number(sparsity, f"{where}.sparsity"),
            seed=None if seed is None else checked(seed, int, f"{where}.seed"),
            evidence=None
            if evidence is None
            else _finite(checked(evidence, dict, f"{where}.evidence"), where),
            fingerprint=None if print_ is None else checked(print_, str, f"{where}.fingerprint"),
            parents=tuple(
                Origin.from_json(parent, f"{where}.parents[{i}]")
                for i, parent in enumerate(checked(fields["parents"], list, f"{where}.parents"))
            ),
            version=checked(fields["version"], str, f"{where}.version"),
        )


@dataclass(frozen=True)
class Start:
    """The weights a ticket must start from: a safetensors file beside the ticket's own, and the SHA-256 of its content.

    `folder` is where the ticket was read from. `content` is the file itself where a ticket was not read but made: it
    travels with the ticket, and saving the ticket writes it. Neither is part of what the start is.

    >>> from disbud.origin import Start
    >>> Start("trained.safetensors", "0" * 64).file
    'trained.safetensors'
    """

    file: str
    sha256: str
    folder: str = field(default=".", compare=False)
    content: bytes | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def of(content: bytes) -> Start:
        """The start that this content is, under a name made of its hash: tickets of one start share one file.

        >>> from disbud.origin import Start
        >>> Start.of(b"").file
        'e3b0c44298fc1c14.start.safetensors'
        """
        sha256 = hashlib.sha256(content).hexdigest()
        return Start(_named(sha256), sha256, content=content)

    @property
    def named_by_content(self) -> bool:
        """Whether the file's name is that of its content, so that nothing else can be meant by it."""
        return PurePosixPath(self.file).name == _named(self.sha256)

    def __post_init__(self) -> None:
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or "\\" in self.file or not path.name:
            raise TicketError(f"start.file: {self.file!r} must be a relative path without '..'")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise TicketError("start.sha256: must be 64 hexadecimal digits")

    def to_json(self) -> dict[str, Json]:
        """The start as plain JSON values."""
        return {"file": self.file, "sha256": self.sha256}

    @staticmethod
    def from_json(value: object, folder: str) -> Start:
        """Read a start back."""
        fields = checked(value, dict, "start")
        if fields.keys() != {"file", "sha256"}:
            raise TicketError(f"start: the fields should be ['file', 'sha256'], not {sorted(fields)}")
        return Start(
            checked(fields["file"], str, "start.file"), checked(fields["sha256"], str, "start.sha256"), folder
        )


def _named(sha256: str) -> str:
    return f"{sha256[:16]}.start.safetensors"


def checked(value: object, kind: type[T], where: str) -> T:
    """The value, if it is of that kind; else a TicketError that names the field."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TicketError(f"{where}: should be {kind.__name__}, is {type(value).__name__}")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TicketError(f"{where}: should be a finite number, is {value!r}")
    return value


def _finite(value: dict[str, Json], where: str) -> dict[str, Json]:
    stack: list[Json] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise TicketError(f"{where}: holds the number {item}, which is not finite")
        stack.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
    return value
