"""How a study was set up and run: its file, what runs it again, the environments, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from disbud.artifacts import canonical
from disbud.report.markup import Html, joined, tag
from disbud.report.page import Section, aside, notice
from disbud.report.study_numbers import Overview
from disbud.report.tables import pairs, table
from disbud.report.words import counted, name, sentence
from disbud.study.record import mixed

if TYPE_CHECKING:
    from disbud.origin import Json
    from disbud.study.findings import Findings

_SHOWN = 3  # different errors that are named at the top


def notices(known: Overview) -> list[Html]:
    """What a reader must know before believing anything else on the page."""
    found: list[Html] = []
    if known.failed:
        errors = Counter(record.error or "" for record in known.failed).most_common()
        said = [
            joined([name(error), f" ({counted(count, 'trial')})" if len(errors) > 1 else ""])
            for error, count in errors[:_SHOWN]
        ]
        more = f", and {counted(len(errors) - _SHOWN, 'other error')}" if len(errors) > _SHOWN else ""
        found.append(notice(sentence(
            f"{counted(len(known.failed), 'trial')} of {len(known.records):,} failed and "
            f"{'is' if len(known.failed) == 1 else 'are'} in no mean: ", joined(said, ", "), more, ".",
        )))  # fmt: skip
    missing = len(known.records) - len(known.done) - len(known.failed)
    if missing:
        found.append(
            notice(f"{counted(missing, 'trial')} of {len(known.records):,} {_have(missing)} not been run.")
        )
    if len(_environments(known)) > 1:
        found.append(notice(sentence(
            f"The trials were run in {len(_environments(known))} environments, which differ in ",
            joined([name(key) for key in mixed(known.records)], ", "),
            ". The same trial can give other bits in another environment; differences paired by seed are safest "
            "between trials of one.",
        )))  # fmt: skip
    return found


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def settings(findings: Findings, known: Overview) -> Section:
    """The specification, the file, the command, the environments."""
    blocks: list[Html] = [tag("h3", "To run it again"), tag("pre", findings.command)]
    if findings.specification:
        blocks += [
            tag("h3", "As it was read"),
            pairs({key: _value(value) for key, value in findings.specification.items()}),
        ]
    if findings.text:
        blocks += [tag("details", tag("summary", "The study file"), tag("pre", findings.text))]
    environments = _environments(known)
    if environments:
        blocks.append(tag("h3", "Environment" if len(environments) == 1 else "Environments"))
        ((alone, _), *others) = environments.values()
        blocks.append(
            _table(environments) if others else pairs({key: _value(value) for key, value in alone.items()})
        )
    else:
        blocks.append(aside("No environment is on record."))
    return Section("How it was run", [], blocks)


def _environments(known: Overview) -> dict[str, tuple[Mapping[str, Json], int]]:
    """Each environment with the number of its trials; hosts that are alike in all else are one."""
    alike: dict[str, list[Mapping[str, Json]]] = {}
    for record in known.records:
        if record.environment:
            key = canonical({name: value for name, value in record.environment.items() if name != "host"})
            alike.setdefault(key, []).append(record.environment)
    return {
        key: ({**met[0], **({"host": hosts} if (hosts := _hosts(met)) else {})}, len(met))
        for key, met in alike.items()
    }


def _hosts(environments: Iterable[Mapping[str, Json]]) -> list[Json]:
    return list(dict.fromkeys(e["host"] for e in environments if "host" in e))


def _table(environments: Mapping[str, tuple[Mapping[str, Json], int]]) -> Html:
    keys = list(dict.fromkeys(key for environment, _ in environments.values() for key in environment))
    rows = [
        [key, *(_value(environment.get(key)) for environment, _ in environments.values())] for key in keys
    ]
    rows.append(["trials", *(f"{count:,}" for _, count in environments.values())])
    head = ["", *(f"environment {i}" for i in range(1, len(environments) + 1))]
    return table(head, rows, words=head)


def _value(value: Json) -> str:
    """A setting as a person reads it; lists as words in a row, and what is nested as JSON."""
    if value is None:
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple) and not any(isinstance(v, list | tuple | Mapping) for v in value):
        return ", ".join(map(_value, value))
    if isinstance(value, list | tuple | Mapping):
        return tag("code", canonical(value))
    return str(value)
