"""What a data set's function is told, beside its settings."""

from __future__ import annotations

import os
from dataclasses import dataclass

from disbud.errors import DisbudError


@dataclass(frozen=True)
class Request:
    """The text the user gave, the argument in it, the seed, and where decoded images are kept."""

    spec: str
    argument: str | None
    seed: int
    cache: str | os.PathLike[str] | None

    def no_argument(self) -> None:
        """Raise when the user gave an argument to a data set that takes none."""
        if self.argument is not None:
            name = self.spec.partition(":")[0]
            raise DisbudError(f"{self.spec!r}: {name} takes settings only, as in {name}:key=value")
