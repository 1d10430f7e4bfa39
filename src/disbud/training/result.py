"""What a training run tells: its progress while it runs, and at the end its curve; plain values, no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from disbud.origin import Json
from disbud.training.recipes import Recipe


@dataclass(frozen=True)
class Epoch:
    """One line of the curve. Losses are plain cross-entropies.

    `train_loss` is the mean over the epoch's batches, each before its step. `lr` is the learning rate of
    the epoch's last step. Epochs count from 1.

    >>> from disbud.training import Epoch
    >>> Epoch(1, train_loss=2.1, test_loss=1.8, test_accuracy=0.31, lr=0.1).test_accuracy
    0.31
    """

    epoch: int
    train_loss: float
    test_loss: float
    test_accuracy: float
    lr: float


@dataclass(frozen=True)
class Divergence:
    """Where a run stopped because its loss was no number any more; epochs and steps count from 1.

    It is the training loss of that step; or, after the last step of an epoch, the loss on the test images.

    >>> from disbud.training import Divergence
    >>> print(Divergence(epoch=3, step=12, loss=float("inf")))
    diverged in epoch 3, step 12: the loss became inf
    """

    epoch: int
    step: int
    loss: float = field(compare=False)  # nan is not equal to itself

    def __str__(self) -> str:
        return f"diverged in epoch {self.epoch}, step {self.step}: the loss became {self.loss}"


@dataclass(frozen=True)
class Progress:
    """How far a run is: `step` of `steps` in epoch `epoch` of `epochs`, all counted from 1.

    `loss` is the epoch's mean so far; `accuracy` the test accuracy after the last whole epoch, None before.

    >>> from disbud.training import Progress
    >>> Progress(epoch=2, epochs=4, step=10, steps=20, loss=0.5, accuracy=0.8).fraction
    0.375
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float | None

    @property
    def fraction(self) -> float:
        """The part of all steps that is done."""
        return (self.epoch - 1 + self.step / self.steps) / self.epochs


@dataclass(frozen=True)
class Result:
    """What came of a training run: the curve, and how fast it went. Two are equal when their numbers are.

    `accuracy` and `loss` are the test accuracy and cross-entropy after the last epoch, not the best ones;
    they are nan for a run that diverged, and `diverged` says where. `seconds` counts the whole run, over
    all its resumptions; `images_per_second` the training steps alone. `by_kernels` says whether sparse kernels
    trained it.

    >>> import disbud
    >>> from disbud.models import build
    >>> data = disbud.data.load("digits")
    >>> model = build("lenet-300-100", input_shape=data.input_shape)
    >>> result = disbud.train(model, data, recipe="digits:epochs=3")
    >>> len(result.curve), result.accuracy > 0.8
    (3, True)
    """

    recipe: Recipe
    dataset: str
    seed: int
    curve: tuple[Epoch, ...]
    diverged: Divergence | None = None
    seconds: float = field(default=0.0, compare=False)
    images_per_second: float = field(default=0.0, compare=False)
    by_kernels: bool = field(default=False, compare=False)

    @property
    def accuracy(self) -> float:
        """The test accuracy after the last epoch; nan for a run that diverged."""
        return math.nan if self.diverged or not self.curve else self.curve[-1].test_accuracy

    @property
    def loss(self) -> float:
        """The test cross-entropy after the last epoch; nan for a run that diverged."""
        return math.nan if self.diverged or not self.curve else self.curve[-1].test_loss

    def to_json(self) -> dict[str, Json]:
        """The result as plain JSON values; a number that is not finite becomes null."""
        return {
            "recipe": self.recipe.to_json(),
            "dataset": self.dataset,
            "seed": self.seed,
            "accuracy": _finite(self.accuracy),
            "loss": _finite(self.loss),
            "curve": [_row(asdict(epoch)) for epoch in self.curve],
            "diverged": _row(asdict(self.diverged)) if self.diverged else None,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "by_kernels": self.by_kernels,
        }

    def __str__(self) -> str:
        outcome = (
            str(self.diverged)
            if self.diverged
            else f"test accuracy {self.accuracy:.2%}, loss {self.loss:.4f}"
        )
        head = f"{self.dataset}, recipe {self.recipe}, seed {self.seed}: {outcome}"
        lines = [head, "epoch  train loss  test loss  accuracy        lr"]
        lines += [
            f"{row.epoch:>5}  {row.train_loss:>10.4f}  {row.test_loss:>9.4f}"
            f"  {row.test_accuracy:>8.2%}  {row.lr:>8.3g}"
            for row in _spread(self.curve)
        ]
        how = ", by sparse kernels" if self.by_kernels else ""
        return "\n".join([*lines, f"{self.seconds:.1f} s, {self.images_per_second:,.0f} images/s{how}"])


def _spread(curve: tuple[Epoch, ...], most: int = 8) -> list[Epoch]:
    """At most so many epochs of the curve, the first and the last among them."""
    if len(curve) <= most:
        return list(curve)
    return [curve[round(i * (len(curve) - 1) / (most - 1))] for i in range(most)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _row(values: dict[str, Json]) -> dict[str, Json]:
    return {key: _finite(value) if isinstance(value, float) else value for key, value in values.items()}
