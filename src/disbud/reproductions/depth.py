"""How densities go with depth (Su et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats

from disbud.catalogue import parse
from disbud.claims import Decided, for_all
from disbud.reproductions.reading import judged_records, table_rows
from disbud.study.deciding import Setting, held
from disbud.study.frame import label
from disbud.study.record import Record
from disbud.study.specification.forms import FunctionForm
from disbud.study.trial import Trial

METHODS = ("snip", "grasp", "lottery-ticket")


def densities_fall(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """2.8: Spearman's correlation of a layer's density with its place is below 0; the last layer does not count."""
    cells: dict[str, Decided] = {}
    for variant in variants:
        if parse(variant.method).name in METHODS and variant.intervention is None:
            found = {seed: _correlation(record) for seed, record in judged_records(setting, variant).items()}
            cells[label(variant, ("method", "sparsity"))] = held(
                found, what="the correlation of density with depth", most=0.0
            )
    return for_all(cells)


def _correlation(record: Record) -> float:
    rows = table_rows(record, "paths")[:-1]
    densities = [float(str(row["kept"])) / float(str(row["weights"])) for row in rows]
    return float(stats.spearmanr(range(len(densities)), densities).statistic)
