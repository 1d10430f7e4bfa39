"""Every intervention by name: what it changes, what it keeps, and its settings. Read without importing torch."""

from __future__ import annotations

from dataclasses import dataclass

from disbud.catalogue import Entry


@dataclass(frozen=True)
class Intervention(Entry):
    """A what-if on a ticket's masks, on the weights under it, or on the data that a method prunes with.

    `acts_on` is "mask", "weights" or "data"; `needs` names what must be handed over beside it.

    >>> from disbud.interventions import CATALOGUE
    >>> CATALOGUE["shuffle-degrees"].acts_on, CATALOGUE["shuffle-degrees"].settings
    ('mask', {'rounds': 20})
    """

    acts_on: str = ""
    needs: tuple[str, ...] = ()


_SHUFFLES, _DRAWN = "disbud.interventions.shuffles", "disbud.interventions.drawn"
_VALUES, _CORRUPTION = "disbud.interventions.values", "disbud.interventions.corruption"


def _masks() -> list[Intervention]:
    return [
        Intervention(
            "shuffle",
            "the mask's positions within each layer; keeps each layer's count",
            f"{_SHUFFLES}:shuffle",
            acts_on="mask",
        ),
        Intervention(
            "shuffle-rows",
            "the positions among the inputs of each output unit; keeps the count of each output unit",
            f"{_SHUFFLES}:shuffle_rows",
            acts_on="mask",
            needs=("model",),
        ),
        Intervention(
            "shuffle-columns",
            "the positions among the outputs of each input unit; keeps the count of each input unit",
            f"{_SHUFFLES}:shuffle_columns",
            acts_on="mask",
            needs=("model",),
        ),
        Intervention(
            "shuffle-degrees",
            "a random mask in which every unit keeps its inputs' and outputs' number at every kernel tap",
            "disbud.interventions.degrees:shuffle_degrees",
            {"rounds": 20},
            acts_on="mask",
            needs=("model",),
        ),
        Intervention(
            "shuffle-kernels",
            "whole kernels within each layer; keeps the taps inside each kernel (in a linear layer, as shuffle)",
            f"{_SHUFFLES}:shuffle_kernels",
            acts_on="mask",
        ),
        Intervention(
            "shuffle-global",
            "the mask's positions over all layers; keeps the total, and nothing else",
            f"{_DRAWN}:shuffle_global",
            acts_on="mask",
        ),
        Intervention(
            "like",
            "a fresh random mask with each layer's count; the law is that of shuffle",
            f"{_DRAWN}:like",
            acts_on="mask",
        ),
        Intervention(
            "effective",
            "drops the weights on no path from input to output; refill=true draws others that are on one",
            "disbud.interventions.effective:only_effective",
            {"refill": False},
            acts_on="mask",
            needs=("model", "example"),
        ),
    ]


def _weights() -> list[Intervention]:
    return [
        Intervention(
            "reinit",
            "new starting weights under the same mask; the model's other parameters stay",
            "disbud.interventions.reinit:reinit",
            {"init": None},
            acts_on="weights",
        ),
        Intervention(
            "permute-values",
            "the kept values among the kept positions of each layer; keeps the mask and the set of values",
            f"{_VALUES}:permute_values",
            acts_on="weights",
        ),
        Intervention(
            "sign-only",
            "one magnitude for all kept weights of a layer; keeps their signs and second moment",
            f"{_VALUES}:sign_only",
            acts_on="weights",
        ),
        Intervention(
            "rescale",
            "each layer's kept weights by one factor, to the dense layer's second moment; zeros off the ticket",
            "disbud.theory.rescale:rescaled",
            {"sigma_w": None},
            acts_on="weights",
        ),
    ]


def _data() -> list[Intervention]:
    labels, pixels = {"labels": "permuted"}, {"channels": "together"}
    return [
        Intervention(
            "random-labels",
            "labels that say nothing of the images; permuted keeps the class counts, drawn does not",
            f"{_CORRUPTION}:random_labels",
            labels,
            acts_on="data",
        ),
        Intervention(
            "permuted-pixels",
            "each image's pixels by a permutation of its own; keeps its pixel values and the labels",
            f"{_CORRUPTION}:permuted_pixels",
            pixels,
            acts_on="data",
        ),
        Intervention(
            "labels-and-pixels",
            "random labels and permuted pixels together: the corrupted data of Su et al. 2020",
            f"{_CORRUPTION}:labels_and_pixels",
            {**labels, **pixels},
            acts_on="data",
        ),
        Intervention(
            "half-data",
            "drops half of the examples of each class; keeps the others as they are and in order",
            f"{_CORRUPTION}:half_data",
            {"fraction": 0.5},
            acts_on="data",
        ),
        Intervention(
            "noise",
            "Gaussian images; keeps the labels and each channel's mean and standard deviation",
            f"{_CORRUPTION}:noise",
            acts_on="data",
        ),
    ]


CATALOGUE: dict[str, Intervention] = {entry.name: entry for entry in [*_masks(), *_weights(), *_data()]}
