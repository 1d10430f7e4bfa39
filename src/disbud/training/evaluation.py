"""How well a model does on a split: accuracy and cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from disbud.errors import DisbudError, unknown_name
from disbud.isolation import the_device
from disbud.training.batches import Feed, input_type
from disbud.training.given import check_dataset, check_model
from disbud.training.recipes import PRECISIONS
from disbud.training.surroundings import autocast, in_mode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.data import Dataset

_BATCH = 256


class Evaluation(NamedTuple):
    """The accuracy and the mean cross-entropy over a split.

    >>> from disbud.training import Evaluation
    >>> Evaluation(accuracy=0.97, loss=0.11).accuracy
    0.97
    """

    accuracy: float
    loss: float


def evaluate(
    model: nn.Module, dataset: Dataset, *, split: str = "test", precision: str = "fp32"
) -> Evaluation:
    """The model's accuracy and cross-entropy on one split, in eval mode and without augmentation.

    The modes of the model's modules are put back.

    >>> import disbud
    >>> from disbud.models import build
    >>> from disbud.training import evaluate
    >>> data = disbud.data.load("digits")
    >>> model = build("lenet-300-100", input_shape=data.input_shape)
    >>> evaluate(model, data).accuracy < 0.3
    True
    """
    check_model(model)
    check_dataset(dataset)
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    feed = Feed(dataset, split, device=the_device(model), dtype=input_type(model))
    return evaluate_feed(model, feed, precision=precision)


def evaluate_feed(model: nn.Module, feed: Feed, *, precision: str) -> Evaluation:
    """The same on a split that is on the device already."""
    device = feed.labels.device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    with in_mode(model, "eval"), torch.no_grad(), autocast(device, precision):
        for start in range(0, len(feed), _BATCH):
            inputs, labels = feed.batch(slice(start, start + _BATCH))
            logits = checked_logits(model(inputs), len(labels), feed.classes)
            correct += (logits.argmax(1) == labels).sum()
            loss += F.cross_entropy(at_least_float32(logits), labels, reduction="sum")
    return Evaluation(int(correct) / len(feed), float(loss) / len(feed))


def checked_logits(output: object, examples: int, classes: int) -> Tensor:
    """The model's output, if it is one row of logits an example with a column for every class."""
    if not isinstance(output, torch.Tensor):
        raise DisbudError(f"the model returned a {type(output).__name__}; training needs a tensor of logits")
    if output.dim() != 2 or output.shape[0] != examples or output.shape[1] < classes:
        raise DisbudError(
            f"the model returned logits of shape {tuple(output.shape)} for {examples} examples of "
            f"{classes} classes; training needs ({examples}, {classes})"
        )
    return output


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits to take a loss of: of 16 bits a sum of exponentials would be no good."""
    return logits if logits.dtype == torch.float64 else logits.float()
