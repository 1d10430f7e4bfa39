"""What is known of a trial that was run: its numbers, or why there are none; what a store keeps and a report shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from disbud.origin import Json
from disbud.study.trial import Trial


@dataclass(frozen=True)
class Record:
    """One trial of a store. A trial that failed has an `error` and no numbers.

    `curve` has a mapping an epoch. `ticket` and `weights` name what the store keeps beside the row, by the SHA-256 of
    its bytes. `measures` are tables in the form of `Table.to_json`, by name; `measure_errors` says why there is none of
    a measure that was taken. Times and attempts say how the run went, not what came of it: records are equal without
    them.

    >>> from disbud.study import Record, Trial
    >>> Record(Trial("lenet-300-100", "digits", "digits"), "6e1f", error="out of memory").failed
    True
    """

    trial: Trial
    identity: str
    accuracy: float | None = None
    loss: float | None = None
    curve: tuple[Mapping[str, Json], ...] = ()
    diverged: str | None = None
    ticket: str | None = None
    weights: str | None = None
    measures: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    measure_errors: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    traceback: str | None = field(default=None, compare=False)
    environment: Mapping[str, Json] = field(default_factory=dict, compare=False)
    seconds: float = field(default=0.0, compare=False)
    memory: int = field(default=0, compare=False)
    attempts: int = field(default=1, compare=False)
    finished: str = field(default="", compare=False)

    @property
    def failed(self) -> bool:
        """Whether the trial raised, or its worker died."""
        return self.error is not None


def mixed(records: Iterable[Record]) -> dict[str, tuple[Json, ...]]:
    """What of the environment, but for the host, differs between records, with its values: numbers may too, in bits.

    >>> from disbud.study import Record, Trial, mixed
    >>> trial = Trial("lenet-300-100", "digits", "digits")
    >>> mixed([Record(trial, "6e1f", environment={"torch": version}) for version in ("2.6.0", "2.13.0")])
    {'torch': ('2.6.0', '2.13.0')}
    """
    known = [record.environment for record in records if record.environment]
    names = dict.fromkeys(name for environment in known for name in environment if name != "host")
    values = {name: tuple(dict.fromkeys(environment.get(name) for environment in known)) for name in names}
    return {name: found for name, found in values.items() if len(found) > 1}
