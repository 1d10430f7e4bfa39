"""`disbud methods`, `disbud models` and `disbud data`: what there is, and the details of one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import RenderableType
from rich.text import Text

from disbud.catalogue import Entry, Value, find, parse
from disbud.cli import show
from disbud.cli.options import Classes, InputShape, Json, check_count, shape_of
from disbud.data.catalogue import CATALOGUE as DATA
from disbud.errors import DisbudError
from disbud.interventions.catalogue import CATALOGUE as INTERVENTIONS
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.methods.catalogue import Method
from disbud.models.catalogue import CATALOGUE as MODELS

if TYPE_CHECKING:
    from disbud.models import ParameterCount

_NEEDS = {"batches": "data", "example": "an input", "training": "training", "": "weights"}
_WIDE = 110


def methods(
    name: Annotated[str | None, Parameter(help="Show this method's settings, and how it is used.")] = None,
    /,
    *,
    interventions: Annotated[
        bool, Parameter(negative="", show_default=False, help="List the interventions instead.")
    ] = False,
    json: Json = False,
) -> int:
    """List the pruning methods, or show one."""
    if interventions:
        return _show_interventions(name, json=json)
    if name is not None:
        method = find("method", name, METHODS)
        show.write_json(_method_json(method)) if json else _show_method(method)
    elif json:
        show.write_json([_method_json(method) for method in METHODS.values()])
    else:
        wide = _wide()
        paper = ["paper"] if wide else []
        columns = ["method", "what stays", *paper, "looks at", "rounds", "densities"]
        table = show.table(*columns, right=["rounds"], folding=["what stays"])
        for method in METHODS.values():
            cells = [method.name, method.summary, *([method.source] if wide else [])]
            cells += [_NEEDS[_looks_at(method)], _rounds(method)]
            table.add_row(*map(Text, cells), method.densities or "global")
        show.write(table, *_more("methods NAME", "its paper and settings"))
    return 0


def models(
    name: Annotated[
        str | None,
        Parameter(help="Count this model's parameters and show its settings; settings may be given with it."),
    ] = None,
    /,
    *,
    classes: Classes = None,
    input_shape: InputShape = None,
    json: Json = False,
) -> int:
    """List the models, or show one and count its parameters."""
    if name is not None:
        return _show_model(name, classes, shape_of(input_shape), json=json)
    if classes is not None or input_shape is not None:
        raise DisbudError(
            "--classes and --input-shape are for counting one model's parameters; name the model"
        )
    from disbud.models import parameter_count

    counts = {name: parameter_count(name) for name in MODELS}
    if json:
        listed = [
            _entry_json(entry) | _counts_json(entry.input_shape, 10, counts[entry.name])
            for entry in MODELS.values()
        ]
        show.write_json(listed)
        return 0
    columns = ["model", "what it is", "input", "parameters", "prunable", *_settings_column()]
    right = ["parameters", "prunable"]
    table = show.table(*columns, right=right, folding=["what it is", "settings"])
    for name, entry in MODELS.items():
        numbers = [f"{counts[name].total:,}", f"{counts[name].prunable:,}"]
        settings = [", ".join(entry.settings)] if _wide() else []
        table.add_row(name, Text(entry.summary), _by(entry.input_shape), *numbers, *settings)
    show.write(table, *_more("models NAME", "its settings, and its parameters at other inputs"))
    return 0


def data(
    spec: Annotated[
        str | None,
        Parameter(help="Load this data set and show what is in it; settings may be given with it."),
    ] = None,
    /,
    *,
    json: Json = False,
) -> int:
    """List the data sets, or load one and show its sizes, classes and fingerprint."""
    if spec is not None:
        return _show_data(spec, json=json)
    if json:
        show.write_json([_entry_json(entry) for entry in DATA.values()])
        return 0
    table = show.table("data set", "what it is", *_settings_column(), folding=["what it is", "settings"])
    for entry in DATA.values():
        settings = [Text(_settings(entry.settings))] if _wide() else []
        table.add_row(entry.name, Text(entry.summary), *settings)
    show.write(table, *_more("data NAME", "its sizes and classes"))
    return 0


def _wide() -> bool:
    """Whether there is room for every column."""
    return show.console().width >= _WIDE


def _settings_column() -> list[str]:
    return ["settings"] if _wide() else []


def _more(command: str, what: str) -> list[RenderableType]:
    """Where to read on; only for a person, since a pipe wants rows alone."""
    return ["", Text(f"disbud {command} shows {what}", style=show.FAINT)] if sys.stdout.isatty() else []


def _show_method(method: Method) -> None:
    densities = "all layers are ranked together"
    if method.densities is not None:
        densities = (
            "those of a ticket" if method.densities == "like" else f"{method.densities}, each layer by itself"
        )
    looks = {
        "batches": "batches of data",
        "example": "one input, of zeros; at no data",
        "training": "training, by a recipe or a function of your own",
        "": "weights alone",
    }
    rows: dict[str, RenderableType] = {
        "paper": method.source or "-",
        "looks at": looks[_looks_at(method)],
        "rounds": _rounds(method) if method.rounds == 1 else f"{method.rounds}, {method.schedule}",
        "densities": densities,
        "regrowth": "pruned weights may return in a later round" if method.regrowth else "none",
        "batch norm": f"scored in {method.batch_norm} mode",
        "settings": _settings(method.settings) or "none of its own",
    }
    if method.trains:
        del rows["batch norm"]
    options = " --data digits" if method.needs == "batches" or method.trains else ""
    options += " --densities FILE" if method.densities == "like" else ""
    options += "".join(f" --set {key}={_written(value)}" for key, value in list(method.settings.items())[:1])
    rows["usage"] = f"disbud prune resnet20 --method {method.name} --sparsity 0.98{options}"
    show.write(Text.assemble((method.name, "bold"), f": {method.summary}"), "", show.pairs(rows))


def _looks_at(method: Method) -> str:
    return "training" if method.trains else method.needs


def _rounds(method: Method) -> str:
    """The rounds of a method, or what it removes each level until the sparsity is reached."""
    per_level = method.settings.get("per_level")
    return str(method.rounds) if per_level is None else f"{per_level:.0%} a level"


def _show_interventions(name: str | None, *, json: bool) -> int:
    listed = [find("intervention", name, INTERVENTIONS)] if name is not None else list(INTERVENTIONS.values())
    if json:
        shown = [_entry_json(entry) | {"acts_on": entry.acts_on, "needs": entry.needs} for entry in listed]
        show.write_json(shown if name is None else shown[0])
        return 0
    table = show.table("intervention", "acts on", "changes", "settings", folding=["changes", "settings"])
    for entry in listed:
        table.add_row(entry.name, entry.acts_on, Text(entry.summary), Text(_settings(entry.settings)))
    show.write(table)
    return 0


def _show_model(name: str, classes: int | None, shape: tuple[int, ...] | None, *, json: bool) -> int:
    entry = find("model", parse(name).name, MODELS)
    if classes is not None:
        check_count("--classes", classes)
    from disbud.models import parameter_count

    shape = shape or entry.input_shape
    count = parameter_count(name, classes=classes or 10, input_shape=shape)
    if json:
        show.write_json(_entry_json(entry) | {"spec": name} | _counts_json(shape, classes or 10, count))
        return 0
    rows: dict[str, RenderableType] = {
        "parameters": f"{count.total:,}, of which {count.prunable:,} weights can be pruned",
        "counted at": f"input {_by(shape)}, {classes or 10} classes",
        "paper's input": _by(entry.input_shape),
        "smallest": f"{entry.smallest}x{entry.smallest} pixels" if entry.smallest else "any input",
        "settings": _settings(entry.settings),
        "usage": f"disbud prune {name} --sparsity 0.98",
    }
    show.write(Text.assemble((name, "bold"), f": {entry.summary}"), "", show.pairs(rows))
    return 0


def _show_data(spec: str, *, json: bool) -> int:
    from disbud.cli.networks import load_data

    dataset = load_data(spec)
    sizes = {"train": len(dataset.train.labels), "test": len(dataset.test.labels)}
    names = [str(name) for name in dataset.class_names]
    if json:
        shown = {"input_shape": dataset.input_shape, "classes": dataset.classes, "class_names": names}
        shown |= {"mean": list(dataset.mean), "std": list(dataset.std), "fingerprint": dataset.fingerprint}
        show.write_json({"name": dataset.name, **sizes, **shown})
        return 0
    rows: dict[str, RenderableType] = {
        "examples": f"{sizes['train']:,} to train on, {sizes['test']:,} to test on",
        "input": _by(dataset.input_shape),
        "classes": f"{dataset.classes}: " + ", ".join(names[:12]) + (", ..." if len(names) > 12 else ""),
        "mean": ", ".join(f"{value:.4f}" for value in dataset.mean),
        "sd": ", ".join(f"{value:.4f}" for value in dataset.std),
        "fingerprint": dataset.fingerprint,
    }
    show.write(Text(dataset.name, style="bold"), "", show.pairs(rows))
    return 0


def _entry_json(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "summary": entry.summary,
        "settings": dict(entry.settings),
        "revision": entry.revision,
    }


def _counts_json(shape: tuple[int, ...], classes: int, count: ParameterCount) -> dict[str, object]:
    counted = {"prunable": count.prunable, "parameters": count.total}
    return {"input_shape": shape, "classes": classes, **counted}


def _method_json(method: Method) -> dict[str, object]:
    return _entry_json(method) | {
        "paper": method.source or None,
        "needs": method.needs or None,
        "trains": method.trains,
        "densities": method.densities,
        "rounds": method.rounds,
        "schedule": method.schedule,
        "regrowth": method.regrowth,
        "batch_norm": method.batch_norm,
    }


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _settings(settings: Mapping[str, Value]) -> str:
    return ", ".join(f"{key}={_written(value)}" for key, value in settings.items() if value is not None)


def _written(value: Value) -> str:
    """A setting as `disbud.catalogue.parse` reads it."""
    if isinstance(value, tuple):
        return "+".join(_written(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
