"""What goes with depth: densities (Su et al. 2020), and the lead of Stable ResNets (Hayou et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scipy import stats

from disbud.catalogue import parse
from disbud.claims import Decided, for_all
from disbud.errors import DisbudError
from disbud.reproductions.reading import judged_records, named, table_rows
from disbud.study.deciding import Setting, held
from disbud.study.deciding.places import said, selected
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
            cells[named(variant, variants)] = held(
                found, what="the correlation of density with depth", most=0.0
            )
    return for_all(cells)


def lead_grows_with_depth(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """4.7: what Stable ResNets are ahead of plain ones rises with depth: by seed, its slope over the depths.

    `where` lists the models by depth: of each, the plain one and its stable form.
    """
    models = [str(model) for model in said(form.where).get("model", ())]
    stable = [model for model in models if parse(model).settings.get("stable")]
    plain = [model for model in models if model not in stable]
    if len(plain) < 2 or len(plain) != len(stable):
        raise DisbudError(
            f"claim {form.name} goes with depth; list at least two ResNets by depth, and the stable form of each"
        )
    shallow = [v for v in selected(variants, said(form.where)) if v.model == plain[0]]
    cells: dict[str, Decided] = {}
    for variant in shallow:
        leads = [
            _lead(setting, replace(variant, model=one), replace(variant, model=other))
            for one, other in zip(stable, plain, strict=True)
        ]
        shared = set.intersection(*(set(lead) for lead in leads))
        slopes = {seed: _slope([lead[seed] for lead in leads]) for seed in sorted(shared)}
        cells[named(variant, shallow)] = held(slopes, what="the lead's slope, a step in depth,", least=0.0)
    return for_all(cells)


def _lead(setting: Setting, stable: Trial, plain: Trial) -> Mapping[int, float]:
    pairs = setting.pairs(stable, plain)
    return dict(zip(pairs.seeds, pairs.differences, strict=True))


def _slope(values: Sequence[float]) -> float:
    return float(stats.linregress(range(len(values)), values).slope)


def _correlation(record: Record) -> float:
    rows = table_rows(record, "paths")[:-1]
    densities = [float(str(row["kept"])) / float(str(row["weights"])) for row in rows]
    return float(stats.spearmanr(range(len(densities)), densities).statistic)
