"""What a method's function gave, checked before it is ranked: one of one's own may give anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.methods.scoring import Scoring, Tensors
from disbud.parameters import parameters


def scores_by_layer(method: str, found: object, scoring: Scoring) -> Tensors:
    """A score of each weight, or, in a later round, of each weight still kept, in a row."""
    shapes = {name: tuple(weight.shape) for name, weight in scoring.weights.items()}
    if isinstance(found, Mapping) and scoring.positions is not None:
        in_rows = [isinstance(score, Tensor) and score.dim() == 1 for score in found.values()]
        if in_rows and all(in_rows):
            shapes = {name: tuple(where.shape) for name, where in scoring.positions.items()}
    return by_layer(method, found, shapes)


def by_layer(method: str, found: object, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """A tensor for each of these layers, of its shape; what is given besides is left out."""
    wanted = "a dict with a tensor of its weight's shape for each layer, as s.weights is"
    if not isinstance(found, Mapping):
        raise DisbudError(f"{method} gave a {type(found).__name__}; it should give {wanted}")
    missing = [name for name in shapes if name not in found]
    if missing:
        given = ", ".join(map(str, list(found)[:3])) or "nothing"
        raise DisbudError(f"{method} gave {given} and not {', '.join(missing[:3])}; it should give {wanted}")
    for name, shape in shapes.items():
        tensor = found[name]
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            got = (
                f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
            )
            raise DisbudError(f"{method} gave {name} {got}, not shape {shape}; it should give {wanted}")
    return {name: found[name] for name in shapes}


@contextlib.contextmanager
def unchanged(method: str, model: nn.Module) -> Iterator[None]:
    """Raise where the block writes to the model's parameters, as weight.abs_() does for weight.abs()."""
    watched = {
        name: (parameter, parameter._version)
        for name, parameter in parameters(model).items()
        if not parameter.is_inference()  # those count no changes
    }
    yield
    changed = next((name for name, (p, version) in watched.items() if p._version != version), None)
    if changed is not None:
        raise DisbudError(
            f"{method} changed {changed} of the model in place, so the model is no longer what it was: load it again, "
            "and let the method compute with copies (weight.abs(), not weight.abs_())"
        )
