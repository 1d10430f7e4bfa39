"""From options to the network, its data and its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from disbud.catalogue import Spec, find, parse
from disbud.cli.options import check_count
from disbud.errors import DisbudError
from disbud.models.catalogue import CATALOGUE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.data import Dataset
    from disbud.ticket import Ticket

_CLASSES, _SHAPE = 10, (3, 32, 32)


@dataclass(frozen=True)
class Network:
    """A network that can be built from any seed; `shape` is that of one input, None where nothing says it."""

    spec: str
    classes: int
    shape: tuple[int, ...] | None
    dataset: Dataset | None

    def build(self, seed: int, weights: Path | None = None) -> nn.Module:
        """The network with weights from the seed, or from the file where one is given."""
        from disbud.models import build

        model = build(self.spec, classes=self.classes, input_shape=self.shape or _SHAPE, seed=seed)
        if self.dataset is not None or parse(self.spec).argument is not None:
            self._try(model)
        if weights is not None:
            from disbud.cli.weights import load_weights

            load_weights(weights, model)
        return model

    def build_for(self, ticket: Ticket, *, seed: int | None, weights: Path | None) -> nn.Module:
        """The network that a ticket is put on: weights of the file or the seed given, else those it starts from."""
        model = self.build((ticket.origin.model_seed() or 0) if seed is None else seed, weights)
        ticket.check(model)
        if weights is None and seed is None:
            ticket.start_(model)
        return model

    def example(self) -> Tensor | None:
        """One input of zeros."""
        import torch

        return None if self.shape is None else torch.zeros(1, *self.shape)

    def _try(self, model: nn.Module) -> None:
        """Raise where the network does not take the inputs, or has no output for each class of the data."""
        import torch

        from disbud.isolation import isolated

        example = self.example()
        if example is None:
            return
        shape = "x".join(map(str, self.shape or ()))
        try:
            with torch.no_grad(), isolated(model, seed=0):
                output = model(example)
        except Exception as error:
            raise DisbudError(
                f"{self.spec} does not take an input of shape {shape}: {_first_line(error)}"
            ) from error
        if self.dataset is None:
            return
        if not isinstance(output, torch.Tensor) or output.dim() != 2 or output.shape[1] < self.classes:
            got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise DisbudError(
                f"{self.spec} returns {got} for one example of {self.dataset.name}, which has {self.classes} classes; "
                f"(1, {self.classes}) is needed"
            )


def network(
    spec: str,
    *,
    dataset: Dataset | None = None,
    classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Network:
    """What MODEL names: for the data set where there is one, else for the options, else for its paper's input."""
    parsed = parse(spec)
    paper = find("model", parsed.name, CATALOGUE).input_shape if parsed.argument is None else None
    if dataset is not None:
        for option, asked, there in (
            ("--classes", classes, dataset.classes),
            ("--input-shape", input_shape, dataset.input_shape),
        ):
            if asked is not None and asked != there:
                raise DisbudError(
                    f"{option}: {asked} is asked, and {dataset.name} has {there}; leave the option out"
                )
        return Network(spec, dataset.classes, dataset.input_shape, dataset)
    if classes is not None:
        check_count("--classes", classes)
    return Network(spec, classes or _CLASSES, _shape_in(parsed) or input_shape or paper, None)


def load_data(spec: str) -> Dataset:
    """The data set that `--data` names."""
    from disbud.data import load

    return load(spec)


def use_threads(threads: int) -> None:
    """Import torch and hold it to so many threads."""
    check_count("--threads", threads)
    import torch

    torch.set_num_threads(threads)


def _shape_in(parsed: Spec) -> tuple[int, ...] | None:
    """The input shape among the settings of the model, which wins over any other."""
    value = parsed.settings.get("input_shape")
    sizes = value if isinstance(value, tuple) else (value,)
    return sizes if all(isinstance(size, int) for size in sizes) else None  # type: ignore[return-value]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
