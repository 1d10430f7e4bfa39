"""The table that measures return: what it holds, how it compares, travels, and reads."""

from __future__ import annotations

import json
import math
import pickle
import sys

import pytest
import torch

from disbud.errors import DisbudError
from disbud.measures import Table


def table() -> Table:
    rows = [("conv1.weight", 1200, 0.123456, None), ("fc", 7, 1e-5, True)]
    return Table(("layer", "kept", "density", "empty"), rows, {"kept": 1207, "gap": math.inf})


def test_columns_rows_and_summary() -> None:
    t = table()
    assert t["kept"] == (1200, 7)
    assert len(t) == 2
    assert list(t)[1] == {"layer": "fc", "kept": 7, "density": 1e-5, "empty": True}
    assert t.summary["kept"] == 1207
    assert Table.of(list(t), t.summary) == t
    assert len(Table.of([])) == 0


def test_equality_is_of_all_content_and_nan_is_none() -> None:
    assert table() == table()
    assert hash(table()) == hash(table())
    assert table() != Table(table().columns, table().rows, {"kept": 1})
    assert table() != Table(table().columns, table().rows[:1], table().summary)
    nan = Table(("a",), [(math.nan,)])
    assert nan["a"] == (None,)
    assert nan == Table(("a",), [(None,)])


def test_it_cannot_be_changed_and_keeps_no_hold_on_what_it_was_made_of() -> None:
    summary, rows = {"a": 1}, [[1]]
    t = Table(["x"], rows, summary)
    summary["a"], rows[0][0] = 2, 2
    assert (t.summary["a"], t["x"]) == (1, (1,))
    with pytest.raises(TypeError):
        t.summary["a"] = 3  # type: ignore[index]
    with pytest.raises(AttributeError):
        t.rows = ()  # type: ignore[misc]


def test_json_has_no_numbers_json_lacks() -> None:
    document = json.loads(json.dumps(table().to_json(), allow_nan=False))
    assert document["columns"] == ["layer", "kept", "density", "empty"]
    assert document["rows"][0] == ["conv1.weight", 1200, 0.123456, None]
    assert document["summary"] == {"kept": 1207, "gap": None}


def test_it_travels_between_processes() -> None:
    assert pickle.loads(pickle.dumps(table())) == table()


def test_a_person_reads_aligned_columns() -> None:
    assert str(table()).splitlines() == [
        "layer          kept  density  empty",
        "conv1.weight  1,200   0.1235      -",
        "fc                7    1e-05    yes",
        "kept: 1,207",
        "gap: inf",
    ]
    assert "123,457" in str(Table(("x",), [(123456.7,)]))
    assert str(Table((), [])) == ""


def test_a_pandas_frame() -> None:
    pytest.importorskip("pandas")
    frame = table().to_pandas()
    assert list(frame.columns) == ["layer", "kept", "density", "empty"]
    assert frame["kept"].sum() == 1207
    assert frame.attrs["summary"]["kept"] == 1207


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DisbudError, match="pip install pandas"):
        table().to_pandas()


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(DisbudError, match="no column 'kepd'; did you mean 'kept'"):
        table()["kepd"]
    with pytest.raises(DisbudError, match="a row of 1 values does not fit the 2 columns"):
        Table(("a", "b"), [(1,)])
    with pytest.raises(DisbudError, match="two columns of a table are called 'a'"):
        Table(("a", "a"), [])
    with pytest.raises(DisbudError, match="'a' got a Tensor"):
        Table(("a",), [(torch.ones(()),)])  # type: ignore[list-item]
    with pytest.raises(DisbudError, match="every row needs the columns"):
        Table.of([{"a": 1}, {"b": 1}])
