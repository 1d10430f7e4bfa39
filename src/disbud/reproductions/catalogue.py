"""The papers that can be reproduced by name; read without importing torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reproduction:
    """One paper: what its study file is called, what it is about, where it is from.

    >>> from disbud.reproductions import CATALOGUE
    >>> CATALOGUE["immunity"].source
    'Liu & Singh 2021'
    """

    name: str
    summary: str
    source: str


CATALOGUE: dict[str, Reproduction] = {
    entry.name: entry
    for entry in (
        Reproduction(
            "immunity", "are tickets immune to shuffling and re-initialisation?", "Liu & Singh 2021"
        ),
        Reproduction("random-tickets", "do tickets take anything from their data?", "Su et al. 2020"),
        Reproduction("node-path", "nodes or paths: which of them predicts accuracy?", "Pham et al. 2023"),
        Reproduction("robust", "pruning on the edge of chaos", "Hayou et al. 2021"),
        Reproduction(
            "missing-the-mark", "is pruning at initialisation missing the mark?", "Frankle et al. 2021"
        ),
        Reproduction(
            "companions", "collapse, random pruning, dead nodes, channel crops", "several, 2020 to 2024"
        ),
    )
}
SIZES = ("quick", "default", "full")
