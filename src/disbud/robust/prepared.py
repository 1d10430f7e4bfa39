"""The network of one cell of a trainable region, initialised, pruned and, where the panel says so, rescaled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disbud.models import build
from disbud.pruning import prune
from disbud.robust.pipelines import mbp, sbp
from disbud.robust.region import PANELS
from disbud.theory import initialize_, rescale_

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.data import Dataset
    from disbud.robust.region import Cell, Setting
    from disbud.ticket import Ticket

_EXAMPLES = 256  # at which sensitivities and signals are measured


def prepared(setting: Setting, cell: Cell, dataset: Dataset) -> tuple[nn.Module, Ticket]:
    """The model, ready to be trained on its ticket."""
    phase, rescales = PANELS[cell.panel]
    hidden = "+".join([str(setting.width)] * cell.depth)
    model = build(
        f"mlp:hidden={hidden},activation={setting.activation}",
        classes=dataset.classes,
        input_shape=dataset.input_shape,
        seed=cell.seed,
    )
    how = setting.rescale if rescales else None
    batch = first_batch(dataset, cell.seed)
    if setting.method == "mbp":
        inputs = None if how in (None, "weights") else batch[0]
        return model, mbp(
            model, sparsity=cell.sparsity, phase=phase, sigma_b=setting.sigma_b, rescale=how, inputs=inputs,
            activation=setting.activation, seed=cell.seed,
        )  # fmt: skip
    if setting.method == "sbp":
        return model, sbp(
            model, sparsity=cell.sparsity, batches=[batch], phase=phase, sigma_b=setting.sigma_b, rescale=how,
            activation=setting.activation, seed=cell.seed,
        )  # fmt: skip
    initialize_(model, phase, activation=setting.activation, sigma_b=setting.sigma_b, seed=cell.seed)
    ticket = prune(model, "random-uniform", sparsity=cell.sparsity, seed=cell.seed)
    if how is not None:
        rescale_(model, ticket, how, inputs=None if how == "weights" else batch[0])
    return model, ticket


def first_batch(dataset: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """The examples a cell is pruned and measured on."""
    batch: tuple[Tensor, Tensor] = next(iter(dataset.batches(_EXAMPLES, seed=seed)))
    return batch
