"""What a study hands over at its end: verdicts in the terminal, the report, figures for a paper, pages of tickets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from disbud.cli import show
from disbud.cli.options import check_writable
from disbud.cli.verdicts import counted, failures, findings_json, show_findings
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from disbud.study import Findings, Record

_FILES = Group("What is written", sort_key=2)
_PAGES = "Folder for a page about the ticket of every trial of the first seed, linked from the report; about 1 MB each."


@Parameter(name="*")
@dataclass(frozen=True)
class Files:
    """Where a study's pages go, and how much is printed."""

    report: Annotated[
        Path | None,
        Parameter(name=["--report", "-o"], group=_FILES, help="The report; else NAME.html in this folder."),
    ] = None
    pdf: Annotated[Path | None, Parameter(group=_FILES, help="The main figures for a paper.")] = None
    ticket_pages: Annotated[Path | None, Parameter(group=_FILES, help=_PAGES)] = None
    details: Annotated[
        bool, Parameter(group=_FILES, show_default=False, help="Print every cell that a claim rests on.")
    ] = False
    json: Annotated[
        bool,
        Parameter(
            group=_FILES, show_default=False, help="Print one JSON document on stdout and nothing else there."
        ),
    ] = False

    def report_of(self, name: str) -> Path:
        """Where the report of that study goes."""
        return self.report or Path(f"{name}.html")

    def check(self, name: str) -> None:
        """Raise before any work is done where its outcome could not be written."""
        check_writable("--report", self.report_of(name))
        check_writable("--pdf", self.pdf)
        if self.ticket_pages is not None and self.ticket_pages.exists() and not self.ticket_pages.is_dir():
            raise DisbudError(f"--ticket-pages {self.ticket_pages}: this is a file; name a folder")


FILES = Files()


def hand_over(findings: Findings, name: str, files: Files, *, store: Path | None) -> int:
    """Print what was found, and write the pages; what failed, trial or measure, fails the command."""
    from disbud import report as reports

    path = files.report_of(name)
    links = {}
    if files.ticket_pages is not None:
        links = _ticket_pages(findings, files.ticket_pages, beside=path, store=store)
    reports.study(findings, tickets=links).save(path)
    if files.pdf is not None:
        reports.figures(findings, files.pdf)
    if files.json:
        show.write_json(findings_json(findings))
    else:
        show_findings(findings, details=files.details)
    open_ = sum(str(decision.verdict) == "undecided" for decision in findings.decisions)
    if open_ and "--until-decided" not in findings.command:
        show.say(
            f"{counted(open_, 'claim')} undecided: `{findings.command} --until-decided` adds seeds to what they need"
        )
    show.say(f"report: {path.absolute()}" + (f", figures: {files.pdf.absolute()}" if files.pdf else ""))
    return 1 if failures(findings) else 0


def _ticket_pages(findings: Findings, folder: Path, *, beside: Path, store: Path | None) -> dict[str, str]:
    """A page for each ticket of the first seed; the links to them from the report, by trial."""
    import os

    from disbud import report as reports
    from disbud.data import load
    from disbud.study import Store
    from disbud.study.tickets import network

    folder.mkdir(parents=True, exist_ok=True)
    links = {}
    with Store.open(store) as kept:
        for record in _of_first_seed(findings):
            ticket = kept.ticket(record)
            if ticket is None:
                continue
            trial = record.trial
            dataset = load(trial.data, seed=trial.seeds.split)
            page = folder / f"{record.identity[:16]}.html"
            reports.ticket(
                ticket, model=network(trial, dataset), example=dataset.example(), title=str(trial),
                about_model=f"{trial.model} as drawn from seed {trial.seeds.init}",
            ).save(page)  # fmt: skip
            links[record.identity] = os.path.relpath(page, beside.absolute().parent)
    return links


def _of_first_seed(findings: Findings) -> list[Record]:
    pruned = [record for record in findings.records if record.ticket is not None]
    return [record for record in pruned if record.trial.seeds == pruned[0].trial.seeds]
