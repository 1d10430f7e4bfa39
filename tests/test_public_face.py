"""The public face: lazy, light, complete, and every name explained with an example."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import disbud


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light() -> None:
    heavy = "{'torch', 'torch_pruning', 'altair', 'pandas', 'sklearn', 'matplotlib', 'datasets', 'scipy'}"
    assert run(f"import disbud, sys; print({heavy} & set(sys.modules))").strip() == "set()"


def test_using_it_does_not_import_what_it_does_not_need() -> None:
    code = (
        "import disbud, sys, torch; disbud.prune(torch.nn.Linear(4, 4), 'magnitude', sparsity=.5);"
        "print({'torch_pruning', 'altair', 'pandas', 'sklearn', 'matplotlib', 'datasets'} & set(sys.modules))"
    )
    assert run(code).strip() == "set()"


@pytest.mark.parametrize("module", ["data", "interventions", "methods", "models"])
def test_catalogues_import_no_torch(module: str) -> None:
    code = f"import disbud.{module}.catalogue as c, sys; print('torch' in sys.modules, len(c.CATALOGUE) > 3)"
    assert run(code).split() == ["False", "True"]


@pytest.mark.parametrize("module", ["data", "interventions", "methods", "models"])
def test_every_entry_of_a_catalogue_leads_to_a_function(module: str) -> None:
    import importlib

    for name, entry in importlib.import_module(f"disbud.{module}.catalogue").CATALOGUE.items():
        assert entry.name == name
        assert entry.summary
        assert callable(entry.load())


@pytest.mark.parametrize("name", disbud.__all__)
def test_every_public_name_has_a_docstring_with_an_example(name: str) -> None:
    value = getattr(disbud, name)
    doc = inspect.getdoc(value) or ""
    if inspect.ismodule(value):
        assert doc
    else:
        assert ">>> " in doc, f"disbud.{name} has no example in its docstring"


def test_all_lists_exactly_what_has_a_home() -> None:
    assert list(disbud.__all__) == sorted([*disbud._HOMES, *disbud._PACKAGES])
    assert set(disbud.__all__) <= set(dir(disbud))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prunee'"):
        disbud.prunee  # type: ignore[attr-defined]
