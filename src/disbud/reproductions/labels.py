"""How much SNIP's masks owe to the labels (Su et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from disbud.claims import Decided, for_all
from disbud.interventions import on_data
from disbud.measures import overlap
from disbud.pruning import prune
from disbud.reproductions.reading import drawn
from disbud.study import Trial
from disbud.study.deciding import Setting, held
from disbud.study.specification.forms import FunctionForm
from disbud.ticket import Ticket

_SHARE = 0.9
_OTHER_BATCH = 1_000_003  # added to a seed for another order of the data


def labels_hardly_matter(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """10.7: masks from two batches share more than random ones do, and nearly as much if one batch's labels are random.

    All masks of a seed have the layer densities of the first, so that chance means the same for all. "Nearly as much"
    is at least nine tenths of what goes beyond chance.
    """
    sparsities = sorted({v.sparsity for v in variants if v.method == "snip" and v.sparsity is not None})
    beyond: dict[float, dict[int, float]] = {sparsity: {} for sparsity in sparsities}
    share: dict[float, dict[int, float]] = {sparsity: {} for sparsity in sparsities}
    for seeds, model, dataset in drawn(variants[0]):
        other = dataset.batches(seed=seeds.mask + _OTHER_BATCH)
        mislabelled = on_data(other, "random-labels", seed=seeds.mask)
        for sparsity in sparsities:
            ticket = prune(model, "snip", sparsity=sparsity, batches=dataset.batches(seed=seeds.mask))
            true, random = (
                _beyond_chance(ticket, prune(model, "snip", densities=ticket, batches=batches))
                for batches in (other, mislabelled)
            )
            beyond[sparsity][seeds.init] = random
            share[sparsity][seeds.init] = random / true if true else math.nan
    cells = {}
    for sparsity in sparsities:
        cells[f"at {sparsity:.2%}, more than chance"] = held(
            beyond[sparsity], what="what masks share beyond chance", least=0.0
        )
        cells[f"at {sparsity:.2%}, as much as two batches"] = held(
            share[sparsity], what="the share of it that random labels leave", least=_SHARE
        )
    return for_all(cells)


def _beyond_chance(a: Ticket, b: Ticket) -> float:
    found = overlap(a, b).summary
    iou, chance = found["iou"], found["chance"]
    return math.nan if iou is None or chance is None else float(iou) - float(chance)
