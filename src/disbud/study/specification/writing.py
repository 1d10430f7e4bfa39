"""The text of a study file from its values."""

from __future__ import annotations

import json
from collections.abc import Mapping

from disbud.study.specification.forms import StudyForm


def as_toml(form: StudyForm) -> str:
    """A study file that asks for the same study; what was not said is left out.

    >>> from disbud.study.specification import as_toml, study_of
    >>> print(as_toml(study_of({"name": "mine", "data": "digits", "sparsities": [0.9, 0.98]})))
    name = "mine"
    data = "digits"
    sparsities = [0.9, 0.98]
    <BLANKLINE>
    """
    values = form.model_dump(mode="json", by_alias=True, exclude_unset=True)
    tables = {key: values.pop(key, []) for key in ("trial", "claim")}
    words = {key: values.pop(key) for key in ("name", "title", "says") if key in values}
    lines = _pairs(words | values)
    for key, blocks in tables.items():
        for block in blocks:
            lines += ["", f"[[{key}]]", *_pairs(block)]
    return "\n".join(lines) + "\n"


def _pairs(values: Mapping[str, object]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in values.items() if value is not None]


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(_pairs(value))} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):  # JSON's escapes are TOML's, but that it lets DEL stand
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
