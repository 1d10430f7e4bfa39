"""The identity under which a store keeps a trial: all that its numbers depend on, but for the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from disbud.artifacts import digest
from disbud.catalogue import Entry, parse
from disbud.errors import DisbudError
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.models.catalogue import CATALOGUE as MODELS
from disbud.study.datasets import fingerprint, forget_data, loaded
from disbud.study.sources import source_of
from disbud.study.trial import Trial

REVISION = 2  # of how trials are run: another one runs every trial anew


@dataclass(frozen=True)
class Pinned:
    """A trial, the content of its data, the source of its functions of one's own: what its identity is made of.

    Whoever runs it checks that it has the same at hand, so that no result is kept as that of other code or data.

    >>> from disbud.study import Trial
    >>> from disbud.study.identity import Pinned
    >>> pinned = Pinned.of(Trial("lenet-300-100", "digits", "digits:epochs=1"))
    >>> pinned.check()
    >>> len(pinned.identity)
    64
    """

    trial: Trial
    data: str
    sources: tuple[tuple[str, str], ...]
    identity: str

    @classmethod
    def of(cls, trial: Trial, *, data: str | None = None) -> Pinned:
        """The trial as it would be run now."""
        data = data or fingerprint(trial.data, trial.seeds.split)
        sources = tuple((text, source_of(text)) for text in _own_functions(trial))
        identity = digest(
            {
                "made": "a trial",
                "revision": REVISION,
                "trial": trial.described(),
                "data": data,
                "own functions": [source for _, source in sources],
            }
        )
        return cls(trial, data, sources, identity)

    def check(self) -> None:
        """Raise where running the trial in this process would be running something else."""
        changed = self._changed()
        if changed == self.trial.data:
            forget_data()
            changed = self._changed()
        if changed is not None:
            raise DisbudError(
                f"{changed} is not here what it was when this run began: it was changed meanwhile, or this machine has "
                "another version. Run again once all is the same; a Python that goes on has to reload its modules"
            )

    def _changed(self) -> str | None:
        """The first part that is not as it was."""
        here = Pinned.of(self.trial, data=loaded(self.trial.data, self.trial.seeds.split).fingerprint)
        for (text, source), (_, known) in zip(here.sources, self.sources, strict=True):
            if source != known:
                return f"the file of {text}"
        if here.data != self.data:
            return self.trial.data
        return None if here.identity == self.identity else "disbud"


def identity_of(trial: Trial) -> str:
    """SHA-256 of the settings and revisions, the content of the data, and the source of functions of one's own.

    >>> from disbud.study import Trial, identity_of
    >>> trial = Trial("lenet-300-100", "digits", "digits:epochs=1")
    >>> identity_of(trial) == identity_of(trial.with_seed(0)) != identity_of(trial.with_seed(1))
    True
    """
    return Pinned.of(trial).identity


def _own_functions(trial: Trial) -> list[str]:
    """The model and the method, where they are functions of one's own: each stands for the file it is in."""
    own: list[tuple[str, Mapping[str, Entry]]] = [(trial.model, MODELS), (trial.method, METHODS)]
    return [text for text, known in own if parse(text).argument is not None and parse(text).name not in known]
